"""QV30x, each on a graph that breaks it, with what TensorRT-RTX makes of that graph."""

from __future__ import annotations

import numpy as np
import pytest
from lint_graphs import K, N, Net
from onnx import ModelProto, TensorProto
from rtx import Build, Lint

T = TensorProto


@pytest.mark.parametrize("kind", [T.INT8, T.INT4])
@pytest.mark.parametrize("bits", [8, 4])
def test_block_scales_under_quantized_activations_miscompile(bits: int, kind: int, rules: Lint, build: Build) -> None:
    """One integer product over all of K: there is no place where the second block's scale could act."""
    net = Net()
    model = net.model(net.op("MatMul", net.quantized(kind=kind), net.weight(bits, "block")))
    assert "QV301" in rules(model)
    verdict = build(model)
    assert verdict.built
    assert verdict.gemms("Int8") + verdict.gemms("Int4") == 1


@pytest.mark.parametrize("transposed", [False, True])
def test_block_scales_under_quantized_activations_fail_at_rank_3(transposed: bool, rules: Lint, build: Build) -> None:
    net = Net((1, "m", K))
    weight = net.weight(8, "block")
    if transposed:
        scale = net.real(np.full((N, 2), 0.01))
        weight = net.op("DequantizeLinear", net.codes((N, K)), scale, axis=1, block_size=128)
        weight = net.op("Transpose", weight, perm=[1, 0])
    model = net.model(net.op("MatMul", net.quantized(), weight))
    assert rules(model) == {"QV301"}
    verdict = build(model)
    assert verdict.parsed
    assert not verdict.built


def along_inputs(form: str) -> ModelProto:
    net = Net(kind="f32")
    if form == "weight":
        weight = net.weight(axis=0)
    elif form == "transposed weight":
        weight = net.op("Transpose", net.weight(shape=(N, K), axis=1), perm=[1, 0])
    else:
        weight = net.weight(scales="tensor")
    x = net.quantized()
    if form == "activation":
        step, zero = net.real(np.full(K, 0.05)), net.store(np.zeros(K), np.int8)
        codes = net.op("QuantizeLinear", "x", step, zero, axis=1)
        x = net.op("DequantizeLinear", codes, step, zero, axis=1)
    if form == "gemm":
        return net.model(net.op("Gemm", x, net.weight(shape=(N, K), axis=1), transB=1))
    return net.model(net.op("MatMul", x, weight))


@pytest.mark.parametrize("form", ["weight", "transposed weight", "activation", "gemm"])
def test_scales_along_the_sum_lose_the_integer_product(form: str, rules: Lint, build: Build) -> None:
    model = along_inputs(form)
    assert rules(model) == {"QV302"}
    verdict = build(model)
    assert verdict.built
    assert verdict.gemms("Int8") == 0


@pytest.mark.parametrize("axis", [0, 2])
def test_axes_are_followed_through_a_transpose_of_rank_3(axis: int, rules: Lint, build: Build) -> None:
    """[N, B, K] -> [B, K, N]: axis 0 becomes the columns, axis 2 the sum."""
    net = Net((4, "m", K), "f32")
    codes = net.codes((N, 4, K))
    weight = net.op("DequantizeLinear", codes, net.real(np.full((N, 4, K)[axis], 0.01)), axis=axis)
    weight = net.op("Transpose", weight, perm=[1, 2, 0])
    model = net.model(net.op("MatMul", net.quantized(), weight))
    assert rules(model) == (set() if axis == 0 else {"QV302"})
    assert build(model).gemms("Int8") == (axis == 0)


def test_convolution_scales_along_input_channels(rules: Lint, build: Build) -> None:
    net = Net((1, 16, 14, 14))
    weight = net.op("DequantizeLinear", net.codes((32, 16, 3, 3)), net.real(np.full(16, 0.01)), axis=1)
    model = net.model(net.op("Conv", net.quantized(), weight, kernel_shape=[3, 3]))
    assert rules(model) == {"QV302"}
    verdict = build(model)
    assert verdict.built
    assert verdict.gemms("Int8") == 0


@pytest.mark.parametrize(
    ("activation", "weight"),
    [("INT8", "tensor"), ("INT4", "tensor"), ("FLOAT8E4M3FN", "int8"), ("FLOAT8E4M3FN", "int4")],
)
def test_mixed_formats_do_not_build(activation: str, weight: str, rules: Lint, build: Build) -> None:
    net = Net(kind="f32")
    x = net.quantized(kind=T.DataType.Value(activation))
    if weight == "tensor":
        made = net.weight(8 if activation == "INT4" else 4, "tensor")
    else:
        made = net.weight(8 if weight == "int8" else 4)
    model = net.model(net.op("MatMul", x, made))
    assert rules(model) == {"QV303"}
    verdict = build(model)
    assert verdict.parsed
    assert "Input and filter have to be the same type" in verdict.text


