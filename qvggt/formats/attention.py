"""Formats of attention's two products, Q K^T and P V, and what TensorRT asks of them.

Seen in TensorRT-RTX 1.7.1 (tools/bench_attention.py builds the forms): queries, keys, values and the softmax output in
FP8 become one kernel that stores no scores, in fp16 and bf16 networks whose sequences have at least `SHORTEST` tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from qvggt.errors import QvggtError
from qvggt.formats.float_grid import E4M3
from qvggt.formats.grid import Grid

FLOAT = "fp16"  # floating point, in the network's own type
SHORTEST = 32  # tokens; fewer, also in the smallest shape of a profile, and TensorRT stores a matrix of scores
LONGEST_INT8 = 512  # tokens
REFUSED = {
    "int8": f"TensorRT fuses it up to {LONGEST_INT8} tokens only and with its output in int8 too, and softmax outputs "
    "of many keys are below its smallest code (docs/attention.md); take fp8, or fp16"
}
WORDS = (FLOAT, "fp8", *REFUSED)


@dataclass(frozen=True)
class AttentionFormat:
    """Numbers of q, k, v, each with one constant scale, and of the softmax output, whose scale is the same everywhere.

    name: as --attention has it. shortest: tokens of a sequence that has a kernel. floor_db: SQNR an exported network
    has to reach against its reference, as of `Format`.
    """

    name: str
    grid: Grid
    shortest: int = SHORTEST
    floor_db: float = 36.0

    @property
    def probability_scale(self) -> float:
        """Scale of the softmax output: puts 1 on the highest code. 8 significant bits, which every float type holds."""
        exponent = math.floor(math.log2(1 / self.grid.highest)) - 7
        return math.floor(2.0**-exponent / self.grid.highest) * 2.0**exponent

    def scale(self, amax: float) -> float:
        """Scale of q, k or v, of which `amax` is the largest magnitude seen: a power of two, so that every float type
        holds codes times scale, with `headroom` above, which costs a grid with exponents nothing."""
        smallest = amax * self.grid.headroom / self.grid.highest
        return 2.0 ** max(-15, math.ceil(math.log2(smallest))) if smallest > 0 else 1.0


FORMATS: dict[str, AttentionFormat | None] = {FLOAT: None, "fp8": AttentionFormat("fp8", E4M3)}


def find_attention(name: str) -> AttentionFormat | None:
    """The format of a name, None for floating point; QvggtError for one that is unknown or that no runtime has."""
    if name in REFUSED:
        raise QvggtError(f"--attention {name}: {REFUSED[name]}")
    if name not in FORMATS:
        raise QvggtError(f"unknown attention {name!r}: expected {' or '.join(FORMATS)}")
    return FORMATS[name]
