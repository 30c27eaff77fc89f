"""Reader rules of spec evaluation.md 4.2 on a hand-made data set."""

import dataclasses
import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from calling import call, mistake
from PIL import Image
from scipy.spatial.transform import Rotation

from qvggt import QvggtError
from qvggt.data.co3d import draw_frame_list, read_sequences
from qvggt.data.co3d_annotations import load_annotations, write_annotations
from qvggt.data.depth_png import write_depth
from qvggt.data.frame_list import FrameList, load_frame_list, save_frame_list
from qvggt.data.reading import read_pool
from qvggt.data.registry import Question

HEIGHT, WIDTH = 20, 30


def frame(category, name, index, translation=(0.0, 0.0, 1.0)):
    return {
        "filepath": f"{category}/{name}/images/frame{index + 1:06d}.jpg",
        "R": [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]],
        "T": [translation[0] + index, translation[1], translation[2]],
        "focal_length": [2.0, 3.0],
        "principal_point": [0.1, -0.2],
    }


def add(root, category, name, count, **options):
    """Images on disk; returns annotations."""
    folder = root / category / name / "images"
    folder.mkdir(parents=True)
    for index in range(count):
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / f"frame{index + 1:06d}.jpg")
    return [frame(category, name, index, **options) for index in range(count)]


@pytest.fixture
def data(tmp_path):
    """pear: s1..s3 usable, s0 short, s4 with one failed camera, s5 annotated but not on disk. apple: one sequence."""
    pear = {name: add(tmp_path, "pear", name, 6) for name in ("s3", "s1", "s2")}
    pear["s0"] = add(tmp_path, "pear", "s0", 5)
    pear["s4"] = add(tmp_path, "pear", "s4", 6)
    pear["s4"][3]["T"] = [1e5, 0.0, 1.0]
    pear["s5"] = [frame("pear", "s5", i) for i in range(6)]
    write_annotations(tmp_path / "anno" / "pear_test.jgz", pear)
    write_annotations(tmp_path / "anno" / "apple_test.jgz", {"t": add(tmp_path, "apple", "t", 6)})
    return tmp_path, Question(tmp_path, annotations=tmp_path / "anno", frames=4, min_frames=6)


ROTATION = frame("", "", 0)["R"]
DOWNLOAD = Question(frames=4, min_frames=6)


def unpack(root, category, sequences, lists, qualities=None):
    """A category as Co3D's scripts unpack it; sequences: name -> compact frames. lists: file -> split -> (name, index).
    A frame's number is its index plus 10."""
    folder = root / category
    entries = [
        {
            "sequence_name": name,
            "frame_number": index + 10,
            "frame_timestamp": 0.0,
            "image": {"path": frame["filepath"], "size": [HEIGHT, WIDTH]},
            "depth": {"path": f"{category}/{name}/d.png", "scale_adjustment": 0.5, "mask_path": None},
            "mask": None,
            "viewpoint": {
                **{key: frame[key] for key in ("R", "T", "focal_length", "principal_point")},
                "intrinsics_format": "ndc_isotropic",
            },
        }
        for name, frames in sequences.items()
        for index, frame in enumerate(frames)
    ]
    states = [
        {"sequence_name": n, "category": category, "viewpoint_quality_score": q} for n, q in (qualities or {}).items()
    ]
    for name, values in (("frame_annotations", entries), ("sequence_annotations", states)):
        (folder / f"{name}.jgz").write_bytes(gzip.compress(json.dumps(values).encode()))
    (folder / "set_lists").mkdir()
    for name, splits in lists.items():
        shown = {split: [[n, i + 10, "path"] for n, i in keys] for split, keys in splits.items()}
        (folder / "set_lists" / name).write_text(json.dumps(shown))
    return folder


