"""A data set of somebody else, a CSV of posed images, goes wherever the shipped ones go."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from calling import call
from numpy.typing import NDArray
from PIL import Image
from small_network import SIZE

from qvggt.data import registry
from qvggt.data.frame_list import FrameList, draw_frames
from qvggt.data.reading import read_images, read_pool
from qvggt.data.registry import DataSet, Question, dataset_names, find_dataset, recognise, register
from qvggt.data.sequence import Sequence, SequenceSet
from qvggt.data.synthetic.render import render
from qvggt.data.synthetic.scene import SceneConfig, sample_scene
from qvggt.errors import QvggtError
from qvggt.jobs.evaluate import EvaluateJob

FRAMES, SCENES = 4, 9


def read_csv(question: Question, frame_list: FrameList | None = None) -> SequenceSet[Sequence]:
    """ROOT/SPLIT.csv: scene, image, depth, 9 numbers of the intrinsics, 12 of the extrinsics."""
    rows: dict[str, list[list[str]]] = {}
    with open(question.root / f"{question.split}.csv", newline="") as file:
        for scene, *row in csv.reader(file):
            rows.setdefault(scene, []).append(row)
    sequences = []
    for scene in sorted(rows)[: question.max_sequences]:
        assert question.frames is not None
        drawn = draw_frames(question.seed, "csv", scene, len(rows[scene]), question.frames)
        indices = drawn if frame_list is None else frame_list.frames[f"csv/{scene}"]
        kept = [rows[scene][i] for i in indices]
        numbers = np.array([row[2:] for row in kept], np.float64)
        sequences.append(
            Sequence(
                category="csv",
                name=scene,
                image_paths=tuple(question.root / row[0] for row in kept),
                frame_indices=indices,
                extrinsics=numbers[:, 9:].reshape(-1, 3, 4),
                intrinsics=numbers[:, :9].reshape(-1, 3, 3),
                depth_paths=tuple(question.root / row[1] for row in kept),
                depth_reader=load_array,
            )
        )
    return SequenceSet(tuple(sequences), (), question.facts())


def load_array(path: Path) -> NDArray[np.float32]:
    return np.asarray(np.load(path), np.float32)


def has_csv(question: Question) -> bool:
    return (question.root / f"{question.split}.csv").is_file()


POSED_CSV = DataSet("csv", "SPLIT.csv and the files it names", read_csv, frames=3, fast=1, recognise=has_csv)


@pytest.fixture(scope="module")
def root(small_float: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("posed")
    config = SceneConfig(height=SIZE, width=SIZE, frames=FRAMES)
    for split, seeds in (("train", range(SCENES)), ("test", range(100, 102))):
        with open(folder / f"{split}.csv", "w", newline="") as file:
            for seed in seeds:
                views = render(sample_scene(config, seed), config)
                for i, (image, depth) in enumerate(zip(views.images, views.depth, strict=True)):
                    stem = f"{seed:03d}-{i}"
                    Image.fromarray(image).save(folder / f"{stem}.png")
                    np.save(folder / f"{stem}.npy", depth)
                    numbers = [*np.ravel(views.intrinsics[i]), *np.ravel(views.extrinsics[i])]
                    csv.writer(file).writerow([f"{seed:03d}", f"{stem}.png", f"{stem}.npy", *numbers])
    shutil.copy(small_float, folder)
    return folder


@pytest.fixture(autouse=True)
def registered(one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_DATA_SETS", dict(registry._DATA_SETS))
    register(POSED_CSV)


def test_evaluation_knows_it(root: Path, tmp_path: Path) -> None:
    model, frame_list = root / "float.safetensors", tmp_path / "frames.json"
    job = EvaluateJob(
        (model,), dataset="csv", root=root, frame_list=frame_list, metrics=("pose", "depth"), warmup=0, size=SIZE,
        threads=1, offline=True,
    )  # fmt: skip
    drawn, stored = (json.loads(job.run().save(tmp_path / "r.json").read_text()) for _ in range(2))
    assert drawn["config"]["dataset"] == "csv"
    assert drawn["config"]["root"] == str(root)
    assert {key: len(frames) for key, frames in drawn["frame_list"]["frames"].items()} == {"csv/100": 3, "csv/101": 3}
    (row,) = drawn["candidates"]
    assert all(record["depth"] is not None for record in row["sequences"])  # through its own depth reader
    assert stored["frame_list"]["file_sha256"] == drawn["frame_list"]["sha256"] == stored["frame_list"]["sha256"]


def test_its_name_is_a_word_of_the_command(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ("--model", root / "float.safetensors", "--root", root, "--threads", 1)
    assert call("eval", *model, "--dataset", "csv", "--fast", "--json", tmp_path / "r.json") == 0
    assert "1 sequences of 1 category, 3 frames each" in capsys.readouterr().out
    assert call("eval", *model, "--dataset", "csv", "--stride", 2) == 2
    assert "--stride 2: only for --dataset 7scenes and nrgbd" in capsys.readouterr().err
    assert call("eval", *model, "--dataset", "tsv") == 2
    assert "expected one of co3d, 7scenes, nrgbd, dtu, eth3d, synthetic, photos, csv" in capsys.readouterr().err


def test_calibration_images_come_from_it(root: Path, tmp_path: Path) -> None:
    question = Question(root, "train", frames=2)
    assert [s.key for s in read_pool(question)] == [f"csv/{seed:03d}" for seed in range(SCENES)]
    out, float_model = tmp_path / "c", root / "float.safetensors"
    options = ("--bits", "w8a8", "--act", "static", "--recipe", "rtn", "--frames", 2, "--sequences", 3)
    assert call("calibrate", float_model, *options, "--data", root, "-o", out) == 0
    frames = json.loads((out / "quant.json").read_text())["calibration"]["frames"]
    assert list(frames) == ["csv/000", "csv/001", "csv/002"]
    assert frames["csv/000"] == list(draw_frames(0, "csv", "000", FRAMES, 2))


def test_the_gate_of_an_export_takes_it(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = read_images(Question(root, frames=2, max_sequences=1), SIZE, SIZE)
    assert [batch.shape for batch in images] == [(2, 3, SIZE, SIZE)]
    model = (root / "float.safetensors", "--bits", "fp32", "--parity-sequences", 2, "--parity-frames", 2)
    assert call("export", *model, "--data", root, "-o", tmp_path / "m.onnx") == 0
    assert "AUC@30 on 2 sequences of 4 frames" in capsys.readouterr().out


def test_data_is_recognised_by_what_lies_there(root: Path, tmp_path: Path) -> None:
    assert recognise(Question(root), "photos").name == "csv"
    assert recognise(Question(root, "validation"), "co3d").name == "co3d"
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "apple_train.jgz").touch()
    assert recognise(Question(tmp_path, "train"), "photos").name == "co3d"
    assert recognise(Question(tmp_path, "test"), "photos").name == "photos"


def test_names() -> None:
    assert dataset_names() == ("co3d", "7scenes", "nrgbd", "dtu", "eth3d", "synthetic", "photos", "csv")
    assert dataset_names("stride") == ("7scenes", "nrgbd", "dtu")
    assert register(POSED_CSV) is POSED_CSV
    with pytest.raises(QvggtError, match="data set csv: is registered already"):
        register(DataSet("csv", "something else", read_csv))
    with pytest.raises(QvggtError, match="expected one of co3d, "):
        find_dataset("folders")


def test_a_reader_is_imported_when_it_is_asked() -> None:
    code = (
        "import sys; from qvggt.data import registry; registry.find_dataset('nrgbd'); print(*sys.modules); "
        "registry.function(registry.find_dataset('nrgbd').reader); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    before, after = (set(line.split()) for line in done.stdout.splitlines())
    assert not before & {"torch", "numpy", "qvggt.data.nrgbd"}
    assert "qvggt.data.nrgbd" in after
    assert "qvggt.data.co3d" not in after
