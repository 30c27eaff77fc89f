"""Two blocks of VGGT-1B's width, one per frame and one over all frames, as a network of their own: tokens to tokens."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from qvggt.engines.onnx_runner import import_onnxruntime
from qvggt.engines.openvino_runner import compile_cpu, import_openvino
from qvggt.export.blocks import BlockEmitter, Rope
from qvggt.export.graph import GraphBuilder
from qvggt.formats.linear_format import LinearFormat
from qvggt.models.block import Block
from qvggt.models.rope import rope_tables
from qvggt.models.vggt.config import VGGT_1B
from qvggt.onnxruntime_config import session_options
from qvggt.quant.linear import QuantLinear
from qvggt.quant.scheme import parse_scheme
from qvggt.target import Target

if TYPE_CHECKING:
    from cpu_candidates import Call, Candidate, Spec

WIDTH, HEADS = VGGT_1B.embed_dim, VGGT_1B.num_heads
RANGE = 4.0  # of static activations: the tokens are standard normal


def tokens(height: int, width: int) -> int:
    """Per frame."""
    return VGGT_1B.patch_start + (height // VGGT_1B.patch_size) * (width // VGGT_1B.patch_size)


def blocks() -> nn.ModuleList:
    """Seeded random weights; layer scales of 1, or the attention's share of the output would vanish."""
    torch.manual_seed(0)
    pair = [Block(WIDTH, HEADS, VGGT_1B.mlp_ratio, 1.0, qk_norm=True) for _ in range(2)]
    return nn.ModuleList(pair).requires_grad_(False).eval()


def rotation(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    patch, start, base = VGGT_1B.patch_size, VGGT_1B.patch_start, VGGT_1B.rope_base
    return rope_tables(height // patch, width // patch, WIDTH // HEADS, start, base, torch.device("cpu"))


def write(spec: Spec, height: int, width: int, path: Path) -> int:
    """`tokens` [1, S P, 1024] -> `out` of that shape; bytes of the file."""
    pair, format = blocks(), parse_scheme(spec.bits, spec.activation).base
    if isinstance(format, LinearFormat):
        for block in pair:
            for owner, name in ((block.attn, "qkv"), (block.attn, "proj"), (block.mlp, "fc1"), (block.mlp, "fc2")):
                setattr(owner, name, QuantLinear.from_float(getattr(owner, name), format, RANGE))
    count, (cos, sin) = tokens(height, width), rotation(height, width)
    builder = GraphBuilder(fused_attention=spec.fused)
    rope = Rope(cos.numpy()[:, None], sin.numpy()[:, None])
    x = builder.reshape(builder.input("tokens", [1, "tokens", WIDTH]), (-1, count, WIDTH), "in")
    for name, block, together in (("frame_blocks.0", pair[0], False), ("global_blocks.0", pair[1], True)):
        x = BlockEmitter(builder, Target.CPU, (-1, count), rope, together=together).block(name, block, x)  # type: ignore[arg-type]
    builder.output(builder.reshape(x, (1, -1, WIDTH), "out"), "out", [1, "tokens", WIDTH])
    onnx.save(builder.model("slice", {}, "0"), path)
    return path.stat().st_size


def open_candidate(candidate: Candidate) -> Call:
    if candidate.runtime == "torch":
        return _open_torch(candidate)
    if candidate.runtime == "openvino":
        path, precision = Path(str(candidate.onnx)), candidate.openvino_precision
        compiled = compile_cpu(import_openvino(), path, precision, candidate.threads)
        request = compiled.create_infer_request()
        return lambda x: {"out": np.array(request.infer({"tokens": x})["out"])}
    ort = import_onnxruntime()
    options = session_options(ort, candidate.threads)
    session = ort.InferenceSession(str(candidate.onnx), options, providers=["CPUExecutionProvider"])
    return lambda x: {"out": session.run(None, {"tokens": x})[0]}


def _open_torch(candidate: Candidate) -> Call:
    pair, rope, count = blocks(), rotation(*candidate.size), tokens(*candidate.size)
    half = candidate.precision == "bf16"

    def call(x: NDArray[np.float32]) -> dict[str, Any]:
        autocast = torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext()
        with torch.inference_mode(), autocast:
            y = pair[0](torch.from_numpy(x).view(-1, count, WIDTH), rope)
            return {"out": pair[1](y.view(1, -1, WIDTH), rope).float().numpy()}

    return call
