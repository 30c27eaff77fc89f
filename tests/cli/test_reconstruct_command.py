"""qvggt reconstruct, from the command line to the files; every mistake is one line and exit code 2."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import calling
import numpy as np
import pytest
from PIL import Image
from small_network import small_model
from true_runner import TrueRunner, shoot

from qvggt.data.image_file import ORIENTATION
from qvggt.data.photos import find_images, stage_images
from qvggt.engines import torch_runner
from qvggt.errors import QvggtError
from qvggt.eval.ground_truth import ImagePlan
from qvggt.eval.reconstruction.frames import load_frames
from qvggt.jobs.job import read_job
from qvggt.jobs.reconstruct import ReconstructJob
from qvggt.models.loading import save_model
from qvggt.models.vggt.config import TrackConfig
from qvggt.quant.handle import Model

pytest.importorskip("trimesh", reason="the extra reconstruct is not installed")
pycolmap = pytest.importorskip("pycolmap", reason="the extra reconstruct is not installed")

call = partial(calling.call, "reconstruct")
TRACK = TrackConfig(
    features=16, iters=2, corr_levels=3, corr_radius=2, hidden_size=32, depth=1, num_heads=2, virtual_tracks=4
)


@pytest.fixture(scope="module")
def data(small_float: Path, small_float_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/ of mixed sizes, float.safetensors, track.safetensors, w8a8.onnx."""
    folder = tmp_path_factory.mktemp("data")
    shoot(folder / "photos", [(48, 64), (64, 48), (60, 60), (48, 64), (48, 64), (48, 64)], suffix=".jpg")
    shutil.copy(small_float, folder)
    heads = ("camera", "point", "depth", "track")
    save_model(small_model(heads=heads, track=TRACK), folder / "track.safetensors")
    shutil.copy(small_float_onnx, folder)
    return folder


def mistake(capsys: pytest.CaptureFixture[str], *args: Any) -> str:
    return calling.mistake(capsys, "reconstruct", *args)


