"""Outlier injection by exact transformations: what makes 4 bits hard, without a change of a model's outputs.

A small trained model has milder activations than a large one. Two transformations give it channels with outliers
(spec/tiny_model.md section 5), and a residual stream whose energy sits in a few channels, as massive activations put it
there. Both work on float models in place, in float64, and both leave ordinary models: fold, smooth, quantize and save
them like any other. The camera trunk is left alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qvggt.errors import QvggtError
from qvggt.hooks import hooked
from qvggt.models.block import Block
from qvggt.models.family import LINEARS, family_of
from qvggt.models.folded import check_foldable
from qvggt.models.network import Network
from qvggt.quant.hadamard import complement_of_ones, named_seed
from qvggt.rotation.fold import rotate_streams_
from qvggt.rotation.smoothing import fold_smoothing_


def inject_outliers_(model: Network, factor: float = 30.0, fraction: float = 0.02, seed: int = 0) -> None:
    """Multiply random channels at the inputs of qkv, proj and fc1 by `factor`, and divide the weight columns by it.

    In every block of the family's stages, round(fraction * C) channels each: at qkv and fc1 through
    weight and bias of the LayerNorm before, at proj through the v rows of qkv. fc2 follows a GELU, which takes no
    factor. This is smoothing run backwards, so smoothing is its natural remedy (caveat 1 of the spec).

    `pca_basis_` and every residual rotation absorb the LayerNorm's gains: inject after them. Raises QvggtError for a
    fraction that gives no channel, a factor that is not positive and finite, and a quantized model.
    """
    width = model.config.embed_dim
    count = round(fraction * width)
    if not 1 <= count <= width:
        raise QvggtError(f"outliers: fraction {fraction} gives {count} of {width} channels, expected 1 to {width}")
    if not (math.isfinite(factor) and factor > 0):
        raise QvggtError(f"outliers: factor {factor}, expected a positive finite number")
    blocks = [(stage.path, float_block(model, stage.path)) for stage in family_of(model).stages(model.config)]
    for path, block in blocks:
        rng = np.random.default_rng(named_seed(seed, path))
        scales = torch.ones(3, width, dtype=torch.float64)
        for scale in scales:
            scale[torch.from_numpy(rng.choice(width, count, replace=False))] = 1 / factor
        fold_smoothing_(block, *scales)


def pca_basis_(model: Network, batches: Iterable[Tensor], seed: int = 0) -> None:
    """Move the residual streams into bases where few channels hold most of the energy (DESIGN 3.1, `pca_rotation`).

    batches: image sequences [S, 3, H, W] in [0, 1], at least one, each read once. seed: which channels become the
    strong ones. LayerScales and the affine of the LayerNorms go into the linears around them, and the model gains the
    linears of a fold; `fold_` still takes it. Deterministic. Raises QvggtError as `fold_` does.
    """
    check_foldable(model)
    moments = stream_moments(model, batches)
    rotate_streams_(model, *(pca_rotation(moment, named_seed(seed, name)) for name, moment in moments.items()))


@torch.no_grad()
def stream_moments(model: Network, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """Mean of n(x)^T n(x) over the tokens of each residual stream, by its name, float64 [D, D].

    n(x) is LayerNorm without affine, taken wherever a block (or a norm after the last one, on a single stretch of the
    stream) reads it: tokens and depths count alike, whatever their scale. The mean token is part of it, as it is part
    of what gets quantized.
    """
    width, family = model.config.embed_dim, family_of(model)
    streams = family.streams(model.config)
    sums = {stream.name: torch.zeros(width, width, dtype=torch.float64) for stream in streams}
    counts = dict.fromkeys(sums, 0)

    def add(path: str, norm: nn.LayerNorm, x: Tensor) -> None:
        stream = norms[path]
        tokens = F.layer_norm(x.double(), (width,), eps=norm.eps).flatten(0, -2)
        sums[stream] += (tokens.T @ tokens).cpu()
        counts[stream] += len(tokens)

    norms = {
        reader.norm: stream.name
        for stream in streams
        for reader in stream.readers
        if reader.norm is not None and len(reader.rotated) == 1
    }
    norms |= {f"{s.path}.{norm}": s.stream for s in family.stages(model.config) for norm in ("norm1", "norm2")}
    with hooked(model, norms, add):
        for images in batches:
            family.last_tokens(model, images)
    if not all(counts.values()):
        raise QvggtError("outliers: expected at least one image sequence to find the strong directions, got none")
    return {name: total / counts[name] for name, total in sums.items()}


def pca_rotation(moment: Tensor, seed: int = 0) -> Tensor:
    """Q [D, D], float64, orthogonal with Q 1 = 1, that gathers the energy of x Q in as few channels as it can.

    moment [D, D]: second moment of tokens whose channels sum to zero. With its eigenvectors v_i, energies falling, and
    orthonormal w_i in the complement of the ones, Q = 11^T/D + sum_i v_i w_i^T puts direction i on w_i. No axis e_j
    lies in that complement: e_j - 1/D, of squared length 1 - 1/D, is as near as a w can come. So one channel can hold
    at most (1 - 1/D) of the largest energy, and `gathered_basis` reaches that. The order of channels is random.
    """
    width = len(moment)
    u = complement_of_ones(width)
    _, vectors = torch.linalg.eigh(u.T @ moment.double() @ u)  # energies rise
    v = u @ vectors.flip(1)
    peaks = v.gather(0, v.abs().argmax(0, keepdim=True))
    q = 1 / width + (v * peaks.sign()) @ gathered_basis(width).T  # a sign for each v_i, which eigh leaves open
    return q[:, torch.from_numpy(np.random.default_rng(seed).permutation(width))].contiguous()


def gathered_basis(width: int) -> Tensor:
    """Orthonormal w_0, w_1, ... of the vectors that sum to zero, [width, width - 1], float64: Helmert's.

    w_i has all but 1 / (width - i) of its energy in entry i, nothing before it, the rest even over those after it.
    """
    from scipy.linalg import helmert

    return torch.from_numpy(-helmert(width)[::-1, ::-1].T.copy())  # scipy's grows from the other end


def float_block(model: Network, path: str) -> Block:
    """The block at `path`; QvggtError when one of its linears is quantized."""
    block = model.get_submodule(path)
    assert isinstance(block, Block)
    for name in LINEARS:
        kind = type(block.get_submodule(name))
        if kind is not nn.Linear:
            raise QvggtError(f"outliers: {path}.{name} is a {kind.__name__}, expected Linear; inject before quantizing")
    return block
