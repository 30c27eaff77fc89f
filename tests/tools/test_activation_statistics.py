"""Activation statistics against scipy and numpy over the inputs themselves."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from activation_statistics import LinearStatistics, measure_activations, statistics, summary
from outlier_injection import inject_outliers_
from scipy.stats import kurtosis
from small_network import CONFIG, SIZE, small_model

from qvggt.errors import QvggtError
from qvggt.models.family import find_family
from qvggt.models.vggt.network import VGGT
from qvggt.quant.model import quantize_
from qvggt.quant.scheme import parse_scheme

Rows = list[LinearStatistics]
PARTS = {part.name: part.pattern for part in find_family().parts if not part.single}
ALL = tuple(part for part in PARTS if part != "dpt")


@pytest.fixture(scope="module")
def batches() -> list[torch.Tensor]:
    """Two sequences of other sizes and frame counts."""
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(s, 3, h, SIZE, generator=generator) for s, h in ((2, SIZE), (3, SIZE - 14), (2, SIZE))]


@pytest.fixture(scope="module")
def model() -> VGGT:
    return small_model(seed=1, aa_depth=2, dpt_layers=(0, 0, 1, 1))


@pytest.fixture(scope="module")
def table(model: VGGT, batches: list[torch.Tensor]) -> Rows:
    return measure_activations(model, iter(batches), ALL, progress=False)


def recorded(model: VGGT, batches: list[torch.Tensor]) -> dict[str, list[tuple[np.ndarray, int]]]:
    """Path -> (tokens [..., L, C], tokens per frame) of every call."""
    seen: dict[str, list[tuple[np.ndarray, int]]] = {}
    per_frame = 0

    def record(path: str, x: torch.Tensor) -> None:
        seen.setdefault(path, []).append((x.double().numpy(), per_frame))

    hooks = [
        model.get_submodule(path).register_forward_pre_hook(lambda _, args, path=path: record(path, args[0]))
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and any(p.fullmatch(path) for p in PARTS.values())
    ]
    for images in batches:
        per_frame = CONFIG.patch_start + (images.shape[-2] // 14) * (images.shape[-1] // 14)
        with torch.no_grad():
            model(images)
    for hook in hooks:
        hook.remove()
    return seen


def test_every_statistic_of_every_linear(model: VGGT, batches: list[torch.Tensor], table: Rows) -> None:
    seen = recorded(model, batches)
    assert {row.path for row in table} == seen.keys()
    for row in table:
        tokens = np.concatenate([x.reshape(-1, x.shape[-1]) for x, _ in seen[row.path]])
        magnitudes, peak = np.abs(tokens), np.abs(tokens).max()
        assert row.tokens == len(tokens)
        assert row.max_abs == pytest.approx(peak, rel=1e-6)
        assert row.kurtosis == pytest.approx(kurtosis(tokens, axis=None, fisher=False), rel=1e-6)
        assert row.max_over_median == pytest.approx(peak / np.median(magnitudes), rel=1e-6)
        assert row.channel_ratio == pytest.approx(peak / np.median(magnitudes.max(0)), rel=1e-6)
        assert row.token_ratio == pytest.approx(peak / np.median(magnitudes.max(1)), rel=1e-6)
        if PARTS["camera"].fullmatch(row.path):
            assert row.special_max == pytest.approx(peak, rel=1e-6)
            assert row.patch_max is None
        else:
            frames = [np.abs(x).reshape(-1, p, x.shape[-1]) for x, p in seen[row.path]]
            assert row.special_max == pytest.approx(max(x[:, :5].max() for x in frames), rel=1e-6)
            assert row.patch_max == pytest.approx(max(x[:, 5:].max() for x in frames), rel=1e-6)


def test_summary_by_kind(table: Rows) -> None:
    figures = summary(table)
    assert list(figures) == ["qkv", "proj", "fc1", "fc2"]
    rows = [row for row in table if row.kind == "fc2"]
    assert len(rows) == 1 + 2 * 2 + 1
    assert figures["fc2"]["kurtosis"] == pytest.approx(np.median([row.kurtosis for row in rows]))
    assert figures["fc2"]["kurtosis_max"] == max(row.kurtosis for row in rows)
    ratios = [row.special_max / row.patch_max for row in rows if row.special_max and row.patch_max]
    assert len(ratios) == len(rows) - 1
    assert figures["fc2"]["special_over_patch"] == pytest.approx(np.median(ratios))


def test_survives_json(table: Rows) -> None:
    rows = json.loads(json.dumps([asdict(row) for row in table], allow_nan=False))
    assert [LinearStatistics(**row) for row in rows] == table


def test_planted_outliers_show(batches: list[torch.Tensor], table: Rows) -> None:
    stressed = small_model(seed=1, aa_depth=2, dpt_layers=(0, 0, 1, 1))
    inject_outliers_(stressed, 30)
    after = measure_activations(stressed, batches, progress=False)
    before = {row.path: row for row in table}
    for row in after:
        if row.kind == "fc2":
            assert row.kurtosis == pytest.approx(before[row.path].kurtosis, rel=1e-3)
        else:
            assert row.channel_ratio > 8 * before[row.path].channel_ratio
            assert row.kurtosis > 5 * before[row.path].kurtosis


def test_quantized_linears_and_parts(batches: list[torch.Tensor]) -> None:
    model = small_model(seed=1)
    float_rows = measure_activations(model, batches, ("dino",), progress=False)
    quantize_(model, parse_scheme("w8a8", parts=("aggregator",)))
    rows = measure_activations(model, batches, ("dino", "aggregator"), progress=False)
    assert rows[:4] == float_rows
    assert all(PARTS["aggregator"].fullmatch(row.path) for row in rows[4:])
    assert len(rows) == 4 + 2 * 4 * 4


def test_hooks_are_gone_after_a_failure(model: VGGT) -> None:
    with pytest.raises(RuntimeError):
        measure_activations(model, [torch.rand(2, 2, SIZE, SIZE)], progress=False)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_errors(model: VGGT) -> None:
    with pytest.raises(QvggtError, match="unknown part 'dpt': expected a subset of dino, aggregator, camera"):
        measure_activations(model, [], ("dpt",))
    with pytest.raises(QvggtError, match=r"blocks\.0\.attn\.qkv: no input seen"):
        measure_activations(model, [], progress=False)
    bad = torch.rand(2, 3, SIZE, SIZE)
    bad[0, 0, 0, 0] = torch.nan
    with pytest.raises(QvggtError, match=r"blocks\.0\.attn\.qkv: its input holds NaN or infinity"):
        measure_activations(model, [bad], progress=False)


def test_an_input_of_zeros() -> None:
    row = statistics("aggregator.frame_blocks.0.mlp.fc2", [torch.zeros(2, 3, 4)], special=1)
    assert (row.kurtosis, row.max_abs, row.max_over_median, row.channel_ratio, row.token_ratio) == (0, 0, 0, 0, 0)
    assert (row.special_max, row.patch_max) == (0, 0)
    json.dumps(asdict(row), allow_nan=False)
