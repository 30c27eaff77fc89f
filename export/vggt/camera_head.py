"""Emission of the camera head (qvggt.models.vggt.camera_head)."""

from __future__ import annotations

import numpy as np

from qvggt.export.blocks import BlockEmitter, emit_norm
from qvggt.export.emulation import run_model
from qvggt.export.graph import GraphBuilder
from qvggt.export.linear import array, emit_linear
from qvggt.export.precision import Precision
from qvggt.models.vggt.camera_head import POSE_DIM, CameraHead
from qvggt.target import Target


def emit_camera(builder: GraphBuilder, path: str, head: CameraHead, last: str, target: Target) -> str:
    """Tokens of the last round [S, P, 2C] -> activated pose encoding [1, S, 9]; the refinements are unrolled.

    fp32 in every network: four refinements of one small vector per frame, and nothing after them averages errors out.
    """
    b, fp32 = builder, Precision.FP32
    dim = head.embed_pose.out_features
    tokens = b.reshape(b.slice(last, 1, 0, 1, path), (1, -1, dim), path)
    tokens = emit_norm(b, f"{path}.token_norm", head.token_norm, tokens)
    if head.token_rotation is not None:
        tokens = emit_linear(b, f"{path}.token_rotation", head.token_rotation, tokens, target, precision=fp32)
    emitter = BlockEmitter(b, target, (1, -1), precision=fp32)
    raw = ""
    for i in range(head.iters):
        at = f"{path}.iter.{i}"
        first = _first_modulation(b, path, at, head, target) if i == 0 else None
        shift, scale, gate = first or _modulation(emitter, path, at, head, raw)
        y = emit_norm(b, f"{at}.adaln_norm", head.adaln_norm, tokens)
        y = b.op("Add", [b.op("Mul", [y, scale], at), shift], at)
        x = b.op("Add", [b.op("Mul", [gate, y], at), tokens], at)
        for j, block in enumerate(head.trunk):
            x = emitter.block(f"{at}.trunk.{j}", block, x, f"{path}.trunk.{j}")  # type: ignore[arg-type]
        x = emit_norm(b, f"{at}.trunk_norm", head.trunk_norm, x, f"{path}.trunk_norm")
        delta = emitter.mlp(f"{at}.pose_branch", head.pose_branch, x, f"{path}.pose_branch")
        raw = b.op("Add", [raw, delta], at) if raw else delta
    linear, fov = b.slice(raw, 2, 0, 7, path), b.slice(raw, 2, 7, POSE_DIM, path)
    return b.op("Concat", [linear, b.op("Relu", [fov], path)], path, axis=-1)


def _modulation(emitter: BlockEmitter, path: str, at: str, head: CameraHead, raw: str) -> list[str]:
    """(shift, 1 + scale, gate) of the norm, from the pose so far."""
    b, name = emitter.builder, "poseLN_modulation.1"
    z = emitter.linear(f"{at}.embed_pose", head.embed_pose, raw, f"{path}.embed_pose")
    z = b.op("Mul", [z, b.op("Sigmoid", [z], f"{at}.silu")], f"{at}.silu")
    z = emitter.linear(f"{at}.{name}", head.poseLN_modulation[1], z, f"{path}.{name}")
    shift, scale, gate = b.ops("Split", [z], at, 3, axis=-1, num_outputs=3)
    one = b.constant("one", np.array(1, np.float32))
    return [shift, b.op("Add", [scale, one], at), gate]


def _first_modulation(builder: GraphBuilder, path: str, at: str, head: CameraHead, target: Target) -> list[str]:
    """The same from the learned pose that the first refinement starts with, as constants: other tools stumble over a
    product of constants. ONNX Runtime computes them, which would fold the nodes to these very bits."""
    sub = GraphBuilder()
    emitter = BlockEmitter(sub, target, (1, -1), precision=Precision.FP32)
    source = sub.constant(f"{path}.empty_pose_tokens", array(head.empty_pose_tokens))
    names = ("shift", "scale", "gate")
    for name, value in zip(names, _modulation(emitter, path, at, head, source), strict=True):
        sub.output(value, name, [1, 1, head.embed_pose.out_features])
    values = run_model(sub.model("modulation", {}, ""), {})
    return [builder.constant(f"{at}.{name}", value) for name, value in zip(names, values, strict=True)]
