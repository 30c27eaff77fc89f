"""Files of several image sizes as one candidate: each image goes to the file of its size."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from fake_tensorrt import write

from qvggt import QvggtError
from qvggt.engines import registry
from qvggt.engines.opening import open_runner
from qvggt.engines.registry import RunnerKind, kind_of, register, split_files
from qvggt.engines.runner import Array, ModelFile, Runner
from qvggt.engines.sizes_runner import SizesRunner


class Square(Runner):
    """A runtime whose file NAME-HxW.sq has a size in its name, and answers with its height as depth."""

    frame_range = (2, 4)
    outputs = ("pose_enc", "depth")
    opened: ClassVar[list[Square]] = []

    def __init__(self, path: str) -> None:
        height, width = Path(path).stem.split("-")[1].split("x")
        self.size = None if height == "0" else (int(height), int(width))
        self.label, self.open, self.files = f"square {Path(path).name}", True, (ModelFile.of(Path(path)),)
        Square.opened.append(self)

    def _run(self, images: Array) -> dict[str, Array]:
        frames, _, height, width = images.shape
        depth = np.full((1, frames, height, width, 1), height, np.float32)
        return {"pose_enc": np.zeros((1, frames, 9), np.float32), "depth": depth}

    def close(self) -> None:
        self.open = False

    @property
    def closed(self) -> bool:
        return not self.open

    def describe(self) -> dict[str, object]:
        return {"kind": "square", **self._facts()}


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(registry, "_KINDS", dict(registry._KINDS))
    monkeypatch.setattr(Square, "opened", [])
    register(RunnerKind("square", (".sq",), lambda source, options: Square(source), uses=("device",), advice=""))
    for name in ("a-56x56", "a-28x56", "b-56x56", "c-0x0"):
        (tmp_path / f"{name}.sq").write_text(name)
    return tmp_path


def named(folder: Path, *names: str) -> str:
    return ",".join(str(folder / f"{name}.sq") for name in names)


def test_images_go_to_the_file_of_their_size(folder: Path) -> None:
    with open_runner(named(folder, "a-56x56", "a-28x56")) as runner:
        assert isinstance(runner, SizesRunner)
        assert (runner.size, runner.sizes, runner.frame_range) == (None, ((56, 56), (28, 56)), (2, 4))
        for height in (28, 56):
            predictions = runner(np.zeros((2, 3, height, 56), np.float32))
            assert predictions.depth is not None
            assert np.unique(predictions.depth) == height
        with pytest.raises(QvggtError, match=r"expected images of 56x56 or 28x56 \(H x W\), got 42x56"):
            runner(np.zeros((2, 3, 42, 56), np.float32))
        facts, alone = runner.describe(), Square.opened[0].describe()
        assert runner.label == facts["label"] == "square a-56x56.sq and 1 more size"
        assert (facts["size"], facts["bytes"], len(facts["files"])) == ([[56, 56], [28, 56]], 14, 2)
        assert facts["sha256"] != alone["sha256"]
        assert {name for name in facts if facts[name] != alone[name]} == {"label", "size", "bytes", "files", "sha256"}
    assert runner.closed
    assert all(one.closed for one in Square.opened)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a-56x56", "b-56x56"), r"square b-56x56\.sq: takes 56x56 images as square a-56x56\.sq does; leave one out"),
        (("a-56x56", "c-0x0"), r"square c-0x0\.sq: takes images of any size; give it alone"),
        (("a-56x56", "d-28x28"), r"d-28x28\.sq"),
    ],
)
def test_files_that_do_not_go_together(folder: Path, names: tuple[str, ...], message: str) -> None:
    with pytest.raises((QvggtError, OSError), match=message):
        open_runner(named(folder, *names))
    assert all(one.closed for one in Square.opened[:1])


def test_files_of_one_network_have_more_in_common(folder: Path) -> None:
    first, second = (Square(named(folder, name)) for name in ("a-56x56", "a-28x56"))
    second.outputs = ("pose_enc",)
    with pytest.raises(QvggtError, match=r"a-28x56\.sq: differs from square a-56x56\.sq in outputs; files of one"):
        SizesRunner([first, second])


def test_what_is_a_list_of_files(tmp_path: Path) -> None:
    assert split_files("a.onnx,b/c.onnx") == ("a.onnx", "b/c.onnx")
    assert split_files(Path("a.engine,b.plan")) == ("a.engine", "b.plan")
    for alone in ("a.onnx", "tiny", "a,b.onnx", "photos,of/mine.onnx"):
        assert split_files(alone) == (alone,)
    (tmp_path / "a.onnx,b.onnx").write_text("")
    assert split_files(str(tmp_path / "a.onnx,b.onnx")) == (str(tmp_path / "a.onnx,b.onnx"),)


def test_engines_of_the_same_size(tmp_path: Path, trt: object) -> None:
    files = [write(tmp_path / name) for name in ("a.engine", "b.engine")]
    assert kind_of(",".join(map(str, files))).name == "rtx"
    with pytest.raises(QvggtError, match=r"takes 14x28 images as .* does; leave one out"):
        open_runner(",".join(map(str, files)))
