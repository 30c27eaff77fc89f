"""The files lint is checked on: name -> a function that writes the ONNX file.

Every format, activation mode, target and precision as `qvggt export` writes it, all parts quantized; what ONNX
Runtime's quantizers make of our float file; and small graphs, those of tests/export/lint and bad ones.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto

from qvggt.formats.linear_format import LinearFormat
from qvggt.formats.table import FORMATS

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "export" / "lint")]

from attention_graphs import FORMS as ATTENTIONS  # type: ignore  # noqa: E402
from lint_graphs import MS, K, N, Net  # type: ignore  # noqa: E402
from small_network import small_images, small_model  # type: ignore  # noqa: E402
from test_lint_clean import INT8_PRODUCTS  # type: ignore  # noqa: E402
from test_lint_float import (  # type: ignore  # noqa: E402
    FLOATING,
    GOOD,
    REFUSED,
    bare,
    fp4,
    int8_scales,
    one_scale,
    product,
    weight_of_one_scale,
    weight_under,
)

SIDE, LITTLE, TALL = 56, 28, 84  # pixels; 84: 41 tokens a frame
NETWORK: dict[str, Any] = {
    "embed_dim": 128, "aa_depth": 1, "dpt_layers": (0,) * 4, "camera_iters": 2, "heads": ("camera", "depth"),
}  # fmt: skip
OUTPUTS = ("pose", "depth")
Write = Callable[[Path], None]


def export(
    path: Path,
    format: str,
    target: str,
    precision: str,
    side: int = SIDE,
    storage: str | None = None,
    attention: str = "fp16",
) -> None:
    """The small network with every part quantized, rounded to nearest."""
    import torch

    from qvggt.calib.rtn import quantize_rtn_
    from qvggt.export.exporter import ExportConfig, export_onnx
    from qvggt.export.precision import Precision
    from qvggt.models.family import find_family
    from qvggt.quant.scheme import parse_scheme
    from qvggt.target import Target

    chosen = FORMATS[format]
    scheme = parse_scheme(chosen.bits, chosen.mode or "dynamic", find_family().part_names)
    scheme = replace(scheme, attention=attention)
    with torch.no_grad():
        model = small_model(
            3, embed_dim=128, aa_depth=1, dpt_layers=(0,) * 4, camera_iters=2, heads=("camera", "depth")
        )
        quantize_rtn_(model, scheme, [small_images(3, seed=1, size=side)], progress=False)
        config = ExportConfig(
            side, side, OUTPUTS, target=Target(target), precision=Precision(precision), storage=storage
        )
        export_onnx(model, scheme, config, path)


def by_onnx_runtime(path: Path, kind: str) -> None:
    """What ONNX Runtime's quantizers make of our float file."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
    from peers.adapter import Request, reader

    logging.getLogger().setLevel(logging.ERROR)  # it warns of every norm
    source, batches = path.with_suffix(".float.onnx"), path.with_suffix(".npz")
    export(source, "fp32", "cpu", "fp32")
    np.savez(batches, small_images(2, seed=1, size=SIDE)[None].numpy())
    request = Request(str(source), str(batches), str(path), "images")
    if kind == "dynamic":
        quantize_dynamic(source, path, per_channel=True, weight_type=QuantType.QInt8)
    else:
        legal: dict[str, Any] = {"ActivationSymmetric": True, "QuantizeBias": False} if kind != "static" else {}
        operators = ["MatMul", "Gemm", "Conv"] if kind == "static products" else None
        quantize_static(
            source, path, reader(request), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QInt8, weight_type=QuantType.QInt8, op_types_to_quantize=operators,
            extra_options=legal,
        )  # fmt: skip
    source.unlink()
    batches.unlink()


def small(path: Path, make: Callable[[], ModelProto]) -> None:
    path.write_bytes(make().SerializeToString())


def _product(x: Callable[[Net], str], weight: Callable[[Net], str], dims: Any = ("m", K), kind: str = "f16") -> Any:
    def make() -> ModelProto:
        net = Net(dims, kind)
        return net.model(net.op("MatMul", x(net), weight(net)))

    return make


def _plain(net: Net) -> str:
    return "x"


def _int8(net: Net) -> str:
    return net.quantized()


