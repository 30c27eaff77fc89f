"""What rotating activations costs at run time, in multiply-adds (MACs): DESIGN 3.1 and 3.4, spec/quantvggt.md 6."""

from __future__ import annotations

from dataclasses import dataclass

from qvggt.models.family import AddedLinear, ModelConfig, find_family
from qvggt.quant.kronecker import kronecker_factors


@dataclass(frozen=True)
class CostTable:
    """MACs of a transformer block and of a whole model's blocks under three methods.

    original: no rotation. dense: one dense matrix before every linear, the published method. folded: ours, nothing in a
    block unless `kronecker` puts the online rotation before fc2, and the linears its family adds around them.
    """

    config: ModelConfig
    kronecker: bool = False

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of every linear of a block."""
        dim, hidden = self.config.embed_dim, self.config.mlp_ratio * self.config.embed_dim
        return {"qkv": (dim, 3 * dim), "proj": (dim, dim), "fc1": (dim, hidden), "fc2": (hidden, dim)}

    @property
    def block(self) -> tuple[int, int, int]:
        """Per token: MACs of a block's linears, what dense rotations add to them, and what ours adds."""
        online = kronecker_macs(self.linears["fc2"][0]) if self.kronecker else 0
        return sum(i * o for i, o in self.linears.values()), sum(i * i for i, _ in self.linears.values()), online

    @property
    def outside(self) -> tuple[AddedLinear, ...]:
        """The linears a rotated network has around the blocks."""
        return find_family(self.config.family).added(self.config)

    def frame(self, height: int, width: int) -> tuple[int, int, int]:
        """MACs for a frame of height x width pixels: all linears in the blocks of the family's stages, what ours adds,
        and how much of that is outside the blocks."""
        family, patch = find_family(self.config.family), self.config.patch_size
        count = {"patch": (height // patch) * (width // patch), "frame": 1}
        tokens = len(family.stages(self.config)) * family.tokens(self.config, height, width)
        macs, _, online = self.block
        outside = sum(linear.width**2 * count[linear.per] for linear in self.outside)
        return macs * tokens, online * tokens + outside, outside

    def to_markdown(self, height: int, width: int) -> str:
        """The whole comparison, for people."""
        whole, dense, online = self.block
        lines = [(n, f"{i} -> {o}", i * o, i * i, online if n == "fc2" else 0) for n, (i, o) in self.linears.items()]
        rows = ["| linear | in -> out | MACs/token | dense rotation adds | ours adds |", "|---|---|---|---|---|"]
        for name, sizes, macs, *extra in [*lines, ("block", "", whole, dense, online)]:
            cells = (name, sizes, f"{macs:,}", *(added(part, macs) for part in extra))
            rows.append("| " + " | ".join(cells).replace("|  |", "| |") + " |")
        total, ours, outside = self.frame(height, width)
        linears = ", ".join(f"{a.path.rpartition('.')[2]} {a.width**2:,} MACs a {a.per}" for a in self.outside)
        return "\n".join(rows) + (
            f"\n\nOutside the blocks, ours adds linears: {linears}.\n"
            f"A {height} x {width} frame: {total:,} MACs in the blocks' linears; ours adds {added(ours, total)}, "
            f"of which {added(outside, total)} outside the blocks."
        )


def kronecker_macs(inputs: int) -> int:
    """Rotating a token with two Kronecker factors; a dense rotation takes inputs^2."""
    return inputs * sum(kronecker_factors(inputs))


def added(part: int, whole: int) -> str:
    return f"{part:,} ({100 * part / whole:.1f} %)" if part else "0"
