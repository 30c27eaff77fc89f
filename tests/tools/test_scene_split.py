"""Splits on disk: contents, resuming, refusal to mix."""

import json

import numpy as np
import pytest
import scene_split
from scene_split import load_split, render_split

from qvggt import QvggtError
from qvggt.data.synthetic.render import render
from qvggt.data.synthetic.scene import SceneConfig, sample_scene

CONFIG = SceneConfig(height=15, width=20, frames=2)


def write(folder, seeds=range(30, 35), **options):
    return render_split(CONFIG, seeds, folder, workers=1, progress=False, **options)


def test_split_holds_the_scenes_of_its_seeds(tmp_path):
    split = load_split(write(tmp_path / "split", chunk=2))
    assert len(split) == 5
    assert split.config == CONFIG
    assert split.seeds == range(30, 35)
    assert split.depth.dtype == np.float16
    for index, seed in enumerate(split.seeds):
        views = render(sample_scene(CONFIG, seed), CONFIG)
        np.testing.assert_array_equal(split.images[index], views.images)
        np.testing.assert_array_equal(split.depth[index], views.depth[:, ::2, ::2].astype(np.float16))
        np.testing.assert_array_equal(split.extrinsics[index], views.extrinsics.astype(np.float32))
        np.testing.assert_array_equal(split.fov[index], views.fov_hw[0].astype(np.float32))


def test_interrupted_split_is_resumed_not_repeated(tmp_path, monkeypatch):
    calls = []

    def counting(config, seed):
        calls.append(seed)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return sample_scene(config, seed)

    monkeypatch.setattr(scene_split, "sample_scene", counting)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "split", chunk=2)
    with pytest.raises(QvggtError, match="not complete"):
        load_split(tmp_path / "split")
    write(tmp_path / "split", chunk=2)
    assert calls == [30, 31, 32, 33, 32, 33, 34]
    write(tmp_path / "whole", chunk=5)
    for name in ("images", "depth", "extrinsics", "fov"):
        assert (tmp_path / "split" / f"{name}.npy").read_bytes() == (tmp_path / "whole" / f"{name}.npy").read_bytes()
    calls.clear()
    write(tmp_path / "split")
    assert calls == []


def test_other_parameters_in_the_same_folder(tmp_path):
    write(tmp_path)
    with pytest.raises(QvggtError, match="holds another split"):
        write(tmp_path, seeds=range(30, 36))


def test_processes_give_the_same_bytes(tmp_path):
    write(tmp_path / "one")
    render_split(CONFIG, range(30, 35), tmp_path / "two", workers=2, chunk=3, progress=False)
    for name in ("images", "depth", "extrinsics", "fov"):
        assert (tmp_path / "one" / f"{name}.npy").read_bytes() == (tmp_path / "two" / f"{name}.npy").read_bytes()


def test_damaged_splits_are_named(tmp_path):
    with pytest.raises(QvggtError, match=r"no meta\.json"):
        load_split(tmp_path)
    with pytest.raises(QvggtError, match="seeds"):
        write(tmp_path, seeds=range(0))
    write(tmp_path)
    np.save(tmp_path / "fov.npy", np.zeros(3))
    with pytest.raises(QvggtError, match=r"fov\.npy: expected shape"):
        load_split(tmp_path)
    (tmp_path / "images.npy").write_bytes(b"no array")
    with pytest.raises(QvggtError, match=r"images\.npy"):
        load_split(tmp_path)
    (tmp_path / "meta.json").write_text(json.dumps([1]))
    with pytest.raises(QvggtError, match=r"meta\.json"):
        load_split(tmp_path)
