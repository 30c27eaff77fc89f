"""Two engines as one, on the fake of a GPU: tokens stay on the card, groups of frames, and halves that do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fake_tensorrt import SCRATCH, SPEC, write

from qvggt import QvggtError
from qvggt.engines.engine_runner import EngineRunner
from qvggt.engines.manifest import manifest_path
from qvggt.engines.opening import open_runner
from qvggt.engines.pair_engine import EnginePair
from qvggt.onnx_view.halves import GROUP, heads_path

TRUNK = {**SPEC, "outputs": ["pose_enc", "tokens_0"], "frames": [1, 20], "types": {"tokens_0": "HALF"}}
HEADS = {**SPEC, "outputs": ["depth"], "frames": [1, GROUP], "input": "tokens_0", "types": {"tokens_0": "HALF"}}
PIXELS = 3 * 14 * 28  # of a frame: the fake adds up whatever it is given, frame by frame


def halves(folder: Path, trunk: object = TRUNK, heads: object = HEADS, **changes: object) -> Path:
    """A trunk m.engine and its heads; changes: of the heads' manifest."""
    path = folder / "m.engine"
    write(path, trunk, metadata={"qvggt.half": "trunk", "qvggt.pair": "1" * 64}, partner="m.heads.engine")
    mine = {"metadata": {"qvggt.half": "heads", "qvggt.pair": "1" * 64}, "partner": "m.engine", **changes}
    write(heads_path(path), heads, **mine)
    return path


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    return halves(tmp_path)


def images(frames: int) -> np.ndarray:
    return np.random.default_rng(frames).random((frames, 3, 14, 28), np.float32) / PIXELS  # sums are about 0.5


def expected(pixels: np.ndarray) -> np.ndarray:
    """What the fake makes of the sums, which are halves between the two, once more."""
    return np.float16(pixels.sum((1, 2, 3))).astype(np.float32) * PIXELS


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_computes_as_one(trt, pair, cuda_graph):
    with open_runner(pair, cuda_graph=cuda_graph) as runner:
        assert isinstance(runner, EngineRunner)
        assert isinstance(runner.engine, EnginePair)
        assert (runner.outputs, runner.frame_range, runner.size) == (("pose_enc", "depth"), (1, 20), (14, 28))
        for frames in (1, 2 * GROUP + 3, GROUP, 2 * GROUP + 3):
            pixels = images(frames)
            predictions = runner(pixels)
            np.testing.assert_allclose(predictions.pose_enc[:, 0], pixels.sum((1, 2, 3)), rtol=1e-5)
            np.testing.assert_allclose(predictions.depth[:, 0, 0], expected(pixels), rtol=2e-3)
        with pytest.raises(QvggtError, match="was built for 1 to 20 frames, got 21"):
            runner(images(21))
    assert runner.closed


def test_frames_go_through_the_heads_in_groups_and_tokens_stay_on_the_card(trt, cuda, pair, monkeypatch):
    with EngineRunner(pair) as runner:
        runner(images(11))
        heads, seen = runner.engine.heads, []
        run = heads.on_device

        def watched(tensors, outputs):
            seen.extend((name, x.shape[1], cuda.alive(x.data_ptr(), 1)) for name, x in tensors.items())
            return run(tensors, outputs)

        monkeypatch.setattr(heads, "on_device", watched)
        cuda.events.clear()
        runner(images(11))
        assert seen == [("tokens_0", GROUP, True), ("tokens_0", 3, True)]
        assert cuda.events.count("launch") == 3
        assert cuda.events[-1] == "synchronize"
        seen.clear()
        assert set(runner._run_chosen(images(11), ["pose_enc"])) == {"pose_enc"}
        assert seen == []


def test_tensors_on_the_card(trt, pair):
    with EngineRunner(pair) as runner:
        pixels = images(GROUP + 1)
        found = runner.run_device(torch.from_numpy(pixels))
        assert list(found) == ["pose_enc", "depth"]
        np.testing.assert_allclose(found["depth"][0, :, 0, 0, 0].numpy(), expected(pixels), rtol=2e-3)
        again = runner.run_device(torch.from_numpy(pixels), ["depth"])
        assert again["depth"].data_ptr() == found["depth"].data_ptr()
        with pytest.raises(QvggtError, match="computes no world_points"):
            runner.run_device(torch.from_numpy(pixels), ["world_points"])
        runner(images(GROUP))
        runner.compute(GROUP)


def test_scratch_memory_is_one_block(trt, tmp_path):
    """Heads that need more than the trunk had: it lets go of what it made of the smaller block, and goes on."""
    with EngineRunner(halves(tmp_path, heads={**HEADS, "scratch": 4 * SCRATCH})) as runner:
        pair = runner.engine
        for frames, held in ((2, 8), (2, 8), (3, 12), (1, 12), (20, 32), (2, 32)):
            pixels = images(frames)
            np.testing.assert_allclose(runner(pixels).depth[:, 0, 0], expected(pixels), rtol=2e-3)
            assert runner.describe()["scratch_bytes"] == held * SCRATCH
            block = pair.trunk.scratch.block
            known = {c.context.memory for engine in (pair.trunk, pair.heads) for c in engine._launches.values()}
            assert known == {(block.data_ptr(), block.numel())}


def test_describe(trt, pair):
    with EngineRunner(pair) as runner:
        runner(images(10))
        facts = runner.describe()
        assert facts["largest_scratch_bytes"] == 20 * SCRATCH
        assert facts["scratch_bytes"] == 10 * SCRATCH
        assert facts["contexts"] == 2
        assert facts["frames_at_once"] == GROUP
        files = [pair, manifest_path(pair), heads_path(pair), manifest_path(heads_path(pair))]
        assert [file.path for file in runner.files] == [str(file) for file in files]
        assert facts["bytes"] == sum(file.stat().st_size for file in files)


def test_a_half_alone(trt, pair):
    with pytest.raises(QvggtError, match=r"m\.heads\.engine: holds dense heads only.*m\.engine; give that file"):
        open_runner(heads_path(pair))
    heads_path(pair).unlink()
    with pytest.raises(QvggtError, match=r"m\.engine: is a trunk, .* m\.heads\.engine are not beside it") as caught:
        open_runner(pair)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metadata": {"qvggt.half": "heads", "qvggt.pair": "2" * 64}}, "belongs to export 222222222222"),
        ({"backend": "tensorrt"}, "belongs to export 111111111111 of tensorrt"),
        ({"metadata": {}}, "belongs to export None"),
        ({"heads": {**HEADS, "types": {}}}, r"m\.heads\.engine: takes other tokens than m\.engine gives"),
        ({"heads": {**HEADS, "input": "tokens_1"}}, r"m\.heads\.engine: takes other tokens than m\.engine gives"),
        ({"heads": {**HEADS, "frames": [1, 4]}}, "takes 4 frames at once, expected 8"),
        ({"compute_capabilities": ("12.0",)}, r"m\.heads\.engine: was built for compute capability 12\.0"),
    ],
)
def test_halves_that_do_not_fit(trt, tmp_path, changes, words):
    path = halves(tmp_path, **changes)
    with pytest.raises(QvggtError, match=words):
        open_runner(path)
