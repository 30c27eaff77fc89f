"""What a calibration is said to cost before it starts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from small_network import SIZE, small_model

from qvggt.calib import plan, reconstruct
from qvggt.calib.machine import MACHINES, Rates
from qvggt.calib.plan import BlockWork, Outline, Plan, Rating, adapting, count_around, count_block, make_plan, span
from qvggt.calib.recipe import Recipe, find_recipe
from qvggt.calib.steps import choose_steps
from qvggt.calib.work import Operation, Work, counting
from qvggt.models.family import LINEARS
from qvggt.quant.scheme import parse_scheme

TOKENS, DIM = 5 + (SIZE // 14) ** 2, 64
LIGHT = find_recipe("qvggt").replace(
    epochs=8, search_clips=False, value_rotation=False, rounding="rtn", center="none", constant_ranges=False
)


def outline(bits: str = "w4a4", recipe: Recipe = LIGHT, parts: tuple[str, ...] = ("aggregator",)) -> Outline:
    return Outline(small_model().config, parse_scheme(bits, "dynamic", parts), recipe, 6, 3, SIZE, SIZE)


@pytest.fixture(scope="module")
def whole() -> Plan:
    """For every block, on a named machine."""
    return make_plan(outline(parts=("dino", "aggregator")), MACHINES["rtx4090"], 1000, progress=False)


def stage_of(asked: Outline, group: str) -> Any:
    return next(stage for stage in asked.family.stages(asked.config) if stage.group == group)


def test_every_block_is_in_the_time(whole: Plan) -> None:
    """DINO's are like those of single frames, and are counted once."""
    assert whole.blocks == {"dino": 1, "frame": 4, "global": 4}
    assert whole.seconds["dino"] == whole.seconds["frame"]
    low, high = whole.total_seconds
    assert 0 < low < high
    parts = [count * whole.seconds[group][0] for group, count in whole.blocks.items()]
    assert low == pytest.approx(sum(parts) + sum(each[0] for each in whole.other_seconds.values()))
    assert {"folds", "embedding", "reading, hashing, writing"} == whole.other_seconds.keys()


def test_a_named_machine_is_an_estimate(whole: Plan) -> None:
    first, gpu, host, disk = whole.lines(10**9)
    assert first.startswith("time on GeForce RTX 4090: ")
    assert (
        "82.6 TFLOPS fp32, 1.29 fp64, 1008 GB/s, of which 30% to 80% are assumed to be reached; not run there" in first
    )
    assert "of 24.00 GB" in gpu
    assert host.startswith("memory of the host: ")
    assert disk.startswith("disk: 0.00 GB")
    low, high = whole.total_seconds
    assert high / low == pytest.approx(0.8 / 0.3, rel=0.1), "of the parts that the machine does"


def test_work_grows_as_the_calibration_does() -> None:
    """Learning with sequences and epochs, everything else with sequences; what is fixed is not multiplied."""
    asked = outline()
    stage = stage_of(asked, "frame")
    ours = count_block(asked, stage)
    more = count_block(replace(asked, sequences=12), stage)
    assert more.learning.flops == pytest.approx(2 * ours.learning.flops, rel=0.01)
    assert 1.5 * ours.fixed.flops < more.fixed.flops < 2 * ours.fixed.flops
    linears = 2 * 6 * 3 * TOKENS * 12 * DIM * DIM  # of a pass of all sequences
    assert 8 * 3 * linears < ours.learning.flops < 8 * 5 * linears, "forward, and twice that backward"
    assert not count_block(outline("w4a4", LIGHT.replace(epochs=0)), stage).learning.operations


def test_gptq_and_folds_are_counted() -> None:
    asked = replace(outline("w8a8", LIGHT.replace(rounding="gptq", fit_grids=False)), sequences=1)
    exact = [o for o in count_block(asked, stage_of(asked, "frame")).fixed.operations if o.kind == "fp64"]
    assert max(o.flops for o in exact) == int((4 * DIM) ** 3 * 2 / 3), "the inverse of fc2's moments"
    folds = count_around(asked)["folds"]
    assert any(o.kind == "fp64" for o in folds.operations)
    assert folds.peak > 0


