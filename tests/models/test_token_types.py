"""Types of tokens: what the quantizers may treat apart, and how they get to know."""

from __future__ import annotations

import copy
import threading
from pathlib import Path

import pytest
import torch
from small_network import SIZE, small_model

from qvggt.calib.calibrate import calibrate_
from qvggt.calib.recipe import find_recipe
from qvggt.calib.stream import Stream
from qvggt.models.family import TokenLayout, family_of
from qvggt.models.token_types import current_types, frame_types, sequence_types, tell_token_types_, token_types
from qvggt.models.vggt.network import VGGT
from qvggt.quant.checkpoint import Provenance, load_calibrated, save_calibrated
from qvggt.quant.model import quantized_linears
from qvggt.quant.scheme import parse_scheme

STAGES = (0, 1, 2)  # of the small model: the patch encoder's block, the first frame block, the first global one
PATHS = ("aggregator.patch_embed.blocks.0", "aggregator.frame_blocks.0", "aggregator.global_blocks.0")


def images(frames: int, *batch: int, side: int = SIZE, seed: int = 0) -> torch.Tensor:
    return torch.rand(*batch, frames, 3, side, side, generator=torch.Generator().manual_seed(seed))


def told(model: VGGT) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Filled by passes: path -> tokens and types of what a linear in each of PATHS sees."""
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def keep(path: str) -> None:
        block = model.get_submodule(path)
        block.norm1.register_forward_pre_hook(lambda _m, i: seen.update({path: (i[0], current_types())}))

    for path in PATHS:
        keep(path)
    return seen


def test_special_tokens_have_a_type_each() -> None:
    alone, apart = TokenLayout(3), TokenLayout(2, first_apart=True)
    assert frame_types(alone, 6).tolist() == [[0, 1, 2, 3, 3, 3]]
    assert alone.types == 4
    assert sequence_types(apart, 3, 5).tolist() == [[0, 1, 4, 4, 4], [2, 3, 4, 4, 4], [2, 3, 4, 4, 4]]
    assert sequence_types(apart, 1, 3).tolist() == [[0, 1, 4]]
    assert apart.types == 5


@pytest.mark.parametrize("batch", [1, 2])
def test_every_block_is_told(batch: int) -> None:
    """Types reach each linear with its tokens: rows of one type are equal tokens before the first round."""
    model = small_model(seed=0)
    special = model.config.patch_start
    stages = family_of(model).stages(model.config)
    tell_token_types_(model, [stages[i] for i in STAGES])
    seen = told(model)
    with torch.no_grad():
        model(images(3, batch))
    for path in PATHS:
        x, types = seen[path]
        assert types.expand(x.shape[:2]).shape == x.shape[:2]
    x, types = seen["aggregator.frame_blocks.0"]
    assert types.shape == (batch * 3, x.shape[1])
    assert types[::3].max() == types.max() == 2 * special
    for kind in range(2 * special):
        rows = x[types == kind]
        assert len(rows) == (batch if kind < special else 2 * batch)
        assert (rows == rows[0]).all(), "special tokens enter the aggregator as constants of their type"
    assert torch.equal(seen["aggregator.global_blocks.0"][1], types.view(batch, -1))


def test_nobody_is_told_outside_of_a_pass() -> None:
    """Neither after a pass nor after one that failed, and no other thread."""
    model = small_model(seed=0)
    tell_token_types_(model, list(family_of(model).stages(model.config)))
    with torch.no_grad():
        model(images(2))
    with pytest.raises(ValueError, match="types"):
        current_types()
    model.aggregator.frame_blocks[1].mlp.fc1.register_forward_pre_hook(lambda _m, _i: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(images(2))
    with pytest.raises(ValueError, match="types"):
        current_types()
    failed: list[Exception] = []

    def ask() -> None:
        try:
            current_types()
        except ValueError as error:
            failed.append(error)

    with token_types(torch.zeros(1, dtype=torch.int64)):
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
    assert failed


def test_a_float_network_has_no_hook() -> None:
    model = small_model(seed=0)
    calibrate_(model, parse_scheme("w8a8"), find_recipe("smoothquant"), [images(2)], progress=False)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


@pytest.fixture(scope="module")
def centered() -> VGGT:
    """Calibrated with centers."""
    model = small_model(seed=1)
    recipe = find_recipe("qvggt").replace(center="types", constant_ranges=False)
    calibrate_(model, parse_scheme("w8a8"), recipe, [images(3, seed=s) for s in (1, 2)], progress=False)
    assert all(linear.types for _, linear in quantized_linears(model))
    return model


@torch.no_grad()
def test_any_copy_any_frames_any_size(centered: VGGT, tmp_path: Path) -> None:
    """Frame counts and sizes in turn, batches of sequences, a deep copy and a reloaded checkpoint all agree."""
    save_calibrated(tmp_path / "c", centered, parse_scheme("w8a8"), Provenance())
    models = [centered, copy.deepcopy(centered), load_calibrated(tmp_path / "c").model]
    for frames, side in ((3, SIZE), (1, SIZE), (5, SIZE), (2, SIZE + 14), (3, SIZE)):
        pair = torch.stack([images(frames, side=side, seed=s) for s in (5, 6)])
        single = [centered(sequence)["depth"] for sequence in pair]
        for model in models:
            both = model(pair)["depth"]
            for one, alone in zip(both, single, strict=True):
                # per-token grids: a batch adds its products up in another order, which may flip a rounding
                assert (one - alone[0]).norm() < 1e-3 * alone.norm()
        assert all(torch.equal(single[0], model(pair[0])["depth"]) for model in models[1:])


@torch.no_grad()
def test_a_block_alone_is_told_by_its_caller(centered: VGGT) -> None:
    """What a stream tells its blocks is what the network tells them: the same tokens at the end."""
    sequence = images(3, seed=4)
    stream = Stream.start(centered, [sequence])
    for stage in family_of(centered).stages(centered.config):
        if stage.enters:
            stream.enter(centered, stage)
        block = copy.deepcopy(centered.get_submodule(stage.path))
        stream.advance(stage, block)  # type: ignore[arg-type]
    expected = centered.aggregator(sequence[None])[3][0, :, :, 64:]
    assert torch.allclose(stream.tokens[0], expected, atol=1e-5)
    with pytest.raises(ValueError, match="types"):
        block(stream.tokens[0].view(1, -1, 64), stream.ropes[0]["grid"])


def test_the_stream_gives_the_types_of_the_model() -> None:
    model = small_model(seed=0)
    special = model.config.patch_start
    first, frame, everything = (family_of(model).stages(model.config)[i] for i in STAGES)
    stream = Stream.start(model, [torch.rand(3, 3, SIZE, SIZE) for _ in range(2)])
    batch = stream.batch(first, [0, 1])
    assert torch.equal(batch.types, frame_types(TokenLayout(special), batch.tokens.shape[1]).expand(6, -1))
    assert first.layout.types == special + 1
    stream.enter(model, frame)
    batch = stream.batch(everything, [0, 1])
    one = sequence_types(TokenLayout(special, first_apart=True), 3, batch.tokens.shape[1] // 3)
    assert torch.equal(batch.types, torch.stack([one.flatten()] * 2))
    assert torch.equal(stream.batch(everything, [0, 1], frame_shapes=True).types, one.repeat(2, 1))
    assert everything.layout.types == 2 * special + 1
