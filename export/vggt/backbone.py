"""Emission of the patch encoder and the alternating-attention rounds (qvggt.models.vggt.vit and .aggregator)."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch

from qvggt.export.blocks import BlockEmitter, Rope, emit_norm
from qvggt.export.forms.convolution import emit_stem
from qvggt.export.graph import GraphBuilder
from qvggt.export.linear import array, emit_linear
from qvggt.export.precision import Precision
from qvggt.export.token_types import TokenTypes, frame_rows
from qvggt.models.family import TokenLayout
from qvggt.models.vggt.aggregator import IMAGE_MEAN, IMAGE_STD, Aggregator
from qvggt.models.vggt.vit import VisionTransformer
from qvggt.quant.conv import QuantConv2d
from qvggt.target import Target


def emit_patches(
    builder: GraphBuilder, path: str, vit: VisionTransformer, images: str, size: tuple[int, int], target: Target
) -> str:
    """images [S, 3, H, W] in [0, 1] -> patch embeddings [S, h*w, C], ImageNet normalisation folded in (float64).

    fp32 in every network: bf16 would round grey levels away, and the product is 0.1 % of the work. Quantized weights
    cannot take the normalisation, which has a factor per input channel: it stays.
    """
    (height, width), conv, patch = size, vit.patch_embed.proj, vit.patch_size
    count = height // patch * (width // patch)
    if isinstance(conv, QuantConv2d):
        path = f"{path}.patch_embed"
        spread, center = (np.array(v, np.float64).reshape(3, 1, 1) for v in (IMAGE_STD, IMAGE_MEAN))
        values = {"factor": 1 / spread, "offset": -center / spread}
        factor, offset = (builder.constant(f"{path}.{name}", v.astype(np.float32)) for name, v in values.items())
        x = builder.op("Add", [builder.op("Mul", [images, factor], path), offset], path)
        x = emit_stem(builder, f"{path}.proj", conv, x, target)
        x = builder.reshape(x, (0, conv.shape.out_channels, count), path)
        return builder.op("Transpose", [x], path, perm=[0, 2, 1])
    weight = conv.weight.detach().double()
    mean, std = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (IMAGE_MEAN, IMAGE_STD))
    bias = torch.zeros(len(weight), dtype=torch.float64) if conv.bias is None else conv.bias.detach().double()
    bias = bias - (weight * (mean / std)).sum((1, 2, 3))
    path = f"{path}.patch_embed.proj"
    w = builder.constant(f"{path}.weight", (weight / std).float().numpy())
    b = builder.constant(f"{path}.bias", bias.float().numpy())
    x = builder.op("Conv", [images, w, b], path, kernel_shape=[patch, patch], strides=[patch, patch])
    x = builder.reshape(x, (0, len(weight), count), path)
    return builder.op("Transpose", [x], path, perm=[0, 2, 1])


def emit_vit(
    builder: GraphBuilder, path: str, vit: VisionTransformer, images: str, height: int, width: int, target: Target
) -> str:
    """images [S, 3, H, W] -> patch tokens [S, h*w, C] after the final norm; positions of this size baked."""
    patches = emit_patches(builder, path, vit, images, (height, width), target)
    with torch.no_grad():
        positions = vit.positions(height, width)[0]
        prefix = torch.cat([vit.cls_token[0] + positions[:1], vit.register_tokens[0]])
    count, dim = positions.shape[0] - 1, positions.shape[1]
    first = len(prefix)
    positional = builder.real(f"{path}.pos_embed", array(positions[1:]), Precision.FP32)
    patches = builder.cast(builder.op("Add", [patches, positional], path), builder.precision, path)
    frames = builder.op("Shape", [images], path, start=0, end=1)
    shape = builder.op("Concat", [frames, builder.ints(first, dim)], path, axis=0)
    special = builder.op("Expand", [builder.real(f"{path}.prefix", array(prefix[None])), shape], path)
    x = builder.op("Concat", [special, patches], path, axis=1)
    types = TokenTypes(builder, f"{path}.kinds", TokenLayout(first), first + count, images)
    emitter = BlockEmitter(builder, target, (-1, first + count), types=types)
    for i, block in enumerate(vit.blocks):
        x = emitter.block(f"{path}.blocks.{i}", block, x)  # type: ignore[arg-type]
    return emit_norm(builder, f"{path}.norm", vit.norm, builder.slice(x, 1, first, first + count, path))


def emit_aggregator(
    builder: GraphBuilder,
    aggregator: Aggregator,
    images: str,
    height: int,
    width: int,
    target: Target,
    rounds: Collection[int],
) -> dict[int, str]:
    """images [S, 3, H, W] -> {round: tokens [S, P, 2C]} for the given rounds."""
    path = "aggregator"
    config = aggregator.config
    patches = emit_vit(builder, f"{path}.patch_embed", aggregator.patch_embed, images, height, width, target)
    if aggregator.patch_rotation is not None:
        patches = emit_linear(builder, f"{path}.patch_rotation", aggregator.patch_rotation, patches, target)
    patches = builder.cast(patches, builder.precision, path)
    rows = torch.cat([aggregator.camera_token[0], aggregator.register_token[0]], dim=1)
    constants = [builder.real(f"{path}.special_tokens.{i}", array(rows[i : i + 1])) for i in (0, 1)]
    frames = builder.op("Shape", [images], path, start=0, end=1)
    special = frame_rows(builder, path, constants, frames, (rows.shape[1], rows.shape[2]))
    x = builder.op("Concat", [special, patches], path, axis=1)

    tokens = rows.shape[1] + (height // config.patch_size) * (width // config.patch_size)
    rope = Rope.of(aggregator.rope(height, width, torch.device("cpu")))
    types = TokenTypes(builder, f"{path}.kinds", TokenLayout(config.patch_start, first_apart=True), tokens, images)
    per_frame = BlockEmitter(builder, target, (-1, tokens), rope, types=types)
    over_all = BlockEmitter(builder, target, (-1, tokens), rope, together=True, types=types)
    kept = {}
    for i, (frame_block, global_block) in enumerate(
        zip(aggregator.frame_blocks, aggregator.global_blocks, strict=True)
    ):
        frame = per_frame.block(f"{path}.frame_blocks.{i}", frame_block, x)  # type: ignore[arg-type]
        x = over_all.block(f"{path}.global_blocks.{i}", global_block, frame)  # type: ignore[arg-type]
        if i in rounds:
            kept[i] = builder.op("Concat", [frame, x], f"{path}.round.{i}", axis=-1)
    return kept
