from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from small_network import SIZE, small_model
from true_runner import shoot

from qvggt.engines.onnx_runner import OnnxRunner
from qvggt.engines.torch_runner import TorchRunner
from qvggt.errors import QvggtError
from qvggt.eval.demo.workshop import EXAMPLE_FRAMES, EXAMPLES, Choice, Limits, Workshop, describe, differences

pytest.importorskip("trimesh", reason="the extra reconstruct is not installed")
pycolmap = pytest.importorskip("pycolmap", reason="the extra reconstruct is not installed")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return shoot(tmp_path_factory.mktemp("photos"), [(48, 64)] * 3).paths


@pytest.fixture
def workshop(small_float_onnx: Path) -> Iterator[Workshop]:
    def float_model() -> TorchRunner:
        opened.append("float")
        return TorchRunner(small_model(), "float")

    opened: list[str] = []
    choices = [Choice("float", float_model), Choice("m.onnx", lambda: OnnxRunner(small_float_onnx))]
    shop = Workshop(choices, Limits(images=3, megabytes=1))
    shop.opened = opened  # type: ignore[attr-defined]
    yield shop
    shop.close()


def test_two_networks_get_the_same_pixels(workshop: Workshop, photos: list[Path]) -> None:
    first, second = workshop.make(["float", "m.onnx"], photos, 0, [])
    assert first.result.frames.size == second.result.frames.size == (SIZE, SIZE)  # the engine's only size
    assert np.array_equal(first.result.frames.pixels, second.result.frames.pixels)
    rows = dict(differences(first, second))
    assert rows["depth, median difference"] == "0.00%"  # the same network
    assert rows["rotation between cameras, mean"] == "0.00 degrees"
    about = [dict(describe(made)) for made in (first, second)]
    assert about[0]["cameras"] == "3"
    assert [rows["network"] for rows in about] == ["float", "onnxruntime fp32 m.onnx"]
    assert {rows["it saw"].split(";")[0] for rows in about} == {"75x56 cropped to 56x56 (75 % of the image is seen)"}
    assert first.glb.name == "float.glb"
    assert first.glb.read_bytes()[:4] == b"glTF"


def test_all_of_each_picture_where_it_is_padded(workshop: Workshop, photos: list[Path]) -> None:
    workshop.fit = "pad"
    made = workshop.make(["float", "m.onnx"], photos, 0, [])
    assert [len(one.result.cloud) for one in made] == [3 * 42 * 56] * 2


def test_alone_a_network_chooses_its_own_size(workshop: Workshop, photos: list[Path]) -> None:
    (made,) = workshop.make(["float"], photos, 0, [])
    assert made.result.frames.size == (42, 56)
    assert len(made.result.cloud) == 3 * 42 * 56
    workshop.make(["float"], photos, 50, ["black"])
    assert workshop.opened == ["float"]  # type: ignore[attr-defined]


def test_the_archive_is_a_colmap_project(workshop: Workshop, photos: list[Path], tmp_path: Path) -> None:
    (made,) = workshop.make(["float"], photos, 25, [])
    with zipfile.ZipFile(made.colmap) as archive:
        archive.extractall(tmp_path)
    model = pycolmap.Reconstruction(str(tmp_path / "sparse/0"))
    assert {image.name for image in model.images.values()} == {p.name for p in (tmp_path / "images").iterdir()}
    assert (tmp_path / "cameras.json").is_file()


def test_limits_and_mistakes(workshop: Workshop, photos: list[Path], tmp_path: Path) -> None:
    with pytest.raises(QvggtError, match="at least one image"):
        workshop.make(["float"], [], 0, [])
    with pytest.raises(QvggtError, match="at most 3 at a time, got 4"):
        workshop.make(["float"], [*photos, photos[0]], 0, [])
    large = tmp_path / "large.png"
    large.write_bytes(bytes(1_100_000))
    with pytest.raises(QvggtError, match=r"large\.png: has 1\.1 MB"):
        workshop.make(["float"], [large], 0, [])
    with pytest.raises(QvggtError, match=r"expected one of float, m\.onnx"):
        workshop.make(["/etc/passwd"], photos, 0, [])
    with pytest.raises(QvggtError, match="different names"):
        Workshop([*workshop.choices.values()] * 2)
    (tmp_path / "no.jpg").write_bytes(b"none")
    with pytest.raises(QvggtError, match=r"no\.jpg"):
        workshop.make(["float"], [tmp_path / "no.jpg"], 0, [])


def test_other_points_are_dropped_without_the_network(workshop: Workshop, photos: list[Path]) -> None:
    (made,) = workshop.make(["float"], photos, 25, [])
    calls, runner = [], workshop.runners["float"]
    runner._run = lambda images: calls.append(1)  # type: ignore[assignment, method-assign]
    sizes = []
    for percentile in (0, 25, 80):
        (file,) = workshop.show(workshop.key([made]), percentile)
        assert file.read_bytes()[:4] == b"glTF"
        sizes.append(len(workshop.made[workshop.key([made])][0].result.cloud))
    assert sizes[0] > sizes[1] == len(made.result.cloud) > 3 * sizes[2] > 0
    assert calls == []
    with pytest.raises(QvggtError, match="press Reconstruct again"):
        workshop.show("long-ago", 25)


def test_a_chosen_camera_stands_out(workshop: Workshop, photos: list[Path]) -> None:
    import trimesh

    (made,) = workshop.make(["float"], photos, 25, [])
    (file,) = workshop.show(workshop.key([made]), 25, chosen=1)
    before, after = (trimesh.load(path) for path in (made.glb, file))
    sizes = [scene.geometry[f"camera_{i:04d}"].extents.max() for scene in (before, after) for i in (1, 2, 3)]
    assert np.allclose(np.array(sizes[3:]) / sizes[:3], [1, 3, 1], rtol=1e-3)


def test_the_oldest_reconstruction_is_forgotten(
    workshop: Workshop, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qvggt.eval.demo.workshop.KEPT", 1)
    keys = [workshop.key(workshop.make(["float"], photos[:1], 25, [])) for _ in range(2)]
    assert list(workshop.made) == keys[1:]


def test_examples_are_generated_scenes(workshop: Workshop) -> None:
    found = workshop.examples()
    assert set(found) == set(EXAMPLES)
    for images in found.values():
        assert len(images) == EXAMPLE_FRAMES
        assert all(image.is_relative_to(workshop.folder) for image in images)
    assert workshop.examples() == found


def test_files_are_called_by_their_names(workshop: Workshop, photos: list[Path]) -> None:
    (made,) = workshop.make(["float"], photos, 25, [])
    with zipfile.ZipFile(made.colmap) as archive:
        cameras = json.loads(archive.read("cameras.json"))["cameras"]
    assert [camera["source"] for camera in cameras] == [path.name for path in photos]
    error = QvggtError(f"{photos[0]}: is odd, see {workshop.folder}/uploads/x")
    assert workshop.words(error, photos) == f"{photos[0].name}: is odd, see uploads/x"
    assert workshop.words(RuntimeError(), []) == "RuntimeError"


def test_nothing_stays_behind(small_float_onnx: Path, photos: list[Path]) -> None:
    shop = Workshop([Choice("m.onnx", lambda: OnnxRunner(small_float_onnx))])
    (made,) = shop.make(["m.onnx"], photos, 0, [])
    assert made.glb.is_relative_to(shop.folder)
    shop.close()
    assert not shop.folder.exists()
