"""How many frames of a sequence a calibration sees where nobody says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_network import SIZE, small_model, small_scenes

from qvggt.data.registry import Question
from qvggt.errors import QvggtError
from qvggt.eval.reconstruction import memory
from qvggt.jobs.frames import fitting_frames, protocol_frames, read_longest, step_bytes
from qvggt.models.vggt.config import VGGT_1B
from qvggt.models.vggt.network import VGGT
from qvggt.progress import Console

CPU = torch.device("cpu")


class Heard(Console):
    def __init__(self) -> None:
        self.told: list[str] = []

    def say(self, text: str) -> None:
        self.told.append(text)


def test_as_evaluations_of_the_data_have(tmp_path: Path) -> None:
    """Ten of Co3D; what half of the sequences have where those are shorter, which is told."""
    small_scenes(tmp_path, 3, range(2), range(90, 91))
    asked = Question(tmp_path, "train")
    assert protocol_frames(asked) == 10
    console = Heard()
    found = read_longest(asked, 10, console)
    assert [len(sequence.image_paths) for sequence in found] == [3, 3]
    assert [len(sequence.image_paths) for sequence in read_longest(asked, 2, console)] == [2, 2]
    assert console.told == ["frames: 3 of every sequence, as few have 10; --frames fixes them"]
    (tmp_path / "none").mkdir()
    with pytest.raises(QvggtError):
        read_longest(Question(tmp_path / "none", "train"), 10, Console())


def test_what_fits_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model, size = small_model(), (SIZE, SIZE)
    for free, fits in (
        (None, 10),
        (1 << 40, 10),
        (step_bytes(model, 6, *size) + 100, 6),
        (step_bytes(model, 6, *size) + 99, 5),
        (0, 2),
    ):
        monkeypatch.setattr(memory, "free_memory", lambda _device, free=free: free)
        console = Heard()
        assert fitting_frames(model, size, CPU, 100, 10, console) == fits
        assert [text.split(" of ")[0] for text in console.told] == ([f"frames: {fits}"] if fits < 10 else [])


def test_the_estimate_is_that_of_the_large_model() -> None:
    """Learning steps counted on the meta device: docs/results/calibration_memory.json."""
    with torch.device("meta"):
        model = VGGT(VGGT_1B.replace(vit_depth=1, aa_depth=1, dpt_layers=(0, 0, 0, 0), heads=()))
    for frames, counted in ((4, 1.83e9), (10, 2.27e9), (20, 2.69e9)):
        assert counted < step_bytes(model, frames, 518, 518) < 1.4 * counted
