"""Tables and the JSON document."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from qvggt import QvggtError
from qvggt.eval.depth import DepthErrors
from qvggt.eval.noise import Noise
from qvggt.eval.pose import PoseErrors
from qvggt.eval.reference import own_references
from qvggt.eval.report import format_tables, make_report
from qvggt.eval.result import CandidateResult, SequenceRecord
from qvggt.json_file import write_json


def candidate(label, errors, abs_rel, noise=None, size=2_000_000):
    pose = PoseErrors(np.array(errors, float), np.zeros(len(errors)))
    depth = None if abs_rel is None else DepthErrors(abs_rel, 0.9, 1.0, 5)
    record = SequenceRecord("a/s", "a", pose, depth, noise or {}, 0.25)
    return CandidateResult(label, {"kind": "x", "bytes": size}, (record,))


@pytest.fixture
def results():
    noise = {"pose_enc": Noise(100, 1), "depth": Noise(1, 0)}
    return [candidate("first", [0.5] * 3, 0.1), candidate("second", [0.5, 0.5, 99], 0.125, noise, 1_500_000)]


def test_table_states_points_and_deltas(results):
    lines = [" ".join(line.split()) for line in format_tables(results).splitlines()]
    assert lines[0] == "candidate AUC@30 delta AUC@15 delta AUC@5 delta AUC@3 delta abs-rel d<1.25"
    assert lines[1] == "first 100.00 100.00 100.00 100.00 0.1000 0.9000"
    assert lines[2] == "second 66.67 -33.33 66.67 -33.33 66.67 -33.33 66.67 -33.33 0.1250 0.9000"
    assert lines[4] == "candidate RRA@5 RTA@5 pose_enc depth s/seq p99 s file MB"
    assert lines[6] == "second 66.67 100.00 20.0 inf 0.250 0.250 1.50"
    assert "points (0-100)" in lines[-1]


def test_columns_without_content_are_left_out():
    text = format_tables([candidate("only", [0.5], None, size=0)])
    assert not {"delta", "abs-rel", "MB", "depth"} & set(text.split("AUC, RRA")[0].split())


def test_document(results, tmp_path):
    path = tmp_path / "new" / "r.json"
    report = make_report(
        results,
        {
            "config": {"dataset": "co3d", "categories": ("a",)},
            "frame_list": {"sha256": "f"},
            "versions": {"torch": "2"},
        },
    )
    write_json(path, report)
    read = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert read["baseline"] == "first"
    assert read["config"] == {"dataset": "co3d", "categories": ["a"]}
    assert read["frame_list"] == {"sha256": "f"}
    assert read["versions"] == {"torch": "2"}
    first, second = read["candidates"]
    assert first["auc"] == {"30": 100.0, "15": 100.0, "5": 100.0, "3": 100.0}
    assert first["delta"]["auc"]["3"] == 0
    assert second["delta"]["auc"]["3"] == pytest.approx(-100 / 3)
    assert second["delta"]["abs_rel"] == pytest.approx(0.025)
    assert second["sqnr_db"] == {"pose_enc": 20.0, "depth": "inf"}
    assert second["categories"]["a"]["sequences"] == 1
    assert second["categories"]["a"]["auc"] == second["auc"]
    assert second["sequences"][0]["rotation_deg"] == [0.5, 0.5, 99.0]
    assert second["sequences"][0]["depth"]["pixels"] == 5
    assert second["bytes"] == 1_500_000


def test_the_own_reference_of_a_file():
    def sources(name, scheme, **more):
        return {"metadata": {
            "qvggt.source": json.dumps({"name": "m", "sha256": name}), "qvggt.scheme": json.dumps(scheme),
            "qvggt.precision": "fp32",
        }, **more}  # fmt: skip

    w8, w4 = {"bits": "w8a8", "parts": []}, {"bits": "w4a4", "parts": []}
    facts = [
        {"label": "float", "kind": "pytorch", "sha256": "a", "scheme_json": None},
        {"label": "fake", "kind": "pytorch fake quant", "sha256": "b", "scheme_json": w8},
        sources("b", w8, label="file", kind="onnxruntime", sha256="c"),
        sources("a", {"bits": "fp16"}, label="half", sha256="d"),
        sources("a", w4, label="of float weights", sha256="e"),  # its reference would be fake quant
        sources("b", w8, label="engine", kind="rtx", sha256="f", onnx_sha256="c"),
        {"label": "foreign", "metadata": "none: not written by qvggt export", "sha256": "g"},
        {"label": "damaged", "metadata": {"qvggt.source": "{"}, "sha256": None},
    ]
    found = own_references(facts)
    assert [one and (one["label"], one["floor_db"]) for one in found] == [
        None, None, ("fake", 45.0), ("float", 60.0), (None, 30.0), ("file", 45.0), None, None,
    ]  # fmt: skip
    assert found[4]["name"] == "m"
    (_, file) = own_references([{**facts[0], "float_type": "bf16"}, facts[3]])
    assert file is not None
    assert file["label"] is None  # the file is of the fp32 network, which is not among them


def test_lists_of_numbers_stay_on_one_line_and_text_stays_itself(tmp_path):
    content = {"a": [1, 2.5, "x ] [ , \n y"], "b": [[1, 2], [3, 4]], "c": [], "d": [1, 2, 3], "e": math.nan}
    write_json(tmp_path / "r.json", content)
    text = (tmp_path / "r.json").read_text()
    assert '"d": [1, 2, 3]' in text
    assert json.loads(text) == {**content, "e": "nan"}


def test_a_place_that_refuses_is_an_error(tmp_path, results):
    (tmp_path / "file").write_text("x")
    with pytest.raises(QvggtError, match="cannot be written"):
        write_json(tmp_path / "file" / "r.json", {})
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
