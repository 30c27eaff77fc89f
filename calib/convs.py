"""Observed ranges of the dense heads' convolutions: what their static quantization starts from.

The heads come after every calibrated block, so one pass over the calibration images shows each convolution what the
quantized network gives it. The largest magnitudes are taken as they are, and weights are rounded to nearest on each
row's full range: at 8 bits a narrower range gained nothing, and on 4-bit rows it cost 7 to 10 dB of depth, as clipped
weights move the mean of maps that are positive after a ReLU (docs/results/parts.json has the choice's accuracy).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from qvggt.calib.ranges import observe
from qvggt.errors import QvggtError
from qvggt.quant.conv import ConvRange

BEFORE_RELU = ".conv1"  # path ending of convolutions whose negative outputs are never seen


def observe_convs(
    model: nn.Module,
    batches: Iterable[Tensor],
    paths: Sequence[str],
    total: int | None = None,
    progress: bool = True,
) -> dict[str, ConvRange]:
    """Ranges of the named float convolutions over image batches [S, 3, H, W] in [0, 1].

    Streams: two numbers per convolution are kept. Raises QvggtError for a convolution that saw no input (no batch, or
    an iterator read before) or NaN or infinity.
    """
    ranges: dict[str, tuple[float, float]] = {}

    def record(path: str, x: Tensor, y: Tensor) -> None:
        found = float(x.abs().max()), float((y.clamp_min(0) if path.endswith(BEFORE_RELU) else y.abs()).max())
        if not all(map(math.isfinite, found)):
            raise QvggtError(f"{path}: a map holds NaN or infinity, so it has no range; check weights and images")
        before = ranges.get(path, (0.0, 0.0))
        ranges[path] = max(before[0], found[0]), max(before[1], found[1])

    observe(model, batches, paths, record, desc="observe maps", total=total, progress=progress)
    return {path: ConvRange(*ranges[path]) for path in paths}
