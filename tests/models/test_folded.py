"""The structure of a folded model follows from its config, so a checkpoint can be loaded into it."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_models
import torch
from safetensors.torch import load_file, save_file
from small_models import images

from qvggt.errors import QvggtError
from qvggt.models.vggt.network import VGGT
from qvggt.rotation import FoldConfig, applied_fold, fold_, fold_structure_

CONFIGS = [
    FoldConfig(),
    FoldConfig(residual=False),
    FoldConfig(residual=False, layer_scale=False),
    FoldConfig(value=False, camera_value=True),
]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("heads", [("camera", "depth", "track"), ("point",)])
def test_same_names_and_shapes_as_the_fold(config: FoldConfig, heads: tuple[str, ...]) -> None:
    settings = small_models.config(16, 4, heads=heads)
    real = VGGT(settings)
    fold_(real, config)
    with torch.device("meta"):
        empty = VGGT(settings)
    fold_structure_(empty, config)
    assert all(p.is_meta for p in empty.parameters())
    described = [[(k, v.shape, v.dtype) for k, v in m.state_dict().items()] for m in (real, empty)]
    assert described[0] == described[1]
    assert [n for n, _ in real.named_modules()] == [n for n, _ in empty.named_modules()]
    assert applied_fold(real) == applied_fold(empty) == config


@pytest.mark.parametrize("config", CONFIGS)
def test_a_saved_fold_loads_with_identical_outputs(config: FoldConfig, tmp_path: Path) -> None:
    model = small_models.model(small_models.config(16, 4)).float()
    fold_(model, config)
    save_file(model.state_dict(), tmp_path / "folded.safetensors")
    with torch.device("meta"):
        other = VGGT(model.config)
    fold_structure_(other, config)
    other.load_state_dict(load_file(tmp_path / "folded.safetensors"), assign=True)
    x = images(2, 28, 42, torch.float32)
    expected, got = model(x), other.eval()(x)
    assert all(torch.equal(got[k], expected[k]) for k in expected)


def test_a_prepared_model_is_not_folded_again() -> None:
    with torch.device("meta"):
        model = VGGT(small_models.config(16, 4))
    fold_structure_(model, FoldConfig())
    with pytest.raises(QvggtError, match="already folded"):
        fold_structure_(model, FoldConfig())
    with pytest.raises(QvggtError, match="already folded"):
        fold_(model)


def test_no_fold_by_default() -> None:
    with torch.device("meta"):
        model = VGGT(small_models.config(16, 4))
    assert applied_fold(model) is None
    assert not any("rotation" in key for key in model.state_dict())
