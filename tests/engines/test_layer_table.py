"""Rows of the builder's table, from its log and from the inspector's JSON."""

from __future__ import annotations

import json

import pytest
from layer_rows import gemm, operand

from qvggt import QvggtError
from qvggt.engines.layer_table import Operand, Row, rows_by_profile, rows_of_inspector, rows_of_log

LOG = "\n".join(
    [
        "Total Weights Memory: 12 bytes",
        "Layers:",
        gemm("a.fc1", [operand("x", (1, -1, 256), "Int8")], [operand("w", (1, 256, 512), "Int4"), operand("s", (1,))]),
        gemm("", [], [], kind="shape_call", metadata=""),
        gemm(
            "b", [operand("y", (4,), "BFloat16")], [], outputs=[operand("z", (4,), "Half")], metadata="[ONNX Layer: p]"
        ),
        "something else with LayerType: in it",
    ]
)


def test_rows_of_a_log() -> None:
    first, shapes, last = rows_of_log(LOG)
    assert (first.name, first.kind) == ("a.fc1/MatMul_U1_myl0_4", "gemm")
    assert first.inputs == (Operand("x", (1, -1, 256), "Int8"),)
    assert first.constants == (Operand("w", (1, 256, 512), "Int4"), Operand("s", (1,), "Float"))
    assert first.onnx == ("a.fc1/MatMul", "a.fc1/DequantizeLinear")
    assert first.tactic == "__stub"
    assert (shapes.kind, shapes.inputs, shapes.onnx) == ("shape_call", (), ())
    assert (last.inputs[0].dtype, last.outputs[0].dtype, last.onnx) == ("BFloat16", "Half", ("p",))


def test_rows_of_each_profile() -> None:
    """Generated kernels of a further profile are known by the part of the engine they share with one that says so."""
    names = (
        "__myl_Add_myl0_1",
        "a/MatMul_myl0_2",
        "__myl_Add_myl1_1",
        "a/MatMul [profile 1]_U2_myl1_2",
        "b [profile 2]",
    )
    rows = rows_of_log("\n".join(["Layers:", *(gemm("a", [], []).replace("a/MatMul_U1_myl0_4", n) for n in names)]))
    assert [[row.name for row in part] for part in rows_by_profile(rows)] == [
        list(names[:2]),
        list(names[2:4]),
        [names[4]],
    ]
    assert rows_by_profile([]) == []


def test_sizes_of_operands() -> None:
    assert Operand("w", (1, 256, 512), "Int4").size == 131072
    assert Operand("x", (1, -1, 256), "Int8").size == 0


def test_a_log_without_table_has_no_rows() -> None:
    assert rows_of_log("") == rows_of_log("Layers:\n[V] nothing") == []


@pytest.mark.parametrize(
    ("spelling", "dtype"),
    [
        ({"Format/Datatype": "Int8"}, "Int8"),
        ({"Format/Datatype": "Row major linear FP16 format"}, "Half"),
        ({"Format/Datatype": "Four wide channel vectorized row major Int8 format"}, "Int8"),
        ({"Format": "Row major linear", "DataType": "BF16"}, "BFloat16"),
        ({"Datatype": "Int4", "Format": "x"}, "Int4"),
        ({}, ""),
    ],
)
def test_rows_of_the_inspector(spelling: dict[str, str], dtype: str) -> None:
    layer = {
        "Name": "gemm_1",
        "LayerType": "gemm",
        "Inputs": [{"Name": "x", "Dimensions": [1, 4], **spelling}],
        "Outputs": [],
        "Metadata": "[ONNX Layer: a/MatMul]\x1e[ONNX Layer: a/DequantizeLinear]",
    }
    (row,) = rows_of_inspector(json.dumps({"Layers": [layer], "Bindings": []}))
    assert row.inputs == (Operand("x", (1, 4), dtype),)
    assert (row.kind, row.constants, row.onnx) == ("gemm", (), ("a/MatMul", "a/DequantizeLinear"))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"Layers": ["name only"]}', '{"Layers": 3}'])
def test_layer_names_alone_are_refused(text: str) -> None:
    with pytest.raises(QvggtError, match="expected JSON with detailed Layers"):
        rows_of_inspector(text)


@pytest.mark.parametrize(
    ("tactic", "types"),
    [
        ("sm80_xmma_gemm_i8i8_i8i32_f32_tn_n_tilesize64x64x64_stage4_warpsize2x2x1_tensor16x8x32", ("Int8", "Int8")),
        ("sm80_xmma_gemm_i8f32_i8i32_f32_tn_n_tilesize128x128x64_stage3_by_fusion_tactic", ("Int8", "Int8")),
        ("sm90_xmma_gemm_i8i32_i8i32_i32_tn_n_tilesize256x128x128", ("Int8", "Int8")),
        ("sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs", ("Int8", "Int8")),
        ("sm80_xmma_gemm_f16f16_f16f32_f32_nn_n_tilesize32x32x64_stage6", ("Half", "Half")),
        ("sm80_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x32", ("BFloat16", "BFloat16")),
        ("sm89_xmma_gemm_e4m3e4m3_e4m3f32_f32_tn_n", ("FP8", "FP8")),
        ("sm80_xmma_gemm_f32f32_tf32f32_f32_nn_n_tilesize32x32x64", ("Float", "Float")),
        ("ampere_h16816gemm_256x128_ldg8_nn_v1", ("Half", "Half")),
        ("volta_int8x4_icudnn_int8x4_128x32_relu_small_nn_v1", ("Int8", "Int8")),
        ("cutlass_80_tensorop_i16832gemm_s8_256x128_64x3_tn_align16", ("Int8", "Int8")),
        ("__myl_CastMul_0xf2543c36ff9f104b", None),
        ("__myelin_CASK_STUB", None),
        ("", None),
    ],
)
def test_types_in_the_name_of_a_tactic(tactic: str, types: tuple[str, str] | None) -> None:
    assert Row("n", "gemm", (), (), (), tactic, ()).multiplied == types


def test_rows_that_list_no_constants() -> None:
    """As TensorRT 10 prints them; its convolutions have their weights by type and count."""
    line = gemm("a.fc1", [operand("x", (1, -1, 256), "Int8")], []).replace("Constants: [], ", "")
    (row,) = rows_of_log(line)
    assert (row.complete, row.constants, row.inputs[0].dtype, row.onnx[0]) == (False, (), "Int8", "a.fc1/MatMul")
    assert rows_of_log(gemm("a.fc1", [], []))[0].complete
    layer = {"Name": "c", "LayerType": "CaskConvolution", "Inputs": [], "Weights": {"Type": "Int8", "Count": 432}}
    (row,) = rows_of_inspector(json.dumps({"Layers": [layer]}))
    assert (row.complete, row.constants) == (False, (Operand("weights", (1, 432), "Int8"),))
    (row,) = rows_of_inspector(json.dumps({"Layers": [{**layer, "Constants": [], "Weights": "unknown"}]}))
    assert (row.complete, row.constants) == (True, ())
