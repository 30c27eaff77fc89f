"""What a calibration is said to cost before it starts."""

from __future__ import annotations

from typing import Any

import pytest
from small_network import SIZE, small_model

from qvggt.calib import plan
from qvggt.calib.plan import Cost, Plan, make_plan
from qvggt.calib.recipe import Recipe, find_recipe
from qvggt.quant.scheme import parse_scheme

TOKENS, DIM = 5 + (SIZE // 14) ** 2, 64


def planned(bits: str, recipe: Recipe, *parts: str) -> Plan:
    scheme = parse_scheme(bits, "dynamic", parts or ("dino", "aggregator"))
    return make_plan(small_model().config, scheme, recipe, 6, 3, SIZE, SIZE, progress=False)


def test_fixed_work_is_not_multiplied() -> None:
    assert Cost(10.0, 2.0, 1.0, 0).total(sequences=5, epochs=3) == 10 + 5 * (2 + 3 * 1)


def test_a_block_of_each_shape_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the frame and the global blocks: one and two sequences without learning, one with; DINO's are like frames'."""
    real, calls = plan.calibrate_block, []

    def watched(block: Any, stage: Any, formats: Any, target: Any, source: Any, recipe: Recipe, seed: int) -> Any:
        calls.append((stage.group, len(target.tokens), recipe.learn))
        return real(block, stage, formats, target, source, recipe, seed)

    monkeypatch.setattr(plan, "calibrate_block", watched)
    found = planned("w4a4", find_recipe("qvggt"))
    assert calls == [
        (kind, n, learn) for kind in ("frame", "global") for n, learn in ((1, False), (2, False), (1, True))
    ]
    assert found.seconds["dino"] == found.seconds["frame"] > 0
    calls.clear()
    found = planned("w8a8", find_recipe("qvggt"), "aggregator")
    assert [learn for _, _, learn in calls] == [False] * 4
    assert found.seconds["dino"] == 0
    assert found.step_bytes == 0


def test_memory_counts_tokens_and_a_step() -> None:
    ours = planned("w4a4", find_recipe("qvggt"))
    assert ours.token_bytes == 2 * 6 * 3 * TOKENS * DIM * 4  # float and quantized stream
    assert planned("w4a4", find_recipe("qvggt").replace(propagation="float")).token_bytes == ours.token_bytes // 2
    hidden = 3 * TOKENS * 4 * DIM * 4  # bytes of the MLP's hidden layer for one sequence
    assert 6 * 10 * hidden < ours.step_bytes < 6 * 100 * hidden
    single = planned("w4a4", find_recipe("qvggt").replace(batch=1))
    assert ours.step_bytes == pytest.approx(6 * single.step_bytes, rel=0.2)
    assert f"a learning step {ours.step_bytes / 1e9:.2f}" in ours.lines(10**9)[1]


def test_long_sequences_are_learned_from_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    single = planned("w4a4", find_recipe("qvggt").replace(batch=1))
    monkeypatch.setattr(plan, "STEP_TOKENS", 2 * 3 * TOKENS + 1)
    assert planned("w4a4", find_recipe("qvggt")).step_bytes == pytest.approx(2 * single.step_bytes, rel=0.2)


def test_what_does_not_fit_is_spilled() -> None:
    found = planned("w8a8", find_recipe("qvggt"))
    assert found.lines(0)[2].startswith(f"disk: {found.token_bytes / 1e9:.2f} GB")
    assert found.lines(found.token_bytes)[2].startswith("disk: 0.00 GB")
