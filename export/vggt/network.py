"""VGGT as a graph: the aggregator, then the chosen heads."""

from __future__ import annotations

from typing import cast

from qvggt.export.dpt import DPTEmitter
from qvggt.export.graph import GraphBuilder
from qvggt.export.network import FRAMES, emit_output
from qvggt.export.vggt.backbone import emit_aggregator
from qvggt.export.vggt.camera_head import emit_camera
from qvggt.models.dpt import DPTHead
from qvggt.models.family import Head
from qvggt.models.network import Network
from qvggt.models.vggt.camera_head import POSE_DIM
from qvggt.models.vggt.network import VGGT
from qvggt.target import Target


def emit_heads(
    builder: GraphBuilder, network: Network, images: str, size: tuple[int, int], heads: list[Head], target: Target
) -> None:
    """images [S, 3, H, W] of this size (H, W) -> the outputs of the heads."""
    model, (height, width) = cast(VGGT, network), size
    modules = {head: model.get_submodule(head.path) for head in heads}
    last = model.config.aa_depth - 1
    rounds = {layer for m in modules.values() for layer in (m.layers if isinstance(m, DPTHead) else (last,))}
    levels = emit_aggregator(builder, model.aggregator, images, height, width, target, rounds)
    for head, module in modules.items():
        if isinstance(module, DPTHead):
            maps = DPTEmitter(builder, head.path, module, height, width, target).emit(levels)
            for value, name in zip(maps, head.outputs, strict=True):
                emit_output(builder, value, name, size, head.path)
        else:
            assert model.camera_head is not None
            pose = emit_camera(builder, head.path, model.camera_head, levels[last], target)
            builder.output(pose, head.outputs[0], [1, FRAMES, POSE_DIM])
