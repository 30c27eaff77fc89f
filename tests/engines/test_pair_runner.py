"""A network in two files: the numbers of the one file, groups of frames, and one line for a half that does not fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from small_network import SIZE, small_pixels

from qvggt import QvggtError
from qvggt.engines.network_file import read_heads, read_network
from qvggt.engines.onnx_runner import OnnxRunner, tensorrt_options
from qvggt.engines.opening import open_runner
from qvggt.engines.pair_runner import PairRunner
from qvggt.engines.triton import serve_onnx
from qvggt.jobs.lint import lint_file
from qvggt.onnx_view.halves import GROUP, heads_path

pytestmark = pytest.mark.usefixtures("one_thread")
MAPS = {"depth", "depth_conf", "world_points", "world_points_conf"}


@pytest.fixture(scope="module")
def runner(small_pair: Path) -> Iterator[PairRunner]:
    with open_runner(small_pair, threads=1) as runner:
        assert isinstance(runner, PairRunner)
        yield runner


@pytest.fixture
def copied(small_pair: Path, tmp_path: Path) -> Path:
    for file in (small_pair, heads_path(small_pair)):
        shutil.copy(file, tmp_path / file.name)
    return tmp_path / small_pair.name


def edit(path: Path, change: Callable[[dict[str, str]], object]) -> None:
    """Change the metadata of a file."""
    model = onnx.load(path)
    entries = {entry.key: entry.value for entry in model.metadata_props}
    change(entries)
    del model.metadata_props[:]
    helper.set_model_props(model, entries)
    onnx.save(model, path)


@pytest.mark.parametrize("frames", [1, GROUP + 1])
def test_the_numbers_of_one_file(runner: PairRunner, small_onnx: Path, frames: int) -> None:
    images = small_pixels(frames)
    with OnnxRunner(small_onnx, threads=1) as whole:
        expected = whole.run_named(images)
    got = runner.run_named(images)
    assert list(got) == list(expected)
    for name, value in expected.items():
        assert np.abs(got[name] - value).max() <= 1e-5 * np.abs(value).max(), name
    assert runner(images).depth is not None


def test_frames_go_through_the_heads_in_groups(runner: PairRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    run = runner.heads.run_tensors

    def watched(tensors: Any, outputs: Any) -> Any:
        seen.append([value.shape[1] for value in tensors.values()])
        return run(tensors, outputs)

    monkeypatch.setattr(runner.heads, "run_tensors", watched)
    runner(small_pixels(2 * GROUP + 3))
    assert seen == [[GROUP] * 4, [GROUP] * 4, [3] * 4]


def test_heads_that_nobody_asked_for_do_not_run(runner: PairRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner.heads, "run_tensors", None)
    assert set(runner._run_chosen(small_pixels(1), ["pose_enc"])) == {"pose_enc"}


def test_describe(runner: PairRunner, small_pair: Path) -> None:
    facts, files = runner.describe(), [small_pair, heads_path(small_pair)]
    assert [file["path"] for file in facts["files"]] == [str(file) for file in files]
    assert facts["bytes"] == sum(file.stat().st_size for file in files)
    assert (facts["scheme"], facts["frames_at_once"]) == ("w8a8-dynamic", GROUP)
    assert set(facts["outputs"]) == {"pose_enc", *MAPS}
    assert (runner.size, runner.frames) == ((SIZE, SIZE), None)
    assert (sizes := runner.network_sizes()) is not None
    assert sizes.chunk == GROUP


def test_closing_frees_both(small_pair: Path) -> None:
    runner = open_runner(small_pair, threads=1)
    assert isinstance(runner, PairRunner)
    halves = runner.trunk, runner.heads
    runner.close()
    runner.close()
    assert [half.session for half in halves] == [None, None]  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="closed"):
        runner(small_pixels(1))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("openvino") is None, reason="needs OpenVINO: pip install '.[openvino]' in the clone")
def test_openvino_runs_both(runner: PairRunner, small_pair: Path) -> None:
    images = small_pixels(2)
    with open_runner(small_pair, runtime="openvino", threads=1) as other:
        assert isinstance(other, PairRunner)
        depth = other(images).depth
    expected = runner(images).depth
    assert depth is not None
    assert expected is not None
    assert 10 * np.log10(np.square(expected).sum() / np.square(depth - expected).sum()) > 30


def test_the_tensorrt_provider_gets_both_ranges(small_pair: Path) -> None:
    network = read_network(small_pair)
    assert tensorrt_options(network)["trt_profile_max_shapes"] == f"images:1x32x3x{SIZE}x{SIZE}"
    heads = tensorrt_options(read_heads(network))["trt_profile_max_shapes"].split(",")
    assert heads == [f"tokens_{i}:1x{GROUP}x21x128" for i in range(4)]


def test_a_half_alone(copied: Path) -> None:
    heads = heads_path(copied)
    with pytest.raises(QvggtError, match=r"small\.heads\.onnx: holds dense heads only.*small\.onnx; give that file"):
        open_runner(heads)
    with pytest.raises(QvggtError, match="Triton serves one"):
        serve_onnx(copied, gpu=False)
    heads.unlink()
    for look in (open_runner, lambda path: lint_file(path, "cpu")):
        with pytest.raises(QvggtError, match=r"small\.onnx: is a trunk.* small\.heads\.onnx are not beside it"):
            look(copied)
    with OnnxRunner(copied, threads=1) as trunk:  # cameras need no dense heads
        assert trunk(small_pixels(1)).depth is None


def test_halves_that_do_not_belong_together(copied: Path, small_onnx: Path) -> None:
    heads = heads_path(copied)
    edit(heads, lambda entries: entries.update({"qvggt.pair": "0" * 64}))
    with pytest.raises(
        QvggtError, match=r"small\.heads\.onnx: belongs to export 000000000000, small\.onnx to "
    ) as caught:
        open_runner(copied)
    assert "\n" not in str(caught.value)
    edit(heads, lambda entries: entries.update({"qvggt.half": "tail"}))
    with pytest.raises(QvggtError, match=r"qvggt\.half 'tail': expected one of trunk, heads"):
        open_runner(copied)
    shutil.copy(small_onnx, heads)
    with pytest.raises(QvggtError, match="does not hold the dense heads"):
        open_runner(copied)


def test_other_tokens_than_the_trunk_gives(copied: Path) -> None:
    model = onnx.load(heads := heads_path(copied))
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 30
    onnx.save(model, heads)
    with pytest.raises(QvggtError, match=r"takes tokens_0 \[1, \?, 30, 128\].* gives tokens_0 \[1, \?, 21, 128\]"):
        open_runner(copied)


def test_lint_reads_both(copied: Path) -> None:
    assert lint_file(copied, "cpu").findings == ()
    model = onnx.load(heads := heads_path(copied))
    model.graph.node[0].domain = "elsewhere"
    onnx.save(model, heads)
    assert {finding.rule for finding in lint_file(copied, "tensorrt").findings} == {"QV602"}
