import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qvggt import QvggtError
from qvggt.data.frame_list import FrameList, draw_frames, load_frame_list, save_frame_list

LIST = FrameList({"b/two": (3, 0, 9), "a/one": (5, 1, 2)}, {"seed": 0, "split": "test"})


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**63), st.text(max_size=8), st.text(max_size=8), st.integers(1, 200), st.data())
def test_drawn_frames_are_distinct_and_repeatable(seed, category, name, available, data):
    count = data.draw(st.integers(1, available))
    frames = draw_frames(seed, category, name, available, count)
    assert len(set(frames)) == len(frames) == count
    assert 0 <= min(frames) <= max(frames) < available
    assert frames == draw_frames(seed, category, name, available, count)


def test_draw_depends_on_every_part_of_the_key_and_is_pinned():
    frames = draw_frames(0, "apple", "110_13051_23361", 202, 10)
    # pinned: a change here silently changes every reported number
    assert frames == (161, 22, 16, 79, 194, 83, 157, 148, 188, 134)
    assert frames != tuple(sorted(frames))
    others = [("apple", "x", 0), ("pear", "110_13051_23361", 0), ("apple", "110_13051_23361", 1)]
    assert all(draw_frames(seed, category, name, 202, 10) != frames for category, name, seed in others)


def test_save_load_and_hash(tmp_path):
    save_frame_list(tmp_path / "sub" / "list.json", LIST)
    loaded = load_frame_list(tmp_path / "sub" / "list.json")
    assert loaded == LIST
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["list.json"]
    assert loaded.sha256 == FrameList(dict(sorted(LIST.frames.items())), {}).sha256  # order and config do not count
    assert loaded.sha256 != FrameList({**LIST.frames, "a/one": (1, 5, 2)}).sha256  # the order of frames does


def _edited(path: Path, **changes):
    data = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"frames": {"a/one": [5, 1, 3], "b/two": [3, 0, 9]}}, "was edited"),
        ({"sha256": "00"}, "was edited"),
        ({"format": 2}, "format 1"),
        ({"frames": {"a/one": [1, 1]}}, "a/one"),
        ({"frames": {"a/one": [-1]}}, "a/one"),
        ({"frames": {"a/one": ["1"]}}, "a/one"),
        ({"frames": [1]}, "frames"),
        ({"config": None}, "config"),
    ],
)
def test_malformed_list_is_named(tmp_path, changes, word):
    path = tmp_path / "list.json"
    save_frame_list(path, LIST)
    _edited(path, **changes)
    with pytest.raises(QvggtError, match=word) as caught:
        load_frame_list(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [None, "", "[]", "{", "\x00"])
def test_not_a_list(tmp_path, text):
    path = tmp_path / "list.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(QvggtError, match=r"list\.json"):
        load_frame_list(path)
