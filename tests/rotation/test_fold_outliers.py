"""What the folds are for: channel outliers spread over all channels."""

from __future__ import annotations

import copy

import pytest
import small_models
import torch
from small_models import images

from qvggt.models.vggt.network import VGGT
from qvggt.rotation import FoldConfig, fold_

LINEARS = [
    f"aggregator.{kind}_blocks.{i}.{name}"
    for kind in ("frame", "global")
    for i in (0, 2)
    for name in ("attn.qkv", "attn.proj", "mlp.fc1")
]


def planted(dim: int, heads: int) -> VGGT:
    """Norm gains and value rows of a few channels times 30, as in trained transformers."""
    model = small_models.model(small_models.config(dim, heads, heads=("camera",)))
    channels = torch.randperm(dim, generator=torch.Generator().manual_seed(0))[: max(1, dim // 50)]
    for blocks in (model.aggregator.frame_blocks, model.aggregator.global_blocks):
        for block in blocks:
            for norm in (block.norm1, block.norm2):
                norm.weight[channels] *= 30
            block.attn.qkv.weight[2 * dim + channels] *= 30
    return model


def shape(model: VGGT) -> dict[str, tuple[float, float]]:
    """Kurtosis and max over median, each the mean over tokens, of the inputs of LINEARS."""
    out: dict[str, tuple[float, float]] = {}

    def record(path: str, x: torch.Tensor) -> None:
        centred = x - x.mean(-1, keepdim=True)
        kurtosis = (centred**4).mean(-1) / (centred**2).mean(-1) ** 2
        out[path] = float(kurtosis.mean()), float((x.abs().amax(-1) / x.abs().median(-1).values).mean())

    for path in LINEARS:
        model.get_submodule(path).register_forward_pre_hook(lambda _, args, path=path: record(path, args[0]))
    model(images(2, 42, 56))
    return out


@pytest.mark.parametrize(("dim", "heads"), [(256, 4), (128, 2), (96, 4)])
def test_kurtosis_and_peaks_drop(dim: int, heads: int) -> None:
    model = planted(dim, heads)
    rotated = copy.deepcopy(model)
    fold_(rotated, FoldConfig())
    before, after = shape(model), shape(rotated)
    for path in LINEARS:
        assert before[path][0] > 6, (path, before[path])
        assert after[path][0] < 0.5 * before[path][0], (path, before[path], after[path])
        assert after[path][1] < 0.6 * before[path][1], (path, before[path], after[path])
        if not path.endswith("proj"):  # the residual stream comes out as flat as a Gaussian
            assert after[path][0] < 3.5, (path, after[path])
            assert after[path][1] < 5.5, (path, after[path])


def test_value_rotation_alone_spreads_the_values() -> None:
    model = planted(64, 4)
    rotated = copy.deepcopy(model)
    fold_(rotated, FoldConfig(residual=False))
    before, after = shape(model), shape(rotated)
    for path in LINEARS:
        if path.endswith("proj"):
            assert after[path][0] < before[path][0], path
        else:
            assert after[path] == pytest.approx(before[path], rel=1e-6)
