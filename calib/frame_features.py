"""A few numbers per sequence that say whether it is noise and how its frames relate to the first one.

The published selection (spec/quantvggt.md section 3) looks at the first frame only in the frame blocks, and keeps every
token of the pool until the end; here all frames count, and only the numbers survive the forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qvggt.device import device_of
from qvggt.errors import QvggtError
from qvggt.hooks import hooked
from qvggt.models.family import family_of
from qvggt.models.network import Network

STATISTICS = ("mean", "std", "lowest frame std")


@dataclass(frozen=True)
class SequenceFeatures:
    """statistics float64 [L, 3]: the `STATISTICS` of the L layers of `layers`. similarity float64 [S - 1]: of frames
    1..S-1 to frame 0, in [-1, 1]."""

    layers: tuple[str, ...]
    statistics: NDArray[np.float64]
    similarity: NDArray[np.float64]


def deep_layers(model: Network, rounds: int) -> tuple[str, ...]:
    """Paths of the frame and global blocks of the last `rounds` rounds, in the order they run."""
    pairs = family_of(model).rounds(model.config)
    if not 1 <= rounds <= len(pairs):
        raise QvggtError(f"selection: deep_rounds {rounds}, expected 1 to {len(pairs)}, the rounds of this model")
    return tuple(stage.path for pair in pairs[-rounds:] for stage in pair)


@torch.no_grad()
def sequence_features(model: Network, images: Tensor, rounds: int = 4) -> SequenceFeatures:
    """Features of one sequence [S, 3, H, W] in [0, 1], S >= 2, from one pass without the heads.

    Statistics: of the input of `norm1` in every block of the last `rounds` rounds, over all frames, tokens and
    channels; the lowest std of a single frame finds a sequence with one bad frame. Similarity: mean over the tokens of
    the cosine between a token of the last round and the same token of frame 0. All of them are unchanged by the
    rotation folds of DESIGN 3.1, so a folded model selects what the float model does.
    """
    if images.dim() != 4 or images.shape[1] != 3 or len(images) < 2:
        raise QvggtError(f"selection: images {list(images.shape)}, expected [S, 3, H, W] with at least 2 frames")
    layers = deep_layers(model, rounds)
    with _observed(model, layers, frames=len(images)) as measured:
        tokens = family_of(model).last_tokens(model, images.to(device_of(model)))
    return SequenceFeatures(layers, np.array([measured[layer] for layer in layers]), frame_similarity(tokens))


def frame_similarity(tokens: Tensor) -> NDArray[np.float64]:
    """Tokens [S, P, C] -> v_f = mean_p cos(token_fp, token_0p) for f = 1..S-1, float64 [S - 1].

    Without the published pooling of adjacent channels and patches: it halves memory nobody needs to spend, and would
    tie the result to the basis of the residual stream.
    """
    first = tokens[0].double()  # frame by frame: a float64 copy of all tokens would be 225 MB a frame at 1B
    values = [torch.cosine_similarity(frame.double(), first, dim=-1).mean() for frame in tokens[1:]]
    return torch.stack(values).cpu().numpy()


def token_statistics(tokens: Tensor) -> tuple[float, float, float]:
    """`STATISTICS` of tokens [S, P, C]; population standard deviations."""
    moments = [torch.var_mean(frame.double(), correction=0) for frame in tokens]
    variances, means = (torch.stack(values) for values in zip(*moments, strict=True))
    variance = variances.mean() + means.var(correction=0)
    return float(means.mean()), float(variance.sqrt()), float(variances.min().sqrt())


@contextmanager
def _observed(model: Network, layers: tuple[str, ...], frames: int) -> Iterator[dict[str, tuple[float, float, float]]]:
    """While open, a forward pass fills the mapping layer -> statistics of what its `norm1` reads."""
    measured: dict[str, tuple[float, float, float]] = {}

    def observe(path: str, _norm: torch.nn.Module, x: Tensor) -> None:
        # [S, P, C] in a frame block, [1, S*P, C] in a global one
        measured[path.removesuffix(".norm1")] = token_statistics(x.reshape(frames, -1, x.shape[-1]))

    with hooked(model, [f"{layer}.norm1" for layer in layers], observe):
        yield measured
