"""The gate's rule about cameras: a change counts when chance does not make one such in a thousand exports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qvggt.eval.pose import PoseErrors
from qvggt.eval.result import CandidateResult, SequenceRecord
from qvggt.export.precision import Precision
from qvggt.jobs.gate import Parity, _delta_interval
from qvggt.quant.scheme import parse_scheme

SCENES = 48


def candidate(degrees: np.ndarray) -> CandidateResult:
    """A scene for each angle, all pairs of its cameras wrong by that."""
    poses = [PoseErrors(np.full(6, angle), np.full(6, angle)) for angle in degrees]
    records = [SequenceRecord(f"a/{i}", "a", pose, None, {}, 1.0) for i, pose in enumerate(poses)]
    return CandidateResult("c", {}, tuple(records))


@pytest.mark.parametrize(("worse", "passes"), [(0.5, True), (1.5, False)])
def test_chance_and_fault(worse: float, passes: bool) -> None:
    """Angles that differ by a degree at random, and by so much on top: half a degree is 2 to 3 standard errors."""
    rng = np.random.default_rng(0)
    before = rng.uniform(3, 12, SCENES)
    after = before + rng.normal(0, 1.5, SCENES) + worse
    first, second = candidate(before), candidate(after)
    auc = {name: result.auc()[30] for name, result in (("reference", first), ("onnx", second))}
    auc["delta"] = auc["onnx"] - auc["reference"]
    assert auc["delta"] < -0.5
    auc["low"], auc["high"] = _delta_interval(first, second) or (0.0, 0.0)
    parity = Parity(Path("r"), parse_scheme("w8a8"), Precision.FP32, (), (), (), auc, (), 1, "cpu", (70, 70))
    assert parity.passed is passes
