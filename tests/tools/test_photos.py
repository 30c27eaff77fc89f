"""Photographs are fetched once and checked; the bench judges each half on what the other, or a scene, calibrated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import bench_photos
import numpy as np
import photos
import pytest
import results_tables
import torch
from PIL import Image

from qvggt.calib.recipe import find_recipe
from qvggt.errors import QvggtError


def painted(package: str, folder: Path) -> None:
    """What stands for a package: five images of noise."""
    (folder / "pictures").mkdir()
    for index in range(5):
        pixels = np.random.default_rng(index).integers(0, 256, (60, 80, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{index}.png")


@pytest.fixture
def collections(tmp_path: Path) -> tuple[photos.Collection, ...]:
    (tmp_path / "package").mkdir()
    painted("", tmp_path / "package")

    def digest(names: tuple[str, ...]) -> str:
        files = [(tmp_path / "package" / "pictures" / name).read_bytes() for name in names]
        return hashlib.sha256(b"".join(files)).hexdigest()

    still, video = ("0.png", "1.png"), ("0.png", "2.png", "3.png", "4.png")
    return (
        photos.Collection("still", "p", "pictures", (still,), digest(still), (0,)),
        photos.Collection("video", "p", "pictures", (video,), digest(video)),
    )


@pytest.fixture
def fetched(
    collections: tuple[photos.Collection, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, list[str]]:
    """Folder of the images, and the packages asked for."""
    asked: list[str] = []

    def unpacked(package: str, folder: Path) -> None:
        asked.append(package)
        painted(package, folder)

    monkeypatch.setattr(photos, "unpacked", unpacked)
    (tmp_path / "photos").mkdir()
    photos.fetch(collections, tmp_path / "photos")
    return tmp_path / "photos", asked


def test_they_are_fetched_once_and_checked(collections: tuple[photos.Collection, ...], fetched: tuple) -> None:
    folder, asked = fetched
    photos.fetch(collections, folder)
    assert asked == ["p"]
    assert sorted(path.name for path in folder.iterdir()) == ["still", "video"]
    (sequence,) = collections[1].sequences(56, folder)
    assert sequence.shape == (4, 3, 56, 56)
    (folder / "still" / "1.png").write_bytes(b"other")
    with pytest.raises(QvggtError, match="still: other images than expected"):
        photos.fetch(collections, folder)
    (folder / "still" / "1.png").unlink()
    with pytest.raises(QvggtError, match=r"1\.png: is not there; run python tools/photos\.py"):
        collections[0].sequences(56, folder)


def test_another_version_of_a_package_leaves_nothing(
    collections: tuple[photos.Collection, ...], fetched: tuple, tmp_path: Path
) -> None:
    other = replace(collections[0], name="new", sha256="0" * 64)
    with pytest.raises(QvggtError, match="new: other images than expected"):
        photos.fetch((other,), fetched[0])
    assert sorted(path.name for path in fetched[0].iterdir()) == ["still", "video"]


@pytest.mark.parametrize("said", ["E: Unable to locate package p", ""])
def test_a_package_that_is_not_to_be_had(said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = tmp_path / "apt-get"
    client.write_text(f"#!/bin/sh\necho first >&2\n[ -z '{said}' ] || echo '{said}' >&2\nexit 100\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(QvggtError, match=f"p: apt-get ended with 100: {said or 'first'}"):
        photos.unpacked("p", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    with pytest.raises(QvggtError, match="p: apt-get is not there; it takes Debian's apt-get and dpkg"):
        photos.unpacked("p", tmp_path)


def test_the_sequences_of_the_real_ones() -> None:
    assert {c.name: (len(c.paths), len(c.paths[0])) for c in photos.COLLECTIONS} == {
        "chessboards": (13, 2), "pairs": (4, 2), "motorcycle": (1, 2),
        "cube": (4, 4), "table": (4, 4), "castle": (3, 4), "target": (5, 4),
    }  # fmt: skip
    assert all(len(c.sha256) == 64 for c in photos.COLLECTIONS)
    stills, videos = bench_photos.halves({c.name: [torch.zeros(len(p)) for p in c.paths] for c in photos.COLLECTIONS})
    assert ([*stills], [*videos]) == (["chessboards", "pairs", "motorcycle"], ["cube", "table", "castle", "target"])
    assert len(bench_photos.spread_over(stills, 16)) == 16
    assert len(bench_photos.spread_over(stills, 99)) == 18


def test_a_camera_beside_the_first_is_right() -> None:
    """A second camera that stands to the right, turned like the first: no error; one in front: a right angle."""
    right, front = torch.zeros(1, 2, 9), torch.zeros(1, 2, 9)
    for encoding, axis, value in ((right, 0, -2.0), (front, 2, -2.0)):
        encoding[..., 6] = 1  # no turn
        encoding[..., 7:] = 1.0
        encoding[0, 1, axis] = value
    count = [(c.name, len(c.rectified)) for c in photos.COLLECTIONS if c.rectified]
    assert count == [("pairs", 1), ("motorcycle", 1)]
    for encoding, degrees in ((right, 0.0), (front, 90.0)):
        outputs = [{"pose_enc": encoding}]
        assert bench_photos.cameras({"pairs": outputs, "motorcycle": outputs}, 70) == pytest.approx([degrees] * 2)


def test_the_bench(
    collections: tuple[photos.Collection, ...],
    fetched: tuple,
    small_float: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[int, list[str]]] = []
    row: Callable = bench_photos.Judge.row

    def spied(judge: bench_photos.Judge, scheme: str, calibration: list[torch.Tensor], judged: list[str]) -> dict:
        seen.append((len(calibration[0]), judged))
        return row(judge, scheme, calibration, judged)

    monkeypatch.setattr(bench_photos.Judge, "row", spied)
    monkeypatch.setattr(bench_photos, "COLLECTIONS", collections)
    monkeypatch.setattr(bench_photos, "find_recipe", lambda _name: find_recipe("rtn"))  # quick
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "p.json"
    call = {"schemes": "w8a8-dynamic", "scenes": 2, "calibration_sequences": 1}
    bench_photos.bench(str(small_float), photographs=fetched[0], output=output, **call)
    report = json.loads(output.read_text())
    first, second = report["rows"]
    # scenes have 4 frames, like the video
    assert seen == [(4, ["generated", "still", "video"]), (4, ["still"]), (2, ["video"])]
    assert [*first["sqnr_db"]] == ["generated", "still", "video"]
    assert [*second["sqnr_db"]] == ["still", "video"]
    assert all(10 < noise["pose_enc"] < 90 for r in report["rows"] for noise in r["sqnr_db"].values())
    assert [len(r["cameras_deg"]) for r in report["rows"]] == [1, 1] == [len(report["call"]["float_cameras_deg"])] * 2
    monkeypatch.setattr(results_tables, "load", lambda _name: report)
    header, _, *lines = results_tables.photos().splitlines()
    assert header == "| scheme | calibrated on | generated | still | video | photographs less scenes |"
    assert lines[1].startswith("| w8a8-dynamic | photographs | - / - | ")
    noise = first["sqnr_db"]
    behind = (noise["still"]["depth"] + noise["video"]["depth"]) / 2 - noise["generated"]["depth"]
    assert lines[0].endswith(f"/ {behind:+.1f} |")
