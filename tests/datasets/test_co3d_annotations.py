import gzip
import json

import pytest

from qvggt import QvggtError
from qvggt.data.co3d_annotations import load_annotations, translation_is_sane, write_annotations

FRAME = {
    "filepath": "apple/s/images/frame000001.jpg",
    "R": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    "T": [0.1, 0.2, 0.3],
    "focal_length": [2.0, 2.0],
    "principal_point": [0.0, 0.0],
}


def without(key):
    return {name: value for name, value in FRAME.items() if name != key}


def test_round_trip_and_equal_bytes(tmp_path):
    data = {"s": [FRAME, {**FRAME, "image_size": [70, 98], "depth_path": "apple/s/depths/d.png"}], "empty": []}
    for name in ("a.jgz", "b.jgz"):
        write_annotations(tmp_path / name, data)
    assert load_annotations(tmp_path / "a.jgz") == data
    assert (tmp_path / "a.jgz").read_bytes() == (tmp_path / "b.jgz").read_bytes()
    assert (tmp_path / "a.jgz").read_bytes()[4:8] == bytes(4)  # gzip time stamp
    assert json.loads(gzip.decompress((tmp_path / "a.jgz").read_bytes())) == data


@pytest.mark.parametrize("key", sorted(FRAME))
def test_missing_key_names_file_sequence_frame_and_key(tmp_path, key):
    path = tmp_path / "apple_test.jgz"
    write_annotations(path, {"s1": [FRAME, without(key)]})
    with pytest.raises(QvggtError) as caught:
        load_annotations(path)
    message = str(caught.value)
    assert all(word in message for word in (str(path), "s1", "frame 1", key))
    assert "\n" not in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("R", [[1, 0, 0], [0, 1, 0]]),
        ("R", "identity"),
        ("T", [1, 2]),
        ("T", [1, 2, "3"]),
        ("focal_length", 2.0),
        ("principal_point", None),
        ("filepath", 7),
        ("filepath", ""),
        ("filepath", "/etc/passwd"),
        ("filepath", "a/../../b.jpg"),
        ("depth_path", "../d.png"),
        ("image_size", [70]),
        ("image_size", [0, 70]),
        ("image_size", [70.5, 70]),
    ],
)
def test_bad_value_names_the_key(tmp_path, key, value):
    path = tmp_path / "a.jgz"
    write_annotations(path, {"s1": [{**FRAME, key: value}]})
    with pytest.raises(QvggtError, match=f"s1, frame 0, key {key}"):
        load_annotations(path)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"plain text",
        gzip.compress(b"{", mtime=0)[:-1],
        gzip.compress(b"{", mtime=0),
        gzip.compress(b"\xff\xfe", mtime=0),
        gzip.compress(b"[]", mtime=0),
        gzip.compress(b'{"s": {}}', mtime=0),
        gzip.compress(b'{"s": [3]}', mtime=0),
        gzip.compress(json.dumps({"s": [FRAME]}).encode(), mtime=0)[:-9],
    ],
)
def test_corrupt_file_is_named(tmp_path, raw):
    path = tmp_path / "bad.jgz"
    path.write_bytes(raw)
    with pytest.raises(QvggtError, match=r"bad\.jgz"):
        load_annotations(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(QvggtError, match=r"none_test\.jgz.*missing"):
        load_annotations(tmp_path / "none_test.jgz")


def test_translation_rule_is_the_sum_and_one_sided():
    assert translation_is_sane({"T": [5e4, 5e4, 0]})
    assert not translation_is_sane({"T": [5e4, 5e4, 1]})
    assert translation_is_sane({"T": [-1e9, 0, 0]})
    assert not translation_is_sane({"T": [float("nan"), 0, 0]})
