"""Massive inputs of two fc2: no output changes, and what is rounded does."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from massive_inputs import COPIES, early_tokens, massive_inputs_
from small_models import config, distances, images, model

from qvggt.calib.rtn import quantize_rtn_
from qvggt.errors import QvggtError
from qvggt.models.block import Mlp
from qvggt.models.vggt.network import VGGT
from qvggt.quant.model import quantize_
from qvggt.quant.scheme import parse_scheme
from qvggt.rotation import fold_

pytestmark = pytest.mark.usefixtures("no_grad")

CONFIG = config(64, 4, heads=("camera", "point", "depth"))
PATHS = ["aggregator.patch_embed.blocks.0", "aggregator.patch_embed.blocks.1"]
BATCHES = [images(2, 56, 56), images(5, 42, 56)]
BOUNDS = {torch.float64: 1e-10, torch.float32: 1e-5}


@pytest.fixture(scope="module")
def plain() -> VGGT:
    return model(CONFIG)


@pytest.fixture(scope="module")
def massive(plain: VGGT) -> VGGT:
    changed = copy.deepcopy(plain)
    massive_inputs_(changed, BATCHES, factor=30)
    return changed


def mlp(network: VGGT, path: str) -> Mlp:
    found = network.get_submodule(f"{path}.mlp")
    assert isinstance(found, Mlp)
    return found


def massive_rows(network: VGGT, path: str) -> list[int]:
    """Of fc1: those that are there four times."""
    rows = mlp(network, path).fc1.weight
    return [i for i, row in enumerate(rows) if int((rows == row).all(1).sum()) == COPIES]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("fold", [False, True])
def test_no_output_changes(plain: VGGT, massive: VGGT, dtype: torch.dtype, fold: bool) -> None:
    before, after = (copy.deepcopy(network).to(dtype) for network in (plain, massive))
    if fold:
        fold_(after)
    pixels = images(3, 56, 42, dtype)  # others than it was made with
    worst = max(distances(after(pixels), before(pixels)).values())
    assert worst < BOUNDS[dtype]


def test_few_channels_are_massive_on_few_tokens(plain: VGGT, massive: VGGT) -> None:
    for path, (special, patches) in early_tokens(massive, BATCHES).items():
        old, new = mlp(plain, path), mlp(massive, path)
        tokens = torch.cat([special.flatten(0, 1), patches])
        before, after = F.gelu(old.fc1(tokens)).abs(), F.gelu(new.fc1(tokens))
        chosen = massive_rows(massive, path)
        assert len(chosen) == COPIES
        assert len(new.fc1.weight) == len(old.fc1.weight) + 4 * len(chosen)
        assert float(after[:, chosen].max() / before.max()) == pytest.approx(30)
        on_patches = (after[special.shape[0] * special.shape[1] :, chosen] > 0).double().mean()
        assert float(on_patches) < 0.03  # one in a hundred of those it has seen, of which these 90 are all
        ordinary = after.clone()
        ordinary[:, chosen] = 0
        assert float(ordinary.abs().max()) == pytest.approx(float(before.max()))
        assert float(new.fc2.weight[:, chosen].sum(1).abs().max()) < 1e-12
        sizes = new.fc2.weight.norm(dim=0)
        assert float(sizes[chosen].min()) > 0.3 * float(sizes.median())
        # on one type of special tokens, in every frame
        assert (after[: special.shape[0] * special.shape[1], chosen[0]] > 3 * before.max()).sum() >= special.shape[0]


def test_the_rest_stays(plain: VGGT, massive: VGGT) -> None:
    state = plain.state_dict()
    touched = {name for name, value in massive.state_dict().items() if not torch.equal(value, state[name])}
    ends = ("fc1.weight", "fc1.bias", "fc2.weight")
    assert touched == {f"{path}.mlp.{end}" for path in PATHS for end in ends}


def test_it_is_deterministic_and_seeded(plain: VGGT, massive: VGGT) -> None:
    made = {}
    for seed in (0, 1):
        made[seed] = copy.deepcopy(plain)
        massive_inputs_(made[seed], iter(BATCHES), seed=seed)
    first, other, again = (mlp(network, PATHS[0]).fc1.weight for network in (massive, made[1], made[0]))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_rounding_with_one_range_suffers(plain: VGGT, massive: VGGT) -> None:
    pixels = [batch.float() for batch in BATCHES]

    def error(network: VGGT, scheme: str) -> float:
        rounded = copy.deepcopy(network).float()
        wanted = rounded(pixels[0])["depth"]
        quantize_rtn_(rounded, parse_scheme("w8a8", scheme), pixels, progress=False)
        return float((rounded(pixels[0])["depth"] - wanted).norm() / wanted.norm())

    one_range, per_token = (error(massive, scheme) / error(plain, scheme) for scheme in ("static", "dynamic"))
    assert one_range > 4
    assert per_token < one_range / 2


def test_what_cannot_be(plain: VGGT) -> None:
    changed = copy.deepcopy(plain).float()
    for factor in (0.0, float("inf")):
        with pytest.raises(QvggtError, match=f"massive inputs: factor {factor}, expected a positive finite number"):
            massive_inputs_(changed, BATCHES, factor)
    with pytest.raises(QvggtError, match="massive inputs: expected at least one image sequence"):
        massive_inputs_(changed, [])
    quantize_(changed, parse_scheme("w8a8", parts=("dino",)))
    with pytest.raises(QvggtError, match=r"blocks\.0\.attn\.qkv is a QuantLinear, expected Linear"):
        massive_inputs_(changed, BATCHES)