def _weight(bits: int = 8, scales: str = "tensor", **more: Any) -> Callable[[Net], str]:
    return lambda net: net.weight(bits, scales, **more)


def _factor_per_input(net: Net) -> str:
    return net.op("Mul", net.weight(8, "channel"), net.real(np.ones((K, 1))))


def _computed_scale(net: Net) -> str:
    largest = net.op("ReduceMax", net.op("Abs", "x"), keepdims=0)
    return net.quantized(scale=net.op("Mul", largest, net.real(1 / 127)))


def _conv(op: str, bits: int = 8, activation: int | None = TensorProto.INT8) -> Callable[[], ModelProto]:
    def make() -> ModelProto:
        net = Net((1, 16, 14, 14))
        codes = net.codes((16, 16, 3, 3), bits)
        weight = net.op("DequantizeLinear", codes, net.real(0.01))
        x = "x" if activation is None else net.quantized(kind=activation)
        return net.model(net.op(op, x, weight, kernel_shape=[3, 3]))

    return make


def _nbits() -> ModelProto:
    """As ONNX Runtime's MatMulNBitsQuantizer writes it."""
    net = Net(("m", K), "f32")
    codes, scales = net.store(np.full((N, K // 32, 16), 136), np.uint8), net.real(np.full((N, K // 32), 0.01))
    return net.model(net.op("MatMulNBits", "x", codes, scales, K=K, N=N, bits=4, block_size=32, **MS))


def _shared() -> ModelProto:
    net = Net((1, "m", K))
    weight = net.weight(4, "block", (K, K))
    return net.model(net.op("MatMul", net.op("Relu", net.op("MatMul", "x", weight)), weight))


def _split(heads: bool, how: str = "") -> ModelProto:
    """Queries, keys and values; `how`: what stands in the way of cutting the weight instead."""
    net = Net((1, "m", K), "f32")
    scale = net.token_range() if how == "_token" else ""
    x = net.quantized(net.op("Div", "x", scale), 1 / 127) if scale else net.quantized()
    y = net.op("MatMul", x, net.weight(8, "channel", (K, 3 * K)))
    if scale or how == "_factor":
        y = net.op("Mul", y, scale or net.real(np.linspace(1, 2, 3 * K)))
    first = net.op("Split", y, net.store([K, K, K], np.int64), outputs=3, axis=-1)
    parts = []
    for index, part in enumerate((first, f"{first}1", f"{first}2")):
        part = net.op("Reshape", part, net.store([1, -1, 4, K // 4], np.int64))
        if how == "_norm" and index == 0:
            part = net.op("LayerNormalization", part, net.real(np.ones(K // 4)))
        parts.append(net.op("Transpose", part, perm=[0, 2, 1, 3]) if heads else net.op("Relu", part))
    return net.model(net.op("Add", net.op("Add", parts[0], parts[1]), parts[2]))


SMALL: dict[str, Callable[[], ModelProto]] = {
    **{form.__name__: form for form in INT8_PRODUCTS},
    "w8a16_channel": _product(_plain, _weight(8, "channel")),
    "w8a16_tensor": _product(_plain, _weight()),
    "w4a16_block": _product(_plain, _weight(4, "block")),
    "w4a16_channel": _product(_plain, _weight(4, "channel")),
    "w8a16_block": _product(_plain, _weight(8, "block")),
    "w4a4_int4": _product(lambda net: net.quantized(kind=TensorProto.INT4), _weight(4, "channel")),
    "w4a16_odd": _product(_plain, _weight(4, "block", shape=(K, 131))),
    "w8a16_odd": _product(_plain, _weight(8, "channel", shape=(K, 131))),
    "w4a8_odd_columns": _product(_int8, _weight(4, "channel", shape=(K, 131))),
    "w4a8_odd_rows": _product(_int8, _weight(4, "channel", shape=(255, N)), ("m", 255)),
    "w8a8_odd": _product(_int8, _weight(8, "tensor", shape=(K, 131))),
    "w8a8_overflow": _product(_int8, _weight(8, "channel", shape=(1024, N)), ("m", 1024)),
    "w8a8_block": _product(_int8, _weight(8, "block")),
    "w4a8_block": _product(_int8, _weight(4, "block")),
    "scales_along_the_sum": _product(_int8, _weight(8, "channel", shape=(K, K), axis=0), kind="f32"),
    "int8_x_int4_tensor": _product(_int8, _weight(4, "tensor")),
    "partial_block": _product(_plain, _weight(4, "block", shape=(320, N), block=128), ("m", 320)),
    "scale_computed": _product(_computed_scale, _weight()),
    "uint8_activation": _product(lambda net: net.quantized(kind=TensorProto.UINT8), _weight()),
    "scale_zero": _product(lambda net: net.quantized(scale=0.0), _weight()),
    "gelu_between": _product(lambda net: net.op("Gelu", net.quantized()), _weight(), kind="f32"),
    "relu_on_the_weight": _product(_int8, lambda net: net.op("Relu", net.weight(8, "tensor"))),
    "factor_per_input": _product(
        _plain, lambda net: net.op("Mul", net.weight(8, "channel"), net.real(np.ones((K, 1))))
    ),
    "float_weight": _product(_int8, lambda net: net.normal(K, N)),
    "conv_w8a8": _conv("Conv"),
    "conv_weight_only": _conv("Conv", activation=None),
    "conv_w4a4": _conv("Conv", 4, TensorProto.INT4),
    "conv_transposed": _conv("ConvTranspose"),
    "conv_transposed_weight_only": _conv("ConvTranspose", activation=None),
    "int4_shared": _shared,
    "matmul_nbits": _nbits,
    **{f"split_into_heads{_text}": partial(_split, True, _text) for _text in ("", "_token", "_factor", "_norm")},
    "split": partial(_split, False),
    **{f"float/{_text}": _case[0] for _text, _case in {**GOOD, **FLOATING, **REFUSED}.items()},
    "float/fp8 rows inside": bare(lambda net: net.fp8(), lambda net: net.fp8_weight("channel")),
    "float/fp8 blocks of rank 2": bare(lambda net: net.fp8(), lambda net: net.fp8_weight("block")),
    "float/fp4 without blocks": product(one_scale, weight_of_one_scale),
    "float/fp4 in blocks of 32": product(lambda net: net.fp4(size=32), lambda net: net.fp4_weight(size=32)),
    "float/fp4 under int8 scales": product(fp4, weight_under(int8_scales)),
    "float/fp4 of odd columns": bare(fp4, lambda net: net.fp4_weight(n=131)),
    "float/fp8 alone of odd columns": bare(lambda net: "x", lambda net: net.fp8_weight("tensor", (K, 131))),
}

ALL: dict[str, Write] = {}
for _name, _format in FORMATS.items():
    _low = isinstance(_format, LinearFormat)
    ALL[f"ours/{_name}/cpu"] = partial(export, format=_name, target="cpu", precision="fp32" if _low else _name)
    for _precision in ("fp32", "fp16") if _low else (_name,):
        ALL[f"ours/{_name}/tensorrt/{_precision}"] = partial(
            export, format=_name, target="tensorrt", precision=_precision
        )
    if not isinstance(_format, LinearFormat) or _format.weight.grid.container != "INT4":
        continue
    if _format.weight.granularity.size not in (16, 32):  # for TensorRT itself; TensorRT-RTX takes them as well
        ALL[f"ours/{_name}/tensorrt-10"] = partial(
            export, format=_name, target="tensorrt-10", precision="fp16", storage="int4"
        )
for _name in ("w8a8-dynamic", "w8a8-static", "w4a16"):
    for _precision in ("fp16", "bf16"):
        ALL[f"attention/{_name}/{_precision}"] = partial(
            export, format=_name, target="tensorrt", precision=_precision, side=TALL, attention="fp8"
        )
ALL["little frames/w4a4-static"] = partial(
    export, format="w4a4-static", target="tensorrt", precision="fp16", side=LITTLE
)
for _kind in ("static", "static symmetric", "static products", "dynamic"):
    ALL[f"onnxruntime/{_kind}"] = partial(by_onnx_runtime, kind=_kind)
for _name, _make in SMALL.items():
    ALL[f"small/{_name}"] = partial(small, make=_make)
for _name, _attention in ATTENTIONS.items():
    ALL[f"small/attention_{_name}"] = partial(small, make=_attention.model)
