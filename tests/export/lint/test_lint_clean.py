"""Forms that TensorRT-RTX takes and compiles to the low-bit product they ask for: the lint must be silent on them."""

from __future__ import annotations

import numpy as np
import pytest
from lint_graphs import K, N, Net
from onnx import ModelProto, TensorProto
from rtx import Build, Lint


def w8a8() -> ModelProto:
    net = Net()
    return net.model(net.op("MatMul", net.quantized(), net.weight(scales="tensor")))


def w8a8_per_channel_float32() -> ModelProto:
    net = Net(kind="f32")
    return net.model(net.op("MatMul", net.quantized(), net.weight()))


def w8a8_float32_scales_cast_back() -> ModelProto:
    """The other safe form in a float16 network: the product in float32."""
    net = Net()
    step, zero = net.store(0.05, np.float32), net.zero(TensorProto.INT8)
    x = net.op("Cast", "x", to=TensorProto.FLOAT)
    x = net.op("DequantizeLinear", net.op("QuantizeLinear", x, step, zero), step, zero)
    weight = net.op("DequantizeLinear", net.codes((K, N)), net.store(np.full(N, 0.01), np.float32), axis=1)
    return net.model(net.op("Cast", net.op("MatMul", x, weight), to=TensorProto.FLOAT16))


def row_scales_after() -> ModelProto:
    net = Net()
    y = net.op("MatMul", net.quantized(), net.weight(scales="tensor"))
    return net.model(net.op("Mul", y, net.real(np.linspace(0.1, 1, N))))


def dynamic_per_token() -> ModelProto:
    net = Net(("b", "m", K))
    scale = net.token_range()
    y = net.op("MatMul", net.quantized(net.op("Div", "x", scale), 1 / 127), net.weight(scales="tensor"))
    return net.model(net.op("Mul", y, scale))


def constant_scale_expression() -> ModelProto:
    net = Net()
    return net.model(net.op("MatMul", net.quantized(scale=net.op("Mul", net.real(0.5), net.real(0.1))), net.weight(4)))


def constant_nodes() -> ModelProto:
    """Weights and scales as Constant nodes, as other exporters write them."""
    from onnx import numpy_helper

    net = Net()
    step = net.op("Constant", value=numpy_helper.from_array(np.array(0.05, np.float16)))
    codes = net.op("Constant", value=numpy_helper.from_array(np.ones((K, N), np.int8)))
    return net.model(net.op("MatMul", net.quantized(scale=step), net.op("DequantizeLinear", codes, step)))


def float_weight_quantized_in_the_graph() -> ModelProto:
    net = Net()
    return net.model(net.op("MatMul", net.quantized(), net.quantized(net.normal(K, N))))


def transposed_behind() -> ModelProto:
    net = Net()
    weight = net.op("Transpose", net.weight(4, shape=(N, K), axis=0), perm=[1, 0])
    return net.model(net.op("MatMul", net.quantized(), weight))


def gemm_transposed() -> ModelProto:
    net = Net()
    return net.model(net.op("Gemm", net.quantized(), net.weight(4, shape=(N, K), axis=0), transB=1))


def moved_activation() -> ModelProto:
    net = Net((K, "m"))
    return net.model(net.op("MatMul", net.op("Transpose", net.quantized(), perm=[1, 0]), net.weight(scales="tensor")))


def factor_on_the_weight() -> ModelProto:
    net = Net()
    weight = net.op("Mul", net.weight(4), net.real(np.full((1, N), 2.0)))
    return net.model(net.op("MatMul", net.quantized(), weight))


def activations_only() -> ModelProto:
    net = Net((1, 4, "m", K))
    net.graph_input("y", (1, 4, K, "m"))
    return net.model(net.op("MatMul", net.quantized(), net.quantized("y")))


def convolution() -> ModelProto:
    net = Net((1, 16, 14, 14))
    weight = net.op("DequantizeLinear", net.codes((32, 16, 3, 3)), net.real(np.full(32, 0.01)), axis=0)
    return net.model(net.op("Conv", net.quantized(), weight, kernel_shape=[3, 3]))


