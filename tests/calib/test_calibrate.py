"""Block-wise calibration on a small model: streams, shapes, folding, determinism, what learning buys."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from small_network import SIZE, small_batches, small_images, small_model

from qvggt.calib import reconstruct, stream
from qvggt.calib.calibrate import calibrate_
from qvggt.calib.half import half_attention
from qvggt.calib.learnable import LearnableLinear
from qvggt.calib.recipe import RECIPES, Recipe, find_recipe
from qvggt.calib.reconstruct import token_weights
from qvggt.calib.stream import Stream, TokenStore
from qvggt.errors import QvggtError
from qvggt.formats.table import find_format
from qvggt.models.block import Block
from qvggt.models.family import family_of
from qvggt.models.folded import applied_fold
from qvggt.models.vggt.network import VGGT
from qvggt.quant.checkpoint import Provenance, load_calibrated, save_calibrated
from qvggt.quant.model import quantized_linears
from qvggt.quant.scheme import Scheme, parse_scheme
from qvggt.quant.transform import TransformSpec


@pytest.fixture(scope="module")
def batches() -> list[torch.Tensor]:
    return small_batches(2, 3, 2, 3)


def run(recipe: Recipe, batches: list[torch.Tensor], bits: str = "w4a4", act: str = "dynamic", seed: int = 0) -> VGGT:
    model = small_model(seed=1)
    calibrate_(model, parse_scheme(bits, act), recipe, batches, seed, progress=False)
    return model


def distance(model: VGGT, images: torch.Tensor) -> float:
    """Relative error of the aggregator's last round."""
    with torch.no_grad():
        wanted = small_model(seed=1)(images)["depth"].log()
        return float((model(images)["depth"].log() - wanted).norm() / wanted.norm())


def test_streams_reproduce_the_network(batches: list[torch.Tensor]) -> None:
    model = small_model(seed=1)
    stream = Stream.start(model, batches, budget=0)
    for stage in family_of(model).stages(model.config):
        if stage.enters:
            stream.enter(model, stage)
        stream.advance(stage, model.get_submodule(stage.path))  # type: ignore[arg-type]
    for index, images in enumerate(batches):
        with torch.no_grad():
            expected = model.aggregator(images[None])[3][0, :, :, 64:]
        assert torch.allclose(stream.tokens[index], expected, atol=1e-5)


def test_a_full_store_spills_and_returns_the_same_bytes() -> None:
    tensors = [torch.randn(3, 5, 7) for _ in range(6)]
    store = TokenStore(budget=3 * tensors[0].numel() * 4)
    for tensor in tensors:
        store.append(tensor)
    assert len(store.held) == 3
    assert all(torch.equal(a, b) for a, b in zip(store, tensors, strict=True))
    store.put(5, tensors[0])
    assert torch.equal(store[5], tensors[0])


