"""Every doubt has an input that raises it, and ordinary generated scenes raise none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from true_runner import shoot

from qvggt.data.photos import Photo
from qvggt.engines.torch_runner import open_model
from qvggt.eval.ground_truth import ImagePlan
from qvggt.eval.reconstruction.doubts import Thresholds, find_doubts, listed, strangers
from qvggt.eval.reconstruction.frames import Frames, load_frames
from qvggt.eval.reconstruction.passes import Pass
from qvggt.eval.reconstruction.scene import ARRAYS, Join, reconstruct

Doubts = Callable[..., list[str]]


@pytest.fixture(scope="module")
def tiny() -> Any:
    return open_model("tiny")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[list[Path]]:
    folder = tmp_path_factory.mktemp("scenes")
    return [shoot(folder / f"{seed}", [(70, 70)] * 5, seed=seed).paths for seed in (4, 5, 8)]


@pytest.fixture(scope="module")
def doubts(tiny: Any) -> Doubts:
    """Of images, as the tiny network sees them."""

    def of(paths: list[Path]) -> list[str]:
        frames = load_frames(paths, ImagePlan(70))
        scene, joins = reconstruct(tiny, frames, [Pass(0, len(paths), 0)])
        return find_doubts(scene, frames, photos_of(paths), joins, tiny.network_sizes())

    return of


def photos_of(paths: list[Path]) -> list[Photo]:
    photos = []
    for path in paths:
        with Image.open(path) as image:
            photos.append(Photo(path.name, path, *image.size, str(path)))
    return photos


def test_ordinary_scenes_raise_none(scenes: list[list[Path]], doubts: Doubts, truth: Any) -> None:
    assert [doubts(scene) for scene in scenes] == [[], [], []]
    assert find_doubts(truth.scene, truth.frames, photos_of(truth.taken.paths)) == []


def test_padding_confirms_nothing(truth: Any) -> None:
    """The first image a second time would be its partner; were that all padding, it would be none."""
    scene, frames = truth.scene, truth.frames
    twice = replace(scene, **{name: getattr(scene, name)[[0, 0]] for name in ARRAYS})
    first = frames.resizes[0]
    for moved, found in ((first, []), (first.moved(1000, 0), [0, 1])):
        pair = Frames(frames.pixels[[0, 0]], (first, moved))
        assert strangers(twice, pair, Thresholds()) == found


def test_a_toy_on_photographs(scenes: list[list[Path]], doubts: Doubts, tmp_path: Path) -> None:
    large = []
    for path in scenes[0]:
        with Image.open(path) as image:
            image.resize((640, 640)).save(tmp_path / path.name)
        large.append(tmp_path / path.name)
    (line,) = doubts(large)
    assert line.startswith("toy network on photographs")
    assert "VGGT-1B" in line


def test_a_network_of_full_size_is_no_toy(truth: Any, tiny: Any) -> None:
    photos = [replace(photo, width=4000, height=3000) for photo in photos_of(truth.taken.paths)]
    sizes = tiny.network_sizes()
    grown = replace(sizes, sizes=replace(sizes.sizes, width=1024))
    said = [find_doubts(truth.scene, truth.frames, photos, network=network) for network in (sizes, grown, None)]
    assert [any("toy" in line for line in lines) for lines in said] == [True, False, False]


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (90, 120, 60)])
def test_a_blank_frame(colour: tuple[int, int, int], scenes: list[list[Path]], doubts: Doubts, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 2, (70, 70, 3))  # of a sensor behind a lens cap
    Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)).save(tmp_path / "cap.png")
    (line,) = doubts([*scenes[0], tmp_path / "cap.png"])  # once: it is not called a stranger as well
    assert line.startswith("cap.png: blank")


def test_an_image_of_another_scene(scenes: list[list[Path]], doubts: Doubts, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger.png"
    stranger.write_bytes(scenes[1][0].read_bytes())
    (line,) = doubts([*scenes[0], stranger])
    assert line.startswith("stranger.png: matches no other image")


def test_images_of_nothing_in_common(scenes: list[list[Path]], doubts: Doubts, tmp_path: Path) -> None:
    paths = []
    for index, scene in enumerate(scenes):
        paths.append(tmp_path / f"{index}.png")
        paths[-1].write_bytes(scene[0].read_bytes())
    assert any("no two images agree" in line for line in doubts(paths))


@pytest.mark.parametrize(
    ("factor", "words"), [(8.0, "a field of view of"), (0.1, "a field of view of"), (1.5, "disagree")]
)
def test_focal_lengths(factor: float, words: str, truth: Any) -> None:
    """One image's focal length off by a factor, its points and everything else true."""
    intrinsics = truth.scene.intrinsics.copy()
    intrinsics[3, [0, 1], [0, 1]] *= factor
    scene = replace(truth.scene, intrinsics=intrinsics)
    said = find_doubts(scene, truth.frames, photos_of(truth.taken.paths))
    assert any(words in line and "view3.png" in line for line in said), said


def test_a_poor_join(truth: Any) -> None:
    good = Join(2, 4, 1, 1.0, 0.01, 0.02, 0.5, 0.01)
    said = find_doubts(truth.scene, truth.frames, photos_of(truth.taken.paths), [good, replace(good, camera_deg=20.0)])
    assert said == ["pass 3 contradicts the one before it: do not trust the result across them"]


def test_one_image_has_no_partner_to_miss(scenes: list[list[Path]], doubts: Doubts) -> None:
    assert doubts(scenes[0][:1]) == []


def test_many_names_are_cut_short() -> None:
    assert listed(list("abcde"), [0, 1, 2, 4]) == "a, b, c and 1 more"
    assert listed(list("abcde"), [1]) == "b"
