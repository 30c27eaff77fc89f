"""Layer tables from the files beside a candidate."""

from __future__ import annotations

import json
import math

import pytest

from qvggt.eval.layers import layer_table


def files(*paths):
    return [{"path": str(path)} for path in paths]


def test_weights_and_blocks_of_a_checkpoint(tmp_path):
    path = tmp_path / "quant.json"
    path.write_text(json.dumps({"layers": {"a": {"weight_sqnr_db": 18.5}, "b": {"weight_sqnr_db": 20}}}))
    found = layer_table(files(tmp_path / "model.safetensors", path))
    assert found["rows"] == [{"path": "a", "sqnr_db": 18.5}, {"path": "b", "sqnr_db": 20.0}]
    assert found["source"] == str(path)
    assert "weights" in found["measure"]
    path.write_text(json.dumps({"layers": {"a": {"start": 0.1, "learned": 0.05, "final": 0.01}}}))
    found = layer_table(files(path))
    assert found["rows"] == [{"path": "a", "sqnr_db": pytest.approx(20)}]
    assert "block" in found["measure"]


def test_parity_beside_an_onnx_file(tmp_path):
    (tmp_path / "m.onnx.parity.json").write_text(
        json.dumps({"linears": [{"path": "a", "error": 1e-3, "tokens": 5, "ties": 0}, {"path": "b", "error": 0.0}]})
    )
    found = layer_table(files(tmp_path / "m.onnx"))
    assert found["rows"] == [{"path": "a", "sqnr_db": pytest.approx(60)}, {"path": "b", "sqnr_db": math.inf}]
    assert "fake-quant" in found["measure"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"layers": 3}', '{"layers": {"a": {"note": "x"}}}', "{" * 5000])
def test_no_table_is_none(tmp_path, content):
    (tmp_path / "quant.json").write_text(content)
    assert layer_table(files(tmp_path / "quant.json")) is None
    (tmp_path / "m.onnx.parity.json").write_text(content)
    assert layer_table(files(tmp_path / "m.onnx", tmp_path / "none.engine")) is None
    assert layer_table([]) is None
