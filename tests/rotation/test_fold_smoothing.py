"""Smoothing scales fold without changing a block."""

from __future__ import annotations

import pytest
import torch
from reference_weights import fill

from qvggt.models.block import Block
from qvggt.rotation import fold_smoothing_

DIM, HEADS, RATIO = 24, 2, 3


@pytest.fixture
def block() -> Block:
    module = Block(DIM, HEADS, RATIO, 0.1, qk_norm=True)
    fill(module, "smoothed.")
    return module.double()


def scale(width: int, seed: int) -> torch.Tensor:
    return torch.exp(torch.randn(width, generator=torch.Generator().manual_seed(seed)).double())


def tokens() -> torch.Tensor:
    return torch.randn(2, 5, DIM, generator=torch.Generator().manual_seed(9)).double()


def inputs_of(block: Block, path: str, x: torch.Tensor) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    handle = block.get_submodule(path).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    block(x)
    handle.remove()
    return seen[0]


PATHS = {"s_qkv": "attn.qkv", "s_proj": "attn.proj", "s_fc1": "mlp.fc1"}


@pytest.mark.parametrize("names", [("s_qkv",), ("s_proj",), ("s_fc1",), ("s_qkv", "s_proj", "s_fc1"), ()])
def test_output_stays_and_inputs_are_divided(block: Block, names: tuple[str, ...]) -> None:
    x, scales = tokens(), {name: scale(DIM, i) for i, name in enumerate(names)}
    expected = block(x)
    before = {name: inputs_of(block, path, x) for name, path in PATHS.items()}
    weights = {name: block.get_submodule(path).weight.clone() for name, path in PATHS.items()}
    fold_smoothing_(block, **scales)
    torch.testing.assert_close(block(x), expected, atol=1e-12, rtol=0)
    for name, path in PATHS.items():
        s = scales.get(name, torch.ones(DIM).double())
        torch.testing.assert_close(inputs_of(block, path, x), before[name] / s, atol=1e-12, rtol=0)
        rows = slice(0, 2 * DIM) if name == "s_qkv" else slice(None)  # the v rows also carry proj's scale
        torch.testing.assert_close(block.get_submodule(path).weight[rows], (weights[name] * s)[rows])


def test_the_reciprocal_undoes_it(block: Block) -> None:
    kept = {k: v.clone() for k, v in block.state_dict().items()}
    s = [scale(DIM, i) for i in range(3)]
    fold_smoothing_(block, *s)
    fold_smoothing_(block, *(1 / v for v in s))
    for key, value in block.state_dict().items():
        torch.testing.assert_close(value, kept[key], atol=1e-14, rtol=1e-13)


def test_types_are_kept(block: Block) -> None:
    block.float()
    fold_smoothing_(block, scale(DIM, 0).float(), scale(DIM, 1), scale(DIM, 2))
    assert {p.dtype for p in block.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("s", "words"),
    [
        (torch.ones(DIM + 1), r"shape \[25\], expected \[24\]"),
        (torch.zeros(DIM), "not positive and finite"),
        (-torch.ones(DIM), "not positive and finite"),
        (torch.tensor([1.0] * (DIM - 1) + [-1e-3]), "not positive and finite"),
        (torch.tensor([1.0] * (DIM - 1) + [torch.nan]), "not positive and finite"),
        (torch.full((DIM,), torch.inf), "not positive and finite"),
    ],
)
def test_bad_scales(block: Block, s: torch.Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fold_smoothing_(block, s_proj=s)
