"""DPT building blocks: the skip of the residual unit, the fusion order, the activations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from qvggt.models.dpt import DPTConfig, DPTHead, FeatureFusion, ResidualConvUnit, resize


@pytest.fixture
def maps() -> torch.Tensor:
    return torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))


def silence(module: torch.nn.Module) -> None:
    for parameter in module.parameters():
        torch.nn.init.zeros_(parameter)


def test_residual_unit_skips_relu_of_x(maps: torch.Tensor) -> None:
    unit = ResidualConvUnit(3)
    silence(unit)
    before = maps.clone()
    assert torch.equal(unit(maps), F.relu(maps))
    assert torch.equal(maps, before), "the input must not be changed in place"


def test_residual_unit_formula(maps: torch.Tensor) -> None:
    unit = ResidualConvUnit(3)
    inner = F.conv2d(F.relu(maps), unit.conv1.weight, unit.conv1.bias, padding=1)
    expected = F.conv2d(F.relu(inner), unit.conv2.weight, unit.conv2.bias, padding=1) + F.relu(maps)
    torch.testing.assert_close(unit(maps), expected)


def test_fusion_refines_before_it_resizes(maps: torch.Tensor) -> None:
    fusion = FeatureFusion(3, lateral=True)
    lateral = maps.flip(0)
    refined = fusion.resConfUnit2(maps + fusion.resConfUnit1(lateral))
    expected = fusion.out_conv(F.interpolate(refined, size=(7, 9), mode="bilinear", align_corners=True))
    torch.testing.assert_close(fusion(maps, lateral, 7, 9), expected)


def test_coarsest_fusion_has_no_lateral_unit() -> None:
    assert not any(name.startswith("resConfUnit1") for name in FeatureFusion(3, lateral=False).state_dict())


def test_resize_keeps_corners(maps: torch.Tensor) -> None:
    corners = [(0, 0), (0, -1), (-1, 0), (-1, -1)]
    large = resize(maps, 9, 11)
    for y, x in corners:
        torch.testing.assert_close(large[..., y, x], maps[..., y, x])


def test_activations() -> None:
    raw = torch.tensor([-1.5, 0.0, 2.0, 0.7]).view(1, 4, 1, 1)

    def head(activation: str) -> DPTHead:
        return DPTHead(DPTConfig(8, 4, (4, 4, 4, 4), (0, 0, 0, 0), 0, 14), 2, 4, activation)

    values, confidence = head("inv_log").activate(raw)
    e = torch.e
    torch.testing.assert_close(values[0, 0, 0], torch.tensor([1 - e**1.5, 0.0, e**2 - 1]))
    torch.testing.assert_close(confidence[0, 0, 0], torch.tensor(1 + e**0.7))
    values, _ = head("exp").activate(raw)
    torch.testing.assert_close(values[0, 0, 0], torch.tensor([e**-1.5, 1.0, e**2]))
