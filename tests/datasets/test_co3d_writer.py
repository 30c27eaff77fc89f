"""The generated data set is a Co3Dv2 one: layout, exact cameras, depth, and safe re-use of folders."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qvggt import QvggtError
from qvggt.data.co3d import read_sequences
from qvggt.data.co3d_writer import MARKER, write_co3d
from qvggt.data.depth_png import read_depth
from qvggt.data.registry import Question
from qvggt.data.synthetic.render import render
from qvggt.data.synthetic.scene import SceneConfig, sample_scene

CONFIG = SceneConfig(height=28, width=42, frames=4)
TRAIN, TEST = range(3), range(100, 102)


def write(root, config=CONFIG, **options):
    options = {"train": TRAIN, "test": TEST, "progress": False, **options}
    return write_co3d(root, config, **options)


def files_of(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("co3d")
    return root, write(root)


def test_layout(written):
    root, result = written
    assert (result.rendered, result.reused) == (5, 0)
    names = set(files_of(root))
    for seed in (*TRAIN, *TEST):
        for frame in range(1, 5):
            folder = f"synthetic/scene_{seed:09d}"
            assert f"{folder}/images/frame{frame:06d}.jpg" in names
            assert f"{folder}/depths/frame{frame:06d}.jpg.geometric.png" in names
    assert len(names) == 5 * 4 * 2 + 3  # + two annotation files and the marker
    with Image.open(root / "synthetic/scene_000000000/images/frame000001.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (42, 28))


def test_annotations_project_points_as_pytorch3d_does(written):
    """Independent of our converters: row vectors, +x left, +y up, NDC unit = half the shorter side."""
    root, _ = written
    data = json.loads(gzip.decompress((root / "annotations/synthetic_test.jgz").read_bytes()))
    assert list(data) == ["scene_000000100", "scene_000000101"]
    scene = sample_scene(CONFIG, 100)
    views = render(scene, CONFIG)
    point = np.array([0.2, -0.1, 0.3])
    for frame, entry in enumerate(data["scene_000000100"]):
        x, y, z = point @ np.array(entry["R"]) + entry["T"]
        ndc = np.array([x, y]) / z * entry["focal_length"] + entry["principal_point"]
        pixel = np.array([42 / 2, 28 / 2]) - ndc * 28 / 2
        local = views.extrinsics[frame, :, :3] @ point + views.extrinsics[frame, :, 3]
        expected = views.intrinsics[frame] @ local / local[2]
        np.testing.assert_allclose(pixel, expected[:2], atol=1e-9)
        assert z == pytest.approx(local[2])


def test_reader_returns_what_was_rendered(written):
    root, result = written
    for split, seeds in (("train", TRAIN), ("test", TEST)):
        config = Question(root, annotations=result.annotations, split=split, frames=3, min_frames=4)
        sequences = read_sequences(config)
        assert [s.name for s in sequences] == [f"scene_{seed:09d}" for seed in seeds]
        for sequence, seed in zip(sequences, seeds, strict=True):
            views = render(sample_scene(CONFIG, seed), CONFIG)
            chosen = list(sequence.frame_indices)
            np.testing.assert_allclose(sequence.extrinsics, views.extrinsics[chosen], atol=1e-12)
            np.testing.assert_allclose(sequence.intrinsics, views.intrinsics[chosen], atol=1e-9)
            for path, depth_path, index in zip(sequence.image_paths, sequence.depth_paths, chosen, strict=True):
                assert depth_path is not None
                np.testing.assert_allclose(read_depth(depth_path), views.depth[index], rtol=2**-10)
                with Image.open(path) as image:
                    error = np.asarray(image, int) - views.images[index]
                assert np.abs(error).mean() < 6


def test_second_run_keeps_everything(written):
    root, result = written
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    again = write(root)
    assert (again.rendered, again.reused) == (0, 5)
    assert again.config_hash == result.config_hash
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before


def test_bytes_are_deterministic_and_independent_of_workers(written, tmp_path):
    root, _ = written
    write(tmp_path, workers=2)
    assert files_of(tmp_path) == files_of(root)


def test_a_missing_sequence_is_made_again(tmp_path):
    write(tmp_path)
    before = files_of(tmp_path)
    lost = tmp_path / "synthetic" / "scene_000000001"
    for path in sorted(lost.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    lost.rmdir()
    result = write(tmp_path)
    assert (result.rendered, result.reused) == (1, 4)
    assert files_of(tmp_path) == before


def test_failure_leaves_no_partial_sequence(tmp_path, monkeypatch):
    def broken(path, depth):
        raise OSError("disk full")

    monkeypatch.setattr("qvggt.data.synthetic.sequence.write_depth", broken)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path)
    assert [p.name for p in (tmp_path / "synthetic").iterdir()] == [MARKER]


@pytest.mark.parametrize(
    "options",
    [
        {"config": SceneConfig(height=28, width=42, frames=5)},
        {"test": range(100, 103)},
    ],
)
def test_other_parameters_are_refused(written, options):
    root, _ = written
    before = files_of(root)
    with pytest.raises(QvggtError, match=r"other parameters.*delete the folder"):
        write(root, **{"annotations": root / "other", **options})
    assert files_of(root) == before


def test_foreign_data_is_never_touched(tmp_path):
    (tmp_path / "apple" / "110_1_2").mkdir(parents=True)
    with pytest.raises(QvggtError, match="not made by this tool"):
        write(tmp_path, category="apple")
    (tmp_path / "synthetic").mkdir()
    (tmp_path / "synthetic" / MARKER).write_text("{}")
    with pytest.raises(QvggtError, match=MARKER):
        write(tmp_path)


def test_annotations_of_other_scenes_are_never_overwritten(written, tmp_path):
    _, result = written
    with pytest.raises(QvggtError, match="annotates other sequences"):
        write(tmp_path, train=range(50, 53), annotations=result.annotations)
    assert not (tmp_path / "synthetic").exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"train": range(4), "test": range(3, 5)}, "disjoint"),
        ({"train": range(0), "test": range(0)}, "at least one"),
        ({"train": range(0, 4, 2)}, "step 1"),
        ({"category": "../x"}, "category"),
        ({"category": ""}, "category"),
    ],
)
def test_bad_parameters(tmp_path, options, word):
    with pytest.raises(QvggtError, match=word):
        write(tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_one_split_may_be_empty(tmp_path):
    result = write(tmp_path, train=range(0), test=range(7, 8))
    assert result.rendered == 1
    config = Question(tmp_path, annotations=result.annotations, split="test", frames=4, min_frames=4)
    assert len(read_sequences(config)) == 1
