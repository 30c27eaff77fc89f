"""VGGT as a graph: the aggregator, and each head."""

from __future__ import annotations

from typing import cast

from qvggt.export.dpt import DPTEmitter
from qvggt.export.graph import GraphBuilder
from qvggt.export.network import FRAMES, Levels, emit_output
from qvggt.export.vggt.backbone import emit_aggregator
from qvggt.export.vggt.camera_head import emit_camera
from qvggt.models.dpt import DPTHead
from qvggt.models.family import Head
from qvggt.models.network import Network
from qvggt.models.vggt.camera_head import POSE_DIM
from qvggt.models.vggt.network import VGGT
from qvggt.target import Target


def emit_levels(
    builder: GraphBuilder, network: Network, images: str, size: tuple[int, int], heads: list[Head], target: Target
) -> dict[int, str]:
    """images [S, 3, H, W] of this size (H, W) -> {round: tokens [S, P, 2C]} of the rounds that the heads read."""
    model = cast(VGGT, network)
    modules = [model.get_submodule(head.path) for head in heads]
    last = model.config.aa_depth - 1
    rounds = {layer for m in modules for layer in (m.layers if isinstance(m, DPTHead) else (last,))}
    return emit_aggregator(builder, model.aggregator, images, *size, target, rounds)


def emit_head(
    builder: GraphBuilder, network: Network, head: Head, levels: Levels, size: tuple[int, int], target: Target
) -> None:
    """What emit_levels gave -> the outputs of a head."""
    model = cast(VGGT, network)
    module = model.get_submodule(head.path)
    if isinstance(module, DPTHead):
        maps = DPTEmitter(builder, head.path, module, *size, target).emit(levels)
        for value, name in zip(maps, head.outputs, strict=True):
            emit_output(builder, value, name, size, head.path)
    else:
        assert model.camera_head is not None
        pose = emit_camera(builder, head.path, model.camera_head, levels[model.config.aa_depth - 1], target)
        builder.output(pose, head.outputs[0], [1, FRAMES, POSE_DIM])
