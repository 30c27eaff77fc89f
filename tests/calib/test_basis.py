"""The basis found for the readers of a stream: exact, and less noisy than the one the network came in."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_network import small_batches, small_model

from qvggt.calib.basis import balanced_rotation, noise, reader_moments, stream_bases
from qvggt.calib.plan import count_around
from qvggt.calib.recipe import find_recipe
from qvggt.calib.stream import Stream
from qvggt.formats.table import find_format
from qvggt.models.block import Block
from qvggt.models.family import family_of
from qvggt.quant.hadamard import check_residual_rotation
from qvggt.rotation.fold import fold_

RECIPE = find_recipe("qvggt", find_format("nvfp4"))


def readers(seed: int = 0, width: int = 32) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs that lie in few directions, and weights that read others."""
    generator = torch.Generator().manual_seed(seed)

    def moments() -> torch.Tensor:
        mix = torch.randn(width, width, generator=generator).double() * torch.logspace(0, -2, width).double()
        return mix @ mix.T

    return [(moments(), moments()) for _ in range(2)]


@pytest.mark.parametrize("group", [1, 16])
def test_a_balanced_basis_is_less_noisy_than_any_of_chance(group: int) -> None:
    given = readers()
    q = balanced_rotation(given, group)
    check_residual_rotation(q)
    inputs, weights = (torch.stack(side) for side in zip(*given, strict=True))
    found = noise(inputs, weights, q, group)
    assert found < noise(inputs, weights, torch.eye(32, dtype=torch.float64), group) - 0.3
    for seed in range(3):
        turned, _ = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(seed)).double())
        assert found < noise(inputs, weights, turned, group) - 0.3
    assert torch.equal(q, balanced_rotation(given, group))


def test_noise_is_that_of_a_block_grid() -> None:
    """Against rounding in earnest: the basis said to be less noisy is, by as much as it says, within 1.5 dB."""
    from qvggt.formats.linear_format import LinearFormat

    format = find_format("nvfp4")
    assert isinstance(format, LinearFormat)
    assert format.activation is not None
    (c, o), generator = readers()[0], torch.Generator().manual_seed(3)
    x = torch.randn(2000, 32, generator=generator).double() @ torch.linalg.cholesky(c).T
    w = torch.linalg.cholesky(o).T  # w^T w = o
    powers = []
    q = balanced_rotation([(c, o)], 16)
    for basis in (torch.eye(32, dtype=torch.float64), q):
        turned, weight = x @ basis, w @ basis
        scale = (turned.square().mean(0) / weight.square().mean(0)) ** 0.25
        smooth = (turned / scale).float()
        error = format.activation.quantize_blocks(smooth, smooth.abs().amax() * 8) - smooth
        powers.append(float((error.double() @ (weight * scale).T).square().sum()))
    said = [float(noise(c[None], o[None], basis, 16)) for basis in (torch.eye(32, dtype=torch.float64), q)]
    gained = 10 * torch.log10(torch.tensor(powers[0] / powers[1])).item()
    assert gained > 1
    assert gained == pytest.approx(4.343 * (said[0] - said[1]), abs=1.5)


def test_moments_are_of_what_the_readers_see() -> None:
    model, batches = small_model(seed=1), small_batches(2, 3)
    stages = family_of(model).stages(model.config)
    first = next(s for s in stages if s.stream == stages[0].stream)
    recipe = RECIPE.replace(center="none", special_weight=0.0)
    inputs, weight = reader_moments(model, recipe, Stream.start(model, batches))[first.stream][0]
    tokens = [family_of(model).embed(model, images) for images in batches]
    rows = torch.cat([torch.nn.functional.layer_norm(t, t.shape[-1:]).flatten(0, -2) for t in tokens]).double()
    torch.testing.assert_close(inputs, rows.T @ rows, rtol=1e-4, atol=1e-2)
    block = model.get_submodule(first.path)
    assert isinstance(block, Block)
    read = (block.attn.qkv.weight * block.norm1.weight).double()
    torch.testing.assert_close(weight, read.T @ read)
    centered = reader_moments(model, RECIPE.replace(special_weight=0.0), Stream.start(model, batches))
    assert float(centered[first.stream][0][0].trace()) < 0.99 * float(inputs.trace())


def test_the_network_in_its_bases_is_the_same_network() -> None:
    model, images = small_model(seed=1), small_batches(2)[0]
    wanted = model(images)["depth"]
    bases = stream_bases(model, RECIPE, small_batches(2, 3), 16, 1 << 30)
    fold_(model, rotations=bases)
    torch.testing.assert_close(model(images)["depth"], wanted, rtol=1e-4, atol=1e-4)


def test_the_plan_counts_the_search() -> None:
    from test_plan import outline

    asked = replace(outline("nvfp4", RECIPE), sequences=2)
    around = count_around(asked)
    assert around["basis"].flops > 1e7
    assert around["moments for the basis"].flops > around["embedding"].flops
    assert "basis" not in count_around(replace(asked, recipe=RECIPE.replace(rotation="folded")))
