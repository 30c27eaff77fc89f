"""QuantVGGT's calibration file: its images as they are, and a clear line for whatever else is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from qvggt.data.image_set import ImageSet
from qvggt.data.reading import read_pool
from qvggt.data.registry import Question
from qvggt.errors import QvggtError

SIZE = 28


def entry(category: str, name: str, frames: int = 3, seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (frames, 3, SIZE, SIZE), generator=generator)
    return {"images": pixels / 255, "category": category, "seq_name": name}


def saved(path: Path, entries: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As written where the images lie on a GPU."""
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save(entries, path)
    return path


def test_images_are_those_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [entry("pear", "b", 2), entry("apple", "z", seed=1), *(entry("pear", "a", seed=n) for n in (2, 3))]
    path = saved(tmp_path / "total_20_calib_data.pt", entries, monkeypatch)
    found = read_pool(Question(path, "train", frames=3, max_sequences=2))
    assert [sequence.key for sequence in found] == ["apple/z", "pear/a", "pear/a-3"]
    images = [*ImageSet(found.sequences, SIZE, SIZE)]
    for batch, index in zip(images, (1, 2, 3), strict=True):
        assert torch.equal(batch, entries[index]["images"])
    assert "test split" in found.notes[0]
    short = read_pool(Question(path, "train", frames=3))
    assert [s.frame_indices for s in short] == [(0, 1, 2), (0, 1, 2), (0, 1, 2), (0, 1)]
    assert "1 sequences hold fewer than 3 frames" in short.notes[1]
    assert [s.key for s in read_pool(Question(path, frames=2, class_mode="apple"))] == ["apple/z"]
    with pytest.raises(QvggtError, match="class mode five: expected categories"):
        read_pool(Question(path, class_mode="five"))


class Code:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("executed"),)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ({"a.weight": torch.zeros(1)}, ("holds a dict", "expected QuantVGGT's calib_data.pt")),
        ([], ("holds an empty list",)),
        ([Code()], ("refused, it holds",)),
        ([entry("a", "b"), torch.zeros(2)], ("entry 1: expected images, category and seq_name, got Tensor",)),
        ([{"images": torch.zeros(1), "cat": "a"}], ("entry 0", "got keys ['cat', 'images']")),
        ([entry("a", "b") | {"seq_name": 3}], ("entry 0: expected images, category and seq_name",)),
        ([entry("a", "b") | {"images": torch.zeros(2, 3, 4, 4, dtype=torch.uint8)}], ("float tensor", "uint8")),
        ([entry("a", "b") | {"images": [1, 2]}], ("entry 0: expected images as a float tensor",)),
        ([entry("a", "b") | {"images": torch.zeros(3, 28, 28)}], ("[frames, 3, height, width], got [3, 28, 28]",)),
        ([entry("a", "b") | {"images": torch.full((1, 3, 28, 28), 255.0)}], ("pixels in [0, 1], got 255 to 255",)),
        ([entry("a", "b") | {"images": torch.full((1, 3, 28, 28), torch.nan)}], ("pixels in [0, 1], got nan",)),
    ],
)  # fmt: skip
def test_something_else(content: Any, parts: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "f.pt")
    with pytest.raises(QvggtError) as caught:
        [*ImageSet(read_pool(Question(tmp_path / "f.pt", frames=1)).sequences, SIZE, SIZE)]
    for part in (str(tmp_path / "f.pt"), *parts):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


def test_other_files(tmp_path: Path) -> None:
    (tmp_path / "a.zip").touch()
    with pytest.raises(QvggtError, match=r"a\.zip: is a file, expected a folder of images, or QuantVGGT's"):
        read_pool(Question(tmp_path / "a.zip"))
    (tmp_path / "a.pt").write_bytes(b"nonsense")
    with pytest.raises(QvggtError, match="no readable torch archive"):
        read_pool(Question(tmp_path / "a.pt"))
