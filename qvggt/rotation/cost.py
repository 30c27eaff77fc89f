"""What rotating activations costs at run time, in multiply-adds (MACs): DESIGN 3.1 and 3.4, spec/quantvggt.md 6."""

from __future__ import annotations

import math
from dataclasses import dataclass

from qvggt.models.family import AddedLinear, Family, ModelConfig, find_family
from qvggt.quant.kronecker import kronecker_factors


@dataclass(frozen=True)
class LinearCost:
    """One linear of a block, per token."""

    name: str
    inputs: int
    outputs: int

    @property
    def macs(self) -> int:
        return self.inputs * self.outputs

    @property
    def dense(self) -> int:
        """A dense rotation of the input."""
        return self.inputs**2

    @property
    def dense_bytes(self) -> int:
        """Storage of that rotation in fp32."""
        return 4 * self.dense

    @property
    def kronecker(self) -> int:
        """The same rotation as two Kronecker factors."""
        return self.inputs * sum(kronecker_factors(self.inputs))

    @property
    def hadamard_adds(self) -> int:
        """The same rotation as a fast Hadamard transform: additions, no MACs; rounded for no power of two."""
        return round(self.inputs * math.log2(self.inputs))


@dataclass(frozen=True)
class CostTable:
    """MACs of a transformer block and of a whole model's blocks under three methods.

    original: no rotation. dense: one dense matrix before every linear, the published method. folded: ours, nothing in a
    block unless `kronecker` puts the online rotation before fc2, and the linears that its family adds around them.
    """

    config: ModelConfig
    kronecker: bool = False

    @property
    def linears(self) -> tuple[LinearCost, ...]:
        dim, hidden = self.config.embed_dim, self.config.mlp_ratio * self.config.embed_dim
        return (
            LinearCost("qkv", dim, 3 * dim),
            LinearCost("proj", dim, dim),
            LinearCost("fc1", dim, hidden),
            LinearCost("fc2", hidden, dim),
        )

    @property
    def block(self) -> int:
        """MACs of a block's linears, per token."""
        return sum(linear.macs for linear in self.linears)

    @property
    def block_dense(self) -> int:
        """What the dense rotations add to a block, per token."""
        return sum(linear.dense for linear in self.linears)

    @property
    def block_folded(self) -> int:
        """What ours adds to a block, per token."""
        return self.linears[-1].kronecker if self.kronecker else 0

    @property
    def family(self) -> Family:
        return find_family(self.config.family)

    @property
    def added(self) -> tuple[AddedLinear, ...]:
        return self.family.added(self.config)

    def outside(self, height: int, width: int) -> int:
        """MACs of the linears around the blocks for one frame of height x width pixels."""
        patches = (height // self.config.patch_size) * (width // self.config.patch_size)
        return sum(linear.width**2 * (patches if linear.per == "patch" else 1) for linear in self.added)

    def tokens(self, height: int, width: int) -> int:
        """Tokens of a frame that go through linears in the family's stages, counted once per block."""
        return len(self.family.stages(self.config)) * self.family.tokens(self.config, height, width)

    def frame(self, height: int, width: int) -> int:
        """MACs of all linears in the blocks of the family's stages, for one frame of height x width pixels."""
        return self.block * self.tokens(height, width)

    def frame_folded(self, height: int, width: int) -> int:
        """What ours adds to that frame: the linears around the blocks, and the blocks' share if any."""
        return self.outside(height, width) + self.block_folded * self.tokens(height, width)

    def to_markdown(self, height: int, width: int) -> str:
        """The whole comparison, for people."""
        rows = ["| linear | in -> out | MACs/token | dense rotation adds | ours adds |", "|---|---|---|---|---|"]
        for linear in self.linears:
            ours = self.block_folded if linear.name == "fc2" else 0
            rows.append(
                f"| {linear.name} | {linear.inputs} -> {linear.outputs} | {linear.macs:,} "
                f"| {added(linear.dense, linear.macs)} | {added(ours, linear.macs)} |"
            )
        rows.append(
            f"| block | | {self.block:,} | {added(self.block_dense, self.block)} "
            f"| {added(self.block_folded, self.block)} |"
        )
        total, frame, outside = (count(height, width) for count in (self.frame, self.frame_folded, self.outside))
        linears = ", ".join(f"{a.path.rpartition('.')[2]} {a.width**2:,} MACs a {a.per}" for a in self.added)
        rows += [
            "",
            f"Outside the blocks, ours adds linears: {linears}.",
            f"A {height} x {width} frame: {total:,} MACs in the blocks' linears; ours adds {added(frame, total)}, "
            f"of which {added(outside, total)} outside the blocks.",
        ]
        return "\n".join(rows)


def added(part: int, whole: int) -> str:
    return f"{part:,} ({100 * part / whole:.1f} %)" if part else "0"