def test_a_category_as_it_is_downloaded(tmp_path):
    """By the rules of VGGT's preprocessing: the few-view list of the split, in its order, and good viewpoints only."""
    shots = {name: add(tmp_path, "pear", name, 8) for name in ("s1", "s2", "s3")}
    write_depth(tmp_path / "pear/s1/d.png", np.full((HEIGHT, WIDTH), 3.0))
    listed = [("s1", index) for index in (7, 6, 5, 3, 2, 0)]
    lists = {
        "set_lists_fewview_dev.json": {
            "train": [("s2", index) for index in range(6)],
            "test": [*listed, ("s1", 99), *(("s3", index) for index in range(6))],
        },
        "set_lists_manyview_dev_0.json": {"test": [("s2", 0)]},
    }
    unpack(tmp_path, "pear", shots, lists, {"s1": 0.9, "s2": None, "s3": 0.2})
    question = dataclasses.replace(DOWNLOAD, root=tmp_path)
    found = read_sequences(question)
    assert keys(found) == ["pear/s1"]
    assert found.skip_counts() == {"low viewpoint quality": 1}
    assert "1 frames of its set lists are not annotated" in found.notes[0]
    (sequence,) = found
    assert sequence.image_paths == tuple(
        tmp_path / shots["s1"][listed[i][1]]["filepath"] for i in sequence.frame_indices
    )
    compact = {"s1": [shots["s1"][index] for _, index in listed]}
    write_annotations(tmp_path / "anno" / "pear_test.jgz", compact)
    (same,) = read_sequences(dataclasses.replace(question, annotations=tmp_path / "anno"))
    np.testing.assert_array_equal(sequence.extrinsics, same.extrinsics)
    np.testing.assert_allclose(sequence.intrinsics, same.intrinsics)
    assert sequence.depth_reader(sequence.depth_paths[0]).max() == 1.5  # scale_adjustment
    assert [s.key for s in read_pool(dataclasses.replace(question, split="train"))] == ["pear/s2"]
    with pytest.raises(QvggtError, match="is a category of Co3D itself"):
        read_sequences(dataclasses.replace(question, root=tmp_path / "pear"))


def test_annotate_writes_what_the_download_says(tmp_path, capsys):
    """Compact files once, then the same sequences without the download; cameras checked by projecting points."""
    shots = {name: add(tmp_path, "pear", name, 8) for name in ("s1", "s2")}
    turn = Rotation.from_euler("xyz", [20, -35, 60], degrees=True).as_matrix()
    shots["s1"][3] |= {"R": turn.tolist(), "T": [0.3, -0.2, 4.0]}
    write_depth(tmp_path / "pear/s1/d.png", np.full((HEIGHT, WIDTH), 3.0))
    splits = {"train": [("s2", index) for index in range(6)], "test": [("s1", index) for index in (7, 3, 5, 0)]}
    folder = unpack(tmp_path, "pear", shots, {"set_lists_fewview_dev.json": {**splits, "val": [("s2", 7)]}})
    assert call("annotate", tmp_path) == 0
    assert f"{tmp_path / 'annotations'}: 2 files, 2 sequences" in capsys.readouterr().out
    written = load_annotations(tmp_path / "annotations" / "pear_test.jgz")
    assert [frame["filepath"] for frame in written["s1"]] == [shots["s1"][i]["filepath"] for i in (7, 3, 5, 0)]
    question = Question(tmp_path, frames=4, min_frames=4)
    (raw,) = read_sequences(dataclasses.replace(question, annotations=tmp_path / "none"))
    (folder / "frame_annotations.jgz").unlink()
    (compact,) = read_sequences(question)
    assert compact.frame_indices == raw.frame_indices
    np.testing.assert_array_equal(compact.extrinsics, raw.extrinsics)
    np.testing.assert_array_equal(compact.intrinsics, raw.intrinsics)
    assert compact.depth_reader(compact.depth_paths[0]).max() == 1.5
    at = compact.image_paths.index(tmp_path / shots["s1"][3]["filepath"])
    world = np.array([[0.1, 0.2, 0.3], [-0.5, 0.4, -0.2]])
    view = world @ turn + shots["s1"][3]["T"]  # PyTorch3D: row vectors, x to the left, y up, half the shorter side = 1
    ndc = np.array([2.0, 3.0]) * view[:, :2] / view[:, 2:] + [0.1, -0.2]
    seen = np.array([WIDTH, HEIGHT]) / 2 - ndc * HEIGHT / 2
    ours = (world @ compact.extrinsics[at, :, :3].T + compact.extrinsics[at, :, 3]) @ compact.intrinsics[at].T
    np.testing.assert_allclose(ours[:, :2] / ours[:, 2:], seen)
    assert (ours[:, 2] > 0).all()