def w4a8() -> ModelProto:
    net = Net()
    return net.model(net.op("MatMul", net.quantized(), net.weight(4)))


def one_block_is_a_channel() -> ModelProto:
    net = Net(kind="f32")
    return net.model(net.op("MatMul", net.quantized(), net.weight(8, "block", block=K)))


def requantized_blocks() -> ModelProto:
    """INT4 blocks on disk, int8 per channel in the product."""
    net = Net(kind="f32")
    blocks = net.weight(4, "block")
    step, zero = net.real(np.full(N, 0.001)), net.store(np.zeros(N), np.int8)
    codes = net.op("QuantizeLinear", blocks, step, zero, axis=1)
    weight = net.op("DequantizeLinear", codes, step, zero, axis=1)
    return net.model(net.op("MatMul", net.quantized(), weight))


def int8_twice() -> ModelProto:
    net = Net()
    return net.model(net.op("MatMul", net.quantized(net.quantized(scale=0.1), 0.1), net.weight(scales="tensor")))


def four_bit_codes_in_int8() -> ModelProto:
    """Per channel, but sums of 4-bit codes do not overflow."""
    net = Net()
    weight = net.op("DequantizeLinear", net.store(np.full((K, N), 7), np.int8), net.real(np.full(N, 0.01)), axis=1)
    return net.model(net.op("MatMul", net.quantized(), weight))


INT8_PRODUCTS = [
    w8a8,
    w8a8_per_channel_float32,
    w8a8_float32_scales_cast_back,
    row_scales_after,
    dynamic_per_token,
    constant_scale_expression,
    constant_nodes,
    float_weight_quantized_in_the_graph,
    transposed_behind,
    gemm_transposed,
    moved_activation,
    factor_on_the_weight,
    activations_only,
    convolution,
    w4a8,
    one_block_is_a_channel,
    requantized_blocks,
    int8_twice,
    four_bit_codes_in_int8,
]


@pytest.mark.parametrize("form", INT8_PRODUCTS, ids=lambda form: form.__name__)
def test_int8_products(form: object, rules: Lint, build: Build) -> None:
    assert callable(form)
    model = form()
    assert rules(model) == set()
    assert build(model).gemms("Int8") == 1


def test_int4_products(rules: Lint, build: Build) -> None:
    net = Net()
    model = net.model(net.op("MatMul", net.quantized(kind=TensorProto.INT4), net.weight(4)))
    assert rules(model) == set()
    assert build(model).gemms("Int4") == 1


@pytest.mark.parametrize(
    ("bits", "scales", "stored"), [(4, "block", "Int4"), (8, "channel", "Int8"), (8, "tensor", "Int8")]
)
def test_weight_only(bits: int, scales: str, stored: str, rules: Lint, build: Build) -> None:
    net = Net()
    model = net.model(net.op("MatMul", "x", net.weight(bits, scales)))
    assert rules(model) == set()
    assert build(model).fused(stored) == 1


def test_weight_only_blocks_transposed(rules: Lint, build: Build) -> None:
    net = Net((1, "m", K))
    scale = net.real(np.full((N, K // 128), 0.01))
    weight = net.op("DequantizeLinear", net.codes((N, K), 4), scale, axis=1, block_size=128)
    model = net.model(net.op("MatMul", "x", net.op("Transpose", weight, perm=[1, 0])))
    assert rules(model) == set()
    assert build(model).fused("Int4") == 1


def test_float_network(rules: Lint, build: Build) -> None:
    net = Net((1, 3, 14, 14))
    y = net.op("Conv", "x", net.normal(8, 3, 2, 2), strides=[2, 2])
    y = net.op("Gelu", net.op("Resize", y, "", net.store([1, 1, 2, 2], np.float32), mode="linear"))
    model = net.model(net.op("Softmax", net.op("Reshape", y, net.store([1, 8, 196], np.int64))))
    assert rules(model) == set()
    assert build(model).built
