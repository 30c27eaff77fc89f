"""Figures of a candidate: pairs pooled per category, categories averaged with equal weight."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qvggt.eval.depth import DepthErrors
from qvggt.eval.noise import Noise
from qvggt.eval.pose import PoseErrors
from qvggt.eval.result import CandidateResult, SequenceRecord


def record(category, name, rotation, translation=None, depth=None, noise=None, seconds=1.0):
    rotation = np.array(rotation, float)
    translation = np.zeros_like(rotation) if translation is None else np.array(translation, float)
    errors = None if depth is None else DepthErrors(depth, 1 - depth, 1.0, 10)
    return SequenceRecord(
        f"{category}/{name}", category, PoseErrors(rotation, translation), errors, noise or {}, seconds
    )


def result(*records, **facts):
    return CandidateResult("c", facts, records)


def test_pairs_pool_within_and_average_between_categories():
    # a: errors 0.5, 0.5, 20 -> AUC@3 2/3; b: 20 -> 0. All pairs pooled would be 1/2, sequences averaged 1/3.
    found = result(record("a", "1", [0.5, 0.5]), record("a", "2", [20.0]), record("b", "1", [20.0]))
    assert found.auc("a")[3] == pytest.approx(200 / 3)
    assert found.auc()[3] == pytest.approx(100 / 3)
    assert list(found.auc()) == [30, 15, 5, 3]
    assert found.figure("rra5") == pytest.approx(100 / 3)
    assert found.figure("rta5") == 100


def test_the_larger_error_counts():
    assert result(record("a", "1", [0.5], [20.0])).auc()[3] == 0


def test_depth_averages_sequences_then_categories():
    found = result(
        record("a", "1", [0.0], depth=0.1),
        record("a", "2", [0.0], depth=0.3),
        record("a", "3", [0.0]),
        record("b", "1", [0.0], depth=0.4),
        record("c", "1", [0.0]),
    )
    assert found.figure("abs_rel") == pytest.approx(0.3)
    assert found.figure("delta1") == pytest.approx(0.7)
    assert result(record("a", "1", [0.0])).figure("abs_rel") is None


def test_a_failed_depth_is_not_averaged_away():
    found = result(record("a", "1", [0.0], depth=0.1), record("a", "2", [0.0], depth=math.nan))
    assert math.isnan(found.figure("abs_rel"))


def test_noise_pools_and_time_is_the_median():
    found = result(
        record("a", "1", [0.0], noise={"depth": Noise(100, 1)}, seconds=1),
        record("a", "2", [0.0], noise={"depth": Noise(900, 9)}, seconds=2),
        record("a", "3", [0.0], noise={"depth": Noise(0, 0)}, seconds=90),
        bytes=7,
    )
    assert found.sqnr_db == {"depth": pytest.approx(20)}
    assert found.seconds == 2
    assert found.bytes == 7
    assert result(record("a", "1", [0.0])).bytes == 0
