"""Good exports of every kind, and the references they are held to: what the faults of `faults.py` start from.

The network is the smallest with two of everything: two blocks of the encoder (nothing reads the special tokens of the
last), two rounds, two refinements.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from reference_weights import fill
from small_models import stir_norms_
from small_network import CONFIG, small_batches

from qvggt.calib.calibrate import calibrate_
from qvggt.calib.recipe import find_recipe
from qvggt.calib.rtn import quantize_rtn_
from qvggt.export.exporter import ExportConfig, export_onnx
from qvggt.export.precision import Precision
from qvggt.models.family import LINEARS, family_of, find_family
from qvggt.models.vggt.network import VGGT
from qvggt.quant.linear import QuantLinear
from qvggt.quant.model import tell_centers_
from qvggt.quant.scheme import Scheme, parse_scheme
from qvggt.quant.transform import InputTransform, TransformSpec
from qvggt.target import Target

SIZE = (42, 56)  # three rows of four patches

Size = tuple[int, int]
ALL = ("dino", "aggregator", "camera", "dpt", "rest")


@dataclass(frozen=True)
class Kind:
    """steps: "nearest" rounding; "calibrated" by the default recipe at its cheapest: folded, smoothed, centered, with
    an online rotation; or "made up": the same in any numbers, which costs nothing."""

    bits: str
    activation: str = "dynamic"
    parts: tuple[str, ...] | None = None
    target: Target = Target.CPU
    precision: Precision = Precision.FP32
    steps: str = "nearest"
    fused: bool = False
    attention: str = "fp16"
    size: Size = SIZE
    dense: bool = True  # heads; without, a file is proven in half the time


FP16 = Precision.FP16
CALIBRATED, MADE_UP = "calibrated", "made up"
KINDS = {
    "fp32": Kind("fp32"),
    "w4a4 calibrated": Kind("w4a4", parts=ALL, steps=CALIBRATED),
    "w8a8": Kind("w8a8"),
    "w8a8 static, all parts": Kind("w8a8", "static", ALL),
    "w4a4 static, all parts": Kind("w4a4", "static", ALL, steps=CALIBRATED),
    "w4a8 fused attention": Kind("w4a8", fused=True),
    "w4a16": Kind("w4a16"),
    "fp16 tensorrt": Kind("fp16", target=Target.TENSORRT, precision=FP16),
    "bf16 tensorrt": Kind("bf16", target=Target.TENSORRT, precision=Precision.BF16),
    "w8a8 fp32 tensorrt": Kind("w8a8", parts=ALL, target=Target.TENSORRT),
    "w4a4 calibrated tensorrt": Kind("w4a4", parts=ALL, target=Target.TENSORRT, precision=FP16, steps=CALIBRATED),
    "w4a4 static tensorrt": Kind("w4a4", "static", ALL, Target.TENSORRT, FP16, CALIBRATED),
    "fp8": Kind("fp8"),
    "fp8 static tensorrt": Kind("fp8", "static", None, Target.TENSORRT, FP16, CALIBRATED),
    "w8a8 fp8 attention": Kind("w8a8", target=Target.TENSORRT, precision=FP16, attention="fp8", size=(84, 70)),
    "nvfp4 tensorrt": Kind("nvfp4", "static", None, Target.TENSORRT, FP16),
    "w4a4 made up": Kind("w4a4", parts=ALL, steps=MADE_UP, dense=False),
    "w4a4 made up tensorrt": Kind("w4a4", "static", ALL, Target.TENSORRT, FP16, MADE_UP, dense=False),
    "w4a8 bf16 tensorrt": Kind("w4a8", target=Target.TENSORRT, precision=Precision.BF16),
}


@dataclass(frozen=True)
class Good:
    """A file and the network it was written from."""

    path: Path
    reference: VGGT
    kind: Kind
    size: Size

    def images(self, frames: int, seed: int = 5) -> torch.Tensor:
        """Random images [frames, 3, H, W] of the file's size."""
        return small_batches(frames, seed=seed, size=max(self.size))[0][..., : self.size[0], : self.size[1]]


def reference_weights(seed: int = 0, dense: bool = True) -> VGGT:
    """No entry is 0 or 1, and every token differs."""
    heads = CONFIG.heads if dense else ("camera",)
    network = VGGT(CONFIG.replace(vit_depth=2, aa_depth=2, dpt_layers=(0, 1, 0, 1), camera_iters=2, heads=heads))
    return stir_norms_(fill(network).requires_grad_(False), seed, 2.0, 0.3)  # type: ignore[arg-type]


@cache
def _network(scheme: Scheme, steps: str, size: Size, seed: int, dense: bool) -> VGGT:
    network = reference_weights(seed, dense)
    batches = [x[..., : size[0], : size[1]] for x in small_batches(2, 3, seed=seed, size=max(size))]
    if steps == CALIBRATED:
        recipe = find_recipe("qvggt").replace(center="types", online="fc2", constant_ranges=False)
        with torch.enable_grad():
            calibrate_(network, scheme, recipe, batches, seed, progress=False)
    else:
        quantize_rtn_(network, scheme, batches, progress=False)
    if steps == MADE_UP:
        make_up_(network, seed)
    return network


def make_up_(network: VGGT, seed: int = 0) -> None:
    """Give the blocks' linears centers, biases by type and clips, fc2 an online rotation and smoothing, and fc1 a
    branch."""
    generator = torch.Generator().manual_seed(seed)
    for stage in family_of(network).stages(network.config):
        for name in LINEARS:
            linear = network.get_submodule(f"{stage.path}.{name}")
            assert isinstance(linear, QuantLinear)
            fc2, types, rank = name == "mlp.fc2", stage.layout.types, 4 * (name == "mlp.fc1")
            linear.transform = InputTransform(linear.in_features, TransformSpec(fc2, fc2, types, rank), seed)
            if rank:
                linear.transform.basis = torch.linalg.qr(torch.randn(linear.in_features, rank, generator=generator))[0]
                linear.branch = 0.3 * torch.randn(rank, linear.out_features, generator=generator)
            center = 0.3 * torch.randn(types, linear.in_features, generator=generator)
            center[-1] *= fc2  # the others fold the patches' into what comes before
            linear.transform.center = center
            if fc2:
                linear.transform.scale = 1 + 0.2 * torch.rand(linear.in_features, generator=generator)
            linear.kind_bias = linear.bias + 0.3 * torch.randn(types, linear.out_features, generator=generator)
            linear.bias = None
            if linear.format.mode == "dynamic":
                linear.act_clip = 0.6 + 0.15 * torch.rand(2, generator=generator)  # codes of 7 and -8 are cut off
    tell_centers_(network)


def write_good(name: str, folder: Path, size: Size | None = None, seed: int = 0) -> Good:
    """Export one of KINDS as `<name>.onnx`, by default at its own size."""
    kind = KINDS[name]
    size = size or kind.size
    scheme = replace(parse_scheme(kind.bits, kind.activation, kind.parts), attention=kind.attention)
    network = _network(scheme, kind.steps, size, seed, kind.dense)
    outputs = tuple(find_family().exportable) if kind.dense else ("pose",)
    config = ExportConfig(
        *size, tuple(outputs), target=kind.target, precision=kind.precision, fused_attention=kind.fused
    )
    path = folder / f"{name.replace(' ', '_').replace(',', '')}.onnx"
    export_onnx(network, scheme, config, path)
    return Good(path, network, kind, size)
