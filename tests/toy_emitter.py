"""ONNX of the toy family, found through `qvggt.export.network.EMITTERS`."""

from __future__ import annotations

from typing import Any

import numpy as np

from qvggt.export.blocks import BlockEmitter, Rope, emit_norm
from qvggt.export.graph import GraphBuilder
from qvggt.export.linear import array, emit_linear
from qvggt.export.network import Levels, emit_output
from qvggt.export.token_types import TokenTypes
from qvggt.models.family import Head, family_of
from qvggt.target import Target


def emit_levels(
    builder: GraphBuilder, network: Any, images: str, size: tuple[int, int], heads: list[Head], target: Target
) -> dict[str, str]:
    b, config, family, backbone = builder, network.config, family_of(network), network.backbone
    patch, width, path = config.patch_size, config.embed_dim, "backbone"
    rows, cols = size[0] // patch, size[1] // patch
    count = 1 + rows * cols
    frames = b.op("Shape", [images], path, start=0, end=1)

    def join(first: str, tokens: str) -> str:
        return b.op("Concat", [first, tokens], path, axis=1)

    def spread(name: str, row: Any) -> str:
        shape = b.op("Concat", [frames, b.ints(1, width)], path, axis=0)
        return b.op("Expand", [b.constant(name, array(row).reshape(1, 1, -1)), shape], path)

    half = b.constant("half", np.array(0.5, np.float32))
    weights = [b.constant(f"{path}.proj.{n}", array(getattr(backbone.proj, n))) for n in ("weight", "bias")]
    x = b.op("Conv", [b.op("Sub", [images, half], path), *weights], path, kernel_shape=[patch] * 2, strides=[patch] * 2)
    x = b.op("Transpose", [b.reshape(x, (0, width, rows * cols), path)], path, perm=[0, 2, 1])
    x = join(spread("cls", backbone.cls_token), x)
    tables = {n: Rope.of(t, f"rope_{n}") for n, t in family.positions(config, *size).items()}
    local = x
    for stage, block in zip(family.stages(config), backbone.blocks, strict=True):
        if stage.enters:
            others = spread("camera.other", backbone.camera_token[1])
            first = b.constant("camera.first", array(backbone.camera_token[:1])[None])
            cameras = b.op("Slice", [b.op("Concat", [first, others], path, axis=0), b.ints(0), frames, b.ints(0)], path)
            x = join(cameras, b.slice(x, 1, 1, count, path))
        types = TokenTypes(b, f"{stage.path}.types", stage.layout, count, images)
        rope, together = tables.get(stage.positions or ""), stage.view == "global"
        emitter = BlockEmitter(b, target, (-1, count), rope, together=together, types=types)
        x = emitter.block(stage.path, block, x)
        local = local if together else x
    normed = emit_norm(b, "backbone.norm", backbone.norm, x)
    if backbone.back is not None:
        normed = emit_linear(b, "backbone.back", backbone.back, normed, target)
    return {"local": local, "last": x, "normed": normed}


def emit_head(
    builder: GraphBuilder, network: Any, head: Head, levels: Levels, size: tuple[int, int], target: Target
) -> None:
    b, patch, path = builder, network.config.patch_size, head.path
    rows, cols = size[0] // patch, size[1] // patch
    if head.word == "pose":
        token = b.slice(b.op("Concat", [levels["local"], levels["last"]], path, axis=-1), 1, 0, 1, path)
        emit_output(b, emit_linear(b, path, network.cameras, token, target), head.outputs[0], size, path)
        return
    maps = b.op("Concat", [levels["local"], levels["normed"]], path, axis=-1)
    maps = emit_norm(b, f"{path}.0", network.rays[0], b.slice(maps, 1, 1, 1 + rows * cols, path))
    maps = emit_linear(b, f"{path}.1", network.rays[1], maps, target)
    maps = b.reshape(maps, (-1, rows, cols, patch, patch), path)
    maps = b.op("Exp", [b.op("Transpose", [maps], path, perm=[0, 1, 3, 2, 4])], path)
    emit_output(b, maps, head.outputs[0], size, path)
