"""What rotating activations costs at run time, in multiply-adds (MACs): DESIGN 3.1 and 3.4, spec/quantvggt.md 6."""

from __future__ import annotations

import math
from dataclasses import dataclass

from qvggt.models.vggt.config import VGGTConfig
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
    block unless `kronecker` puts the online rotation before fc2, and two linears outside the blocks.
    """

    config: VGGTConfig
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
    def patch_rotation(self) -> int:
        """MACs per patch token of `aggregator.patch_rotation`."""
        return self.config.embed_dim**2

    @property
    def token_rotation(self) -> int:
        """MACs per frame of `camera_head.token_rotation`."""
        return (2 * self.config.embed_dim) ** 2 if "camera" in self.config.heads else 0

    def frame(self, height: int, width: int) -> int:
        """MACs of all linears in the blocks of patch encoder and aggregator, for one frame of height x width pixels."""
        blocks = self.config.vit_depth + 2 * self.config.aa_depth
        return self.block * blocks * (self.config.patch_start + self.patches(height, width))

    def frame_folded(self, height: int, width: int) -> int:
        """What ours adds to that frame: the two linears, and the blocks' share if any."""
        patches = self.patches(height, width)
        blocks = self.config.vit_depth + 2 * self.config.aa_depth
        online = self.block_folded * blocks * (self.config.patch_start + patches)
        return self.patch_rotation * patches + self.token_rotation + online

    def patches(self, height: int, width: int) -> int:
        return (height // self.config.patch_size) * (width // self.config.patch_size)

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
        total, frame = self.frame(height, width), self.frame_folded(height, width)
        outside = self.patch_rotation * self.patches(height, width) + self.token_rotation
        rows += [
            "",
            f"Outside the blocks, ours adds two linears: patch_rotation {self.patch_rotation:,} MACs a patch, "
            f"token_rotation {self.token_rotation:,} a frame.",
            f"A {height} x {width} frame: {total:,} MACs in the blocks' linears; ours adds {added(frame, total)}, "
            f"of which {added(outside, total)} outside the blocks.",
        ]
        return "\n".join(rows)


def added(part: int, whole: int) -> str:
    return f"{part:,} ({100 * part / whole:.1f} %)" if part else "0"
