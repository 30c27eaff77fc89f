"""A Rerun recording read back by rerun's own reader, a viser server that answers, a page that needs no other file."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qvggt.errors import QvggtError
from qvggt.eval.ground_truth import ImagePlan
from qvggt.eval.reconstruction import viewers
from qvggt.eval.reconstruction.cloud import at_edge
from qvggt.eval.reconstruction.config import ReconstructionConfig
from qvggt.eval.reconstruction.folder import Result, reconstruct_folder
from qvggt.eval.reconstruction.meshes import camera_colour
from qvggt.eval.reconstruction.overview import BACKGROUND, preview


@pytest.fixture(scope="module")
def folder(truth: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("made") / "out"


@pytest.fixture(scope="module")
def made(truth: Any, folder: Path) -> Result:
    config = ReconstructionConfig(formats=("cameras", "images", "page"), size=70)
    return reconstruct_folder(truth.runner, truth.taken.paths, folder, config, images=ImagePlan(70))


def with_confidence(made: Result) -> Result:
    """The truth is sure of everything: here of some points more than of others."""
    confidence = np.random.default_rng(0).permutation(len(made.cloud)).astype(np.float32)
    return replace(made, cloud=replace(made.cloud, confidence=confidence))


def test_a_recording_holds_what_was_made(made: Result, tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="qvggt[viewer] is not installed")
    from rerun.chunk import RrdReader

    viewers.write_rrd(tmp_path / "scene.rrd", with_confidence(made))
    reader = RrdReader(tmp_path / "scene.rrd")
    assert [entry.kind for entry in reader.recordings()] == ["recording"]
    assert [entry.kind for entry in reader.blueprints()] == ["blueprint"]
    tables = [(chunk.entity_path, chunk.to_record_batch().to_pydict()) for chunk in reader.stream().to_chunks()]
    of = {path: values for path, values in tables if path.startswith("/world")}
    parts = [of[path] for path in sorted(of) if path.startswith("/world/points/")]
    assert len(parts) == viewers.PARTS
    confidence = [np.array(part["confidence"][0]) for part in parts]
    assert all(a.min() >= b.max() for a, b in pairwise(confidence))  # the most confident come first
    positions = np.concatenate([np.array(part["Points3D:positions"][0]) for part in parts])
    assert np.allclose(np.sort(positions, axis=0), np.sort(made.cloud.points, axis=0))
    camera = of["/world/cameras/0002_view1.png"]
    pinhole = np.array(camera["Pinhole:image_from_camera"][0]).reshape(3, 3).T
    # half a pixel: Rerun's pixels have their centre there, the network's ray goes through the corner
    assert np.allclose(pinhole[:2, 2] - made.scene.intrinsics[1][:2, 2], 0.5)
    assert np.allclose(np.array(camera["Transform3D:translation"][0]), made.scene.extrinsics[1][:, 3], atol=1e-6)
    depth = np.frombuffer(bytes(of["/world/cameras/0002_view1.png/depth"]["DepthImage:buffer"][0][0]), np.float32)
    assert np.array_equal(depth.reshape(made.frames.size), made.scene.depth[1])
    for kind in ("image", "confidence"):
        assert f"/world/cameras/0002_view1.png/{kind}" in of


def test_viser_serves_the_loopback_address_and_stops(made: Result, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("viser", reason="qvggt[viewer] is not installed")
    server = viewers.serve_viser(made, 8137)
    try:
        assert server.get_host() == "127.0.0.1"
        with urllib.request.urlopen(f"http://127.0.0.1:{server.get_port()}", timeout=30) as answer:
            assert b"<html" in answer.read().lower()
    finally:
        server.stop()
    assert capsys.readouterr().out.replace("(viser) Server stopped\n", "") == ""


def test_the_slider_of_viser_drops_the_least_confident(made: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    viser = pytest.importorskip("viser", reason="qvggt[viewer] is not installed")
    handles: dict[str, Any] = {}

    def spy(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(self: Any, label: str, *args: Any, **options: Any) -> Any:
            return handles.setdefault(label, real(self, label, *args, **options))

        monkeypatch.setattr(owner, name, call)

    spy(viser.GuiApi, "add_slider")
    spy(viser.SceneApi, "add_point_cloud")
    spy(viser.SceneApi, "add_camera_frustum")
    ranked = with_confidence(made)
    server = viewers.serve_viser(ranked, 8137)
    try:
        assert sum(name.startswith("/cameras/") for name in handles) == 4
        assert len(handles["/points"].points) == len(made.cloud)
        handles["Drop the least confident, %"].value = 80
        for _ in range(200):  # its callbacks run on threads of its own
            if len(handles["/points"].points) < len(made.cloud):
                break
            time.sleep(0.05)
        kept = ranked.cloud.points[ranked.cloud.confidence >= np.percentile(ranked.cloud.confidence, 80)]
        assert np.allclose(handles["/points"].points, kept, atol=0.05)  # halves, as viser sends them
    finally:
        server.stop()


def test_rerun_that_does_not_start_is_one_line(made: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    rerun = pytest.importorskip("rerun", reason="qvggt[viewer] is not installed")

    def fail(**options: Any) -> None:
        raise RuntimeError("no display")

    monkeypatch.setattr(rerun, "spawn", fail)
    with pytest.raises(QvggtError, match="no display"):
        viewers.show(made, "rerun", print)


def test_the_viewer_is_left_by_ctrl_c(made: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    viser = pytest.importorskip("viser", reason="qvggt[viewer] is not installed")

    def interrupt(self: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(viser.ViserServer, "sleep_forever", interrupt)
    said: list[str] = []
    viewers.show(made, "viser", said.append)
    assert said[0].startswith("http://127.0.0.1:")
    assert "Ctrl-C" in said[0]


def test_the_picture_shows_points_and_every_camera(made: Result, folder: Path) -> None:
    with Image.open(folder / "preview.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert 0.1 < (pixels != BACKGROUND).any(-1).mean() < 0.95
    for index in range(4):
        assert (pixels == camera_colour(index, 4)).all(-1).sum() > 30


def test_nearer_points_hide_others(made: Result) -> None:
    """A red sheet in front of a blue one, seen from their camera."""
    y, x = (a.ravel() for a in np.mgrid[-20:21, -20:21] / 20)
    near, far = np.stack([x, y, np.full_like(x, 4)], 1), np.stack([2 * x, 2 * y, np.full_like(x, 8)], 1)
    cloud = replace(
        made.cloud.pick(np.arange(2 * len(x))), points=np.concatenate([near, far]).astype(np.float32),
        colours=np.repeat([[255, 0, 0], [0, 0, 255]], len(x), 0).astype(np.uint8),
    )  # fmt: skip
    shown = []
    for order in (slice(None), slice(None, None, -1)):  # whatever is painted first
        picture = preview(cloud.pick(order), np.eye(4)[None, :3], made.scene.intrinsics[:1], made.frames.size)
        shown.append([(picture == colour).all(-1).sum() for colour in ([255, 0, 0], [0, 0, 255])])
    assert shown[0] == shown[1]
    assert min(shown[0]) > 20_000


def test_the_page_needs_no_other_file(made: Result, folder: Path) -> None:
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["'](https?:|//)""", text)
    assert all(source.startswith("data:") for source in re.findall(r'src="([^"]*)"', text))
    assert text.count("data:image") == 5  # the preview and four images
    for name in ("cameras.json", "images/", "preview.png", "view3.png", "Look at this first", "percentile"):
        assert (name in text) is (name != "Look at this first")
    assert made.facts["warnings"] == []
    assert json.loads((folder / "reconstruction.json").read_text())["files"]["index.html"] == len(text.encode())


