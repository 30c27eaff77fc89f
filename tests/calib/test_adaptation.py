"""Weights that adapt end to end: what it buys a small model, the same bytes again and after a kill, what is left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_network import small_batches, small_images, small_model

from qvggt.calib import adaptation
from qvggt.calib.adaptation import AdaptableLinear, adapt_
from qvggt.calib.block_journal import BlockJournal
from qvggt.calib.calibrate import calibrate_, fold_config
from qvggt.calib.recipe import Recipe
from qvggt.calib.variations import varied
from qvggt.models.block import Block
from qvggt.models.folded import applied_fold
from qvggt.models.vggt.network import VGGT
from qvggt.quant.checkpoint import Provenance, load_calibrated, save_calibrated
from qvggt.quant.model import quantized_linears
from qvggt.quant.scheme import parse_scheme
from qvggt.rotation.fold import fold_

SHORT: dict[str, Any] = {"aa_depth": 1, "dpt_layers": (0, 0, 0, 0)}
RECIPE = Recipe(
    "adapted", rotation="folded", center="needed", smooth=True, rounding="gptq", fit_grids=True, adapt_rate=2e-3
)


@pytest.fixture(scope="module", autouse=True)
def few_sequences() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adaptation, "BATCH", 2)
        patch.setattr(adaptation, "JUDGED", 4)
        yield


def calibrated(steps: int, bits: str = "w4a8", act: str = "dynamic", journal: BlockJournal | None = None) -> VGGT:
    model = small_model(seed=1, **SHORT)
    batches = small_batches(2, 3)
    recipe = RECIPE.replace(adapt=steps)
    calibrate_(model, parse_scheme(bits, act), recipe, batches, journal=journal, progress=False)
    return model


def in_floats() -> VGGT:
    """The float network in the basis of the calibrated ones."""
    model, folds = small_model(seed=1, **SHORT), fold_config(RECIPE, 0)
    assert folds is not None
    fold_(model, folds)
    return model


def distance(model: VGGT) -> float:
    """Relative error of other images' tokens behind the last round."""
    images = torch.stack([small_images(3, seed=seed) for seed in range(20, 24)])
    with torch.no_grad():
        tokens, goal = (network.aggregator(images)[0] for network in (model, in_floats()))
    return float((tokens - goal).norm() / goal.norm())


@pytest.fixture(scope="module")
def adapted() -> VGGT:
    return calibrated(8)


def test_what_all_weights_do_wrong_is_undone() -> None:
    """On images that were not learned from."""
    model = calibrated(0)
    for _, linear in quantized_linears(model):
        linear.weight_scale *= 1.1
    before = distance(model)
    adapt_(model, in_floats(), small_batches(2, 3), RECIPE.replace(adapt=8, adapt_rate=3e-2), progress=False)
    assert distance(model) < 0.95 * before


def test_the_network_is_an_ordinary_one(adapted: VGGT, tmp_path: Path) -> None:
    assert all(linear.latent is None for _, linear in quantized_linears(adapted))
    assert not any(isinstance(module, AdaptableLinear) for module in adapted.modules())
    assert isinstance(adapted.get_submodule("aggregator.frame_blocks.0"), Block)
    scheme = parse_scheme("w4a8")
    save_calibrated(tmp_path / "saved", adapted, scheme, Provenance({}, {}, {}, {}))
    images = small_images(2, seed=5)
    with torch.no_grad():
        assert torch.equal(adapted(images)["pose_enc"], load_calibrated(tmp_path / "saved").model(images)["pose_enc"])


def test_a_killed_run_goes_on_to_the_same_bytes(adapted: VGGT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptation, "KEEP", 3)
    keep = BlockJournal.keep

    def killed(self: BlockJournal, key: str, step: int, tensors: Any) -> None:
        keep(self, key, step, tensors)
        if step == 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(BlockJournal, "keep", killed)
        with pytest.raises(KeyboardInterrupt):
            calibrated(8, journal=BlockJournal(tmp_path / "store", {"seed": 0}))
    assert [path.name for path in (tmp_path / "store").glob("adaptation*")] == ["adaptation-6.safetensors"]
    drawn: list[int] = []
    draw = adaptation._draw
    monkeypatch.setattr(adaptation, "_draw", lambda *args: drawn.append(1) or draw(*args))
    model = calibrated(8, journal=BlockJournal(tmp_path / "store", {"seed": 0}))
    assert len(drawn) == 2 + adaptation.JUDGED // adaptation.BATCH  # the steps that were left
    for (name, tensor), (_, other) in zip(model.state_dict().items(), adapted.state_dict().items(), strict=True):
        assert torch.equal(tensor, other), name


@pytest.mark.parametrize(
    ("bits", "act"),
    [
        ("w4a4", "static"),
        pytest.param("w4a16", "dynamic", marks=pytest.mark.slow),
        pytest.param("nvfp4", "static", marks=pytest.mark.slow),
    ],
)
def test_other_formats_adapt_too(bits: str, act: str | None) -> None:
    model = calibrated(2, bits, act)  # type: ignore[arg-type]
    assert applied_fold(model) is not None
    assert all(value.isfinite().all() for value in model(small_images(2)).values())


def test_an_adaptable_linear_starts_and_ends_as_the_quantized_one() -> None:
    model = calibrated(0)
    linear = model.get_submodule("aggregator.frame_blocks.0.attn.proj")
    before = {name: tensor.clone() for name, tensor in linear.state_dict().items()}
    linear.latent = linear.codes + 3.0  # GPTQ may have moved a weight by codes: it starts on the nearer side of its own
    adaptable = AdaptableLinear(linear)  # type: ignore[arg-type]
    assert torch.equal(adaptable.codes(), linear.codes.float())
    assert float((adaptable.latent.detach() - linear.codes).max()) == pytest.approx(adaptation.NEAR)
    after = adaptable.finish().state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_variations_change_all_frames_of_a_sequence_alike() -> None:
    images = small_images(1).expand(4, -1, -1, -1).contiguous()
    for seed in range(8):
        x = varied(images, 3, torch.Generator().manual_seed(seed))
        assert x.shape == (3, 3, 56, 56)
        assert float(x.min()) >= 0
        assert float(x.max()) <= 1
        assert torch.equal(x[0], x[1])
        assert torch.equal(x[0], x[2])
        assert not torch.equal(x[0], images[0])
        assert torch.equal(x, varied(images, 3, torch.Generator().manual_seed(seed)))
