"""The generated scenes commands test on, in Co3D layout."""

from __future__ import annotations

from pathlib import Path

from qvggt.data.co3d_writer import write_co3d
from qvggt.data.registry import Question
from qvggt.data.synthetic.scene import SceneConfig
from qvggt.data.synthetic.seeds import TEST_SEEDS

FRAMES = 8  # of a scene, at least


def generate(folder: Path, question: Question, size: tuple[int, int], scenes: int) -> None:
    """The first scenes of `qvggt scenes --test` at `size` (H, W)."""
    # a scene's cameras depend on the number of its frames: render a whole scene, then draw from it
    write_scenes(folder, size, max(question.frames or FRAMES, FRAMES), range(TEST_SEEDS, TEST_SEEDS + scenes))


def write_scenes(folder: Path, size: tuple[int, int], frames: int, seeds: range, progress: bool = True) -> None:
    """One test scene per seed under `folder`."""
    config = SceneConfig(height=size[0], width=size[1], frames=frames)
    write_co3d(folder, config, train=range(0), test=seeds, progress=progress)
