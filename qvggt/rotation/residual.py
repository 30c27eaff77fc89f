"""Rotation of the residual streams, invisible to LayerNorm (DESIGN 3.1).

Every function works in the type of its arguments; run them under `in_float64`. Rows are tokens: a rotated stream is
x' = x Q with Q orthogonal and Q 1 = 1, so that LayerNorm without affine gives n(x') = n(x) Q.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from qvggt.models.block import Block
from qvggt.models.dpt import DPTFeatures
from qvggt.models.vggt.aggregator import Aggregator
from qvggt.models.vggt.camera_head import CameraHead
from qvggt.models.vggt.vit import VisionTransformer

Reader = nn.Linear | nn.Conv2d  # a 1x1 convolution reads tokens as a linear does


def fold_affine_(norm: nn.LayerNorm, readers: Sequence[Reader]) -> None:
    """W' = W diag(gamma) and b' = b + W beta for all readers of a norm, whose own affine becomes 1, 0.

    The norm keeps its two parameters: smoothing puts 1/s there later, and the checkpoint's names stay the same.
    """
    gamma, beta = norm.weight.data, norm.bias.data
    for reader in readers:
        if reader.bias is None:
            raise AssertionError("a reader without a bias cannot take the norm's beta")
        weight = reader.weight.data.flatten(1)  # [out, in]
        reader.bias.data = reader.bias.data + weight @ beta
        reader.weight.data = (weight * gamma).view_as(reader.weight.data)
    norm.weight.data, norm.bias.data = torch.ones_like(gamma), torch.zeros_like(beta)


def rotate_reader_(reader: Reader, q: Tensor) -> None:
    """W' = W Q: reads x Q as it read x."""
    reader.weight.data = (reader.weight.data.flatten(1) @ q).view_as(reader.weight.data)


def rotate_writer_(writer: Reader, q: Tensor) -> None:
    """W' = Q^T W and b' = b Q: writes y Q instead of y."""
    writer.weight.data = (q.T @ writer.weight.data.flatten(1)).view_as(writer.weight.data)
    if writer.bias is not None:
        writer.bias.data = writer.bias.data @ q


def rotate_vectors_(vectors: nn.Parameter, q: Tensor) -> None:
    """Tokens and embeddings [..., D] that live in the stream."""
    vectors.data = vectors.data @ q


def rotate_block_(block: Block, q: Tensor) -> None:
    """One block on the rotated stream; its LayerScales must be folded before."""
    for norm, reader, writer in (
        (block.norm1, block.attn.qkv, block.attn.proj),
        (block.norm2, block.mlp.fc1, block.mlp.fc2),
    ):
        fold_affine_(norm, [reader])
        rotate_reader_(reader, q)
        rotate_writer_(writer, q)


def rotate_patch_entry_(vit: VisionTransformer, q: Tensor) -> None:
    """Everything that starts the patch encoder's stream. A bicubic resize of the positions acts on the grid alone."""
    rotate_writer_(vit.patch_embed.proj, q)
    for vectors in (vit.cls_token, vit.pos_embed, vit.register_tokens, vit.mask_token):
        rotate_vectors_(vectors, q)


def set_identity_(linear: nn.Linear) -> None:
    linear.weight.data = torch.eye(linear.in_features).to(linear.weight.data)
    linear.bias.data = torch.zeros_like(linear.bias.data)


def rotate_aggregator_entry_(aggregator: Aggregator, rotation: nn.Linear, q_vit: Tensor, q: Tensor) -> None:
    """The aggregator's own tokens, and `rotation`: patch tokens from the encoder's rotated basis to this one.

    The encoder's last norm gives n(x) q_vit; the stream wants (n(x) * gamma + beta) q. Hence a dense matrix
    q_vit^T diag(gamma) q, which also takes that norm's affine. `rotation` is the identity, or that of a fold before.
    """
    fold_affine_(aggregator.patch_embed.norm, [rotation])
    rotate_reader_(rotation, q_vit)
    rotate_writer_(rotation, q)
    rotate_vectors_(aggregator.camera_token, q)
    rotate_vectors_(aggregator.register_token, q)


def rotate_dpt_(features: DPTFeatures, q: Tensor) -> None:
    """The projections of a DPT, which read cat(frame, global): blockdiag(q, q) fixes the ones vector as q does."""
    projects = [project for project in features.projects if isinstance(project, nn.Conv2d)]
    fold_affine_(features.norm, projects)
    for project in projects:
        rotate_reader_(project, torch.block_diag(q, q))


def rotate_camera_(head: CameraHead, rotation: nn.Linear, q: Tensor) -> None:
    """`rotation`: camera tokens from n(x) blockdiag(q, q) back to n(x) * gamma + beta, which the head goes on with.

    As for the aggregator, it is the identity before a first fold.
    """
    fold_affine_(head.token_norm, [rotation])
    rotate_reader_(rotation, torch.block_diag(q, q))
