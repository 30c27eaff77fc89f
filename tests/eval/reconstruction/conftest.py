"""A scene photographed at mixed sizes, with the truth as its reconstruction."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from true_runner import Shoot, TrueRunner, shoot

from qvggt.eval.ground_truth import ImagePlan
from qvggt.eval.reconstruction.frames import Frames, load_frames
from qvggt.eval.reconstruction.passes import Pass
from qvggt.eval.reconstruction.scene import Scene, reconstruct

SIZES = [(96, 128), (128, 96), (120, 120), (96, 128)]  # height, width


@dataclass(frozen=True)
class Truth:
    taken: Shoot
    frames: Frames
    runner: TrueRunner
    scene: Scene


@pytest.fixture(scope="session")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    taken = shoot(tmp_path_factory.mktemp("photos"), SIZES)
    frames = load_frames(taken.paths, ImagePlan(70))
    runner = TrueRunner(taken, frames)
    scene, _ = reconstruct(runner, frames, [Pass(0, len(SIZES), 0)])
    return Truth(taken, frames, runner, scene)