def test_annotate_refuses(tmp_path, capsys):
    assert "no CATEGORY/frame_annotations.jgz below it" in mistake(capsys, "annotate", tmp_path)
    unpack(tmp_path, "pear", {"s1": add(tmp_path, "pear", "s1", 6)}, {})
    assert call("annotate", tmp_path, "-o", tmp_path / "anno") == 0
    assert "all frames of frame_annotations.jgz are taken" in capsys.readouterr().err
    assert "pear_train.jgz: exists already" in mistake(capsys, "annotate", tmp_path, "-o", tmp_path / "anno")
    assert "below it" in mistake(capsys, "annotate", tmp_path / "pear")


def test_a_download_without_lists_is_taken_whole(tmp_path):
    shots = {"s1": add(tmp_path, "pear", "s1", 6)}
    folder = unpack(tmp_path, "pear", shots, {"set_lists_manyview_dev_0.json": {"train": [], "test": []}})
    found = read_sequences(dataclasses.replace(DOWNLOAD, root=tmp_path))
    assert keys(found) == ["pear/s1"]
    assert found.notes == (
        f"{folder / 'set_lists'}: names no frame of any split, so all frames of frame_annotations.jgz are taken",
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [("frame_number", "1"), ("image", None), ("image", {"path": "../x.jpg", "size": [2, 2]}), ("viewpoint", {"R": 1})],
)
def test_damaged_download(tmp_path, key, value):
    folder = unpack(tmp_path, "pear", {"s1": add(tmp_path, "pear", "s1", 6)}, {})
    path = folder / "frame_annotations.jgz"
    entries = json.loads(gzip.decompress(path.read_bytes()))
    entries[2][key] = value
    path.write_bytes(gzip.compress(json.dumps(entries).encode()))
    with pytest.raises(QvggtError, match=r"frame_annotations\.jgz: frame 2"):
        read_sequences(dataclasses.replace(DOWNLOAD, root=tmp_path))


@pytest.mark.parametrize(
    "fault",
    [
        {"R": np.zeros((3, 3)).tolist()},
        {"R": (-np.array(ROTATION)).tolist()},
        {"R": [[float("nan"), 1.0, 0.0], *ROTATION[1:]]},
        {"focal_length": [2.0, 0.0]},
    ],
)
def test_a_pose_that_is_no_camera_leaves_its_sequence_out(data, fault):
    root, config = data
    path = root / "anno" / "pear_test.jgz"
    pear = load_annotations(path)
    pear["s2"][5] |= fault
    write_annotations(path, pear)
    found = read_sequences(config)
    assert keys(found) == ["apple/t", "pear/s1", "pear/s3"]
    assert found.skip_counts()["no camera"] == 1
    assert "pear/s2" not in draw_frame_list(config).frames


def keys(sequences):
    return [s.key for s in sequences]


def test_rules_and_counts(data):
    _, config = data
    result = read_sequences(config)
    assert keys(result) == ["apple/t", "pear/s1", "pear/s2", "pear/s3"]
    reasons = {f"{s.category}/{s.name}": s.reason for s in result.skipped}
    assert reasons == {"pear/s0": "too few frames", "pear/s4": "bad translation", "pear/s5": "folder missing"}
    assert result.skip_counts() == {"too few frames": 1, "bad translation": 1, "folder missing": 1}


def test_cameras_paths_and_order(data):
    root, config = data
    sequence = read_sequences(config)[1]
    assert len(sequence.frame_indices) == 4
    assert sequence.image_paths == tuple(
        root / "pear/s1/images" / f"frame{i + 1:06d}.jpg" for i in sequence.frame_indices
    )
    for extrinsic, index in zip(sequence.extrinsics, sequence.frame_indices, strict=True):
        # by hand: negate T's x, y; negate R's first two columns, then transpose
        np.testing.assert_array_equal(extrinsic, [[0, -1, 0, -index], [-1, 0, 0, 0], [0, 0, -1, 1]])
    camera = [[2 * 10, 0, 15 - 0.1 * 10], [0, 3 * 10, 10 + 0.2 * 10], [0, 0, 1]]
    np.testing.assert_allclose(sequence.intrinsics, np.tile(camera, (4, 1, 1)))
    assert sequence.depth_paths == (None,) * 4


def test_depth_is_found_in_co3ds_usual_place(data):
    root, config = data
    (root / "pear/s1/depths").mkdir()
    path = root / "pear/s1/depths/frame000002.jpg.geometric.png"
    path.touch()
    sequence = read_sequences(config)[1]
    assert dict(zip(sequence.frame_indices, sequence.depth_paths, strict=True)).get(1, path) == path
    assert set(sequence.depth_paths) <= {None, path}


