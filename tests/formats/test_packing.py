from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from qvggt.formats.packing import pack, unpack

CODES = arrays(np.int8, array_shapes(max_dims=3, max_side=7), elements=st.integers(-8, 7))


@given(CODES)
@settings(deadline=None, max_examples=60)
def test_unpack_inverts_pack(codes: NDArray[np.int8]) -> None:
    data = pack(codes, 4)
    assert len(data) == (codes.size + 1) // 2
    np.testing.assert_array_equal(unpack(data, codes.shape, 4), codes)


@given(CODES)
@settings(deadline=None, max_examples=30)
def test_onnx_reads_what_we_pack(codes: NDArray[np.int8]) -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.INT4, dims=codes.shape, raw_data=pack(codes, 4).tobytes())
    np.testing.assert_array_equal(numpy_helper.to_array(tensor).astype(np.int8), codes)


@given(CODES.filter(lambda c: c.ndim == 2))
@settings(deadline=None, max_examples=10)
def test_onnxruntime_reads_what_we_pack(codes: NDArray[np.int8]) -> None:
    weight = TensorProto(name="w", data_type=TensorProto.INT4, dims=codes.shape, raw_data=pack(codes, 4).tobytes())
    graph = helper.make_graph(
        [helper.make_node("DequantizeLinear", ["w", "scale"], ["y"])],
        "g",
        [helper.make_tensor_value_info("scale", TensorProto.FLOAT, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, codes.shape)],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    got = session.run(None, {"scale": np.array(0.5, np.float32)})[0]
    np.testing.assert_array_equal(got, codes * np.float32(0.5))


def test_low_nibble_first_and_odd_counts_padded_with_zero() -> None:
    assert pack(np.array([1, -2, 7], np.int8), 4).tobytes() == bytes([0xE1, 0x07])


def test_order_is_row_major_for_any_memory_layout() -> None:
    codes = np.arange(-8, 4, dtype=np.int8).reshape(3, 4)
    assert np.array_equal(pack(np.asfortranarray(codes), 4), pack(codes, 4))
    assert np.array_equal(pack(codes.T, 4), pack(np.ascontiguousarray(codes.T), 4))


@pytest.mark.parametrize("code", [-9, 8])
def test_codes_that_do_not_fit_are_refused(code: int) -> None:
    with pytest.raises(ValueError, match=r"-8\.\.7"):
        pack(np.array([0, code], np.int8), 4)


@pytest.mark.parametrize("size", [0, 1, 3])
def test_unpack_refuses_a_wrong_length(size: int) -> None:
    with pytest.raises(ValueError, match="cannot hold"):
        unpack(np.zeros(size, np.uint8), (2, 2), 4)


@pytest.mark.parametrize("bits", range(2, 9))
@given(st.integers(0, 50), st.integers(0, 2**32))
@settings(deadline=None, max_examples=30)
def test_other_widths_leave_no_gap(bits: int, count: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(-(1 << bits - 1), 1 << bits - 1, count).astype(np.int8)
    data = pack(codes, bits)
    assert data.size == -(-count * bits // 8)
    whole = sum((int(code) & (1 << bits) - 1) << bits * i for i, code in enumerate(codes))
    assert int.from_bytes(data.tobytes(), "little") == whole
    assert np.array_equal(unpack(data, (count,), bits), codes)
