"""FP8 and NVFP4: forms that keep their low-bit product, and those that do not, each judged by TensorRT-RTX."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

import float_graphs as g
import numpy as np
import pytest
from float_graphs import BLOCK, FP4, FP8, LEVEL, FloatNet
from lint_graphs import Dims, K, N
from numpy.typing import ArrayLike
from onnx import ModelProto, TensorProto, helper
from rtx import BuildAll, Lint

from qvggt.onnx_view.graph import Model
from qvggt.onnx_view.graph_format import graph_format
from qvggt.onnx_view.network_facts import network_facts

Make = Callable[[], ModelProto]
ADA, BLACKWELL = "SM89", "SM120"
CUBE: Dims = (1, "m", K)


def fp4(net: FloatNet) -> str:
    return net.fp4()


def fp4_weight(net: FloatNet) -> str:
    return net.fp4_weight()


def product(
    x: Callable[[FloatNet], str], weight: Callable[[FloatNet], str], dims: Dims = ("m", K), kind: str = "f16"
) -> Make:
    def make() -> ModelProto:
        net = FloatNet(dims, kind)
        return net.product(x(net), weight(net))

    return make


def bare(x: Callable[[FloatNet], str], weight: Callable[[FloatNet], str], dims: Dims = ("m", K)) -> Make:
    """Nothing behind the product."""

    def make() -> ModelProto:
        net = FloatNet(dims)
        return net.model(net.op("MatMul", x(net), weight(net)))

    return make


def plain(net: FloatNet) -> str:
    return "x"


def rows_of_scales(net: FloatNet) -> str:
    """Block scales with a second scale per row."""
    return net.op("DequantizeLinear", net.stored((N, K // BLOCK)), net.real(np.full(N, LEVEL)), axis=0)


def weight_under(scales: Callable[[FloatNet], str]) -> Callable[[FloatNet], str]:
    """Weights [K, N] of FP4 codes under block scales [N, K / 16]."""

    def make(net: FloatNet) -> str:
        codes = net.stored((N, K), FP4)
        return net.op(
            "Transpose", net.op("DequantizeLinear", codes, scales(net), axis=1, block_size=BLOCK), perm=[1, 0]
        )

    return make


def times(factor: ArrayLike) -> Callable[[FloatNet], str]:
    """Block scales through FP8, and a stored factor."""
    return lambda net: net.op(
        "Mul", net.op("DequantizeLinear", net.stored((N, K // BLOCK)), net.real(LEVEL)), net.real(factor)
    )


def int8_scales(net: FloatNet) -> str:
    return net.op("DequantizeLinear", net.store(np.full((N, K // BLOCK), 9), np.int8), net.real(LEVEL))


def computed_second_scale(net: FloatNet) -> str:
    largest = net.op("ReduceMax", net.op("Abs", "x"), keepdims=0)
    second, block = net.op("Mul", largest, net.real(1 / 2688)), {"axis": -1, "block_size": BLOCK}
    codes = net.op("QuantizeLinear", net.block_scales(), second, net.zero(FP8))
    scales = net.op("DequantizeLinear", codes, second)
    return net.op("DequantizeLinear", net.op("QuantizeLinear", "x", scales, output_dtype=FP4, **block), scales, **block)


def scales_in_float32(net: FloatNet) -> str:
    scales = net.op("DequantizeLinear", net.stored((N, K // BLOCK)), net.single(LEVEL))
    options = {"axis": 1, "block_size": BLOCK, "output_dtype": net.kind}
    return net.op("Transpose", net.op("DequantizeLinear", net.stored((N, K), FP4), scales, **options), perm=[1, 0])


def one_scale(net: FloatNet) -> str:
    scale = net.real(0.1)
    return net.op("DequantizeLinear", net.op("QuantizeLinear", "x", scale, output_dtype=FP4), scale)


def weight_of_one_scale(net: FloatNet) -> str:
    return net.op("DequantizeLinear", net.stored((K, N), FP4), net.real(0.1))


def cast_to_fp4(net: FloatNet) -> str:
    return net.op("DequantizeLinear", net.op("Cast", "x", to=FP4), net.real(0.1))


def in_blocks_of(size: int, k: int = K) -> Callable[[FloatNet], str]:
    """By TensorRT's own operator."""

    def make(net: FloatNet) -> str:
        one, options = net.single(0.01), {"axis": -1, "block_size": size}
        codes = net.op("TRT_FP4DynamicQuantize", "x", one, outputs=2, domain="trt", scale_type=FP8, **options)
        scales = net.op("DequantizeLinear", f"{codes}1", one, output_dtype=net.kind)
        return net.op("DequantizeLinear", codes, scales, output_dtype=net.kind, **options)

    return make


