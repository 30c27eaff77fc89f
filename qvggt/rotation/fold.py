"""Every rotation of DESIGN 3.1 and 3.2 folded into the weights of a network, in place."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from qvggt.models.family import family_of
from qvggt.models.fold_config import FoldConfig
from qvggt.models.folded import add_rotations_, blocks, check_foldable, mark_
from qvggt.models.network import Network
from qvggt.quant.hadamard import check_residual_rotation, named_seed, residual_rotation
from qvggt.rotation.precision import in_float64
from qvggt.rotation.residual import fold_layer_scale_, rotate_block_, rotate_ends_, set_identity_, stream_ends
from qvggt.rotation.value import head_rotations, rotate_values_


def fold_(model: Network, config: FoldConfig | None = None) -> None:
    """Fold rotations and LayerScales in place; every output stays the same up to rounding.

    Each tensor is computed in float64 and rounded once to its own type. One block is held in float64 at a time
    (at 1B 100 MB, in the camera trunk 400 MB), then what lies around the blocks (200 MB). Afterwards every LayerNorm
    on a rotated stream has weight 1 and bias 0, and the model has the family's `added` linears.
    Raises QvggtError for a model that is folded or quantized already; a fold cannot be undone. A model whose streams
    `rotate_streams_` moved counts as unfolded, and keeps those linears.
    """
    config = config or FoldConfig()
    check_foldable(model)
    width, streams = model.config.embed_dim, family_of(model).streams(model.config) if config.residual else ()
    fold_given_(model, config, {s.name: residual_rotation(width, named_seed(config.seed, s.name)) for s in streams})
    mark_(model, config)


def rotate_streams_(model: Network, *rotations: Tensor) -> None:
    """Move the residual streams into given bases in place, x' = x Q, and fold every LayerScale; exact as `fold_` is.

    rotations: one of each of the family's streams, float64 [C, C], orthogonal with Q 1 = 1 (DESIGN 3.1). The model
    gains the linears of `fold_`; it may be folded again, which rotates the new bases. Raises QvggtError as `fold_`
    does, AssertionError for another kind of matrix.
    """
    check_foldable(model)
    for q in rotations:
        check_residual_rotation(q)
    config, streams = FoldConfig(value=False), family_of(model).streams(model.config)
    fold_given_(model, config, {stream.name: q for stream, q in zip(streams, rotations, strict=True)})
    mark_(model, config, refoldable=True)


def fold_given_(model: Network, config: FoldConfig, rotations: Mapping[str, Tensor]) -> None:
    """The folds of `config`, with the residual streams of these names rotated so."""
    family, device = family_of(model), next(model.parameters()).device
    streams, given = family.streams(model.config), {name: q.to(device) for name, q in rotations.items()}
    stream_of = {stage.path: stage.stream for stage in family.stages(model.config)}
    for path, block in blocks(model):
        stream = stream_of.get(path)  # None in a head, whose stream is its own
        with in_float64(block):
            if config.layer_scale:
                fold_layer_scale_(block)
            if stream in given:
                rotate_block_(block, given[stream])
            if config.camera_value if stream is None else config.value:
                rotate_values_(block.attn, head_rotations(block.attn, named_seed(config.seed, path)).to(device))
    if given:
        for linear in add_rotations_(model):
            set_identity_(linear)
        # all at once: a linear between two streams is rotated from both sides and rounded once
        ends = {id(part): part for residual in streams for part in stream_ends(model, residual)}
        with in_float64(*ends.values()):
            for residual in streams:
                rotate_ends_(model, residual, given[residual.name])