def test_global_blocks_see_all_frames(batches: list[torch.Tensor]) -> None:
    model = small_model(seed=1)
    stream = Stream.start(model, batches)
    frame, everything = family_of(model).stages(model.config)[1:3]
    stream.enter(model, frame)
    tokens = 5 + (SIZE // 14) ** 2
    assert stream.batch(frame, [0]).tokens.shape == (2, tokens, 64)
    assert stream.batch(everything, [0, 2]).tokens.shape == (2, 2 * tokens, 64)
    assert stream.batch(everything, [0, 2], frame_shapes=True).tokens.shape == (4, tokens, 64)
    assert [len(group) for group in stream.groups(4, [0, 2, 1, 3])] == [2, 2]


@pytest.mark.parametrize("name", list(RECIPES))
def test_every_recipe_runs_and_is_close(name: str, batches: list[torch.Tensor]) -> None:
    recipe = find_recipe(name)
    recipe = recipe.replace(epochs=min(recipe.epochs, 1))
    model = run(recipe, batches, "w8a8")
    assert sum(1 for _ in quantized_linears(model)) == 36
    assert distance(model, batches[1]) < 0.02
    online = [m.transform is not None and m.transform.rotation is not None for _, m in quantized_linears(model)]
    assert sum(online) == {"rtn": 0, "smoothquant": 0, "quarot": 9, "quantvggt": 36, "qvggt": 0}[name]
    assert (applied_fold(model) is not None) == (name in ("quarot", "qvggt"))


def test_weights_alone_take_nothing_online_but_branches(batches: list[torch.Tensor]) -> None:
    ours = run(find_recipe("qvggt"), batches, "w4a16")
    specs = {m.transform.spec for _, m in quantized_linears(ours) if m.transform}
    assert specs <= {TransformSpec(rank=8, whole=True)}  # all else folds, constants into the bias
    nearest = run(find_recipe("rtn"), batches, "w4a16")
    held_out = small_images(2, seed=9)
    assert distance(ours, held_out) < 0.9 * distance(nearest, held_out)


@pytest.mark.parametrize(("name", "share"), [("nvfp4", 0.95), ("fp8-static", 1.1)])
def test_floating_point_is_calibrated_saved_and_loaded(
    name: str, share: float, tmp_path: Path, batches: list[torch.Tensor]
) -> None:
    bits, _, act = name.partition("-")
    scheme = parse_scheme(bits, act or "dynamic")
    model = run(find_recipe("qvggt"), batches[:2], bits, act or "dynamic")
    held_out = small_images(2, seed=9)
    nearest = run(find_recipe("rtn"), batches[:2], bits, act or "dynamic")
    assert distance(model, held_out) < share * distance(nearest, held_out)
    for _, linear in quantized_linears(model):
        transform = linear.transform
        assert transform is None or (transform.rotation, transform.scale) == (None, None)  # all of it folds
    save_calibrated(tmp_path / "c", model, scheme, Provenance())
    loaded = load_calibrated(tmp_path / "c").model
    with torch.no_grad():
        assert torch.equal(loaded(held_out)["depth"], model(held_out)["depth"])


def test_the_constant_of_weights_alone_passes_unrounded() -> None:
    torch.manual_seed(0)
    linear, constant = torch.nn.Linear(64, 8), torch.randn(64) + 3
    learnable = LearnableLinear(linear, find_format("w4a16b32"))  # type: ignore[arg-type]
    learnable.start_scale(torch.rand(64) + 0.5, 0.5)
    learnable.start_shift(constant)
    with torch.no_grad():
        wanted, got = linear(constant), learnable.finish()(constant)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("act", "share"), [("dynamic", 0.9), ("static", 0.8)])
def test_ours_beats_rounding_to_nearest(act: str, share: float, batches: list[torch.Tensor]) -> None:
    ours = run(find_recipe("qvggt"), batches, "w4a4", act)
    nearest = run(find_recipe("rtn"), batches, "w4a4", act)
    held_out = small_images(2, seed=9)
    assert distance(ours, held_out) < share * distance(nearest, held_out)


def test_learning_lowers_every_blocks_error(batches: list[torch.Tensor]) -> None:
    model = small_model(seed=1)
    recipe = find_recipe("qvggt").replace(epochs=6, rounding="rtn")
    reports = calibrate_(model, parse_scheme("w4a4"), recipe, batches, progress=False)
    assert len(reports) == 9
    assert all(r.learned < r.start for r in reports.values())
    assert all(r.final == pytest.approx(r.learned, rel=0.02) for r in reports.values())


