"""Kinds of tokens: what the quantizers may treat apart."""

from __future__ import annotations

import pytest
import torch
from small_network import SIZE, small_model

from qvggt.calib.stream import Stage, Stream, kinds_of
from qvggt.models.token_types import aggregator_kinds, encoder_kinds


def test_special_tokens_have_a_kind_each() -> None:
    assert encoder_kinds(6, 3).tolist() == [0, 1, 2, 3, 3, 3]
    assert aggregator_kinds(3, 5, 2).tolist() == [[0, 1, 4, 4, 4], [2, 3, 4, 4, 4], [2, 3, 4, 4, 4]]
    assert aggregator_kinds(1, 3, 2).tolist() == [[0, 1, 4]]


@pytest.mark.parametrize("batch", [1, 2])
def test_every_block_is_told(batch: int) -> None:
    """Kinds reach each linear with its tokens: rows of one kind are equal tokens before the first round."""
    model = small_model(seed=0)
    special = model.config.patch_start
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def keep(path: str, inputs: tuple[torch.Tensor, ...]) -> None:
        seen[path] = inputs[0], inputs[2]

    paths = ["aggregator.patch_embed.blocks.0", "aggregator.frame_blocks.0", "aggregator.global_blocks.0"]
    for path in paths:
        model.get_submodule(path).register_forward_pre_hook(lambda _m, i, path=path: keep(path, i))
    with torch.no_grad():
        model(torch.rand(batch, 3, 3, SIZE, SIZE))
    for path in paths:
        x, kinds = seen[path]
        assert kinds.expand(x.shape[:2]).shape == x.shape[:2]
    x, kinds = seen["aggregator.frame_blocks.0"]
    assert kinds.shape == (batch * 3, x.shape[1])
    assert kinds[::3].max() == kinds.max() == 2 * special
    for kind in range(2 * special):
        rows = x[kinds == kind]
        assert len(rows) == (batch if kind < special else 2 * batch)
        assert (rows == rows[0]).all(), "special tokens enter the aggregator as constants of their kind"
    assert torch.equal(seen["aggregator.global_blocks.0"][1], kinds.view(batch, -1))


def test_the_stream_gives_the_kinds_of_the_model() -> None:
    model = small_model(seed=0)
    special = model.config.patch_start
    stream = Stream.start(model, [torch.rand(3, 3, SIZE, SIZE) for _ in range(2)])
    stage = Stage("aggregator.patch_embed.blocks.0", "dino")
    tokens, _, kinds = stream.batch(stage, [0, 1])
    assert torch.equal(kinds, encoder_kinds(tokens.shape[1], special).expand(6, -1))
    assert kinds_of(stage, special) == special + 1
    stream.enter_aggregator(model)
    tokens, _, kinds = stream.batch(Stage("aggregator.global_blocks.0", "global"), [0, 1])
    one = aggregator_kinds(3, tokens.shape[1] // 3, special)
    assert torch.equal(kinds, torch.stack([one.flatten()] * 2))
    assert kinds_of(Stage("aggregator.global_blocks.0", "global"), special) == 2 * special + 1
