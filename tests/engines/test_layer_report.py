"""Verdicts over rows of the layer table."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import pytest
from layer_rows import gemm, operand

from qvggt.engines.layer_report import layer_report
from qvggt.engines.layer_table import Row, rows_of_inspector, rows_of_log
from qvggt.onnx_view.network_facts import Attention, NetworkFacts, QuantizedLinear

X = operand("x", (1, -1, 256), "Int8")
FLOAT_X = operand("x", (1, -1, 256), "Half")
W8, W4 = operand("w", (256, 512), "Int8"), operand("w", (1, 256, 512), "Int4")
ALPHA = operand("alpha", (1,))
W16, EXPANDED = operand("c", (256, 512), "Half"), operand("c", (1, 256, 512), "Int8")
CAST = gemm("m", [], [W4], [EXPANDED], kind="kgen")
X_FP8, W_FP8 = operand("x", (4, 256), "FP8"), operand("w", (512, 256), "FP8")
X_FP4, W_FP4 = operand("x", (-1, 256), "FP4E2M1"), operand("w", (256, 512), "FP4E2M1")
X_SCALES, W_SCALES = operand("s", (-1, 4, 32, 4, 4), "FP8"), operand("s", (4, 4, 4, 4, 32), "FP8")
IMAGE_FP8 = operand("x", (1, 32, 20, 20), "FP8")


def wanted(kernel: str, weight: str = "INT8", activation: str | None = "INT8", **changes: object) -> QuantizedLinear:
    linear = QuantizedLinear("m", ("m/MatMul",), ("m/DequantizeLinear",), 256, 512, weight, activation, None, kernel)
    return dataclasses.replace(linear, **changes)  # type: ignore[arg-type]


def report(linear: QuantizedLinear, *lines: str):  # type: ignore[no-untyped-def]
    return layer_report(NetworkFacts({}, (linear,), (), {}), rows_of_log("\n".join(lines)), 1000)


@pytest.mark.parametrize(
    ("linear", "lines", "stored", "size"),
    [
        (wanted("INT8 GEMM"), [gemm("m", [X], [W8, ALPHA])], "Int8", 1.0),
        (wanted("INT8 GEMM", "INT4"), [CAST, gemm("m", [X, EXPANDED], [ALPHA])], "Int4", 0.5),
        (wanted("INT4 GEMM", "INT4", "INT4"), [gemm("m", [operand("x", (-1, 256), "Int4")], [W4])], "Int4", 0.5),
        (
            wanted("INT4 weight-only", "INT4", None, block=128),
            [gemm("m", [FLOAT_X], [W4, operand("s", (1, 2, 512), "Half")], kind="runtime_fusion")],
            "Int4",
            0.5 + 2 / 128,
        ),
        (wanted("INT8 weight-only", "INT8", None), [gemm("m", [FLOAT_X], [W8], kind="runtime_fusion")], "Int8", 1.0),
        (wanted("FP8 GEMM", "FP8", "FP8"), [gemm("m", [X_FP8], [W_FP8])], "FP8", 1.0),
        (
            wanted("FP4 GEMM", "FP4", "FP4", block=16),
            [gemm("m", [X_FP4, X_SCALES], [W_FP4, ALPHA, W_SCALES])],
            "FP4",
            0.5 + 1 / 16,
        ),
    ],
)
def test_what_is_as_wanted(linear: QuantizedLinear, lines: list[str], stored: str, size: float) -> None:
    found = report(linear, *lines)
    (verdict,) = found.linears
    assert (verdict.found, verdict.passed, verdict.note) == (linear.wanted, True, "")
    assert (verdict.stored, verdict.bytes_per_weight) == (stored, size)
    assert found.passed
    assert found.summary == f"1/1 linears {linear.wanted}, weights stored as {stored} ({size:.2f} bytes each)"


@pytest.mark.parametrize(
    ("linear", "lines", "note"),
    [
        (wanted("INT8 GEMM"), [gemm("m", [FLOAT_X], [W16])], "float product"),
        (wanted("INT8 GEMM"), [gemm("other", [X], [W8])], "no kernel names m/MatMul"),
        (wanted("INT8 GEMM"), [CAST], "only generated kernels"),
        (wanted("INT4 weight-only", "INT4", None), [CAST, gemm("m", [FLOAT_X, W16], [])], "expanded"),
        (wanted("INT8 GEMM", block=128), [gemm("m", [X], [W8])], "block scales with quantized activations"),
        (wanted("FP4 GEMM", "FP4", "FP4", block=16), [gemm("m", [FLOAT_X, W16], [])], "expanded"),
        (wanted("FP4 GEMM", "FP4", "FP4", block=16), [gemm("m", [X_FP8], [W_FP8])], ""),
    ],
)
def test_what_is_not(linear: QuantizedLinear, lines: list[str], note: str) -> None:
    found = report(linear, *lines)
    (verdict,) = found.failed
    assert note in verdict.note
    assert not found.passed
    assert found.summary.startswith("0/1 linears")


def test_block_scales_of_fp4_are_stored_padded() -> None:
    """240 inputs are 15 blocks of 16, stored as 16; 130 columns as 256."""
    linear = wanted("FP4 GEMM", "FP4", "FP4", block=16, inner=240, outer=130)
    weight, scales = operand("w", (240, 130), "FP4E2M1"), operand("s", (4, 4, 2, 4, 32), "FP8")
    (verdict,) = report(linear, gemm("m", [operand("x", (-1, 240), "FP4E2M1")], [weight, scales])).linears
    assert verdict.passed
    assert verdict.bytes_per_weight == 0.5 + 16 * 256 / (240 * 130)


def test_a_convolution_in_fp8() -> None:
    linear = wanted("FP8 conv", "FP8", "FP8", inner=32 * 9, outer=64, product="conv", window=9)
    row = gemm("m", [IMAGE_FP8], [operand("w", (64, 32, 3, 3), "FP8"), ALPHA], kind="correlation")
    found = report(linear, row)
    assert found.passed
    assert found.summary == "1/1 convolutions FP8 conv, weights stored as FP8 (1.00 bytes each)"
    halves = [operand("x", (1, 32, 20, 20), "Half"), operand("w", (64, 32, 3, 3), "Half")]
    assert not report(linear, gemm("m", halves, [], kind="correlation")).passed


def test_fake_quantization_in_floats_is_not_int8() -> None:
    """Weight-only where activations were to be quantized: what TensorRT makes of a scale computed at run time."""
    (verdict,) = report(wanted("INT8 GEMM"), gemm("m", [FLOAT_X], [W8], kind="runtime_fusion")).failed
    assert (verdict.found, verdict.activation, verdict.weight) == ("INT8 weight-only", "Half", "Int8")


def test_the_worst_use_of_a_shared_linear_counts() -> None:
    linear = wanted("INT8 GEMM", nodes=("m/MatMul", "n/MatMul"))
    good, bad = gemm("m", [X], [W8]), gemm("n", [FLOAT_X], [W16])
    assert report(linear, good, gemm("n", [X], [W8])).passed
    assert report(linear, good, bad).failed
    assert report(linear, good).failed


def test_a_listed_linear_without_a_product_fails() -> None:
    (verdict,) = report(wanted("INT8 GEMM", nodes=(), weight_nodes=(), inner=0, outer=0), gemm("m", [X], [W8])).failed
    assert "no product of that name" in verdict.note


def test_products_merged_by_the_builder_count() -> None:
    both = gemm("m", [X], [operand("w", (256, 1024), "Int8")], metadata="[ONNX Layer: m/MatMul][ONNX Layer: k/MatMul]")
    assert report(wanted("INT8 GEMM"), both).passed


def test_convolutions() -> None:
    linear = wanted("INT8 conv", inner=32 * 9, outer=64, product="conv")
    x, w = operand("x", (-1, 32, 20, 20), "Int8"), operand("w", (64, 32, 3, 3), "Int8")
    bias = operand("b", (1, 64, 1, 1))
    found = report(linear, gemm("m", [x], [w, bias], kind="correlation"))
    assert found.summary == "1/1 convolutions INT8 conv, weights stored as Int8 (1.00 bytes each)"
    floats = gemm("m", [operand("x", (-1, 32, 20, 20))], [operand("w", (64, 32, 3, 3)), bias], kind="correlation")
    assert report(linear, floats).failed


@pytest.mark.parametrize(("inner", "outer", "stored"), [(9, 64, (10, 64)), (64, 7, (64, 8)), (9, 7, (10, 8))])
@pytest.mark.parametrize("expanded", [True, False])
def test_odd_sides_are_padded(inner: int, outer: int, stored: tuple[int, int], expanded: bool) -> None:
    linear = wanted("INT8 GEMM", "INT4" if expanded else "INT8", inner=inner, outer=outer)
    x, w = operand("x", (-1, stored[0]), "Int8"), operand("w", stored, "Int8")
    codes = [operand("c", (inner, outer), "Int4"), operand("pad", (1, outer), "Int4")]
    pad = gemm("m", [], codes, [operand("p", stored, "Int4")], kind="runtime_function")
    found = report(linear, *([pad, gemm("m", [x, w], [ALPHA])] if expanded else [gemm("m", [x], [w, ALPHA])]))
    (verdict,) = found.linears
    assert (verdict.found, verdict.passed, verdict.kernel) == ("INT8 GEMM", True, "m/MatMul_U1_myl0_4")
    size = 0.5 if expanded else stored[0] * stored[1] / (inner * outer)
    assert verdict.bytes_per_weight == size
    floats = gemm("m", [operand("x", (-1, stored[0]))], [operand("w", stored)])
    assert report(linear, floats).failed


@pytest.mark.parametrize(("channels", "stored"), [(1, 4), (3, 4), (5, 8), (33, 36)])
def test_channels_of_convolutions_are_padded(channels: int, stored: int) -> None:
    """One channel for each of the groups, an RGB stem, and odd counts."""
    linear = wanted("INT8 conv", inner=channels * 9, outer=32, product="conv", window=9)
    x, w = operand("x", (-1, stored, 20, 20), "Int8"), operand("w", (32, stored, 3, 3), "Int8")
    (verdict,) = report(linear, gemm("m", [x], [w], kind="correlation")).linears
    assert (verdict.found, verdict.passed) == ("INT8 conv", True)
    assert verdict.bytes_per_weight == stored / channels
    other = operand("w", (32, stored + 4, 3, 3), "Int8")
    assert report(linear, gemm("m", [x], [other], kind="correlation")).failed


def test_square_weights_are_not_taken_for_activations() -> None:
    linear = wanted("INT8 GEMM", "INT4", inner=256, outer=256)
    x, w = operand("x", (1, 256, 256), "Int8"), operand("w", (1, 256, 256), "Half")
    assert report(linear, gemm("m", [x, w], [ALPHA])).failed


def test_without_a_table_nothing_is_claimed() -> None:
    found = report(wanted("INT8 GEMM"))
    assert not found.passed
    assert not found.failed
    assert "not measured" in found.summary
    assert found.to_dict()["passed"] is None


def test_attention_and_float_products() -> None:
    attentions = (Attention("a.s", "a.softmax", "a.c"), Attention("b.s", "b.softmax", "b.c"))
    fused = gemm("", [FLOAT_X], [], kind="mha", metadata="".join(f"[ONNX Layer: a.{n}]" for n in ("s", "softmax", "c")))
    apart = [gemm("", [FLOAT_X], [], metadata=f"[ONNX Layer: b.{n}]") for n in ("s", "softmax", "c")]
    apart = [line.replace("Name: /", f"Name: {i}/", 1) for i, line in enumerate(apart)]
    found = layer_report(NetworkFacts({}, (), attentions, {}), rows_of_log("\n".join([fused, *apart])))
    assert found.summary == "no quantized linears; matrix products: 4 in Half; attention: 1/2 fused into one kernel"
    assert found.passed


def test_report_as_json_and_text() -> None:
    found = report(wanted("INT8 GEMM"), gemm("m", [X], [W8]))
    values = json.loads(found.to_json())
    assert values["linears"][0]["kernel"] == "m/MatMul_U1_myl0_4"
    assert "speed and its numbers are not measured" in values["scope"]
    assert values["weight_bytes"] == found.facts()["weight_bytes"] == 1000
    assert "Int8 1.000 B" in found.table()


IMMA = "sm80_xmma_gemm_i8f32_i8i32_f32_tn_n_tilesize64x64x64_stage4_warpsize2x2x1_tensor16x8x32"
# as cuBLAS names one on Hopper (NVIDIA/TransformerEngine issue 1391): operands in E4M3, result in BF16
QMMA = "sm90_xmma_gemm_e4m3bf16_e4m3f32_f32_tn_n_tilesize128x128x128_warpgroupsize1x1x1_execute_segment_k_off_kernel"
HMMA = "sm80_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize32x32x64_stage6_warpsize2x2x1_tensor16x8x16"


def inspected(kind: str, inputs: Sequence[tuple[Sequence[int], str]], tactic: str = "", **more: object) -> list[Row]:
    """A layer as TensorRT 10's inspector has it: no constants, and a name that ends in _myl0_7."""
    layer = {
        "Name": "m/MatMul_myl0_7",
        "LayerType": kind,
        "Inputs": [{"Name": "__mye1_13", "Dimensions": [*dims], "Format/Datatype": type} for dims, type in inputs],
        "Outputs": [{"Name": "__myln_k_arg__bb1_12", "Dimensions": [1, 40, 512], "Format/Datatype": "Half"}],
        "TacticName": tactic,
        "StreamId": 0,
        "Metadata": "[ONNX Layer: m/MatMul]\x1e[ONNX Layer: m/Add]",
        **more,
    }
    return rows_of_inspector(json.dumps({"Layers": [layer], "Bindings": ["x", "y"]}))