def test_a_step_in_pieces_learns_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sequences one by one, as at the 1B scale, against all together: the same gradients up to float sums."""
    batches = small_batches(2, 2, 2, seed=3)
    recipe = find_recipe("qvggt").replace(epochs=2, rounding="rtn", batch=3)
    learned: list[reconstruct.BlockReport] = []
    real, gradients = torch.optim.AdamW.step, list[torch.Tensor]()

    def step(self: torch.optim.AdamW) -> None:
        gradients.extend(p.grad.flatten() for g in self.param_groups for p in g["params"] if p.grad is not None)
        real(self)

    def first_step() -> torch.Tensor:
        gradients.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.optim.AdamW, "step", step)
            report = calibrate_(small_model(seed=1), parse_scheme("w4a4"), recipe, batches, progress=False)
        learned.append(report["aggregator.patch_embed.blocks.0"])  # the first: later ones see other roundings
        return torch.cat(gradients[:8])  # of the first block's first step

    whole = first_step()
    monkeypatch.setattr(stream, "STEP_TOKENS", 1)
    pieces = first_step()
    assert (pieces - whole).norm() < 1e-3 * whole.norm()
    assert learned[1].learned == pytest.approx(learned[0].learned, rel=0.01)
    assert learned[1].learned < 0.98 * learned[1].start


@pytest.mark.parametrize("view", ["frame", "global"])
def test_a_sequence_in_pieces_gives_the_same_gradients(view: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames apart where they are, else recomputed, with linears that treat types of tokens apart; and the passes."""
    model, family = small_model(seed=1), family_of(small_model())
    stage = next(s for s in family.stages(model.config) if s.path == f"aggregator.{view}_blocks.0")
    tokens = Stream(TokenStore(), [], [])
    generator = torch.Generator().manual_seed(0)
    tokens.append(torch.randn(5, 21, 64, generator=generator), family.positions(model.config, SIZE, SIZE))
    block = model.get_submodule(stage.path)
    assert isinstance(block, Block)
    goals, recipe = tokens.through(stage, block), find_recipe("qvggt")
    for name in ("attn.qkv", "mlp.fc2"):
        linear = block.get_submodule(name)
        learnable = LearnableLinear(linear, find_format("w4a4"))  # type: ignore[arg-type]
        learnable.start_center(torch.randn(stage.layout.types, linear.in_features, generator=generator))
        block.set_submodule(name, learnable)

    def gradients() -> torch.Tensor:
        block.requires_grad_(True).zero_grad()
        for loss in reconstruct._losses(block, stage, [0], goals, tokens, recipe):
            loss.backward()
        return torch.cat([p.grad.flatten() for p in block.parameters() if p.grad is not None])

    def seen() -> dict[str, torch.Tensor]:
        return tokens.type_means(stage, block, ["attn.proj", "mlp.fc1"])

    whole, out, means = gradients(), tokens.through(stage, block).tokens[0], seen()
    monkeypatch.setattr(stream, "STEP_TOKENS", 2 * 21 + 1)  # 2, 2 and 1 frames
    runs = list[int]()
    block.mlp.register_forward_hook(lambda *_: runs.append(1))
    pieces = gradients()
    assert len(runs) == (3 if view == "frame" else 6)  # the latter once more for the gradients
    assert whole.abs().max() > 0
    torch.testing.assert_close(pieces, whole, atol=1e-5 * float(whole.abs().max()), rtol=1e-3)
    torch.testing.assert_close(tokens.through(stage, block).tokens[0], out, atol=1e-5, rtol=1e-5)
    for name, mean in seen().items():
        torch.testing.assert_close(mean, means[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("tokens", [8192, 2 * 21 + 1, 1])
def test_what_no_reader_sees_does_not_run(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one piece or in several, short sequences together or one by one: all rows are seen, nothing behind runs."""
    model, family = small_model(seed=1), family_of(small_model())
    generator, source = torch.Generator().manual_seed(0), Stream(TokenStore(), [], [])
    for frames in (2, 2, 5):
        source.append(torch.randn(frames, 21, 64, generator=generator), family.positions(model.config, SIZE, SIZE))
    monkeypatch.setattr(stream, "STEP_TOKENS", tokens)
    for view in ("frame", "global"):
        stage = next(s for s in family.stages(model.config) if s.path == f"aggregator.{view}_blocks.0")
        block = model.get_submodule(stage.path)
        assert isinstance(block, Block)
        ran, rows = list[str](), dict[str, int]()

        def count(name: str, x: torch.Tensor, types: torch.Tensor, rows: dict[str, int] = rows) -> None:
            assert x.shape[:-1] == types.shape
            rows[name] = rows.get(name, 0) + types.numel()

        handles = [m.register_forward_hook(lambda *_, ran=ran: ran.append("late")) for m in (block.mlp.fc1, block.ls1)]
        source.visit(stage, block, {name: partial(count, name) for name in ("attn.proj", "attn.qkv")})
        assert rows == {"attn.qkv": 9 * 21, "attn.proj": 9 * 21}
        assert not ran
        assert len(source.through(stage, block).tokens) == 3
        assert ran
        for handle in handles:
            handle.remove()


def test_bf16_attention_returns_what_it_was_given() -> None:
    q = torch.randn(1, 2, 5, 8, generator=torch.Generator().manual_seed(0))
    exactly = torch.nn.functional.scaled_dot_product_attention(q, q, q)
    with half_attention(True):
        rounded = torch.nn.functional.scaled_dot_product_attention(q, q, q)
    assert rounded.dtype == torch.float32
    assert 1e-4 < float((rounded - exactly).abs().max()) < 0.1


@pytest.mark.slow
def test_bf16_costs_little(batches: list[torch.Tensor]) -> None:
    """On the mean of three calibrations: other codes of one alone move it by a third either way."""
    held_out, found = small_images(4, seed=9), {True: 0.0, False: 0.0}
    for seed, bf16 in itertools.product(range(3), found):
        model = run(find_recipe("qvggt").replace(epochs=1, bf16=bf16), batches, seed=seed)
        found[bf16] += distance(model, held_out)
    assert found[True] != found[False]
    assert found[True] < 1.1 * found[False]


def test_stores_share_their_budget() -> None:
    tensor = torch.randn(3, 5, 7)
    first = TokenStore(budget=3 * tensor.nbytes)
    second = first.beside()
    for store in (first, second, second, first):
        store.append(tensor)
    assert [sorted(store.held) for store in (first, second)] == [[0], [0, 1]]
    second.clear()
    assert len(second) == 0
    first.put(1, tensor)
    assert sorted(first.held) == [0, 1]


def test_ours_does_not_learn(batches: list[torch.Tensor]) -> None:
    reports = calibrate_(small_model(seed=1), parse_scheme("w4a4"), find_recipe("qvggt"), batches, progress=False)
    assert all(report.learned == report.start for report in reports.values())


def test_deterministic_for_a_seed(batches: list[torch.Tensor]) -> None:
    recipe = find_recipe("qvggt").replace(epochs=1)
    first, second, other = (run(recipe, batches[:2], seed=seed) for seed in (0, 0, 1))
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert any(
        not torch.equal(a, b) for a, b in zip(first.state_dict().values(), other.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("act", ["dynamic", "static"])
@pytest.mark.parametrize("changes", [{}, {"value_rotation": True, "smooth": True}], ids=["default", "more folds"])
def test_variants_are_exact_but_for_rounding(changes: dict[str, Any], act: str, batches: list[torch.Tensor]) -> None:
    """At 8 bits every change of basis and every center leaves the network what it was."""
    recipe = find_recipe("qvggt").replace(**changes)
    assert distance(run(recipe, batches, "w8a8", act), batches[0]) < 0.01


def test_centers_follow_the_types(batches: list[torch.Tensor]) -> None:
    model = run(find_recipe("qvggt"), batches)
    special = model.config.patch_start
    for path, module in quantized_linears(model):
        assert module.types == (special + 1 if "patch_embed" in path else 2 * special + 1)
        assert module.bias is None


def test_special_tokens_weigh_what_they_are_given() -> None:
    types = torch.tensor([[0, 1, 2, 2, 2, 2, 2, 2]])
    weights = token_weights(types, 4.0)
    assert float(weights[types < 2].sum() / weights[types == 2].sum()) == pytest.approx(4)
    assert float(weights.mean()) == pytest.approx(1)
    assert (token_weights(types, 0.0) == 1).all()


def test_unknown_recipe_names_the_known() -> None:
    with pytest.raises(QvggtError, match="rtn, smoothquant, quarot, quantvggt, qvggt"):
        find_recipe("none")


def test_activation_modes_can_differ_within_a_block(batches: list[torch.Tensor]) -> None:
    model, scheme = small_model(seed=1), Scheme("w4a4", overrides=(("aggregator.*.mlp.fc1", "w8a8-static"),))
    calibrate_(model, scheme, find_recipe("qvggt"), batches, progress=False)
    linears = dict(quantized_linears(model))
    for path, linear in linears.items():
        static = path.endswith("fc1")
        assert linear.format.name == ("w8a8-static" if static else "w4a4-dynamic")
        assert (float(linear.act_amax) != 1) if static else (linear.act_clip < 1).all()
    assert len(linears) == 4 * 9
    assert distance(model, batches[0]) < 0.3
