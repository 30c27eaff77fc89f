"""Directions that pass the grids by: where inputs and weights have their energy, exact, and taken where they pay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_network import small_batches, small_model
from torch import Tensor, nn

from qvggt.calib.block_journal import BlockJournal
from qvggt.calib.branch import branch_basis, leave_whole_
from qvggt.calib.calibrate import calibrate_, report_table
from qvggt.calib.learnable import LearnableLinear
from qvggt.calib.recipe import find_recipe
from qvggt.calib.steps import WORTH_DB, Steps, choose_steps
from qvggt.calib.stream import Stream
from qvggt.export.emulation import open_segment
from qvggt.export.graph import GraphBuilder
from qvggt.export.linear import emit_linear
from qvggt.export.precision import Precision
from qvggt.formats.grid import IntegerGrid
from qvggt.formats.linear_format import LinearFormat
from qvggt.formats.table import find_format
from qvggt.models.block import Block
from qvggt.models.family import LINEARS, family_of
from qvggt.quant.checkpoint import Provenance, load_calibrated, save_calibrated
from qvggt.quant.kronecker import KroneckerHadamard
from qvggt.quant.model import quantized_linears
from qvggt.quant.scheme import parse_scheme
from qvggt.rotation.cost import branch_cost
from qvggt.target import Target

pytestmark = pytest.mark.usefixtures("one_thread")

BRANCHED = find_recipe("qvggt").replace(rounding="rtn", branch=4)


def planted(seed: int = 0) -> tuple[nn.Linear, Tensor]:
    """A linear 96 -> 40 and inputs [400, 96] with nine tenths of their energy in 6 directions."""
    generator = torch.Generator().manual_seed(seed)
    linear = nn.Linear(96, 40)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(40, 96, generator=generator))
        linear.bias.copy_(torch.randn(40, generator=generator))
    few = torch.randn(400, 6, generator=generator) @ torch.randn(6, 96, generator=generator)
    return linear, few + 0.8 * torch.randn(400, 96, generator=generator)


def rests(basis: Tensor, x: Tensor, weight: Tensor) -> float:
    """tr(P C) tr(P O), what the basis is to make least."""
    return float((x - x @ basis @ basis.T).square().sum() * (weight - weight @ basis @ basis.T).square().sum())


@torch.no_grad()
def test_the_basis_is_where_the_energy_is() -> None:
    """Of inputs and of the weight, whose strong directions are others, both in proportion to what is left of them."""
    linear, x = planted()
    generator = torch.Generator().manual_seed(1)
    strong = torch.randn(40, 4, generator=generator) @ torch.randn(4, 96, generator=generator)
    weight = 0.05 * (linear.weight + 3 * strong)
    basis = branch_basis(x, weight, 8, seed=0)
    assert torch.allclose(basis.T @ basis, torch.eye(8), atol=1e-5)
    assert torch.equal(basis, branch_basis(x, weight, 8, seed=0))
    second = [(m.T @ m).double() for m in (x, weight)]
    best = torch.eye(96, dtype=torch.float64)[:, :8]
    for _ in range(50):
        rest = [c.trace() - (best.T @ c @ best).trace() for c in second]
        best = torch.linalg.eigh(sum(c / r for c, r in zip(second, rest, strict=True)))[1][:, -8:]
    assert rests(basis, x, weight) == pytest.approx(rests(best.float(), x, weight), rel=0.01)
    for others in (x, weight, torch.cat([x, weight])):  # those of one side alone, or of both as large as they are
        assert rests(basis, x, weight) < 0.9 * rests(torch.linalg.svd(others)[2][:8].T, x, weight)


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize(
    ("bits", "activation"), [("w4a4", "dynamic"), ("w4a4", "static"), ("w4a16", "dynamic"), ("nvfp4", "dynamic")]
)
@torch.no_grad()
def test_it_is_exact_and_finishes_as_what_it_was(
    bits: str, activation: str, rotated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    linear, x = planted()
    format = find_format(bits, activation)  # type: ignore[arg-type]
    assert isinstance(format, LinearFormat)
    learnable = LearnableLinear(linear, format, KroneckerHadamard(96, 3) if rotated else None)
    learnable.start_shift(x.mean(0))
    rows = learnable.centered(x)
    learnable.start_scale(rows.abs().amax(0), 0.5)
    learnable.start_branch(rows, 6, seed=0)
    learnable.start_at_extremes(rows, 1 - 1e-7)
    factor = torch.rand(40, generator=torch.Generator().manual_seed(2)) + 0.5
    final = learnable.finish(folded=True, row_scale=factor)
    assert final.transform is not None
    assert final.transform.spec.rank == 6
    # folded: tokens arrive without the constant, divided by s, which here comes before an online rotation
    arriving = x if format.activation is None else rows
    if not rotated:
        arriving = arriving / learnable.log_scale.exp()
        assert torch.allclose(final(arriving), learnable(x) * factor, atol=1e-3)
    if bits != "nvfp4":
        monkeypatch.setattr(IntegerGrid, "round", lambda grid, x, s, _=False: (x / s).clamp(grid.lowest, grid.highest))
        assert torch.allclose(learnable(x), linear(x), atol=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@torch.no_grad()
def test_floats_are_multiplied_whole(precision: str) -> None:
    """Exact, once, in the module and in a file, which takes nothing off its input; where that has a grid, it does."""
    linear, x = planted()
    for bits in ("w4a16b32", "w4a8-static"):
        learnable = LearnableLinear(linear, find_format(bits))  # type: ignore[arg-type]
        learnable.start_branch(x, 6, seed=0)
        learnable.start_at_extremes(x, 1 - 1e-7)
        final = learnable.finish()
        before, apart = final(x), final.branch
        leave_whole_(nn.Sequential(final))
        leave_whole_(nn.Sequential(final))
        assert final.transform is not None
        assert final.transform.spec.whole == (bits == "w4a16b32") == (final.branch is not apart)
        assert torch.allclose(final(x), before, atol=1e-4)
        builder = GraphBuilder(precision=Precision(precision))
        tokens = builder.cast(builder.input("x", [1, "rows", 96]), Precision(precision), "in")
        y = emit_linear(builder, "aggregator.frame_blocks.0.attn.qkv", final, tokens, Target.CPU)
        builder.output(builder.cast(y, Precision.FP32, "out"), "y", [1, "rows", 40])
        model = builder.model("linear", {}, "test")
        assert ("Sub" in {node.op_type for node in model.graph.node}) == (bits != "w4a16b32")
        error = torch.from_numpy(open_segment(model)({"x": x[None].numpy()})[0]) - before
        assert error.square().mean() < (1e-8 if precision == "fp32" else 1e-4) * before.square().mean(), bits


@torch.no_grad()
def test_less_is_left_to_round() -> None:
    linear, x = planted()
    errors = []
    for rank in (0, 6):
        learnable = LearnableLinear(linear, find_format("w4a4-dynamic"))  # type: ignore[arg-type]
        if rank:
            learnable.start_branch(x, rank, seed=0)
        learnable.search_weight_clips()
        learnable.search_act_clip(x)
        errors.append(float((learnable.finish()(x) - linear(x)).square().sum()))
    assert errors[1] < 0.2 * errors[0]  # 7 dB


def steps_of(change: Callable[[Block], None] | None = None, bits: str = "w4a4-dynamic") -> dict[str, Steps]:
    model = small_model(seed=1)
    stream = Stream.start(model, small_batches(2, 3))
    stage = next(s for s in family_of(model).stages(model.config) if "frame_blocks" in s.path)
    stream.enter(model, stage)
    block = model.get_submodule(stage.path)
    assert isinstance(block, Block)
    if change is not None:
        with torch.no_grad():
            change(block)
    format = find_format(bits)
    assert isinstance(format, LinearFormat)
    return choose_steps(block, stage, dict.fromkeys(LINEARS, format), stream, BRANCHED, seed=0)[0]


def test_it_is_taken_where_it_pays() -> None:
    """Eight bits reach enough without; a weight that reads few directions has all of its product in the branch."""
    assert not any(steps.rank for steps in steps_of(bits="w8a8-dynamic").values())
    plain = steps_of()

    def narrow(block: Block) -> None:
        left, right = torch.randn(2, 256, 4, generator=torch.Generator().manual_seed(0))
        weight = block.mlp.fc1.weight
        weight.copy_(left[: weight.shape[0]] @ right[: weight.shape[1]].T)

    few = steps_of(narrow)
    assert few["mlp.fc1"].rank == round(64 / 16)
    assert few["mlp.fc1"].db is not None
    assert plain["mlp.fc1"].db is not None
    assert few["mlp.fc1"].db > plain["mlp.fc1"].db + 10
    format = find_format("w4a4-dynamic")
    assert isinstance(format, LinearFormat)
    one = Steps(rank=4).additions("mlp.fc1", format, 64, 256) - Steps().additions("mlp.fc1", format, 64, 256)
    assert one == 4 * (2 * 64 + 256) / (64 * 256)
    assert WORTH_DB * one > 1  # so that a gain of 1 dB would not have been enough here


def test_a_checkpoint_and_a_journal_bring_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qvggt.calib.steps.WORTH_DB", -100.0)
    model, batches, scheme = small_model(seed=1), small_batches(1, 2), parse_scheme("w4a4", parts=("aggregator",))
    reports = calibrate_(model, scheme, BRANCHED, batches, progress=False)
    ranks = {path: linear.transform.spec.rank for path, linear in quantized_linears(model) if linear.transform}
    assert len(ranks) == len(list(quantized_linears(model)))
    assert set(ranks.values()) == {4}
    assert all(row["rank"] == 4 for row in report_table(reports, model).values() if "rank" in row)
    assert str(branch_cost(model)).startswith(
        f"{len(ranks)} of {len(ranks)} linears have a branch of rank 4 in floating"
    )
    assert branch_cost(small_model()) is None
    save_calibrated(tmp_path / "c", model, scheme, Provenance())
    loaded = load_calibrated(tmp_path / "c").model
    with torch.no_grad():
        assert torch.equal(loaded(batches[0])["depth"], model(batches[0])["depth"])
    journal, (path, report) = BlockJournal(tmp_path / "j", {}), next(iter(reports.items()))
    block = model.get_submodule(path)
    assert isinstance(block, Block)
    journal.save(path, block, report)
    formats = {name: scheme.format(f"{path}.{name}") for name in LINEARS}
    fresh = small_model(seed=1).get_submodule(path)
    assert isinstance(fresh, Block)
    fresh.ls1, fresh.ls2 = nn.Identity(), nn.Identity()  # folded
    back = journal.load(path, fresh, formats)  # type: ignore[arg-type]
    assert back is not None
    assert back[0].state_dict().keys() == block.state_dict().keys()