def ragged_blocks() -> ModelProto:
    """248 inputs in 16 blocks of 16."""
    net = FloatNet(("m", 248))
    scale = net.op("ReduceMax", net.op("Abs", "x"), net.store([-1], np.int64), keepdims=1)
    scales = net.through_fp8(net.op("Expand", scale, net.store([1, 16], np.int64)))
    block = {"axis": -1, "block_size": BLOCK}
    x = net.op("DequantizeLinear", net.op("QuantizeLinear", "x", scales, output_dtype=FP4, **block), scales, **block)
    return net.product(x, net.fp4_weight(248))


def blocks_of_channels() -> ModelProto:
    net = FloatNet((1, 32, 14, 14))
    codes, scales = net.stored((32, 32, 3, 3), FP4), net.through_fp8(net.real(np.full((32, 2, 3, 3), 0.1)))
    weight = net.op("DequantizeLinear", codes, scales, axis=1, block_size=BLOCK)
    return net.model(net.op("Conv", "x", weight, kernel_shape=[3, 3]))


def transposed_convolution() -> ModelProto:
    net = FloatNet((1, 16, 14, 14))
    return net.model(net.op("ConvTranspose", net.fp8(), net.fp8_weight("tensor", (16, 16, 3, 3)), kernel_shape=[3, 3]))


def mxfp8() -> ModelProto:
    net, sides = FloatNet(), []
    for x in ("x", net.normal(N, K)):
        options = {"domain": "trt", "axis": -1, "block_size": 32}
        codes = net.op("TRT_MXFP8DynamicQuantize", x, outputs=2, output_dtype=FP8, **options)
        sides.append(net.op("TRT_MXFP8DequantizeLinear", codes, f"{codes}1", output_dtype=net.kind, **options))
    return net.model(net.op("MatMul", sides[0], net.op("Transpose", sides[1], perm=[1, 0])))


