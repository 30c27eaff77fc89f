"""Three blocks of VGGT-1B's width, tokens to tokens: two that work frame by frame, one over all frames between them.

They are the first blocks of a real network with seeded random weights, so that folds, calibration and export are those
of any other. The patch encoder before them and the heads after them, which count little in the whole network and much
beside three blocks, are not in the files. A folded network's tokens are in a basis of its own, `basis`.
"""

from __future__ import annotations

import contextlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from calibrated import calibrated_
from held_out import drawn
from numpy.typing import NDArray
from torch import Tensor, nn

from qvggt import __version__
from qvggt.data.synthetic.scene import SceneConfig
from qvggt.engines.onnx_runner import import_onnxruntime
from qvggt.engines.openvino_runner import compile_cpu, import_openvino
from qvggt.export.blocks import BlockEmitter, Rope
from qvggt.export.graph import GraphBuilder
from qvggt.export.token_types import TokenTypes
from qvggt.models.family import TokenLayout, family_of
from qvggt.models.vggt.config import VGGT_1B
from qvggt.models.vggt.network import VGGT
from qvggt.onnx_view.metadata import written
from qvggt.onnxruntime_config import session_options
from qvggt.quant.hadamard import named_seed, residual_rotation
from qvggt.quant.model import quantized_linears
from qvggt.quant.scheme import Scheme
from qvggt.target import Target

if TYPE_CHECKING:
    from cpu_candidates import Call, Candidate

    Array = NDArray[np.float32]

# layer scales of 1, or the blocks' share of the output would vanish; a narrow head, which is never run
CONFIG = VGGT_1B.replace(
    vit_depth=1, aa_depth=2, layer_scale=1.0, heads=("depth",), dpt_features=8, dpt_out_channels=(8, 8, 8, 8),
    dpt_layers=(0, 0, 0, 0),
)  # fmt: skip
WIDTH = CONFIG.embed_dim
BLOCKS = ("frame_blocks.0", "global_blocks.0", "frame_blocks.1")
INPUT, OUTPUT = "tokens", "out"
CALIBRATION = 2  # generated sequences; nothing that a speed depends on needs more


def network() -> VGGT:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VGGT(CONFIG)
        for token in (model.aggregator.camera_token, model.aggregator.register_token):
            nn.init.normal_(token)  # as far from each other as trained ones, not the zeros they start with
    return model.requires_grad_(False).eval()


def pictures(frames: int, height: int, width: int, count: int = 1, seed: int = 0) -> list[Tensor]:
    """Generated sequences [S, 3, H, W] in [0, 1]."""
    config = SceneConfig(height=height, width=width, family="random", frames=max(2, frames))
    return [drawn(config, frames, seed + i)[0] for i in range(count)]


@torch.no_grad()
def entering(images: Tensor) -> Array:
    """Float tokens [1, S P, C] before the first of the blocks, of images [S, 3, H, W]."""
    trunk = network().aggregator
    tokens = trunk.join(trunk.patch_embed(trunk.normalise(images[None])), 1, len(images))
    return tokens.reshape(1, -1, WIDTH).numpy()


def calibration(frames: int, height: int, width: int) -> list[Tensor]:
    return pictures(frames, height, width, CALIBRATION, seed=100)


def calibrated(scheme: Scheme, height: int, width: int, frames: int = 2) -> tuple[VGGT, Scheme]:
    model = network()
    return model, calibrated_(model, scheme, calibration(frames, height, width), nearest=True)


@cache
def basis() -> Array:
    """R [C, C]: a folded network has x R where the float one has x."""
    stream = family_of(network()).streams(CONFIG)[-1].name
    return residual_rotation(WIDTH, named_seed(0, stream)).float().numpy()


def write(model: VGGT, scheme: Scheme, size: tuple[int, int], path: Path, *, fused: bool = False) -> int:
    """`tokens` [1, S P, 1024] -> `out` of that shape; bytes of the file."""
    trunk = model.aggregator
    rope = Rope.of(trunk.rope(*size, torch.device("cpu")))
    count, builder = rope.tokens, GraphBuilder(fused_attention=fused)
    x = builder.reshape(builder.input(INPUT, [1, "tokens", WIDTH]), (-1, count, WIDTH), "in")
    types = TokenTypes(builder, "aggregator.kinds", TokenLayout(CONFIG.patch_start, first_apart=True), count, x)
    for name in BLOCKS:
        together = name.startswith("global")
        emitter = BlockEmitter(builder, Target.CPU, (-1, count), rope, together=together, types=types)
        x = emitter.block(f"aggregator.{name}", trunk.get_submodule(name), x)  # type: ignore[arg-type]
    builder.output(builder.reshape(x, (1, -1, WIDTH), OUTPUT), OUTPUT, [1, "tokens", WIDTH])
    inside = tuple(f"aggregator.{name}." for name in BLOCKS)
    linears = {name: module.format.name for name, module in quantized_linears(model) if name.startswith(inside)}
    facts = written(version=__version__, linears=linears, scheme=scheme.to_json(), target=Target.CPU.value)
    onnx.save(builder.model("slice", facts, __version__), path)
    return path.stat().st_size


def open_candidate(candidate: Candidate) -> Call:
    if candidate.runtime == "torch":
        return _open_torch(candidate)
    if candidate.runtime == "openvino":
        path, precision = Path(str(candidate.onnx)), candidate.openvino_precision
        compiled = compile_cpu(import_openvino(), path, precision, candidate.threads)
        request = compiled.create_infer_request()
        return lambda x: {OUTPUT: np.array(request.infer({INPUT: x})[OUTPUT])}
    ort = import_onnxruntime()
    options = session_options(ort, candidate.threads)
    session = ort.InferenceSession(str(candidate.onnx), options, providers=["CPUExecutionProvider"])
    return lambda x: {OUTPUT: session.run([OUTPUT], {INPUT: x})[0]}


def _open_torch(candidate: Candidate) -> Call:
    trunk = network().aggregator
    rope = trunk.rope(*candidate.size, torch.device("cpu"))
    half = candidate.precision == "bf16"

    def call(x: Array) -> dict[str, Any]:
        autocast = torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext()
        with torch.inference_mode(), autocast:
            y = torch.from_numpy(x)
            for name in BLOCKS:
                shape = (1, -1, WIDTH) if name.startswith("global") else (-1, len(rope[0]), WIDTH)
                y = trunk.get_submodule(name)(y.view(*shape), rope)
            return {OUTPUT: y.view(1, -1, WIDTH).float().numpy()}

    return call
