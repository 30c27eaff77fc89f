"""The metric table: golden pose figures through it, pooling, directions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from qvggt.errors import QvggtError
from qvggt.eval.depth import DepthErrors
from qvggt.eval.metrics import METRICS, Column, MetricWords, column, pose_auc
from qvggt.eval.metrics import figure as overall
from qvggt.eval.points import PointErrors
from qvggt.eval.pose import PoseErrors, pairwise_errors
from qvggt.eval.result import CandidateResult, SequenceRecord
from qvggt.mapping import from_mapping

GOLDEN = Path(__file__).parents[1] / "data" / "geometry_reference.safetensors"
BY_NAME = {metric.name: metric for metric in METRICS}


def record(category, name, pose, **more):
    return SequenceRecord(f"{category}/{name}", category, pose, more.pop("depth", None), {}, 1.0, **more)


def points(acc):
    return PointErrors(acc, 2 * acc, 3 * acc, 4 * acc, 0.5, 0.6, 0.7, 0.8, 1.0, 10, 10)


def figure(name, records):
    return column(BY_NAME[name], records).figure()


@pytest.fixture(scope="module")
def golden():
    """Records of the stored cases, and the original code's pooled AUC in [0, 1]."""
    with safe_open(GOLDEN, "numpy") as file:
        metadata = file.metadata()
        pairs = [(file.get_tensor(f"pose_{k}/pred_w2c"), file.get_tensor(f"pose_{k}/gt_w2c")) for k in range(4)]
    records = [record("all", str(k), pairwise_errors(*pair)) for k, pair in enumerate(pairs)]
    return records, metadata


def test_golden_pose_figures_pool_to_the_stored_ones(golden):
    """The cases have 45 and 10 pairs: weights by pairs make the mean of sequences the pooled figure."""
    records, metadata = golden
    for threshold, expected in json.loads(metadata["auc_pooled"]).items():
        assert figure(f"auc{threshold}", records) == pytest.approx(100 * expected, abs=1e-9)


def test_figures_are_those_of_the_result(golden):
    records = golden[0] + [record("other", "x", PoseErrors(np.array([1.0, 40]), np.array([0.5, 2])))]
    result = CandidateResult("c", {}, tuple(records))
    for category in ("all", "other"):
        pooled = pose_auc([r.pose for r in records if r.category == category])
        assert result.auc(category) == pytest.approx({t: 100 * value for t, value in pooled.items()})
    for name in ("auc30", "rra5", "rta5"):
        assert figure(name, records) == result.figure(name)
        assert result.figure(name) == pytest.approx(np.mean([result.figure(name, c) for c in ("all", "other")]))


def test_depth_averages_categories_and_points_sequences():
    pose = PoseErrors(np.array([0.0]), np.array([0.0]))
    records = [
        record("a", "1", pose, depth=DepthErrors(0.1, 0.9, 1.0, 5), points={"head": points(1.0)}),
        record("a", "2", pose, depth=DepthErrors(0.3, 0.7, 1.0, 5), points={"head": points(2.0)}),
        record("b", "1", pose, depth=DepthErrors(0.4, 0.4, 1.0, 5), points={"head": points(6.0), "unproj": points(1)}),
        record("c", "1", pose),
    ]
    assert figure("abs_rel", records) == pytest.approx(0.3)
    assert figure("delta1", records) == pytest.approx(0.6)
    assert figure("head_acc", records) == pytest.approx(3)
    assert figure("head_acc_median", records) == pytest.approx(6)
    assert figure("head_comp", records) == pytest.approx(9)
    assert figure("head_comp_median", records) == pytest.approx(12)
    assert figure("head_nc", records) == pytest.approx(0.6)
    assert figure("head_nc_median", records) == pytest.approx(0.7)
    assert figure("unproj_acc", records) == 1
    assert column(BY_NAME["unproj_acc"], records[:2]) is None


def test_names_are_unique_and_directions_known():
    assert len(BY_NAME) == len(METRICS) == 12 + 2 + 14
    lower = {name for name, metric in BY_NAME.items() if metric.better == "lower"}
    assert lower == {n for n in BY_NAME if any(word in n for word in ("_acc", "_comp", "_overall"))} | {"abs_rel"}
    assert json.dumps([metric.describe() for metric in METRICS])


def test_what_a_report_of_another_version_may_say_of_a_metric():
    words = {"name": "x", "title": "X", "unit": "m", "better": "lower", "digits": 3, "pooling": "sequences"}
    for digits in (0, 12):
        assert from_mapping(MetricWords, words | {"digits": digits}, "w").digits == digits
    for digits in (-1, 13):
        with pytest.raises(QvggtError, match="digits: expected a count of digits"):
            from_mapping(MetricWords, words | {"digits": digits}, "w")


def test_absent_records_and_groups_count_nowhere():
    """Neither as zeros nor in the weights: a figure is that of the records which have it."""
    pose = PoseErrors(np.array([0.0]), np.array([0.0]))
    some = [record("b", "1", pose, depth=DepthErrors(0.4, 0.4, 1.0, 5), points={"head": points(6.0)})]
    absent = [record("a", "1", pose), record("b", "2", pose), record("c", "1", pose)]
    for name in ("abs_rel", "delta1", "head_acc", "head_nc_median"):
        alone = figure(name, some)
        assert figure(name, absent[:1] + some + absent[1:]) == alone
        assert column(BY_NAME[name], absent) is None
        assert overall(name, absent) is None
        assert overall(name, some + absent) == alone
    two = Column(np.array([1.0, 3.0, 8.0]), np.array([1.0, 1.0, 2.0]), np.array([0, 0, 1]))
    counts = np.array([[1, 1, 1], [1, 1, 0], [0, 0, 1], [2, 0, 0]], float)
    assert two.resampled(counts).tolist() == [5, 2, 8, 1]
    assert Column.of([1.0, 2.0, 6.0]).figure() == 3