def e8m0() -> ModelProto:
    net = FloatNet(opset=24)
    scales = net.op("Cast", net.stored((N, K // 32), TensorProto.FLOAT8E8M0), to=net.kind)
    weight = net.op("DequantizeLinear", net.stored((N, K)), scales, axis=1, block_size=32)
    return net.model(net.op("MatMul", "x", net.op("Transpose", weight, perm=[1, 0])))


# name -> (graph, GPUs that build it, type of the product's operands, format, kernel that is wanted)
GOOD: dict[str, tuple[Make, str, str, str, str]] = {
    "fp8": (g.fp8_static, ADA, "FP8", "fp8-static", "FP8 GEMM"),
    "fp8 of rank 3": (partial(g.fp8_static, "f16", CUBE), ADA, "FP8", "fp8-static", "FP8 GEMM"),
    "fp8 in float32": (partial(g.fp8_static, "f32"), ADA, "FP8", "fp8-static", "FP8 GEMM"),
    "fp8 of tokens": (g.fp8_dynamic, ADA, "FP8", "fp8-dynamic", "FP8 GEMM"),
    "fp8 convolution": (g.fp8_convolution, ADA, "FP8", "fp8-static", "FP8 conv"),
    "fp8 convolution 1x1": (partial(g.fp8_convolution, 1), ADA, "FP8", "fp8-static", "FP8 conv"),
    "fp8 convolution, rows": (partial(g.fp8_convolution, 3, "channel"), ADA, "FP8", "fp8-static", "FP8 conv"),
    "int4 to fp8": (g.w4afp8, ADA, "FP8", "w4afp8-static", "FP8 GEMM"),
    "nvfp4": (g.nvfp4, BLACKWELL, "FP4E2M1", "nvfp4", "FP4 GEMM"),
    "nvfp4 of rank 3": (partial(g.nvfp4, "bf16", CUBE), BLACKWELL, "FP4E2M1", "nvfp4", "FP4 GEMM"),
    "nvfp4 [K, N]": (partial(g.nvfp4, turned=False), BLACKWELL, "FP4E2M1", "nvfp4", "FP4 GEMM"),
    "nvfp4 in one block": (
        bare(lambda net: net.fp4(k=BLOCK), lambda net: net.fp4_weight(BLOCK), ("m", BLOCK)),
        BLACKWELL, "FP4E2M1", "nvfp4", "FP4 GEMM",
    ),
    "nvfp4, scales times 2": (product(fp4, weight_under(times(2))), BLACKWELL, "FP4E2M1", "nvfp4", "FP4 GEMM"),
    "nvfp4 of TensorRT": (g.nvfp4_trt, BLACKWELL, "FP4E2M1", "nvfp4", "FP4 GEMM"),
}  # fmt: skip


# name -> (graph, rules it breaks); each runs in floating point
FLOATING: dict[str, tuple[Make, set[str]]] = {
    "weight scales as floats": (product(fp4, lambda net: net.fp4_weight(passed=False)), {"QV311"}),
    "activation scales as floats": (product(lambda net: net.fp4(passed=False), fp4_weight), {"QV311"}),
    "a second scale per row": (product(fp4, weight_under(rows_of_scales)), {"QV311"}),
    "a factor per row of scales": (product(fp4, weight_under(times(np.full((N, 1), 2)))), {"QV311"}),
    "a computed second scale": (product(computed_second_scale, fp4_weight), {"QV311", "QV201"}),
    "blocks across": (product(fp4, lambda net: net.fp4_weight(along="n")), {"QV312"}),
    "blocks across [K, N]": (product(fp4, lambda net: net.fp4_weight(along="n", turned=False)), {"QV312"}),
    "weights alone": (product(plain, fp4_weight), {"QV315"}),
    "a constant scale": (product(one_scale, fp4_weight), {"QV316"}),
    "weights of one scale": (product(fp4, weight_of_one_scale), {"QV316"}),
    "fp8 by fp4": (product(lambda net: net.fp8(), fp4_weight), {"QV317"}),
    "fp4 by fp8": (product(fp4, lambda net: net.fp8_weight()), {"QV317"}),
    "int8 by fp4": (product(lambda net: net.quantized(), fp4_weight), {"QV317"}),
    "fp4 by floats": (product(fp4, lambda net: net.normal(K, N)), {"QV402"}),
    "fp8 blocks alone": (product(plain, lambda net: net.fp8_weight("block")), {"QV305"}),
    "fp8 convolution 14x14": (partial(g.fp8_convolution, 14, "tensor", 3, 56), {"QV307"}),
    "fp8 convolution 6x6": (partial(g.fp8_convolution, 6), {"QV307"}),
    "fp8 transposed convolution": (transposed_convolution, {"QV307"}),
    "mxfp8": (mxfp8, {"QV320"}),
}
REFUSED: dict[str, tuple[Make, set[str]]] = {
    "scales of another type": (product(fp4, scales_in_float32), {"QV318"}),
    "a cast": (product(cast_to_fp4, fp4_weight), {"QV105", "QV316"}),
    "blocks of 32 by TensorRT": (product(in_blocks_of(32), lambda net: net.fp4_weight(size=32)), {"QV313", "QV319"}),
    "248 inputs by TensorRT": (
        product(in_blocks_of(BLOCK), lambda net: net.fp4_weight(248), ("m", 248)), {"QV319", "QV204"},
    ),
    "rank 4 by TensorRT": (partial(g.nvfp4_trt, "f16", (1, 2, "m", K)), {"QV319"}),
    "248 inputs": (ragged_blocks, {"QV204"}),
    "blocks of channels": (blocks_of_channels, {"QV205", "QV307"}),
    "fp8 blocks with fp8 activations, rank 3": (
        bare(lambda net: net.fp8(), lambda net: net.fp8_weight("block"), CUBE), {"QV301"},
    ),
    "fp8 by int8": (product(lambda net: net.fp8(), lambda net: net.weight(8, "tensor")), {"QV303"}),
    "fp8 by int4": (product(lambda net: net.fp8(), lambda net: net.weight(4, "channel")), {"QV303"}),
    "e8m0": (e8m0, {"QV107", "QV305"}),
}  # fmt: skip


@pytest.mark.parametrize("target", [ADA, BLACKWELL])
def test_low_bit_products(target: str, rules: Lint, build_all: BuildAll) -> None:
    cases = {name: case for name, case in GOOD.items() if case[1] == target}
    models = [case[0]() for case in cases.values()]
    for (_, _, _, format, wanted), model in zip(cases.values(), models, strict=True):
        view = Model(model)
        assert rules(model) == set()
        assert graph_format(view).name == format
        assert [linear.wanted for linear in network_facts(view).linears] == [wanted]
    for (name, case), verdict in zip(cases.items(), build_all(models, target), strict=True):
        (kernel,) = (k for k in verdict.kernels if k.kind in ("gemm", "correlation"))
        assert kernel.inputs[0] == case[2], name
        assert case[2] in (*kernel.inputs[1:], *kernel.constants), name


def test_what_runs_in_floating_point(rules: Lint, build_all: BuildAll) -> None:
    models = {name: make() for name, (make, _) in FLOATING.items()}
    assert {name: rules(model) for name, model in models.items()} == {n: broken for n, (_, broken) in FLOATING.items()}
    for name, verdict in zip(models, build_all(list(models.values()), BLACKWELL), strict=True):
        assert verdict.built, (name, verdict.text)
        products = [k for k in verdict.kernels if k.kind in ("gemm", "correlation", "deconv", "runtime_fusion")]
        for kernel in products:
            low = [kind for kind in (*kernel.inputs, *kernel.constants) if kind in ("FP8", "FP4E2M1")]
            assert len(low) < 2, (name, kernel)


def test_what_is_refused(rules: Lint, build_all: BuildAll) -> None:
    models = {name: make() for name, (make, _) in REFUSED.items()}
    assert {name: rules(model) for name, model in models.items()} == {n: broken for n, (_, broken) in REFUSED.items()}
    found = dict(zip(models, build_all(list(models.values()), BLACKWELL), strict=True))
    assert [name for name, verdict in found.items() if verdict.built] == []
    assert all(verdict.text not in ("", "crash") for verdict in found.values()), found


def test_codes_without_blocks_crash_the_builder(rules: Lint, build_all: BuildAll) -> None:
    model = product(one_scale, weight_of_one_scale)()
    assert rules(model) == {"QV314"}
    assert build_all([model], BLACKWELL)[0].text == "crash"


def test_other_blocks_are_given_to_the_kernel_of_16(rules: Lint, build_all: BuildAll) -> None:
    """The plan is the one of blocks of 16, but for the number of scales: what the kernel reads of them is not known."""
    model = product(lambda net: net.fp4(size=32), lambda net: net.fp4_weight(size=32))()
    assert rules(model) == {"QV313"}
    wrong, right = ([k.inputs for k in v.kernels if k.kind == "gemm"] for v in build_all([model, g.nvfp4()], BLACKWELL))
    assert wrong == right == [("FP4E2M1", "FP8")]


def test_scales_of_another_type_are_given_to_the_same_kernel(rules: Lint, build_all: BuildAll) -> None:
    model = product(fp4, weight_under(int8_scales))()
    assert rules(model) == {"QV321"}
    (kernel,) = (k for k in build_all([model], BLACKWELL)[0].kernels if k.kind == "gemm")
    assert kernel.inputs == ("FP4E2M1", "FP8")
    assert "Int8" in kernel.constants


def test_fp8_row_scales_inside_are_stored_in_half(rules: Lint, build_all: BuildAll) -> None:
    """Sums of products of codes of up to 448, before the scales."""
    model = bare(lambda net: net.fp8(), lambda net: net.fp8_weight("channel"))()
    assert rules(model) == {"QV308"}
    (kernel,) = (k for k in build_all([model], ADA)[0].kernels if k.kind == "gemm")
    assert kernel.outputs == ("Half",)


def test_fp8_block_scales_of_rank_2_are_miscompiled(rules: Lint, build_all: BuildAll) -> None:
    model = bare(lambda net: net.fp8(), lambda net: net.fp8_weight("block"))()
    assert rules(model) == {"QV301"}
    verdict = build_all([model], ADA)[0]
    assert verdict.gemms("FP8") == 1  # one sum over all blocks


def test_an_odd_number_of_fp4_columns_is_padded_at_every_run(rules: Lint, build_all: BuildAll) -> None:
    model = bare(fp4, lambda net: net.fp4_weight(n=131))()
    assert rules(model) == {"QV501"}
    kernels = build_all([model], BLACKWELL)[0].kernels
    assert ("FP4E2M1", "FP4E2M1") in [k.constants for k in kernels if k.kind == "runtime_function"]


def test_weights_alone_of_one_scale_bear_odd_columns(rules: Lint, build_all: BuildAll) -> None:
    models = [
        bare(plain, lambda net: net.fp8_weight("tensor", (K, 131)))(),
        bare(plain, lambda net: net.fp8_weight("channel", (K, 131)))(),
    ]
    assert [rules(model) for model in models] == [set(), {"QV501"}]
    assert [verdict.fused("FP8") for verdict in build_all(models, ADA)] == [1, 0]


@pytest.mark.parametrize(
    ("make", "claims", "others"),
    [
        (g.fp8_static, ["fp8-static", "w4afp8-static"], ["fp8-dynamic", "w8a8-static", "nvfp4", "w4a16"]),
        (g.fp8_dynamic, ["fp8-dynamic"], ["fp8-static", "w8a8-dynamic"]),
        (g.w4afp8, ["w4afp8-static"], ["w4a8-static", "fp8-static", "w4a16"]),
        (g.nvfp4, ["nvfp4"], ["fp8-static", "w4a4-dynamic", "w4a16"]),
        (g.nvfp4_trt, ["nvfp4"], ["fp8-dynamic"]),
    ],
)
def test_metadata_is_compared_with_the_graph(make: Make, claims: list[str], others: list[str], rules: Lint) -> None:
    """Codes of a narrower grid may lie in a wider container, not in one of another sort."""
    for claim in (*claims, *others):
        model = make()
        (product,) = (node for node in model.graph.node if node.op_type == "MatMul")
        helper.set_model_props(model, {"qvggt.linears": json.dumps({product.name: claim})})
        assert ("QV505" in rules(model)) == (claim in others), claim