def test_categories_and_max_sequences(data):
    _, config = data
    assert keys(read_sequences(dataclasses.replace(config, categories=("pear",)))) == ["pear/s1", "pear/s2", "pear/s3"]
    few = read_sequences(dataclasses.replace(config, max_sequences=2))  # counted before skipping: pear s0, s1
    assert keys(few) == ["apple/t", "pear/s1"]


def test_frames_do_not_depend_on_the_data_on_disk(data):
    root, config = data
    before = {s.key: s.frame_indices for s in read_sequences(config)}
    shutil.rmtree(root / "pear" / "s1")
    after = {s.key: s.frame_indices for s in read_sequences(config)}
    assert after == {key: value for key, value in before.items() if key != "pear/s1"}
    other = {s.key: s.frame_indices for s in read_sequences(dataclasses.replace(config, seed=1))}
    assert any(other[key] != after[key] for key in after)


def test_drawn_list_equals_direct_reading_and_ignores_the_disk(data):
    root, config = data
    drawn = draw_frame_list(config)
    assert set(drawn.frames) == {"apple/t", "pear/s1", "pear/s2", "pear/s3", "pear/s5"}
    direct = {s.key: s.frame_indices for s in read_sequences(config)}
    assert direct.items() <= drawn.frames.items()
    shutil.rmtree(root / "pear")
    assert draw_frame_list(config).sha256 == drawn.sha256


def test_stored_list_rules(data):
    root, config = data
    save_frame_list(
        root / "list.json", FrameList({"pear/s2": (5, 0, 1, 2), "pear/s5": (0, 1, 2, 3)}, {"split": "test"})
    )
    stored = load_frame_list(root / "list.json")
    result = read_sequences(dataclasses.replace(config, seed=9, min_frames=50), stored)
    assert [(s.key, s.frame_indices) for s in result] == [("pear/s2", (5, 0, 1, 2))]
    assert result.skip_counts() == {"not in frame list": 5, "folder missing": 1}
    assert result.frame_list().sha256 != stored.sha256  # s5 is not on disk: the hash of what was read says so
    (root / "pear" / "s5").mkdir()
    with pytest.raises(QvggtError, match=r"s5.*frame000001\.jpg: no such image file"):
        read_sequences(config, stored)


def test_reading_all_of_a_stored_list_gives_its_hash(data):
    root, config = data
    shutil.rmtree(root / "pear" / "s3")
    first = read_sequences(config).frame_list()
    assert read_sequences(config, first).frame_list().sha256 == first.sha256
    assert first.config["seed"] == 0
    assert "root" not in first.config


@pytest.mark.parametrize(
    ("frame_list", "word"),
    [
        (FrameList({"pear/s2": (0, 1, 2, 6)}), "indices below 6"),
        (FrameList({"pear/s2": (0, 1, 2)}), "expected 4 frames, got 3"),
        (FrameList({"pear/s2": (0, 1, 2, 3)}, {"split": "train"}), "split test"),
        (FrameList({"pear/s9": (0, 1, 2, 3)}), "no usable sequence"),
    ],
)
def test_list_that_does_not_fit(data, frame_list, word):
    _, config = data
    with pytest.raises(QvggtError, match=word):
        read_sequences(config, frame_list)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"root": Path("/no/such")}, ["/no/such", "not a folder"]),
        ({"annotations": Path("/no/such")}, ["/no/such", "_test.jgz"]),
        ({"split": "val"}, ["*_val.jgz"]),
        ({"categories": ("plum",)}, ["plum_test.jgz", "present: apple, pear"]),
        ({"frames": 6, "min_frames": 5}, ["pear_test.jgz", "sequence s0", "at least 6 frames, got 5"]),
        ({"min_frames": 50}, ["no usable sequence", "6 too few frames", "min_frames (50)"]),
    ],
)
def test_errors_say_what_to_do(data, change, words):
    _, config = data
    with pytest.raises(QvggtError) as caught:
        read_sequences(dataclasses.replace(config, **change))
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


def test_draw_without_long_enough_sequences(data):
    _, config = data
    with pytest.raises(QvggtError, match="lower min_frames"):
        draw_frame_list(dataclasses.replace(config, min_frames=50))


@pytest.mark.parametrize("values", [{"frames": 0}, {"min_frames": 0}, {"max_sequences": 0}])
def test_bad_config(values):
    with pytest.raises(QvggtError, match="expected"):
        Question(**values)
