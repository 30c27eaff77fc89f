"""What candidates saw of the images, in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qvggt.data.sequence import Frames, Sequence
from qvggt.eval.ground_truth import ImagePlan
from qvggt.eval.seen import in_words, seen_of, view

PADDED = "518x294 padded to 518x518 (57 % of the pixels are image)"
CROPPED = "921x518 cropped to 518x518 (56 % of the image is seen)"


@pytest.mark.parametrize(
    ("plan", "source", "words"),
    [
        (ImagePlan(518, (518, 518), fit="pad"), (1920, 1080), PADDED),
        (ImagePlan(518, (518, 518)), (1920, 1080), CROPPED),
        (ImagePlan(518, (518, 518), others=((294, 518),)), (1920, 1080), "518x294, whole"),
        (ImagePlan(518, (518, 518), others=((294, 518),), fit="pad"), (1920, 1080), "518x294, whole"),
        (ImagePlan(518, (280, 518)), (1920, 1080), "518x291 cropped to 518x280 (96 %"),
        (ImagePlan(518), (640, 480), "518x392, whole"),
        (ImagePlan(518), (1080, 1920), "518x924 cropped to 518x518 (56 % of the image is seen)"),
        (ImagePlan(518, fit="pad"), (1080, 1920), "294x518 padded to 518x518 (57 % of the pixels are image)"),
        (ImagePlan(518, (518, 518), room=True, fit="pad"), (640, 480), "518x392 padded to 518x518 (76 % of"),
        (ImagePlan(518, (392, 518), room=True), (640, 480), "523x392 cropped to 518x392 (99 % of"),
    ],
)
def test_views(plan: ImagePlan, source: tuple[int, int], words: str) -> None:
    assert view(*plan.placed(source)).startswith(words)


def test_all_images_in_a_line(tmp_path: Path) -> None:
    sizes = {"wide": (96, 54), "tall": (54, 96), "square": (60, 60), "four": (64, 48), "five": (65, 40)}
    for name, size in sizes.items():
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"none")
    paths = [tmp_path / f"{name}.png" for name in ("wide", "tall", "wide", "broken")]
    photos = Frames("photos", "mixed", tuple(paths), (0, 1, 2, 3))
    cameras = np.zeros((3, 3, 4)), np.zeros((3, 3, 3)), (None,) * 3
    filmed = Sequence("cups", "one", (tmp_path / "square.png",) * 3, (0, 1, 2), *cameras)
    plan = ImagePlan(70, (70, 70), fit="pad", owner="a.onnx")
    seen = seen_of(plan, [photos, filmed])
    half = "padded to 70x70 (60 % of the pixels are image)"
    assert seen == {"70x70, whole": 3, f"70x42 {half}": 2, f"42x70 {half}": 1}
    assert in_words(seen, plan.owner) == (
        f"images: 3 are 70x70, whole; 2 are 70x42 {half}; 1 are 42x70 {half}; a.onnx takes no other size"
    )
    assert in_words({"518x392, whole": 7}) == "images: 518x392, whole"
    assert in_words({"a": 5, "b": 4, "c": 3, "d": 2, "e": 1}) == (
        "images: 5 are a; 4 are b; 3 are c; 3 are of other sizes"
    )
    assert in_words({}) == "images: none read"
