"""The whole network as one ONNX graph with a symbolic frame count at a fixed image size."""

from __future__ import annotations

from qvggt.errors import QvggtError
from qvggt.export.backbone import emit_aggregator
from qvggt.export.graph import GraphBuilder
from qvggt.export.heads import DPTEmitter, emit_camera
from qvggt.models.vggt.config import check_size
from qvggt.models.vggt.network import VGGT
from qvggt.target import Target

FRAMES = "frames"  # the symbolic dimension
HEAD_OF = {"pose": "camera", "depth": "depth", "points": "point"}


def emit_network(
    builder: GraphBuilder, model: VGGT, height: int, width: int, outputs: tuple[str, ...], target: Target
) -> None:
    """Emit `images` float32 [1, frames, 3, H, W] in [0, 1] -> the chosen outputs, names and shapes as VGGT.forward.

    pose: `pose_enc` [1, frames, 9]. depth: `depth` [1, frames, H, W, 1] and `depth_conf` [1, frames, H, W].
    points: `world_points` [1, frames, H, W, 3] and `world_points_conf`. Walks the actual modules, so quantized
    linears and folded layers show up as they are. QvggtError for a bad size or a head the model lacks.
    """
    check_size(height, width, model.config.patch_size)
    heads = {"pose": model.camera_head, "depth": model.depth_head, "points": model.point_head}
    for output in outputs:
        if output not in heads:
            raise QvggtError(f"unknown output {output!r}: expected a subset of {', '.join(heads)}")
        if heads[output] is None:
            raise QvggtError(f"output {output!r} needs the {HEAD_OF[output]} head, which this model lacks")
    if not outputs:
        raise QvggtError(f"no output chosen: expected a subset of {', '.join(heads)}")
    images = builder.input("images", [1, FRAMES, 3, height, width])
    images = builder.reshape(images, (-1, 3, height, width), "images")
    rounds = {model.config.aa_depth - 1} if "pose" in outputs else set()
    if set(outputs) - {"pose"}:
        rounds.update(model.config.dpt_layers)
    levels = emit_aggregator(builder, model.aggregator, images, height, width, target, rounds)
    if "pose" in outputs:
        assert model.camera_head is not None
        last = levels[model.config.aa_depth - 1]
        pose = emit_camera(builder, "camera_head", model.camera_head, last, target)
        builder.output(pose, "pose_enc", [1, FRAMES, 9])
    for output, path, head, value in (
        ("depth", "depth_head", model.depth_head, "depth"),
        ("points", "point_head", model.point_head, "world_points"),
    ):
        if output in outputs and head is not None:
            values, confidence = DPTEmitter(builder, path, head, height, width, target).emit(levels)
            channels = 1 if output == "depth" else 3
            values = builder.reshape(values, (1, -1, height, width, channels), path)
            builder.output(values, value, [1, FRAMES, height, width, channels])
            builder.output(
                builder.reshape(confidence, (1, -1, height, width), path), f"{value}_conf", [1, FRAMES, height, width]
            )
