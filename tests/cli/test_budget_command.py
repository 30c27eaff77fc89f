"""qvggt calibrate --budget, --scheme and --parts: the search, its record, a scheme used again, and mistakes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from calling import call, interrupted, mistake
from small_network import small_scenes

from qvggt.jobs import budget
from qvggt.jobs.calibrate import read_scheme
from qvggt.quant.checkpoint import load_calibrated
from qvggt.quant.model import quantized_convs
from qvggt.quant.scheme import Scheme


@pytest.fixture(scope="module")
def inputs(small_float: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float checkpoint, scenes of 4 frames, and the same images without cameras."""
    folder = tmp_path_factory.mktemp("inputs")
    shutil.copy(small_float, folder)
    small_scenes(folder / "scenes", 4, range(4), range(90, 92))
    for sequence in (p for p in (folder / "scenes" / "synthetic").iterdir() if p.is_dir()):
        shutil.copytree(sequence / "images", folder / "plain" / sequence.name)
    return folder


def line(inputs: Path, out: Path, *more: Any, data: str = "plain", bits: bool = True) -> tuple[Any, ...]:
    width = ("--bits", "w4a4") if bits else ()
    options = (*width, "--recipe", "smoothquant", "--frames", 2, "--sequences", 2)
    return (inputs / "float.safetensors", *options, "--data", inputs / data, "-o", out, *more)


BUDGET = ("--parts", "aggregator,dpt", "--budget", "5%")


def test_the_cheapest_mixture_that_fits(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without cameras the relative error of the outputs is what must stay in budget."""
    assert call("calibrate", *line(inputs, tmp_path / "a", *BUDGET)) == 0
    printed = capsys.readouterr().out
    record = json.loads((tmp_path / "a" / "budget.json").read_text())
    assert record["metric"] == "relative error of the outputs"
    assert record["drop"] <= record["limit"] == 0.05
    assert [row["unit"] for row in record["units"]] == ["aggregator", "dpt"]
    assert {row["bits"] for row in record["units"]} != {"w4a4"}  # four bits alone do not fit
    assert all(f"| {row['unit']} | {row['layers']} | {row['bits']} |" in printed for row in record["units"])
    loaded = load_calibrated(tmp_path / "a")
    assert loaded.scheme == Scheme.from_dict(record["scheme"])
    assert loaded.provenance.calibration["budget"]["drop"] == record["drop"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]
    assert call("calibrate", *line(inputs, tmp_path / "b", *BUDGET)) == 0
    assert load_calibrated(tmp_path / "b").sha256 == loaded.sha256
    for source in ("a", "a/quant.json", "a/budget.json"):
        assert read_scheme(tmp_path / source) == loaded.scheme
    again = line(inputs, tmp_path / "c", "--scheme", tmp_path / "a", bits=False)
    assert call("calibrate", *again) == 0
    assert load_calibrated(tmp_path / "c").sha256 == loaded.sha256


def test_blocks_and_cameras(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Data with cameras is judged by AUC@30; an interrupted search goes on."""
    from qvggt.calib import sensitivity

    with pytest.MonkeyPatch.context() as patch:
        real, calls = sensitivity.output_error, []
        patch.setattr(sensitivity, "output_error", interrupted(real, calls, at=3))
        patch.setattr(budget, "_auc", lambda *_: 50.0)  # random weights find no camera
        options = ("--parts", "camera,dpt", "--budget", "100%", "--budget-by", "block")
        assert call("calibrate", *line(inputs, tmp_path / "a", *options, data="scenes")) == 130
        assert not (tmp_path / "a").exists()
        assert call("calibrate", *line(inputs, tmp_path / "a", *options, data="scenes")) == 0
    printed = capsys.readouterr().out
    assert "going on after 2 measured choices" in printed
    record = json.loads((tmp_path / "a" / "budget.json").read_text())
    assert record["metric"] == "AUC@30"
    assert [row["unit"] for row in record["units"]] == ["camera_head.trunk.0", "depth_head", "point_head"]
    assert {row["bits"] for row in record["units"]} == {"w4a4"}  # everything fits
    assert "too few others" in printed


def test_every_part_is_calibrated_and_exported(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = ("--parts", "dino,aggregator,camera,dpt")
    assert call("calibrate", *line(inputs, tmp_path / "c", *parts)) == 0
    loaded = load_calibrated(tmp_path / "c")
    assert loaded.scheme.label == "w4a4-dynamic+camera+dpt"
    assert len(list(quantized_convs(loaded.model))) == 60
    quick = ("--parity-sequences", 0, "--parity-frames", "2", "--data", inputs / "scenes")
    assert call("export", tmp_path / "c", "-o", tmp_path / "m.onnx", *quick) == 0
    printed = capsys.readouterr().out
    assert "40/40 quantized linears agree" in printed
    assert "60/60 quantized convolutions agree" in printed


def test_overrides_are_calibrated_and_exported(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    override = ("--override", "camera_head.trunk.*=w4a16")
    assert call("calibrate", *line(inputs, tmp_path / "c", *override)) == 0
    loaded = load_calibrated(tmp_path / "c")
    assert loaded.scheme == Scheme("w4a4", overrides=(("camera_head.trunk.*", "w4a16"),))
    assert loaded.scheme.label == "w4a4-dynamic-mixed"
    quick = ("--parity-sequences", 0, "--parity-frames", "2", "--data", inputs / "scenes")
    assert call("export", tmp_path / "c", "-o", tmp_path / "m.onnx", *quick) == 0
    assert f"{36 + 4}/40 quantized linears agree" in capsys.readouterr().out


def test_static_and_weight_only_is_said(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--bits", "w4a16", "--act", "static", "--recipe", "rtn")
    assert call("calibrate", inputs / "float.safetensors", *options, "-o", tmp_path / "c") == 0
    assert "--act static does nothing with w4a16" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--budget", "0.5"), ("--budget", "0.5%")),
        (("--budget", "1%", "--budget-by", "layer"), ("layer", "'part', 'block'")),
        (("--budget-by", "block"), ("--budget-by", "--budget")),
        (("--budget", "1%", "--bits", "fp32"), ("fp32", "w8a8, w4a8, w6a6, w4a4, w4a16")),
        (("--budget", "1%", "--scheme", "x.json"), ("--bits", "x.json")),
        (("--parts", "dpt,eyes"), ("eyes", "dino, aggregator, camera, dpt")),
        (("--override", "camera.*=w4a16"), ("camera.*", "matches no linear")),
        (("--override", "camera_head.trunk.*=w4a16", "--budget", "1%"), ("--override", "--budget", "one of the two")),
    ],
)
def test_mistakes(
    options: tuple[Any, ...], words: tuple[str, ...], inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    err = mistake(capsys, "calibrate", *line(inputs, tmp_path / "c", *options))
    assert all(word in err for word in words), err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, ("cannot be read",)),
        ("{", ("no JSON",)),
        ("[1]", ("no JSON object",)),
        ('{"bits": "w3a3"}', ("w3a3",)),
        ('{"bits": "w8a8", "overrides": [["aggregator.blocks.*", "w4a4"]]}', ("aggregator.blocks.*", "matches no")),
    ],
)
def test_mistakes_in_a_scheme(
    text: str | None, words: tuple[str, ...], inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "scheme.json"
    if text is not None:
        file.write_text(text)
    err = mistake(capsys, "calibrate", *line(inputs, tmp_path / "c", "--scheme", file, bits=False))
    assert all(word in err for word in words), err
    assert not (tmp_path / "c").exists()