def test_everything_is_written(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert call(data / "photos", "--model", data / "float.safetensors", "-o", out) == 0
    printed = capsys.readouterr().out
    assert "6 images, 56x56 network pixels" in printed
    assert "6 cameras" in printed
    assert "scene.glb" in printed
    assert sorted(p.name for p in out.iterdir()) == [
        "cameras.json", "depth", "images", "index.html", "points.ply", "preview.png", "reconstruction.json",
        "scene.glb", "sparse", "sparse_text",
    ]  # fmt: skip
    facts = json.loads((out / "reconstruction.json").read_text())
    for name, size in facts["files"].items():
        assert (out / name).stat().st_size == size
    assert facts["points"]["kept"] > 0
    assert facts["network"]["sha256"]
    assert len(list((out / "depth").iterdir())) == 12
    assert pycolmap.Reconstruction(str(out / "sparse/0")).num_images() == 6
    assert list(tmp_path.iterdir()) == [out]


def test_an_engine_and_chosen_formats(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    line = ("--engine", data / "m.onnx", "--formats", "glb,cameras", "--max-images", 3)
    assert call(data / "photos", *line, "-o", out) == 0
    assert sorted(p.name for p in out.iterdir()) == ["cameras.json", "reconstruction.json", "scene.glb"]
    assert json.loads((out / "reconstruction.json").read_text())["images"] == 3


def test_passes_are_said(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    line = ("--model", data / "float.safetensors", "--max-frames-per-pass", 3, "--overlap", 2, "--formats", "cameras")
    assert call(data / "photos", *line, "-o", out) == 0
    printed = capsys.readouterr().out
    assert "4 passes of up to 3 images, 2 or more shared" in printed
    assert "pass 2 joined on 2 images: scale" in printed
    facts = json.loads((out / "reconstruction.json").read_text())
    assert len(facts["joins"]) == 3
    assert facts["passes"] == [[0, 3], [1, 4], [2, 5], [3, 6]]


def test_a_small_memory_limit_makes_passes(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qvggt.eval.reconstruction import memory

    monkeypatch.setattr(memory, "estimate", lambda network, frames, height, width: frames * 60_000_000)
    line = ("--model", data / "float.safetensors", "--memory-limit", 0.25, "--overlap", 1, "--formats", "cameras")
    assert call(data / "photos", *line, "-o", tmp_path / "out") == 0
    facts = json.loads((tmp_path / "out" / "reconstruction.json").read_text())
    assert max(stop - start for start, stop in facts["passes"]) <= 4
    assert facts["memory"]["limit_bytes"] == 1 << 28


def test_tracks(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = data / "track.safetensors"
    (tmp_path / "q.txt").write_text("# x y\n30 20\n40.5, 31\n")
    line = (data / "photos", "--model", model, "--formats", "cameras")
    assert call(*line, "--query-points", tmp_path / "q.txt", "-o", tmp_path / "a") == 0
    assert "2 tracks" in capsys.readouterr().out
    with np.load(tmp_path / "a" / "tracks.npz") as found:
        assert found["tracks"].shape == (6, 2, 2)
        assert found["visibility"].shape == found["confidence"].shape == (6, 2)
        # the first image is where the queries are: pixels of the original, there and back
        assert np.allclose(found["tracks"][0], [[30, 20], [40.5, 31]], atol=1e-3)
        assert np.allclose(found["queries"], [[30, 20], [40.5, 31]])
        assert found["images"].tolist() == [f"view{i}.jpg" for i in range(6)]
    assert call(*line, "--query-grid", 3, "-o", tmp_path / "b") == 0
    with np.load(tmp_path / "b" / "tracks.npz") as found:
        assert found["tracks"].shape == (6, 9, 2)
        assert ((found["queries"] >= 0) & (found["queries"] <= [64, 48])).all()


def test_mistakes_with_tracks(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("-o", tmp_path / "out")
    photos, model = data / "photos", data / "track.safetensors"
    bad = tmp_path / "q.txt"
    bad.write_text("1 2\nthree 4\n")
    line = ("--model", model, "--query-points", bad)
    assert "line 2" in mistake(capsys, photos, *line, *out)
    bad.write_text("900 2\n")
    assert "(900, 2)" in mistake(capsys, photos, *line, *out)
    bad.write_text("\n")
    assert "no query point" in mistake(capsys, photos, *line, *out)
    grid = ("--query-grid", 2)
    assert "no track head" in mistake(capsys, photos, "--model", data / "float.safetensors", *grid, *out)
    assert "--model" in mistake(capsys, photos, "--engine", data / "m.onnx", *grid, *out)
    assert "one pass" in mistake(capsys, photos, "--model", model, *grid, "--max-frames-per-pass", 5, *out)
    assert "not both" in mistake(capsys, photos, "--model", model, *grid, "--query-points", bad, *out)
    assert not (tmp_path / "out").exists()


def test_overwrite(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    line = (data / "photos", "--model", data / "float.safetensors", "--formats", "cameras", "-o", out)
    assert call(*line) == 0
    capsys.readouterr()
    assert "--overwrite" in mistake(capsys, *line)
    assert call(*line, "--overwrite") == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "keep.txt").write_text("mine")
    theirs = (*line[:-1], tmp_path / "mine")
    capsys.readouterr()
    assert "reconstruction.json" in mistake(capsys, *theirs, "--overwrite")
    assert (tmp_path / "mine" / "keep.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), ("--engine", "--model")),
        (("--model", "tiny", "--engine", "x.onnx"), ("one of --engine and --model",)),
        (("--model", "x.onnx"), ("--engine",)),
        (("--model", "tiny", "--weight-streaming-budget", "1"), ("--weight-streaming-budget", "--engine")),
        (("--engine", "ONNX", "--weight-streaming-budget", "1"), ("no use for weight_streaming_budget",)),
        (("--engine", "gone.onnx"), ("gone.onnx", "no such file")),
        (("--model", "FLOAT", "--formats", "glb,obj"), ("obj", "glb, ply, colmap")),
        (("--model", "FLOAT", "--formats", ","), ("at least one",)),
        (("--model", "FLOAT", "--mask", "clouds"), ("clouds", "black, white, sky")),
        (("--model", "FLOAT", "--masks", "gone"), ("gone", "no such folder")),
        (("--model", "FLOAT", "--points", "both"), ("both", "depth", "head")),
        (("--model", "FLOAT", "--fit", "squeeze"), ("squeeze", "crop", "pad")),
        (("--model", "FLOAT", "--depth-size", "huge"), ("huge", "network", "image")),
        (("--model", "FLOAT", "--edges", "-1"), ("--edges",)),
        (("--model", "FLOAT", "--viewer", "blender"), ("blender", "rerun", "viser")),
        (("--model", "FLOAT", "--shared-camera"), ("--shared-camera", "64x48", "48x64")),
        (("--model", "FLOAT", "--shared-camera", "--formats", "glb"), ("--shared-camera", "add colmap")),
        (("--model", "FLOAT", "--colmap-tracks", "matches", "--formats", "glb"), ("--colmap-tracks", "add colmap")),
        (("--model", "FLOAT", "--colmap-tracks", "head"), ("no track head",)),
        (("--engine", "ONNX", "--colmap-tracks", "head"), ("--model", "no track head")),
        (("--model", "FLOAT", "--size", "60"), ("60", "56")),
        (("--model", "FLOAT", "--conf-percentile", "100"), ("--conf-percentile",)),
        (("--model", "FLOAT", "--max-frames-per-pass", "3"), ("overlap", "1 to 2")),
        (("--model", "FLOAT", "--device", "tpu"), ("tpu", "cpu")),
        (("--model", "FLOAT", "--query-points", "gone.txt"), ("gone.txt", "text file of query points")),
        (("--model", "gone.safetensors"), ("gone.safetensors", "no such file")),
        (("--engine", "ONNX", "--precision", "bf16"), ("--precision bf16", "no --model")),
        (("--model", "FLOAT", "--precision", "int8"), ("precision", "int8", "fp32")),
        (("--engine", "ONNX", "--revision", "main"), ("revision", "main")),
        (("--engine", "ONNX", "--runtime", "magic"), ("magic", "onnxruntime")),
    ],
)
def test_mistakes_in_the_call(
    options: tuple[str, ...], words: tuple[str, ...], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"FLOAT": str(data / "float.safetensors"), "ONNX": str(data / "m.onnx")}
    line = [files.get(option, option) for option in options]
    error = mistake(capsys, data / "photos", *line, "-o", tmp_path / "out")
    assert all(word in error for word in words), error
    assert list(tmp_path.iterdir()) == []


def test_mistakes_in_the_inputs(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "in" / "broken.jpg"
    broken.parent.mkdir()
    broken.write_bytes((data / "photos" / "view0.jpg").read_bytes()[:400])
    line = ("--model", data / "float.safetensors", "-o", tmp_path / "out")
    assert "broken.jpg" in mistake(capsys, data / "photos", broken, *line)
    assert "gone.jpg" in mistake(capsys, tmp_path / "gone.jpg", *line)
    (tmp_path / "in" / "clip.mp4").write_bytes(b"no video")
    assert "clip.mp4" in mistake(capsys, tmp_path / "in" / "clip.mp4", *line)
    assert "only input" in mistake(capsys, tmp_path / "in" / "clip.mp4", data / "photos", *line)
    assert not (tmp_path / "out").exists()


def test_no_point_left(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "masks").mkdir()
    for index in range(6):
        Image.new("L", (10, 10)).save(tmp_path / "masks" / f"view{index}.png")
    line = ("--model", data / "float.safetensors", "--masks", tmp_path / "masks", "-o", tmp_path / "out")
    assert "no point is left" in mistake(capsys, data / "photos", *line)
    assert not (tmp_path / "out").exists()
    assert call(data / "photos", *line, "--formats", "depth,cameras") == 0


def test_an_interrupted_run_leaves_nothing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qvggt.eval.reconstruction import folder

    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(folder, "write_colmap", stop)
    assert call(data / "photos", "--model", data / "float.safetensors", "-o", tmp_path / "out") == 130
    assert list(tmp_path.iterdir()) == []


def test_the_job_travels_as_json(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--save-config, --config with an option on top, --json - and the same call from Python."""
    line = (data / "photos", "--model", data / "float.safetensors", "--formats", "cameras,depth", "--max-images", 2)
    stored, out = tmp_path / "job.json", tmp_path / "out"
    assert call(*line, "--mask", "black", "-o", out, "--save-config", stored) == 0
    job = ReconstructJob(
        (data / "photos",), out, model=str(data / "float.safetensors"),
        formats=("cameras", "depth"), mask=("black",), max_images=2,
    )  # fmt: skip
    assert read_job(stored) == read_job(job.save(tmp_path / "again.json")) == job
    assert not out.exists()
    capsys.readouterr()
    assert call("--config", stored, "--max-images", 3, "--json", "-") == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert (result["cameras"], result["images"], result["options"]["masks"]) == (3, 3, ["black"])
    assert result["threads"] == 1
    assert Path(result["report"]).is_file()
    assert "3 cameras" in printed.err
    made = dataclasses.replace(job, overwrite=True).run()
    assert (made.output, made.cameras, made.passed) == (out, 2, True)
    assert made.scene.extrinsics.shape == (2, 3, 4)
    assert sum((out / name).is_file() for name in made.files) == len(made.files) == 6
    assert len(repr(made)) < 200


def test_an_engine_of_fixed_size(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Padded, all of every image is seen; no point and no depth is of the padding."""
    line = (data / "photos", "--engine", data / "m.onnx", "--max-images", 2, "--conf-percentile", 0, "--edges", 0)
    for fit, share, pixels in (("pad", 0, 2 * 42 * 56), ("crop", 0.25, 2 * 56 * 56)):
        out = tmp_path / fit
        assert call(*line, "--fit", fit, "--formats", "ply,depth,cameras", "-o", out) == 0
        facts = json.loads((out / "reconstruction.json").read_text())
        words = ("56x42", "75 % of the pixels are image") if fit == "pad" else ("75x56", "75 % of the image is seen")
        assert all(word in facts["seen"] for word in words)
        assert facts["seen"].endswith("onnxruntime fp32 m.onnx takes no other size")
        assert f"{facts['seen']}\n" in capsys.readouterr().out
        assert facts["largest_cropped_share"] == pytest.approx(share, abs=0.02)
        assert facts["points"]["pixels"] == pixels
        cameras = json.loads((out / "cameras.json").read_text())["cameras"]
        assert [camera["width"] for camera in cameras] == [64, 48]
        depth = np.load(out / "depth" / "view0.jpg.npz")
        assert depth["inside"].sum() == pixels / 2


def test_quiet_says_the_result_only(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ("--model", data / "float.safetensors", "--formats", "cameras", "--max-images", 2, "-q")
    assert call(data / "photos", *line, "-o", tmp_path / "out") == 0
    printed = capsys.readouterr()
    assert all(text.startswith("warning: ") for text in printed.err.splitlines())  # of a network that knows nothing
    assert printed.out.startswith(f"{tmp_path / 'out'}: 2 cameras, ")
    assert printed.out.count("\n") == 1


def test_a_model_in_memory_is_passed_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qvggt.engines import opening

    model, given = Model(small_model(), "mine", "0" * 64), []
    real = opening.open_runner

    def spy(source: Any, options: Any) -> Any:
        given.append(source)
        return real(data / "float.safetensors", options)

    monkeypatch.setattr(opening, "open_runner", spy)
    job = ReconstructJob((data / "photos",), tmp_path / "out", model=model, formats=("cameras",), max_images=2)
    assert job.run().cameras == 2
    assert given == [model]
    with pytest.raises(QvggtError, match="in memory"):
        job.save(tmp_path / "job.json")
    with pytest.raises(QvggtError, match="no track head"):
        dataclasses.replace(job, query_grid=2)


@pytest.mark.parametrize(
    ("module", "formats"),
    [("trimesh", "glb"), ("trimesh", "ply"), ("pycolmap", "colmap"), ("av", "cameras"), ("rerun", "rrd")],
)
def test_missing_libraries_are_named(
    module: str,
    formats: str,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    source = tmp_path / "v.mp4" if module == "av" else data / "photos"
    (tmp_path / "v.mp4").touch()
    line = ("--model", data / "float.safetensors", "--formats", formats, "-o", tmp_path / "out")
    assert ("'.[viewer]'" if module == "rerun" else "'.[reconstruct]'") in mistake(capsys, source, *line)


@pytest.mark.parametrize(("viewer", "module"), [("rerun", "rerun"), ("viser", "viser")])
def test_a_missing_viewer_is_named_before_the_work(
    viewer: str,
    module: str,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    line = ("--model", data / "float.safetensors", "--viewer", viewer, "-o", tmp_path / "out")
    assert "'.[viewer]'" in mistake(capsys, data / "photos", *line)
    assert not (tmp_path / "out").exists()


def test_the_viewer_opens_on_what_was_made(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("viser", reason="'.[viewer]' is not installed")
    from qvggt.eval.reconstruction import viewers

    seen = []
    monkeypatch.setattr(viewers, "show", lambda made, viewer, say: seen.append((len(made.photos), viewer)))
    line = ("--model", data / "float.safetensors", "--formats", "cameras", "--max-images", 2, "--viewer", "viser")
    assert call(data / "photos", *line, "-o", tmp_path / "out") == 0
    assert seen == [(2, "viser")]


def test_tracks_of_the_head_become_a_colmap_model(data: Path, tmp_path: Path) -> None:
    """Of a random head: that it gets there, and what is said of it; true tracks are tested beside the model."""
    line = (data / "photos", "--model", data / "track.safetensors", "--formats", "colmap,images", "--edges", 0)
    assert call(*line, "--colmap-tracks", "head", "--query-grid", 8, "-o", tmp_path / "a") == 0
    facts = json.loads((tmp_path / "a" / "reconstruction.json").read_text())
    assert (tmp_path / "a" / "tracks.npz").is_file()
    model = pycolmap.Reconstruction(str(tmp_path / "a" / "sparse/0"))
    assert facts["colmap"]["observations"] == sum(p.track.length() for p in model.points3D.values())
    if facts["colmap"]["points_from"] == "depth":
        assert any("no track is sure" in line for line in facts["warnings"])
    else:
        assert min(p.track.length() for p in model.points3D.values()) > 1


def test_a_true_network_gives_a_true_model_of_turned_photographs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way: photographs of mixed sizes, some stored sideways with an EXIF turn; COLMAP's cameras and points
    lead to the pixels of the upright originals."""
    taken = shoot(tmp_path / "upright", [(96, 128), (128, 96), (120, 120), (96, 128)])
    folder = tmp_path / "stored"
    folder.mkdir()
    for index, path in enumerate(taken.paths):
        with Image.open(path) as image:
            upright = image.convert("RGB")
        exif = Image.Exif()
        exif[ORIENTATION] = (1, 6, 3, 8)[index]
        turned = upright.rotate((0, 90, 180, 270)[index], expand=True)  # what the EXIF turn undoes
        turned.save(folder / path.name, exif=exif)
    staged = tmp_path / "staged"
    staged.mkdir()
    photos = stage_images(find_images([folder]), staged)
    assert [p.orientation for p in photos] == [1, 6, 3, 8]
    assert [(p.height, p.width) for p in photos] == taken.sizes
    runner = TrueRunner(taken, load_frames([p.path for p in photos], ImagePlan(70)))
    monkeypatch.setattr(torch_runner, "open_model", lambda *args, **options: runner)
    out = tmp_path / "out"
    line = (folder, "--model", "tiny", "--size", 70, "--conf-percentile", 0, "--colmap-points", 3000)
    assert call(*line, "-o", out) == 0
    model = pycolmap.Reconstruction(str(out / "sparse/0"))
    assert model.num_points3D() == 3000
    for image in model.images.values():
        with Image.open(out / "images" / image.name) as stored, Image.open(tmp_path / "upright" / image.name) as truth:
            pixels = np.asarray(truth.convert("RGB"), np.float64)
            assert np.array_equal(np.asarray(stored.convert("RGB")), np.asarray(truth.convert("RGB")))
        assert pixels.shape[:2] == (image.camera.height, image.camera.width)
        points = [model.points3D[place.point3D_id] for place in image.points2D]
        where = np.array([image.project_point(point.xyz) for point in points])
        x, y = where.astype(int).T
        differences = np.abs(pixels[y, x] - np.array([point.color for point in points]))
        assert np.median(differences) < 8
