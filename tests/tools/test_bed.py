"""The beds of benches: scenes follow from the model, seeds of calibrations are spread, tables say so."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import bed
import bench_accuracy
import pytest
import results_tables
from bed import Bed
from held_out import FAMILIES, scene_config

from qvggt.calib.recipe import Recipe, find_recipe
from qvggt.data.synthetic.scene import SceneConfig, rich
from qvggt.errors import QvggtError


def test_scenes_have_the_size_of_the_model(small_float: Path, tmp_path: Path) -> None:
    assert Bed.of("tiny").scenes == SceneConfig()
    small = Bed.of(str(small_float), "room", 5)
    assert small.scenes == SceneConfig(height=56, width=56, family="room", frames=5)
    assert small.size == 56
    assert all(scene_config(70, family).frames == config.frames for family, config in FAMILIES.items())
    assert [tuple(image.shape) for image in small.calibration(tmp_path, 1, workers=1)] == [(4, 3, 56, 56)]
    with pytest.raises(QvggtError, match="scene family 'none': expected one of random, room"):
        Bed.of("tiny", "none")


def test_a_kept_model_has_a_name(small_float: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "beds" / "mine" / "model.safetensors"
    kept.parent.mkdir(parents=True)
    shutil.copy(small_float, kept)
    monkeypatch.setattr(bed, "BEDS", tmp_path / "beds")
    assert bed.find("mine") == kept
    assert bed.find(str(kept.parent)) == kept
    assert Bed.of("mine").weights == Bed.of(str(kept)).weights != Bed.of("tiny").weights
    with pytest.raises(QvggtError, match="other: no such file"):
        bed.find("other")
    folders = [Bed(name, SceneConfig()).folder("b") for name in ("tiny", "mine", str(kept), "x/other.pt")]
    assert [str(folder) for folder in folders] == [
        "outputs/b/tiny",
        "outputs/b/mine",
        "outputs/b/mine",
        "outputs/b/other",
    ]


def test_tables_are_of_the_bed_that_is_kept() -> None:
    """Of these very weights; which reach what the bed was trained for."""
    ours = Bed.of(bed.BED)
    assert ours.scenes == rich()
    assert results_tables.load("accuracy")["call"]["weights_sha256"] == ours.weights
    assert results_tables.load("accuracy_tiny")["call"]["weights_sha256"] == Bed.of("tiny").weights
    held_out = results_tables.load("small_metrics")["held_out"]
    assert all(row["scenes"] >= 256 and row["auc30"] >= 85 and row["auc5"] >= 35 for row in held_out)


def test_a_mixed_scheme() -> None:
    scheme = bench_accuracy.scheme_of("w4a4-dynamic-mixed")
    assert scheme.label == "w4a4-dynamic-mixed"
    formats = [scheme.format(f"aggregator.frame_blocks.0.mlp.{name}") for name in ("fc1", "fc2")]
    assert [format.name for format in formats if format is not None] == ["w4a8-dynamic", "w4a4-dynamic"]


@pytest.fixture(scope="module")
def report(small_float: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Of two recipes, one of which draws, with two seeds."""
    out = tmp_path_factory.mktemp("accuracy")
    bench_accuracy.main(
        str(small_float), models="plain", schemes="w4a4-dynamic", recipes="rtn,quarot", scenes=2,
        calibration_scenes=1, seeds=2, out=out,
    )  # fmt: skip
    lines = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    return {"lines": lines, **json.loads((out / "accuracy.json").read_text())}


def test_rows_are_means_over_seeds_with_their_spread(report: dict) -> None:
    assert [(r["recipe"], r.get("seed")) for r in report["lines"]] == [
        ("float", None),
        ("rtn", 0),
        ("quarot", 0),
        ("quarot", 1),
    ]
    base, nearest, drawn = report["rows"]
    assert (base, nearest) == tuple(report["lines"][:2])
    first, second = report["lines"][2:]
    assert first["sqnr_db"] != second["sqnr_db"]
    assert drawn["seeds"] == 2
    assert "seed" not in drawn
    assert drawn["sqnr_db"]["depth"] == pytest.approx((first["sqnr_db"]["depth"] + second["sqnr_db"]["depth"]) / 2)
    assert bench_accuracy.over_seeds(report["lines"], 1) == report["lines"][:3]
    assert report["call"]["size"] == 56
    assert {r["threads"] for r in report["lines"][1:]} == {1}


def test_the_mean_of_rows() -> None:
    """Of scores and the ends of intervals; the seeds beyond those asked for do not count."""
    rows = [
        {"key": f"k{f' seed {n}' if n else ''}", "seed": n, "auc30": up, "auc5": 9.0 - n, "auc30_interval": [-up, up]}
        | {"branches": {"ranks": [8, 16][: n + 1], "macs": up}}
        for n, up in enumerate((2.0, 5.0, 2.5, 100.0))
    ]
    (found,) = bench_accuracy.over_seeds(rows, 3)
    assert (found["auc30"], found["auc5"]) == (pytest.approx(9.5 / 3, abs=1e-4), 8.0)
    assert found["branches"] == {"ranks": [8], "macs": found["auc30"]}
    assert found["auc30_interval"] == [pytest.approx(-9.5 / 3, abs=1e-4), pytest.approx(9.5 / 3, abs=1e-4)]
    assert found["spread"] == {"auc30": [2.0, 5.0], "auc5": [7.0, 9.0]}
    assert bench_accuracy.over_seeds(rows, 1) == rows[:1]


def test_tables_show_the_spread_and_how_they_were_made(report: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    found = copy.deepcopy(report)
    for row in found["rows"]:
        row |= {"recipe": row["recipe"].replace("quarot", "qvggt"), "calibration_scenes": 32, "auc30": 1, "auc5": 1}
    monkeypatch.setattr(results_tables, "load", lambda _name: found)
    low, high = found["rows"][2]["spread"]["auc5"]
    for table in (results_tables.accuracy(), results_tables.ablation(), results_tables.calibration()):
        assert "@30 over seeds | @5 over seeds |" in table
        assert f" {low:.2f} to {high:.2f} |" in table
        assert "56x56 pixels; 2 scenes of 4 frames; calibrations with seed 0, or means over seeds 0 to 1" in table
        assert "threads: 1.*" in table
    found["rows"] = found["rows"][:2]
    assert "over seeds" not in results_tables.accuracy()
    assert "with seed 0; threads: 1" in results_tables.accuracy()


def test_what_draws() -> None:
    assert [bench_accuracy.draws(find_recipe(name)) for name in results_tables.RECIPES] == [
        False,
        False,
        True,
        True,
        True,
    ]
    assert not bench_accuracy.draws(find_recipe("qvggt").replace(rotation="none", online="none"))
    changes = ({"epochs": 1}, {"value_rotation": True}, {"rotation": "folded"}, {"online": "fc2"})
    assert all(bench_accuracy.draws(Recipe("x").replace(**change)) for change in changes)
