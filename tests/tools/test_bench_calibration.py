"""The bench names functions of the calibration that it measures or replaces: it runs, so a renamed one is noticed."""

from __future__ import annotations

import json
from pathlib import Path

import bench_calibration
import pytest
from small_network import small_images, small_model

from qvggt.models.loading import save_model


@pytest.mark.usefixtures("one_thread")
def test_every_step_is_measured_and_both_searches_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(small_model(aa_depth=1, dpt_layers=(0, 0, 0, 0)), tmp_path / "m.safetensors")
    monkeypatch.setattr(bench_calibration, "scenes_in", lambda *_: None)
    monkeypatch.setattr(bench_calibration, "images_of", lambda _, index: small_images(2, seed=index))
    out = tmp_path / "out"
    bench_calibration.main(str(tmp_path / "m.safetensors"), "w8a8-dynamic", 2, "part", True, 1, out)
    report = json.loads((out / "calibration.json").read_text())
    steps = {"all", *(name.strip("_") for name in bench_calibration.PARTS)}
    assert set(report["seconds"]) == set(report["before"]) == steps
    assert report["search"]["same"]