def test_samples_do_not_grow_with_the_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sampled is shared by all sequences: what two tell of all is what counting all tells."""
    monkeypatch.setattr(reconstruct, "SAMPLE_ROWS", 40)
    asked = outline("w4a4", LIGHT.replace(epochs=0, search_clips=True))
    stage = stage_of(asked, "frame")
    counted = plan._counted_block(asked, stage, asked.sequences, asked.recipe)
    passes = plan._advance(asked, stage) * (asked.streams * asked.sequences)
    assert count_block(asked, stage).fixed.bytes == pytest.approx((counted + passes).bytes, rel=0.02)


def test_branches_are_counted() -> None:
    asked = outline("w4a4", LIGHT.replace(epochs=0, branch=32))
    stage = stage_of(asked, "frame")
    with counting():
        block, tokens = plan._virtual_block(asked, stage), plan._nothing(asked, 1)
        steps, _ = choose_steps(block, stage, asked.formats(stage), tokens, asked.recipe, 0)
    assert {name: each.rank for name, each in steps.items()} == dict.fromkeys(LINEARS, DIM // 8)


def test_passes_around_the_blocks() -> None:
    """A selection looks at its pool, static ranges and maps at every sequence, heads too."""
    asked = outline("w8a8", LIGHT, ("aggregator", "dpt"))
    around = count_around(replace(asked, pool=5))
    assert around.keys() == {"selection", "folds", "embedding", "ranges"}
    assert around["ranges"].flops > 6 / 5 * around["selection"].flops
    rounded = count_around(replace(asked, recipe=find_recipe("rtn")))
    assert rounded.keys() == {"ranges"}
    assert not count_around(outline("w8a8", find_recipe("rtn"), ("aggregator",)))


def test_an_adaptation_is_planned() -> None:
    """Its time with its steps; its memory is that of all weights that learn, and of the float blocks."""
    asked = outline(recipe=LIGHT.replace(adapt=10))
    around = count_around(asked)
    assert count_around(outline()).keys() == around.keys() - {"adaptation"}
    linears = 8 * 12 * DIM * DIM  # weights
    assert around["adaptation"].flops > 10 * 4 * 5 * 2 * linears * 3 * TOKENS
    twice = count_around(replace(asked, recipe=LIGHT.replace(adapt=20)))
    assert twice["adaptation"].flops == 2 * around["adaptation"].flops
    assert 20 * linears < adapting(asked) < 30 * linears
    assert adapting(outline()) == 0


def test_memory_counts_heads_tokens_and_a_step(whole: Plan) -> None:
    assert whole.token_bytes == 2 * 6 * 3 * TOKENS * DIM * 4  # float and quantized stream
    assert outline(recipe=LIGHT.replace(propagation="float")).token_bytes == whole.token_bytes // 2
    assert outline(recipe=find_recipe("rtn")).token_bytes == 0
    assert whole.model == sum(t.numel() * t.element_size() for t in small_model().state_dict().values())
    hidden = 3 * TOKENS * 4 * DIM * 4  # bytes of the MLP's hidden layer for one sequence
    assert 2 * 5 * hidden < whole.work < 2 * 100 * hidden, "of the two that a step works on"
    cpu = replace(whole, device_memory=0)
    low, high = cpu.memory(10**9)
    assert low == 1000 + whole.folded + whole.token_bytes + whole.work
    assert high > 1000 + whole.model + whole.token_bytes + whole.work
    assert 0.2 * whole.model < whole.folded < whole.model
    assert f"a block at work {whole.work / 1e9:.2f}" in cpu.lines(10**9)[1]


def test_what_does_not_fit_is_spilled(whole: Plan) -> None:
    assert whole.lines(0)[-1].startswith(f"disk: {whole.token_bytes / 1e9:.2f} GB")
    assert whole.memory(0)[0] == whole.memory(1 << 40)[0] - whole.token_bytes


def test_this_machine_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small block in earnest, twice without learning and twice with; the spread of both is in the range."""
    real, calls, clock = plan.calibrate_block, list[tuple[bool, bool]](), [0.0]

    def watched(block: Any, stage: Any, formats: Any, goals: Any, source: Any, recipe: Recipe, seed: int) -> Any:
        done = real(block, stage, formats, goals, source, recipe, seed)
        earnest = not next(block.parameters()).is_meta
        calls.append((earnest, recipe.epochs > 0))
        clock[0] += sum(real for real, _ in calls)  # each takes a second longer than the one before
        return done

    rates = Rates({name: [1e9] for name in ("fp64", "fp32", "attention", "bandwidth", "call")})
    monkeypatch.setattr(plan, "measure_rates", lambda: rates)
    monkeypatch.setattr(plan, "calibrate_block", watched)
    monkeypatch.setattr(plan.time, "perf_counter", lambda: clock[0])
    rating = plan._measured(outline(), stage_of(outline(), "frame"))
    assert [learn for earnest, learn in calls if earnest] == [False, False, True, True]
    low, high = rating.fixed_factor
    assert high / low == pytest.approx(2 * 1.4 / 0.6)
    low, high = rating.learning_factor
    assert high / low == pytest.approx(4 / 3 * 1.4 / 0.6)


def test_factors_of_learning_and_of_all_else() -> None:
    machine = replace(MACHINES["a100"], call=0.0, bandwidth=1.0)
    second = Work({Operation("none", 0, 1): 1.0})
    rating = Rating(machine, "", learning_factor=(2.0, 4.0), fixed_factor=(1.0, 10.0))
    assert rating.block(BlockWork(second, second)) == (3.0, 14.0)
    assert rating.fixed(second) == (1.0, 10.0)


def test_counting_leaves_no_trace() -> None:
    count_around(outline("w8a8", find_recipe("rtn"), ("dpt",)))
    assert torch.zeros(1).device.type == "cpu"
    with torch.autocast("cpu", enabled=False):
        assert torch.ones(2).sum() == 2


def test_a_span_has_one_unit() -> None:
    assert span((0.5, 100)) == "0.5 to 100.0 s"
    assert span((60, 600)) == "1.0 to 10.0 min"
    assert span((3600, 36000)) == "1.0 to 10.0 h"