def test_names_and_warnings_are_no_markup(truth: Any, tmp_path: Path) -> None:
    taken = []
    for index, path in enumerate(truth.taken.paths):
        taken.append(tmp_path / f"{index}_b&b.png")
        taken[-1].write_bytes(path.read_bytes())
    runner = truth.runner
    label, runner.label = runner.label, "<script>alert(1)</script>"
    try:
        config = ReconstructionConfig(formats=("page",), percentile=0, edges=0)
        reconstruct_folder(runner, taken, tmp_path / "out", config, images=ImagePlan(70))
    finally:
        runner.label = label
    assert "<script" not in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_points_beside_a_jump_of_depth_are_found() -> None:
    depth = np.full((6, 8), 2.0)
    depth[:, 4:] = 2.4
    known = np.ones(depth.shape, bool)
    assert np.flatnonzero(at_edge(depth, known, 0.15).all(0)).tolist() == [3, 4]
    assert not at_edge(depth, known, 0.21).any()
    known[:, 4:] = False  # what is not known is no edge
    assert not at_edge(depth, known, 0.15).any()


def test_edges_are_dropped_by_default_and_counted(made: Result, truth: Any, tmp_path: Path) -> None:
    config = ReconstructionConfig(formats=("cameras",), edges=0)
    kept = reconstruct_folder(truth.runner, truth.taken.paths, tmp_path / "out", config, images=ImagePlan(70))
    assert kept.facts["points"]["depth_edges"] == 0
    assert 0 < made.facts["points"]["depth_edges"] < 0.3 * made.facts["points"]["pixels"]
