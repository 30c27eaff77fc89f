"""FP4 written out: the codes and scales of the file, the rounding of the grid, and nothing else changed."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator

from qvggt.errors import QvggtError
from qvggt.export.emulation import run_model
from qvggt.export.storage import Storage
from qvggt.formats.float_grid import E2M1
from qvggt.onnx_view.fp4 import VALUES, has_fp4, without_fp4

Array = NDArray[np.float32]
SCALES = np.array([[0.5, 3.0], [1e-3, 64.0], [1.0, 0.013]], np.float32)


def quantized(axis: int = -1, zero: bool = False, block: int = 16) -> ModelProto:
    """x [3, 32] -> FP4 in blocks under SCALES, or under one scale -> floats, times a stored FP4 weight [32, 5]."""
    weight = np.linspace(-7, 7, 160, dtype=np.float32).reshape(32, 5).astype(ml_dtypes.float4_e2m1fn)
    arrays = {"w": weight, "s": SCALES if block else SCALES[0, 0], "one": np.float32(1)}
    arrays["zero"] = np.zeros(arrays["s"].shape, ml_dtypes.float4_e2m1fn)
    said = {"output_dtype": TensorProto.FLOAT4E2M1} if not zero else {}
    blocks = {"axis": axis, "block_size": block} if block else {}
    more = ["zero"] if zero else []
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", *more], ["codes"], name="q", **said, **blocks),
        helper.make_node("DequantizeLinear", ["codes", "s", *more], ["y"], name="dq", **blocks),
        helper.make_node("DequantizeLinear", ["w", "one"], ["weight"], name="weight"),
        helper.make_node("MatMul", ["y", "weight"], ["z"], name="product"),
    ]
    sizes = {"x": [3, 32], "y": [3, 32], "z": [3, 5]}
    x, *ends = (helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in sizes.items())
    stored = [Storage().tensor(name, np.asarray(array)) for name, array in arrays.items() if name != "zero" or zero]
    graph = helper.make_graph(nodes, "g", [x], ends, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    onnx.checker.check_model(model, full_check=True)
    return model


def values() -> Array:
    """Ties, signed zeros, values beyond the ends and others, in units of their scales."""
    units = np.random.default_rng(0).normal(0, 3, (3, 32)).astype(np.float32)
    units[:, :26] = [*np.arange(-3, 3, 0.25), 5, -5]
    units[:, 26:] = [-0.0, 1e9, -1e9, 7, 6.5, -2.5]
    return units * np.repeat(SCALES, 16, axis=1)


def test_the_table_is_the_grid() -> None:
    assert VALUES.tolist() == E2M1.values(torch.arange(8, dtype=torch.uint8)).tolist()


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("block", [16, 0])
def test_onnxruntime_computes_what_the_file_says(block: int, zero: bool) -> None:
    model = quantized(zero=zero, block=block)
    assert has_fp4(model)
    got = run_model(model, {"x": values()})
    scales = np.repeat(SCALES, 16, axis=1) if block else SCALES[0, 0]
    codes = E2M1.round(torch.from_numpy(values()), torch.from_numpy(np.asarray(scales))).numpy()
    assert np.array_equal(got[0], codes * scales)
    if block:  # the evaluator reads a zero-dimensional FP4 zero point as a vector
        for mine, theirs in zip(got, ReferenceEvaluator(model).run(None, {"x": values()}), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-6 * np.abs(theirs).max())


def test_the_copy_has_no_fp4_and_the_model_keeps_it() -> None:
    model = quantized()
    before = model.SerializeToString()
    copy = without_fp4(model)
    assert model.SerializeToString() == before
    assert not has_fp4(copy)
    onnx.checker.check_model(copy, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(copy, strict_mode=True, data_prop=True)
    kinds = {info.type.tensor_type.elem_type for info in inferred.graph.value_info}
    assert TensorProto.FLOAT4E2M1 not in kinds
    assert TensorProto.FLOAT8E4M3FN in kinds
    was, now = ({t.name: t for t in proto.graph.initializer} for proto in (model, copy))
    assert now["w"].raw_data == was["w"].raw_data
    assert now["s"] == was["s"]


def test_external_codes_stay_where_they_are(tmp_path: Path) -> None:
    with open(tmp_path / "m.data", "wb") as file:
        tensor = Storage(file, "m.data").tensor("w", np.full((64, 64), 6, ml_dtypes.float4_e2m1fn))
    model = quantized()
    next(t for t in model.graph.initializer if t.name == "w").CopyFrom(tensor)
    stored = next(t for t in without_fp4(model).graph.initializer if t.name == "w")
    assert (stored.data_type, stored.external_data) == (TensorProto.UINT4, tensor.external_data)


def test_a_fault_in_the_file_shows() -> None:
    """One stored code, one scale: the copy reads the file's own."""
    for name in ("w", "s"):
        model = quantized()
        expected = run_model(model, {"x": values()})[1]
        tensor = next(t for t in model.graph.initializer if t.name == name)
        data = bytearray(tensor.raw_data)
        data[-1] ^= 1
        tensor.raw_data = bytes(data)
        assert not np.array_equal(run_model(model, {"x": values()})[1], expected)


def test_blocks_along_another_axis_are_refused() -> None:
    with pytest.raises(QvggtError, match="q: FP4 in blocks along axis 1, expected -1"):
        without_fp4(quantized(axis=1))


def test_other_files_have_none() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]> fp8 (float[4] x) => (float[4] y)
        <float s = {1}, float8e4m3fn zero = {0}> {
            q = QuantizeLinear (x, s, zero)
            y = DequantizeLinear (q, s)
        }"""
    assert not has_fp4(onnx.parser.parse_model(text))
