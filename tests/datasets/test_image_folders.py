"""A folder of photographs is data: choices of them, upright, whatever their shapes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_network import SIZE

from qvggt.data import photos
from qvggt.data.image_file import HEIF_ADVICE
from qvggt.data.image_set import ImageSet
from qvggt.data.reading import open_data, read_pool
from qvggt.data.registry import Question, find_dataset
from qvggt.errors import QvggtError

PHOTOS = find_dataset("photos")


def photographs(folder: Path, count: int, side: tuple[int, int] = (64, 48)) -> Path:
    folder.mkdir(parents=True)
    for index in range(count):
        shape = side if index % 2 else side[::-1]  # landscape and portrait
        pixels = np.random.default_rng(index).integers(0, 255, (*shape, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"IMG_{index:02d}.JPG", format="JPEG")
    return folder


@pytest.mark.parametrize(("asked", "made"), [(None, 3), (2, 2), (7, 7), (9999, 210)])
def test_choices_differ_and_show_every_photograph(tmp_path: Path, asked: int | None, made: int) -> None:
    question = Question(photographs(tmp_path / "trip", 10), "train", 4, max_sequences=asked)
    pool = read_pool(question)
    assert pool == read_pool(question)
    assert [s.key for s in pool] == [f"trip/{index:04d}" for index in range(1, made + 1)]
    assert len({frozenset(s.frame_indices) for s in pool}) == made
    assert all(len(set(s.frame_indices)) == 4 for s in pool)
    seen = Counter(index for s in pool[:3] for index in s.frame_indices)
    assert asked == 2 or set(seen) == set(range(10))
    assert [path.name for path in pool[0].image_paths] == [f"IMG_{i:02d}.JPG" for i in pool[0].frame_indices]
    other = read_pool(Question(question.root, "train", 4, max_sequences=asked, seed=1))
    assert [s.frame_indices for s in other] != [s.frame_indices for s in pool]


def test_few_photographs_are_one_sequence_and_a_note(tmp_path: Path) -> None:
    found = PHOTOS.answer(Question(photographs(tmp_path / "few", 3), frames=4, max_sequences=8))
    assert [sorted(s.frame_indices) for s in found] == [[0, 1, 2]]
    assert "3 photographs, fewer than the 4 frames asked for" in found.notes[0]
    with pytest.raises(QvggtError, match="fewer than 2 images; expected a Co3D-format folder, a folder of photographs"):
        read_pool(Question(photographs(tmp_path / "one", 1), frames=4))
    with pytest.raises(QvggtError, match="is not a folder"):
        PHOTOS.answer(Question(tmp_path / "absent"))


def test_any_shape_fits_a_batch(tmp_path: Path) -> None:
    pool = read_pool(Question(photographs(tmp_path / "mixed", 4), frames=4))
    assert [batch.shape for batch in ImageSet(pool, SIZE, 2 * SIZE)] == [(4, 3, SIZE, 2 * SIZE)]


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    """Saved lying on its side, with the EXIF tag that says so."""
    picture = Image.fromarray(np.linspace(0, 255, SIZE * SIZE * 3).reshape(SIZE, SIZE, 3).astype(np.uint8))
    exif = Image.Exif()
    exif[274] = 6
    for folder in (tmp_path / "flat", tmp_path / "nested" / "one"):
        folder.mkdir(parents=True)
        picture.save(folder / "a.png")
        picture.transpose(Image.Transpose.ROTATE_90).save(folder / "b.png", exif=exif)
    batches = [
        next(iter(ImageSet(read_pool(Question(tmp_path / n, frames=2)), SIZE, SIZE))) for n in ("flat", "nested")
    ]
    assert all(first.equal(second) for first, second in batches)


def test_the_name_of_the_root_changes_no_frame(tmp_path: Path) -> None:
    photographs(tmp_path / "a" / "trip", 9)
    photographs(tmp_path / "flat", 9)
    before = [[s.frame_indices for s in read_pool(Question(tmp_path / n, frames=4))] for n in ("a", "flat")]
    for name in ("a", "flat"):
        (tmp_path / name).rename(tmp_path / f"{name}2")
    assert before == [[s.frame_indices for s in read_pool(Question(tmp_path / n, frames=4))] for n in ("a2", "flat2")]


def test_what_is_not_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "heif_is_readable", lambda: False)
    root = photographs(tmp_path / "data" / "long", 4).parent
    photographs(root / "short", 1)
    pages = [Image.new("RGB", (8, 8), (40 * index, 0, 0)) for index in range(3)]
    pages[0].save(root / "long" / "z.tif", save_all=True, append_images=pages[1:])
    for name in ("IMG.HEIC", "IMG2.heic", "clip.mov", "depth_1.png", "notes.txt"):
        (root / "long" / name).touch()
    found = read_pool(Question(root, frames=5))  # the TIFF counts
    assert found.skip_counts() == {"too few frames": 1}
    assert "skipped: 1 too few frames" in found.summary()
    assert found.notes == (
        f"{root}: left out: 2 .heic (HEIC: {HEIF_ADVICE}), 1 .mov (a video has to be the only input), 1 .txt, "
        "1 named as depth maps or masks",
        "1 images hold several pictures (frames, pages, previews); the first of each is used",
    )
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "IMG.HEIC").touch()
    with pytest.raises(QvggtError, match=r"fewer than 2 images.*left out: 1 \.heic \(HEIC: pip install pillow-heif"):
        read_pool(Question(tmp_path / "phone"))


def test_folders_of_images_come_first(tmp_path: Path) -> None:
    root = photographs(tmp_path / "data", 3)
    photographs(root / "one", 4)
    found = PHOTOS.answer(Question(root, frames=2))
    assert [s.key for s in found] == ["data/one"]
    assert found.notes == (f"{root}: 3 images beside the folders of images are not read",)
    with pytest.raises(QvggtError, match="apple: no such category; present: data"):
        PHOTOS.answer(Question(root, categories=("apple",)))


@pytest.mark.parametrize("nested", [False, True])
def test_a_stored_list_is_used_again(tmp_path: Path, nested: bool) -> None:
    root = photographs(tmp_path / "data" / "one" if nested else tmp_path / "data", 6)
    root, stored = (root.parent if nested else root), tmp_path / "frames.json"
    first = open_data(PHOTOS, Question(root, frames=2), stored)
    again = open_data(PHOTOS, Question(root, frames=2, seed=5), stored)
    assert again.sequences.sequences == first.sequences.sequences
    assert again.stored_sha256 == first.sequences.frame_list().sha256
    for path in sorted((root / "one" if nested else root).iterdir())[2:]:
        path.unlink()
    with pytest.raises(QvggtError, match="is not on disk, 2 are"):
        open_data(PHOTOS, Question(root, frames=2), stored)