READS_INT8, READS_HALF = ((1, 40, 256), "Int8"), ((1, 40, 256), "Half")
W4A16 = wanted("INT4 weight-only", "INT4", None, block=128)


@pytest.mark.parametrize(
    ("linear", "rows", "found", "stored"),
    [
        (wanted("INT8 GEMM"), inspected("gemm", [READS_INT8], IMMA), "INT8 GEMM", "not listed"),
        (wanted("INT8 GEMM"), inspected("gemm", [READS_INT8]), "INT8 GEMM", "not listed"),
        (wanted("INT8 GEMM"), inspected("CaskGemmMatrixMultiply", [READS_INT8], IMMA), "INT8 GEMM", "not listed"),
        (wanted("INT8 GEMM"), inspected("fusion", [READS_HALF], IMMA + "_by_fusion_tactic"), "INT8 GEMM", "not listed"),
        (wanted("INT8 GEMM"), inspected("fusion", [READS_INT8, ((256, 512), "Int8")], IMMA), "INT8 GEMM", "not listed"),
        (
            wanted("INT8 GEMM"),
            inspected("fusion", [READS_INT8, ((256, 512), "Int8")], HMMA),
            "not quantized",
            "not listed",
        ),
        (wanted("INT8 GEMM"), inspected("gemm", [READS_HALF], HMMA), "not quantized", "not listed"),
        (wanted("INT8 GEMM"), inspected("gemm", [READS_INT8], HMMA), "not quantized", "not listed"),
        (wanted("INT8 GEMM"), inspected("kgen", [READS_HALF], "__myl_MulCast_0xf2"), "not quantized", "not listed"),
        (W4A16, inspected("fusion", [READS_HALF, ((256, 512), "Int4")]), "INT4 weight-only", "not listed"),
        (W4A16, inspected("gemm", [READS_HALF], HMMA), "not quantized", "not listed"),
        (W4A16, inspected("gemm", [READS_HALF], "__myl_Fc_0xf2"), "not listed", "not listed"),
        (wanted("INT8 GEMM"), inspected("fusion", [READS_INT8], "__myl_Fc_0xf2"), "not listed", "not listed"),
        (
            wanted("INT8 conv", inner=32 * 9, outer=64, product="conv", window=9),
            inspected("CaskConvolution", [((1, 32, 20, 20), "Int8")], Weights={"Type": "Int8", "Count": 64 * 32 * 9}),
            "INT8 conv",
            "Int8",
        ),
        (wanted("FP8 GEMM", "FP8", "FP8"), inspected("gemm", [((1, 40, 256), "FP8")]), "FP8 GEMM", "not listed"),
        (wanted("FP8 GEMM", "FP8", "FP8"), inspected("gemm", [((1, 40, 256), "FP8")], QMMA), "FP8 GEMM", "not listed"),
        (wanted("FP8 GEMM", "FP8", "FP8"), inspected("gemm", [READS_HALF], HMMA), "not quantized", "not listed"),
        (
            wanted("FP4 GEMM", "FP4", "FP4", block=16),
            inspected("gemm", [((1, 40, 256), "FP4"), ((1, 40, 16), "FP8")]),
            "FP4 GEMM",
            "not listed",
        ),
    ],
)
def test_tensorrt_10_lists_no_weights(linear: QuantizedLinear, rows: list[Row], found: str, stored: str) -> None:
    """Judged by the types a row reads and by the name of its tactic; what neither tells is no failure."""
    report = layer_report(NetworkFacts({}, (linear,), (), {}), rows)
    (verdict,) = report.linears
    assert (verdict.found, verdict.stored) == (found, stored)
    assert verdict.passed == report.passed == (found == linear.wanted)
    assert bool(report.failed) == (found == "not quantized")
    assert report.to_dict()["passed"] is (None if found == "not listed" else report.passed)
    assert stored in report.table()
    if found == "not listed":
        assert report.summary == f"0/1 linears {linear.wanted} (1 not listed)"
    elif report.passed and stored == "not listed":
        assert report.summary == f"1/1 linears {linear.wanted}, storage not listed"


def test_weights_that_tensorrt_10_lists_as_inputs_are_read() -> None:
    """As gemms of constants were printed: the weight, alpha, beta and the bias beside the activation."""
    inputs = [READS_HALF, ((256, 512), "Half"), ((1,), "Float"), ((1,), "Float"), ((1, 512), "Half")]
    report = layer_report(NetworkFacts({}, (wanted("INT8 GEMM"),), (), {}), inspected("gemm", inputs, HMMA))
    (verdict,) = report.failed
    assert (verdict.found, verdict.weight) == ("not quantized", "Half")
