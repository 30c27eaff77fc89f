"""What is done to activations at run time, in multiply-adds (MACs): DESIGN 3.1 and 3.4, spec/quantvggt.md 6."""

from __future__ import annotations

from dataclasses import dataclass

from qvggt.models.family import AddedLinear, ModelConfig, find_family
from qvggt.models.network import Network
from qvggt.quant.kronecker import kronecker_factors
from qvggt.quant.model import quantized_linears

HALF_BYTES = 2  # of a number of a branch, in a network fast enough to quantize its weights for


@dataclass(frozen=True)
class CostTable:
    """MACs of a transformer block and of a whole model's blocks under three methods.

    original: no rotation. dense: one dense matrix before every linear, the published method. folded: ours, nothing in a
    block unless `kronecker` puts the online rotation before fc2 or `branch` a branch beside every linear, of that rank
    or what `rank_of` leaves of it (`Recipe.branch`), and the linears its family adds around them.
    """

    config: ModelConfig
    kronecker: bool = False
    branch: int = 0

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of every linear of a block."""
        dim, hidden = self.config.embed_dim, self.config.mlp_ratio * self.config.embed_dim
        return {"qkv": (dim, 3 * dim), "proj": (dim, dim), "fc1": (dim, hidden), "fc2": (hidden, dim)}

    @property
    def online(self) -> dict[str, int]:
        """Per token: MACs that ours adds to every linear of a block."""
        macs = {n: branch_macs(rank_of(self.branch, i, o), i, o) for n, (i, o) in self.linears.items()}
        macs["fc2"] += kronecker_macs(self.linears["fc2"][0]) if self.kronecker else 0
        return macs

    @property
    def block(self) -> tuple[int, int, int]:
        """Per token: MACs of a block's linears, what dense rotations add to them, and what ours adds."""
        whole, dense = (sum(sizes) for sizes in zip(*((i * o, i * i) for i, o in self.linears.values()), strict=True))
        return whole, dense, sum(self.online.values())

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
        lines = [(n, f"{i} -> {o}", i * o, i * i, self.online[n]) for n, (i, o) in self.linears.items()]
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


def rank_of(most: int, inputs: int, outputs: int) -> int:
    """Directions that may pass the grids of a linear by: not so many that the branch is dearer than it gains."""
    return min(most, min(inputs, outputs) // 8)


def branch_macs(rank: int, inputs: int, outputs: int, whole: bool = False) -> int:
    """A token along the directions that pass a grid by, its rest unless it stays whole, and the product of these
    directions."""
    return rank * ((1 if whole else 2) * inputs + outputs)


@dataclass(frozen=True)
class BranchCost:
    """Of a calibrated network's branches. with_one: linears that have one, of all quantized ones; ranks: theirs; macs
    and bytes: what they add to the products and the stored weights of all, as shares, in half precision."""

    with_one: int
    linears: int
    ranks: tuple[int, ...]
    macs: float
    bytes: float

    def __str__(self) -> str:
        return (
            f"{self.with_one} of {self.linears} linears have a branch of rank {' or '.join(map(str, self.ranks))} in "
            f"floating point beside them: {self.macs:.1%} more multiply-adds, {self.bytes:.1%} more bytes in half "
            "precision"
        )


def branch_cost(network: Network) -> BranchCost | None:
    """None where no linear has a branch."""
    linears = [linear for _, linear in quantized_linears(network)]
    specs = {id(m): (m.transform.spec, m.in_features, m.out_features) for m in linears if m.transform is not None}
    with_one = [(spec.rank, i, o, spec.whole) for spec, i, o in specs.values() if spec.rank]
    if not with_one:
        return None
    macs = sum(branch_macs(*size) for size in with_one) / sum(m.in_features * m.out_features for m in linears)
    stored = sum(m.format.stored_bytes((m.out_features, m.in_features)) for m in linears)
    size = sum(HALF_BYTES * rank * (i + o) for rank, i, o, _ in with_one) / stored
    return BranchCost(len(with_one), len(linears), tuple(sorted({rank for rank, *_ in with_one})), macs, size)


def added(part: int, whole: int) -> str:
    return f"{part:,} ({100 * part / whole:.1f} %)" if part else "0"
