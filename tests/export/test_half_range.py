from __future__ import annotations

import math

import pytest
from small_network import small_images, small_model

from qvggt.export.half_range import half_ranges
from qvggt.models.vggt.network import VGGT

IMAGES = small_images(2, size=28)
FC1 = "aggregator.global_blocks.2.mlp.fc1"


def planted(factor: float) -> VGGT:
    """fc1 of one block answers `factor` times as much, fc2 takes it back: only the values between them are large."""
    model = small_model()
    mlp = model.get_submodule(FC1.rsplit(".", 1)[0])
    mlp.fc1.weight.data *= factor  # type: ignore[union-attr, operator]
    mlp.fc2.weight.data /= factor  # type: ignore[union-attr, operator]
    return model


def test_a_planted_overflow_is_found_at_its_module() -> None:
    ranges = half_ranges(planted(1e6), [IMAGES])
    assert (ranges[0].path, ranges[0].side) == (FC1, "output")
    assert ranges[0].headroom < 1
    assert ranges[0].amax * ranges[0].headroom == pytest.approx(65504)
    assert {(r.path, r.side) for r in ranges if r.headroom < 1} == {
        (FC1, "output"),
        ("aggregator.global_blocks.2.mlp.fc2", "input"),
    }
    assert f"output of {FC1}: max |x|" in str(ranges[0])


def test_ranges_grow_with_the_activations_and_cover_batches() -> None:
    small = half_ranges(planted(10.0), [IMAGES, IMAGES * 0.1])
    assert all(r.headroom > 100 for r in small)
    seen = {(r.path, r.side): r.amax for r in small}
    alone = {(r.path, r.side): r.amax for r in half_ranges(planted(10.0), [IMAGES])}
    assert all(seen[key] >= value for key, value in alone.items())


def test_what_stays_fp32_is_not_reported() -> None:
    paths = {r.path for r in half_ranges(small_model(), [IMAGES])}
    assert not [p for p in paths if p.startswith("camera_head") or "patch_embed.patch_embed" in p]
    assert not [p for p in paths if p.endswith("output_conv2.2")]
    assert "depth_head.scratch.output_conv2.0" in paths


def test_nan_counts_as_overflow() -> None:
    model = small_model()
    model.get_submodule(FC1).weight.data[0, 0] = float("nan")  # type: ignore[union-attr, index, operator]
    worst = half_ranges(model, [IMAGES])[0]
    assert worst.amax == math.inf
    assert worst.headroom == 0
