"""qvggt calibrate --select: the pool on disk, planted noise, resuming, folders of sequences, and mistakes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from calling import call, interrupted, mistake
from PIL import Image
from small_network import SIZE, small_scenes

from qvggt.calib.selection import load_selection
from qvggt.data.reading import read_pool
from qvggt.data.registry import Question
from qvggt.data.sequence import first_sequences
from qvggt.errors import QvggtError
from qvggt.quant.checkpoint import load_calibrated

GOOD = 20
BLANK = (3, 11)  # sequences whose images are one colour


@pytest.fixture(scope="module")
def inputs(small_float: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float checkpoint and training scenes of 3 frames, two of them blank."""
    folder = tmp_path_factory.mktemp("inputs")
    shutil.copy(small_float, folder)
    small_scenes(folder / "scenes", 3, range(GOOD + len(BLANK)), range(90, 91), "apple")
    for index, path in enumerate(planted(folder / "scenes")):
        for image in (path / "images").iterdir():
            Image.new("RGB", (SIZE, SIZE), (255 * index,) * 3).save(image)
    return folder


def planted(scenes: Path) -> list[Path]:
    names = sorted(p.name for p in (scenes / "apple").iterdir() if p.is_dir() and "0090" not in p.name)
    return [scenes / "apple" / names[i] for i in BLANK]


def line(inputs: Path, out: Path, *more: Any, data: str = "scenes") -> tuple[Any, ...]:
    place = (inputs / data) if isinstance(data, str) else data
    options = ("--bits", "w8a8", "--recipe", "smoothquant", "--frames", 2, "--data", place, "-o", out)
    return (inputs / "float.safetensors", *options, *more)


SELECT = ("--select", "--sequences", 6, "--clusters", 3)


def test_planted_noise_is_rejected_and_the_list_is_kept(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("calibrate", *line(inputs, tmp_path / "c", *SELECT, "--class-mode", "apple")) == 0
    printed = capsys.readouterr().out
    selection = load_selection(tmp_path / "c" / "selection.json")
    bad = {f"apple/{p.name}" for p in planted(inputs / "scenes")}
    assert bad <= set(selection.rejected)
    assert len(selection.rejected) <= len(bad) + 4  # false alarms: random weights and small numbers
    assert len(selection.sequences) == GOOD + len(BLANK)
    assert len(selection.chosen) == 6
    assert all(s.reason for s in selection.sequences)
    assert f"6 of {GOOD + len(BLANK)} sequences chosen" in printed
    assert all(key in printed for key in bad)
    calibration = load_calibrated(tmp_path / "c").provenance.calibration
    assert tuple(sorted(calibration["frames"])) == selection.chosen
    assert calibration["selection"]["sha256"] == selection.sha256
    assert selection.config.class_mode == "apple"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c"]  # no store is left


def test_an_interrupted_selection_goes_on(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from qvggt.calib import selection as driver

    assert call("calibrate", *line(inputs, tmp_path / "whole", *SELECT)) == 0
    real, calls = driver.sequence_features, []
    monkeypatch.setattr(driver, "sequence_features", interrupted(real, calls, at=8))
    assert call("calibrate", *line(inputs, tmp_path / "cut", *SELECT)) == 130
    store = tmp_path / ".cut.pool.jsonl"
    with open(store, "a") as file:
        file.write('{"key": "apple/torn')  # a kill in the middle of a line
    monkeypatch.setattr(driver, "sequence_features", lambda *args: calls.append(1) or real(*args))
    assert call("calibrate", *line(inputs, tmp_path / "cut", *SELECT, "--frames", 3)) == 2
    assert "selection of another configuration (differs in pool)" in capsys.readouterr().err
    assert call("calibrate", *line(inputs, tmp_path / "cut", *SELECT)) == 0
    assert "going on after 7 measured sequences" in capsys.readouterr().out
    assert len(calls) == 8 + GOOD + len(BLANK) - 7
    cut, whole = (load_selection(tmp_path / name / "selection.json") for name in ("cut", "whole"))
    assert cut.sha256 == whole.sha256
    assert load_calibrated(tmp_path / "cut").sha256 == load_calibrated(tmp_path / "whole").sha256
    assert not store.exists()


@pytest.mark.parametrize("nested", [False, True])
def test_a_folder_of_sequences(nested: bool, inputs: Path, tmp_path: Path) -> None:
    """Without annotation files; depth maps beside the images are no images."""
    root = tmp_path / "data"
    for source in sorted(p for p in (inputs / "scenes" / "apple").iterdir() if p.is_dir())[:4]:
        target = root / "kitchen" / source.name if nested else root / source.name
        shutil.copytree(source / "images", target / "images" if nested else target)
        (target / "frame000001.depth.png").write_bytes(b"")
    out = tmp_path / "c"
    assert call("calibrate", *line(inputs, out, "--sequences", 3, data=root)) == 0
    frames = json.loads((out / "quant.json").read_text())["calibration"]["frames"]
    assert len(frames) == 3
    assert all(key.startswith("kitchen/" if nested else "data/") for key in frames)
    assert not (out / "selection.json").exists()


def test_categories_take_turns(inputs: Path, tmp_path: Path) -> None:
    for category, count in (("a", 3), ("b", 1), ("c", 4)):
        for i in range(count):
            shutil.copytree(planted(inputs / "scenes")[0] / "images", tmp_path / category / f"s{i}")
    pool = read_pool(Question(tmp_path, "train", frames=2))
    assert [s.key for s in first_sequences(pool, 5)] == ["a/s0", "a/s1", "b/s0", "c/s0", "c/s1"]
    assert first_sequences(pool, 99) == pool.sequences
    assert len(read_pool(Question(tmp_path, "train", frames=2, max_sequences=2))) == 5
    assert read_pool(Question(tmp_path, "train", frames=2, seed=0)) == pool
    assert read_pool(Question(tmp_path, "train", frames=2, seed=1)) != pool
    with pytest.raises(QvggtError, match="has 9 frames"):
        read_pool(Question(tmp_path, "train", frames=9))


def test_the_test_split_is_not_in_the_pool(inputs: Path) -> None:
    names = {s.key for s in read_pool(Question(inputs / "scenes", "train", frames=2))}
    assert len(names) == GOOD + len(BLANK)
    assert len([p for p in (inputs / "scenes" / "apple").iterdir() if p.is_dir()]) == len(names) + 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((*SELECT, "--class-mode", "pears"), ("pears", "apple, five, more, all")),
        ((*SELECT, "--class-mode", "five"), ("class mode five", "bicycle")),
        (("--select", "--sequences", 7, "--clusters", 3), ("--sequences 7", "6 or 9")),
        (("--clusters", 3), ("--clusters", "--select")),
        (("--pool", 3), ("--pool", "--select")),
        ((*SELECT, "--recipe", "rtn"), ("--select", "no images")),
        ((*SELECT, "--frames", 1), ("--select", "2 frames")),
        ((*SELECT, "--frames", 4), ("frames",)),
        ((*SELECT, "--data", "nowhere"), ("nowhere", "not a folder")),
        ((*SELECT, "--annotations", "nowhere"), ("nowhere", "annotation")),
    ],
)
def test_mistakes(
    options: tuple[Any, ...], words: tuple[str, ...], inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    err = mistake(capsys, "calibrate", *line(inputs, tmp_path / "c", *options))
    assert all(word in err for word in words), err
    assert list(tmp_path.iterdir()) == []