def test_int8_times_float8_weights(rules: Lint, build: Build) -> None:
    net = Net()
    net.tensors.append(TensorProto(name="w", dims=[K, N], data_type=T.FLOAT8E4M3FN, raw_data=bytes(K * N)))
    model = net.model(net.op("MatMul", net.quantized(), net.op("DequantizeLinear", "w", net.real(0.01))))
    assert rules(model) == {"QV303"}
    assert not build(model).built


@pytest.mark.parametrize("scales", ["tensor", "channel", "inputs", "one block"])
def test_int4_weights_without_blocks_are_expanded(scales: str, rules: Lint, build: Build) -> None:
    net = Net()
    weight = {
        "tensor": lambda: net.weight(4, "tensor"),
        "channel": lambda: net.weight(4),
        "inputs": lambda: net.weight(4, axis=0),
        "one block": lambda: net.weight(4, "block", block=K),
    }[scales]()
    model = net.model(net.op("MatMul", "x", weight))
    assert rules(model) == {"QV304"}
    verdict = build(model)
    assert verdict.fused("Int4") == 0
    assert any(k.constants[-1:] == ("Int4",) and k.outputs == ("Half",) for k in verdict.kernels)


def test_repeated_scales_bring_the_fused_kernel_back(rules: Lint, build: Build) -> None:
    """The fix that QV304 names: the same numbers in two blocks."""
    net = Net()
    codes, row = net.codes((K, N), 4), np.full(N, 0.01)
    weight = net.op("DequantizeLinear", codes, net.real(np.stack([row, row])), axis=0, block_size=K // 2)
    model = net.model(net.op("MatMul", "x", weight))
    assert rules(model) == set()
    assert build(model).fused("Int4") == 1


def used_twice(form: str) -> ModelProto:
    """Two products with one INT4 weight [N, N] in blocks."""
    net = Net((1, "m", N))
    codes, scale = net.codes((N, N), 4), net.real(np.full((N // 128, N), 0.01))

    def weight(scale: str) -> str:
        return net.op("DequantizeLinear", codes, scale, axis=0, block_size=128)

    first = weight(scale)
    second = {"one DQ": lambda: first, "equal DQs": lambda: weight(scale)}.get(
        form, lambda: weight(net.op("Identity", scale))
    )()
    y = net.op("MatMul", "x", first)
    return net.model(net.op("MatMul", net.op("Relu", y), second))


@pytest.mark.parametrize("form", ["one DQ", "equal DQs"])
def test_shared_int4_weights_are_expanded(form: str, rules: Lint, build: Build) -> None:
    model = used_twice(form)
    assert rules(model) == {"QV309"}
    verdict = build(model)
    assert verdict.built
    assert verdict.fused("Int4") == 0


def test_a_scale_of_its_own_name_brings_the_fused_kernels_back(rules: Lint, build: Build) -> None:
    model = used_twice("another name")
    assert rules(model) == set()
    assert build(model).fused("Int4") == 2


def test_int8_weights_in_blocks_are_expanded(rules: Lint, build: Build) -> None:
    net = Net()
    model = net.model(net.op("MatMul", "x", net.weight(8, "block")))
    assert rules(model) == {"QV305"}
    verdict = build(model)
    assert verdict.built
    assert verdict.fused("Int8") == 0


def convolution(bits: int, kind: int | None, op: str = "Conv") -> ModelProto:
    net = Net((1, 16, 14, 14))
    x = "x" if kind is None else net.quantized(kind=kind)
    weight = net.op("DequantizeLinear", net.codes((16, 16, 3, 3), bits), net.real(np.full(16, 0.01)), axis=0)
    return net.model(net.op(op, x, weight, kernel_shape=[3, 3]))


@pytest.mark.parametrize(("kind", "rule"), [(T.INT4, "QV306"), (T.INT8, "QV303")])
def test_convolutions_of_int4_weights_do_not_build(kind: int, rule: str, rules: Lint, build: Build) -> None:
    model = convolution(4, kind)
    assert rules(model) == {rule}
    verdict = build(model)
    assert verdict.parsed
    assert not verdict.built


@pytest.mark.parametrize("bits", [8, 4])
def test_weight_only_convolutions_are_expanded(bits: int, rules: Lint, build: Build) -> None:
    model = convolution(bits, None)
    assert rules(model) == {"QV307"}
    verdict = build(model)
    assert any(k.kind == "correlation" and k.inputs == ("Half", "Half") for k in verdict.kernels)


def test_transposed_convolutions_run_in_floating_point(rules: Lint, build: Build) -> None:
    net = Net((1, 16, 14, 14))
    weight = net.op("DequantizeLinear", net.codes((16, 32, 2, 2)), net.real(np.full(32, 0.01)), axis=1)
    model = net.model(net.op("ConvTranspose", net.quantized(), weight, kernel_shape=[2, 2], strides=[2, 2]))
    assert rules(model) == {"QV307"}
    verdict = build(model)
    assert any(k.kind == "deconv" and k.inputs == ("Half", "Half") for k in verdict.kernels)


@pytest.mark.parametrize("kind", [T.INT8, T.FLOAT8E4M3FN])
def test_float16_products_store_the_raw_sum(kind: int, rules: Lint, build: Build) -> None:
    """The product writes Half, the scales come in a kernel of their own after it."""
    net = Net()
    if kind == T.INT8:
        weight = net.weight()
    else:
        net.tensors.append(TensorProto(name="w", dims=[K, N], data_type=kind, raw_data=bytes(K * N)))
        weight = net.op("DequantizeLinear", "w", net.real(np.full(N, 0.01)), axis=1)
    model = net.model(net.op("MatMul", net.quantized(kind=kind), weight))
    assert rules(model) == {"QV308"}
    kernels = build(model).kernels
    (product,) = (i for i, k in enumerate(kernels) if k.kind == "gemm")
    assert kernels[product].outputs == ("Half",)
    assert kernels[product + 1].constants == ("Half",)


def test_bfloat16_has_the_range(rules: Lint, build: Build) -> None:
    net = Net(kind="bf16")
    model = net.model(net.op("MatMul", net.quantized(), net.weight()))
    assert rules(model) == set()
    assert build(model).gemms("Int8") == 1


def test_what_cannot_overflow_is_no_finding(rules: Lint) -> None:
    net = Net(("m", 4))  # 4 * 127 * 128 < 65504
    assert rules(net.model(net.op("MatMul", net.quantized(), net.weight(shape=(4, N))))) == set()
    net = Net(("m", 8))
    assert rules(net.model(net.op("MatMul", net.quantized(), net.weight(shape=(8, N))))) == {"QV308"}


def test_the_sums_do_overflow_float16() -> None:
    """Why QV308 is an error: int8 codes as symmetric quantization makes them of Gaussian values."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(64, 1024)), rng.normal(size=(1024, 256))
    codes = [np.rint(127 * v / np.abs(v).max()) for v in (x, w)]
    with np.errstate(over="ignore"):
        assert 0 < np.isinf((codes[0] @ codes[1]).astype(np.float16)).mean() < 0.5


@pytest.mark.parametrize("cut", ["Split", "Slice", "transposed first"])
@pytest.mark.parametrize("scales", ["channel", "tensor"])
def test_channel_scales_and_a_split_into_heads(cut: str, scales: str, rules: Lint, build: Build) -> None:
    """Queries, keys and values that are quantized one by one: the whole weight is expanded for each run."""
    net = Net(("b", "m", K), "f32")
    y = net.op("Add", net.op("MatMul", net.quantized(), net.weight(8, scales, (K, 3 * K))), net.normal(3 * K))
    if cut == "transposed first":
        y = net.op("Transpose", net.op("Reshape", y, net.store([0, 0, 3, 4, 64], np.int64)), perm=[2, 0, 3, 1, 4])
        first = net.op("Split", y, outputs=3, axis=0, num_outputs=3)
        parts = [first, f"{first}1", f"{first}2"]
    elif cut == "Split":
        first = net.op("Split", y, outputs=3, axis=-1, num_outputs=3)
        parts = [first, f"{first}1", f"{first}2"]
    else:
        ends = [[net.store([at], np.int64) for at in (start, start + K, 2)] for start in (0, K, 2 * K)]
        parts = [net.op("Slice", y, *place) for place in ends]
    if cut != "transposed first":
        shaped = [net.op("Reshape", part, net.store([0, 0, 4, 64], np.int64)) for part in parts]
        parts = [net.op("Transpose", part, perm=[0, 2, 1, 3]) for part in shaped]
    q, k, v = (net.quantized(part, 0.05 * (1 + i)) for i, part in enumerate(parts))
    model = net.model(net.op("Add", net.op("Add", q, k), v))
    expands = scales == "channel" and cut != "transposed first"
    assert rules(model) == ({"QV310"} if expands else set())
    kernels = build(model).kernels
    assert any(k.kind == "runtime_fusion" and k.inputs == ("Int8", "Float") for k in kernels) is expands
    assert any(k.kind == "gemm" and (*k.inputs, *k.constants)[:2] == ("Int8", "Int8") for k in kernels) is not expands
