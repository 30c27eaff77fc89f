"""Every rotation of DESIGN 3.1 and 3.2 folded into the weights of a network, in place."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from qvggt.models.family import family_of
from qvggt.models.fold_config import FoldConfig
from qvggt.models.folded import add_rotations_, blocks, check_foldable, mark_
from qvggt.models.network import Network
from qvggt.quant.hadamard import blockwise_hadamard, check_residual_rotation, named_seed, residual_rotation
from qvggt.rotation.precision import in_float64
from qvggt.rotation.residual import fold_layer_scale_, rotate_block_, rotate_ends_, set_identity_, stream_ends
from qvggt.rotation.value import head_rotations, rotate_values_


def fold_(model: Network, config: FoldConfig | None = None, rotations: Sequence[Tensor] | None = None) -> None:
    """Fold rotations and LayerScales in place; every output stays the same up to rounding.

    Each tensor is computed in float64 and rounded once to its own type. One block is held in float64 at a time
    (at 1B 100 MB, in the camera trunk 400 MB), then what lies around the blocks (200 MB). Afterwards every LayerNorm
    on a rotated stream has weight 1 and bias 0, and the model has the family's `added` linears.
    Raises QvggtError for a model that is folded or quantized already; a fold cannot be undone. A model whose streams
    `rotate_streams_` moved counts as unfolded, and keeps those linears.
    rotations: of the residual streams, as `rotate_streams_` takes them; without, those of the seed.
    """
    config = config or FoldConfig()
    check_foldable(model)
    for q in rotations or ():
        check_residual_rotation(q)
    if config.residual and rotations is None:
        streams = family_of(model).streams(model.config)
        rotations = [stream_rotation(model.config.embed_dim, config, s.name) for s in streams]
    fold_given_(model, config, rotations)
    mark_(model, config)


def stream_rotation(width: int, config: FoldConfig, name: str) -> Tensor:
    """Of the residual stream of that name, float64 [width, width]."""
    if config.block is not None:
        return blockwise_hadamard(width, config.block)
    return residual_rotation(width, named_seed(config.seed, name))


def rotate_streams_(model: Network, *rotations: Tensor) -> None:
    """Move the residual streams into given bases in place, x' = x Q, and fold every LayerScale; exact as `fold_` is.

    rotations: one of each of the family's streams, float64 [C, C], orthogonal with Q 1 = 1 (DESIGN 3.1). The model
    gains the linears of `fold_`; it may be folded again, which rotates the new bases. Raises QvggtError as `fold_`
    does, AssertionError for another kind of matrix.
    """
    check_foldable(model)
    for q in rotations:
        check_residual_rotation(q)
    config = FoldConfig(value=False)
    fold_given_(model, config, rotations)
    mark_(model, config, refoldable=True)


def fold_given_(model: Network, config: FoldConfig, rotations: Sequence[Tensor] | None) -> None:
    """The folds of `config`, with these rotations of the residual streams."""
    family, device = family_of(model), next(model.parameters()).device
    streams = family.streams(model.config)
    given = {} if rotations is None else {s.name: q.to(device) for s, q in zip(streams, rotations, strict=True)}
    stream_of = {stage.path: stage.stream for stage in family.stages(model.config)}
    for path, block in blocks(model):
        stream = stream_of.get(path)  # None in a head, whose stream is its own
        with in_float64(block):
            if config.layer_scale:
                fold_layer_scale_(block)
            if stream in given:
                rotate_block_(block, given[stream])
            if config.camera_value if stream is None else config.value:
                rotations_ = head_rotations(block.attn, named_seed(config.seed, path), config.block)
                rotate_values_(block.attn, rotations_.to(device))
    if given:
        for linear in add_rotations_(model):
            set_identity_(linear)
        # all at once: a linear between two streams is rotated from both sides and rounded once
        ends = {id(part): part for residual in streams for part in stream_ends(model, residual)}
        with in_float64(*ends.values()):
            for residual in streams:
                rotate_ends_(model, residual, given[residual.name])
