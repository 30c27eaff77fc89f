"""Every rotation of DESIGN 3.1 and 3.2 folded into the weights of a VGGT, in place."""

from __future__ import annotations

from torch import Tensor

from qvggt.models.fold_config import FoldConfig
from qvggt.models.folded import add_rotations_, blocks, check_foldable, mark_
from qvggt.models.vggt.network import VGGT
from qvggt.quant.hadamard import check_residual_rotation, named_seed, residual_rotation
from qvggt.rotation.layer_scale import fold_layer_scale_
from qvggt.rotation.precision import in_float64
from qvggt.rotation.residual import (
    rotate_aggregator_entry_,
    rotate_block_,
    rotate_camera_,
    rotate_dpt_,
    rotate_patch_entry_,
    set_identity_,
)
from qvggt.rotation.value import head_rotations, rotate_values_

ENCODER = "aggregator.patch_embed."
TRUNK = "camera_head.trunk."


def fold_(model: VGGT, config: FoldConfig | None = None) -> None:
    """Fold rotations and LayerScales in place; every output stays the same up to rounding.

    Each tensor is computed in float64 and rounded once to its own type. One block is held in float64 at a time
    (at 1B 100 MB, in the camera trunk 400 MB). Afterwards every LayerNorm on a rotated stream has weight 1 and bias 0,
    and the model has two more linears, `aggregator.patch_rotation` and `camera_head.token_rotation`.
    Raises QvggtError for a model that is folded or quantized already; a fold cannot be undone. A model whose streams
    `rotate_streams_` moved counts as unfolded, and keeps the two linears.
    """
    config = config or FoldConfig()
    check_foldable(model)
    width = model.config.embed_dim
    rotations = None
    if config.residual:
        q_encoder, q_stream = (
            residual_rotation(width, named_seed(config.seed, name)) for name in ("patch encoder", "aggregator")
        )
        rotations = q_encoder, q_stream
    fold_given_(model, config, rotations)
    mark_(model, config)


def rotate_streams_(model: VGGT, q_encoder: Tensor, q_stream: Tensor) -> None:
    """Move both residual streams into given bases in place, x' = x Q, and fold every LayerScale; exact as `fold_` is.

    q_encoder (patch encoder), q_stream (aggregator): float64 [D, D], orthogonal with Q 1 = 1 (DESIGN 3.1). The model
    gains the two linears of `fold_`; it may be folded again, which rotates the new bases. Raises QvggtError as `fold_`
    does, AssertionError for another kind of matrix.
    """
    check_foldable(model)
    for q in (q_encoder, q_stream):
        check_residual_rotation(q)
    config = FoldConfig(value=False)
    fold_given_(model, config, (q_encoder, q_stream))
    mark_(model, config, refoldable=True)


def fold_given_(model: VGGT, config: FoldConfig, rotations: tuple[Tensor, Tensor] | None) -> None:
    """The folds of `config`, with these residual rotations of patch encoder and aggregator."""
    device = model.aggregator.camera_token.device
    q_encoder = q_stream = None
    if rotations is not None:
        q_encoder, q_stream = (q.to(device) for q in rotations)
    for path, block in blocks(model):
        trunk = path.startswith(TRUNK)
        with in_float64(block):
            if config.layer_scale:
                fold_layer_scale_(block)
            q = q_encoder if path.startswith(ENCODER) else q_stream
            if q is not None and not trunk:  # the trunk's stream is the camera head's own
                rotate_block_(block, q)
            if config.camera_value if trunk else config.value:
                rotate_values_(block.attn, head_rotations(block.attn, named_seed(config.seed, path)).to(device))
    if q_encoder is not None and q_stream is not None:
        rotate_ends_(model, q_encoder, q_stream)


def rotate_ends_(model: VGGT, q_encoder: Tensor, q_stream: Tensor) -> None:
    """The places where the two streams begin and where the heads read them."""
    fresh = model.aggregator.patch_rotation is None
    patch_rotation, token_rotation = add_rotations_(model)
    if fresh:
        for linear in (patch_rotation, token_rotation):
            if linear is not None:
                set_identity_(linear)
    aggregator, encoder = model.aggregator, model.aggregator.patch_embed
    tokens = (aggregator.camera_token, aggregator.register_token)
    embeddings = (encoder.cls_token, encoder.pos_embed, encoder.register_tokens, encoder.mask_token)
    with in_float64(encoder.patch_embed, encoder.norm, patch_rotation, *tokens, *embeddings):
        rotate_patch_entry_(encoder, q_encoder)
        rotate_aggregator_entry_(aggregator, patch_rotation, q_encoder, q_stream)
    if model.camera_head is not None and token_rotation is not None:
        with in_float64(model.camera_head.token_norm, token_rotation):
            rotate_camera_(model.camera_head, token_rotation, q_stream)
    track = None if model.track_head is None else model.track_head.feature_extractor
    for features in (model.depth_head, model.point_head, track):
        if features is not None:
            with in_float64(features.norm, features.projects):
                rotate_dpt_(features, q_stream)
