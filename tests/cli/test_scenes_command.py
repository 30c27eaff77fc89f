"""qvggt scenes."""

from __future__ import annotations

import dataclasses
from functools import partial

import calling
import pytest

from qvggt.data.co3d import read_sequences
from qvggt.data.registry import Question

call = partial(calling.call, "scenes")


def small(out, *more):
    return call(out, "--train", 1, "--test", 2, "--frames", 3, "--size", "28x42", *more)


def test_writes_what_the_reader_reads(tmp_path, capsys):
    assert small(tmp_path, "--category", "toys") == 0
    assert "(3 rendered, 0 reused)" in capsys.readouterr().out
    config = Question(tmp_path, frames=3, min_frames=3)
    test = read_sequences(config)
    train = read_sequences(dataclasses.replace(config, split="train"))
    assert [s.category for s in test] == ["toys", "toys"]
    assert len(train) == 1
    assert not {s.name for s in test} & {s.name for s in train}
    assert all(path.is_file() for s in test for path in (*s.image_paths, *s.depth_paths))


def test_a_second_run_reuses(tmp_path, capsys):
    small(tmp_path)
    assert small(tmp_path) == 0
    assert "(0 rendered, 3 reused)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--size", "big"), "--size 'big': expected HxW in pixels"),
        (("--size", "0"), "--size '0'"),
        (("--family", "zoo"), "--family"),
        (("--seed", 10_000_000), "--seed 10000000: expected seed + scenes"),
        (("--train", 0, "--test", 0), "at least one train or test scene"),
        (("--category", "../up"), "plain folder name"),
        (("--frames", 0), "--frames"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, args, message):
    assert message in calling.mistake(capsys, "scenes", tmp_path / "out", *args)
    assert not (tmp_path / "out").exists()


def test_a_place_that_refuses(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert small(tmp_path / "file" / "scenes") == 2
    assert "cannot be written" in capsys.readouterr().err


def test_other_parameters_in_the_same_folder(tmp_path, capsys):
    small(tmp_path)
    capsys.readouterr()
    assert small(tmp_path, "--seed", 5) == 2
    assert "annotates other sequences" in capsys.readouterr().err
