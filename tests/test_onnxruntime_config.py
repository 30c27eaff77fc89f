"""The probe for saturating 8-bit kernels: what it is, what it decides, and that the decision keeps products exact."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from qvggt.onnxruntime_config import (
    PROBE,
    PROBE_INPUTS,
    SESSION_CONFIG,
    WIDE_8_BIT,
    exact_by_default,
    session_config,
)

WIDTH = 32


class Fake:
    """An onnxruntime whose products are `error` too small."""

    SessionOptions = onnxruntime.SessionOptions

    def __init__(self, error, rows):
        self.error, self.rows = error, rows

    def InferenceSession(self, *args, **kwargs):
        return self

    def run(self, outputs, feeds):
        rows = len(feeds["a"])
        wrong = self.error if rows == self.rows else 0
        return [np.full((rows, WIDTH), PROBE_INPUTS * 255 * 127 - wrong, np.int32)]


def test_the_probe_is_this_graph():
    """Without a constant second operand nothing could prepare it, and the default kernels would not be reached."""
    nodes = [
        helper.make_node("Expand", ["w", "shape"], ["b"]),
        helper.make_node("MatMulInteger", ["a", "b"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, ["m", PROBE_INPUTS])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, ["m", WIDTH])],
        [
            helper.make_tensor("w", TensorProto.INT8, [1], [127]),
            helper.make_tensor("shape", TensorProto.INT64, [2], [PROBE_INPUTS, WIDTH]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8, producer_name="")
    assert model.SerializeToString() == PROBE


@pytest.mark.parametrize("rows", [1, 5, 64])
def test_saturating_kernels_get_the_wide_setting(rows):
    assert session_config(Fake(1, rows)) == {**SESSION_CONFIG, WIDE_8_BIT: "1"}
    assert session_config(Fake(0, rows)) == SESSION_CONFIG


def test_products_are_exact_here_with_the_settings_chosen():
    options = onnxruntime.SessionOptions()
    for key, value in session_config(onnxruntime).items():
        options.add_session_config_entry(key, value)
    session = onnxruntime.InferenceSession(PROBE, options, providers=["CPUExecutionProvider"])
    codes = np.random.default_rng(0).integers(0, 256, (33, PROBE_INPUTS), np.uint8)
    expected = codes.astype(np.int32).sum(1) * 127
    assert np.array_equal(session.run(None, {"a": codes})[0], np.repeat(expected[:, None], WIDTH, axis=1))


def test_the_probe_runs_once():
    exact_by_default.cache_clear()
    session_config(onnxruntime)
    session_config(onnxruntime)
    assert exact_by_default.cache_info().misses == 1
