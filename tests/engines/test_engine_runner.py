"""Engine runner: on a fake TensorRT that writes through real addresses; and what is refused before any GPU is asked."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from pathlib import Path

import fake_tensorrt
import numpy as np
import pytest
import torch
from fake_tensorrt import SCRATCH, SPEC, VERSION, write

from qvggt import QvggtError
from qvggt.engines import cuda as cuda_module
from qvggt.engines import engine as engine_module
from qvggt.engines import engine_runner, kernel_cache, tensorrt_module
from qvggt.engines.cuda import open_gpu
from qvggt.engines.engine import GRAIN, Engine, EngineOptions
from qvggt.engines.engine_runner import EngineRunner
from qvggt.engines.manifest import manifest_path
from qvggt.engines.opening import open_runner
from qvggt.engines.tensorrt_module import import_tensorrt, logger_of

HALF = {**SPEC, "types": {"images": "HALF", "depth": "HALF"}}
PROFILES = {**SPEC, "profiles": [[1, 1, 1], [2, 4, 12], [2, 16, 32]]}


def images(frames):
    return np.random.default_rng(frames).random((frames, 3, 14, 28), np.float32)


def contexts(runner):
    return [launch.context for launch in runner.engine._launches.values()]


def test_computes_through_the_buffers(trt, engine):
    with open_runner(engine) as runner:
        assert isinstance(runner, EngineRunner)
        for frames in (2, 4, 1, 2):
            pixels = images(frames)
            predictions = runner(pixels)
            assert predictions.depth.shape == (frames, 14, 28)
            np.testing.assert_allclose(predictions.pose_enc[:, 0], pixels.sum((1, 2, 3)), rtol=1e-5)
            assert predictions.world_points is None
        assert [context.launches for context in contexts(runner)] == [[runner.gpu.stream.cuda_stream] * 4]
    assert runner.closed
    runner.close()


def test_a_call_waits_once(trt, cuda, engine, monkeypatch):
    """Copy, launch and copy back are given to the stream at once."""
    copies = []
    plain = torch.Tensor.copy_

    def copy(self, source, non_blocking=False):
        copies.append(non_blocking)
        cuda.events.append("copy")
        return plain(self, source, non_blocking)

    runner = EngineRunner(engine)
    runner(images(2))
    monkeypatch.setattr(torch.Tensor, "copy_", copy)
    cuda.events.clear()
    runner(images(2))
    assert cuda.events == ["copy", "copy", "launch", "copy", "copy", "synchronize"]
    assert copies == [False, True, True, True]  # the first is from the user's memory to pinned memory


def test_results_are_not_the_buffers(trt, engine):
    with EngineRunner(engine) as runner:
        first = runner.run_named(images(2))
        kept = {name: value.copy() for name, value in first.items()}
        runner.run_named(images(2) / 2)
    for name, value in kept.items():
        np.testing.assert_array_equal(first[name], value)


def test_the_second_card(trt, cuda, engine):
    """Every call is made with the card current (the fake asserts it); the caller's card stays what it was."""
    with EngineRunner(engine, "cuda:1") as runner:
        np.testing.assert_allclose(runner(images(2)).depth[:, 0, 0], images(2).sum((1, 2, 3)), rtol=1e-5)
        assert (runner.device, runner.gpu.name, cuda.current) == ("cuda:1", "Fake GPU 1", 0)
        (tensors,) = (launch.tensors for launch in runner.engine._launches.values())
        assert {tensor.card for tensor in tensors.values()} == {1}
    with pytest.raises(QvggtError, match=r"device 'cuda:2': PyTorch sees 2 CUDA devices"):
        EngineRunner(engine, "cuda:2")


def test_half_precision_is_converted_at_both_ends(trt, tmp_path):
    with EngineRunner(write(tmp_path / "m.plan", HALF)) as runner:
        depth = runner(images(2)).depth
        (host,) = (launch.host for launch in runner.engine._launches.values())
        assert host["images"].dtype == torch.float16, "half the bytes go over the bus"
    assert depth.dtype == np.float32
    expected = images(2).astype(np.float16).astype(np.float32).sum((1, 2, 3))
    np.testing.assert_allclose(depth[:, 0, 0], expected, rtol=1e-3)


def test_scratch_memory_fits_the_shape(trt, engine):
    """Not the profile's largest; it grows where it has to, and is one block."""
    with EngineRunner(engine) as runner:
        for frames, held in ((1, 1), (3, 3), (2, 3), (4, 4)):
            runner(images(frames))
            facts = runner.describe()
            assert facts["scratch_bytes"] == held * SCRATCH
            assert facts["largest_scratch_bytes"] == 4 * SCRATCH
            assert facts["contexts"] == 1
    assert SCRATCH % GRAIN == 0


def test_nothing_is_left_on_the_card(trt, cuda, engine):
    for graph in (False, True):
        with EngineRunner(engine, cuda_graph=graph) as runner:
            runner(images(2))
            runner(images(1))
            assert cuda.used() > 2 * SCRATCH
        assert cuda.used() == 0
        assert cuda.gone == [True] * len(cuda.gone), "a context was destroyed off the device"
    assert len(cuda.gone) == 3


def test_outputs_can_be_chosen(trt, cuda, engine):
    with EngineRunner(engine) as runner:
        assert list(runner.run_named(images(2), ["pose_enc"])) == ["pose_enc"]
        (host,) = (launch.host for launch in runner.engine._launches.values())
        assert set(host) == {"images", "pose_enc"}, "the others are not copied to the host"
        assert list(runner.run_device(torch.from_numpy(images(2)), ("depth",))) == ["depth"]
        for call in (runner.run_named, lambda pixels, names: runner.run_device(torch.from_numpy(pixels), names)):
            with pytest.raises(QvggtError, match=r"computes no world_points, only pose_enc, depth"):
                call(images(2), ["world_points"])


class Foreign:
    """Another library's array."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


@pytest.mark.parametrize("make", [torch.from_numpy, Foreign], ids=["torch", "dlpack"])
def test_tensors_of_the_card(trt, cuda, engine, make):
    """Nothing waits for the host, and the streams wait for each other, in both directions."""
    with EngineRunner(engine) as runner:
        before = runner.gpu.stream.waits
        pixels = images(3)
        found = runner.run_device(make(pixels))
        caller = cuda.callers[0]
        assert (runner.gpu.stream.waits, runner.gpu.stream.after, caller.after) == (
            before,
            [caller],
            [runner.gpu.stream],
        )
        assert pixels.ctypes.data in cuda.read, "its memory may be given away while it is read"
        assert {name: tuple(value.shape) for name, value in found.items()} == {
            "pose_enc": (1, 3, 9),
            "depth": (1, 3, 14, 28, 1),
        }
        np.testing.assert_allclose(found["pose_enc"][0, :, 0], pixels.sum((1, 2, 3)), rtol=1e-5)
        found["depth"].clamp_(min=0)  # no inference tensor
        again = runner.run_device(make(pixels / 2))
        assert again["depth"].data_ptr() == found["depth"].data_ptr(), (
            "the engine's own buffers, as the docstring has it"
        )
        np.testing.assert_allclose(found["pose_enc"][0, :, 0], pixels.sum((1, 2, 3)) / 2, rtol=1e-5)


def test_the_block_of_the_page(trt, tmp_path, monkeypatch):
    """docs/embedding.md, as it stands."""
    page = Path(__file__).parents[2] / "docs" / "embedding.md"
    (block,) = (found for found in page.read_text().split("```python\n")[1:] if "run_device" in found)
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "model.engine")
    scope = {"frames": torch.from_numpy(images(2))}
    exec(block.partition("```")[0], scope)
    assert scope["depth"].shape == (1, 2, 14, 28, 1)
    np.testing.assert_allclose(scope["cameras"][0, :, 0], images(2).sum((1, 2, 3)), rtol=1e-5)


def test_tensors_in_half_precision(trt, tmp_path):
    with EngineRunner(write(tmp_path / "m.engine", HALF)) as runner:
        found = runner.run_device(torch.from_numpy(images(2)))
        assert (found["depth"].dtype, found["pose_enc"].dtype) == (torch.float16, torch.float32)


def test_tensors_that_do_not_fit(trt, cuda, engine):
    runner = EngineRunner(engine, "cuda:1")
    good = torch.from_numpy(images(2))
    good.card = 1
    for value, words in (
        (
            torch.from_numpy(images(2)),
            "expected images on cuda:1, got cpu; move them there, or give the runner a numpy",
        ),
        (images(2), "expected images on cuda:1, got cpu"),
        ([1, 2], r"expected images as a tensor or an object with __dlpack__, got list"),
        (good.mul(255).to(torch.uint8), "expected images of a float type in \\[0, 1\\], got torch.uint8"),
        (good[:, :, :, :14], "expected images of 14x28"),
        (good[0], r"expected images of shape \\[S, 3, H, W\\]"),
        (good.repeat(3, 1, 1, 1), "was built for 1 to 4 frames, got 6"),
    ):
        if isinstance(value, torch.Tensor) and "cuda:1" not in words:
            value.card = 1
        with pytest.raises(QvggtError, match=words.replace("\\\\", "\\")):
            runner.run_device(value)
    runner.run_device(good)
    runner.close()
    with pytest.raises(RuntimeError, match="closed"):
        runner.run_device(good)


def test_frames_outside_the_profile(trt, engine):
    runner = EngineRunner(engine)
    assert (runner.frames, runner.frame_range, runner.size) == (None, (1, 4), (14, 28))
    with pytest.raises(QvggtError, match=r"built for 1 to 4 frames, got 5; build it with --frames 1:5:5"):
        runner(images(5))
    with pytest.raises(QvggtError, match="expected images of 14x28"):
        runner(np.zeros((1, 3, 14, 14), np.float32))


@pytest.mark.parametrize(("frames", "profile"), [(1, 0), (2, 1), (4, 1), (8, 1), (10, 2), (32, 2)])
def test_the_profile_that_holds_the_shape(trt, tmp_path, frames, profile):
    """Of two that do, the one that was tuned for the nearest count."""
    with EngineRunner(write(tmp_path / "m.engine", PROFILES)) as runner:
        assert runner.frame_range == (1, 32)
        runner(images(frames))
        assert contexts(runner)[0].active_optimization_profile == profile


def test_profiles_change_from_call_to_call(trt, tmp_path):
    with EngineRunner(write(tmp_path / "m.engine", PROFILES)) as runner:
        for frames in (1, 9, 2, 1):
            np.testing.assert_allclose(runner(images(frames)).depth[:, 0, 0], images(frames).sum((1, 2, 3)), rtol=1e-5)


def test_a_gap_between_profiles(trt, tmp_path):
    with (
        EngineRunner(write(tmp_path / "m.engine", {**SPEC, "profiles": [[1, 1, 1], [4, 4, 8]]})) as runner,
        pytest.raises(
            QvggtError, match=r"takes images \[1, 1, 3, 14, 28\] to .* or images \[1, 4, .* got images \[1, 2,"
        ),
    ):
        runner(images(2))


def test_a_fixed_frame_count(trt, tmp_path):
    runner = EngineRunner(write(tmp_path / "m.engine", {**SPEC, "frames": [2, 2]}))
    assert runner.frames == 2
    runner(images(2))
    with pytest.raises(QvggtError, match="expected 2 frames, got 3"):
        runner(images(3))


def test_any_inputs_by_name(trt, cuda, tmp_path):
    """What runs a part of a network: several inputs, on the card or on the host."""
    path = write(tmp_path / "m.engine", {**SPEC, "extra": {"tokens": [8]}, "types": {"tokens": "HALF"}})
    part = Engine(trt, path, open_gpu(path), EngineOptions())
    assert part.inputs == ("images", "tokens")
    given = {"images": torch.from_numpy(images(2)[None]), "tokens": torch.ones(1, 2, 8)}
    found = part.on_device(given)["pose_enc"][0, :, 0]
    np.testing.assert_allclose(found, images(2).sum((1, 2, 3)) + 8, rtol=1e-5)
    np.testing.assert_array_equal(part.on_host(given, ["pose_enc"])["pose_enc"][0, :, 0], found)
    with pytest.raises(QvggtError, match=r"has no output depths, only depth, pose_enc"):
        part.on_host(given, ["depths"])
    part.close()


def test_describe(trt, engine):
    facts = EngineRunner(engine, cuda_graph=True).describe()
    assert (facts["kind"], facts["scheme"], facts["float_type"]) == ("rtx", "w8a8-dynamic", "fp16")
    assert facts["label"] == "rtx w8a8-dynamic m.engine"
    assert facts["bytes"] == engine.stat().st_size + manifest_path(engine).stat().st_size
    assert facts["versions"]["rtx"] == VERSION
    assert facts["device"] == "Fake GPU 0 (compute capability 8.9)"
    assert facts["onnx_sha256"] == "0" * 64
    assert facts["cuda_graph"]
    json.dumps(facts)


def test_an_engine_is_hashed_once_and_read_as_a_stream(use, engine, monkeypatch):
    module, hashed = use(), []
    plain = engine_runner.check_engine.__globals__["file_sha256"]
    monkeypatch.setitem(engine_runner.check_engine.__globals__, "file_sha256", lambda p: hashed.append(p) or plain(p))
    monkeypatch.setattr("qvggt.tensor_shards.file_sha256", lambda p: hashed.append(p) or plain(p))
    files = EngineRunner(engine).files
    assert sorted(hashed) == [engine, manifest_path(engine)]
    assert (files[0].sha256, files[0].bytes) == (plain(engine), engine.stat().st_size)
    assert module.loads == ["stream"]
    older = use(streams=False)
    EngineRunner(engine)
    assert older.loads == ["bytes"]


def test_rtx_records_cuda_graphs_itself(trt, cuda, engine):
    """A context for each: recorded launches know the addresses and shapes of their context."""
    with EngineRunner(engine) as plain:
        plain(images(1))
        assert contexts(plain)[0].config.cuda_graph_strategy is None
    with EngineRunner(engine, cuda_graph=True) as runner:
        for frames in (2, 1, 2, 1, 4, 1, 2):  # 4 frames need more scratch memory: all is recorded again
            np.testing.assert_allclose(runner(images(frames)).depth[:, 0, 0], images(frames).sum((1, 2, 3)), rtol=1e-5)
        assert {c.config.cuda_graph_strategy for c in contexts(runner)} == {trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE}
        assert len(set(contexts(runner))) == 3
        assert len({c.memory for c in contexts(runner)}) == 1, "scratch memory is shared"


def tensorrt(use, tmp_path, **spec):
    use(name="tensorrt", captures=False)
    return write(tmp_path / "t.plan", {**SPEC, **spec}, backend="tensorrt", compute_capabilities=())


def test_tensorrt_graphs_are_recorded_after_a_first_launch(use, cuda, tmp_path):
    runner = EngineRunner(tensorrt(use, tmp_path), cuda_graph=True)
    steps = lambda: [event for event in cuda.events if event != "synchronize"]  # noqa: E731
    runner(images(2))
    assert steps() == ["launch", "capture"]
    runner(images(2))
    assert steps() == ["launch", "capture", "replay", "launch"]
    cuda.events.clear()
    runner(images(1))
    runner(images(1))
    assert steps() == ["launch", "capture", "replay", "launch"]
    runner.compute(1)
    assert steps()[4:] == ["replay", "launch"]
    cuda.events.clear()
    runner(images(4))  # more scratch memory: every graph is recorded anew, none replays on what was freed
    runner(images(2))
    np.testing.assert_allclose(runner(images(2)).depth[:, 0, 0], images(2).sum((1, 2, 3)), rtol=1e-5)
    assert steps() == ["launch", "capture", "launch", "capture", "replay", "launch"]
    runner.close()


def test_launches_that_cannot_be_recorded(use, cuda, tmp_path):
    runner = EngineRunner(tensorrt(use, tmp_path, no_capture=True), cuda_graph=True)
    with pytest.raises(
        QvggtError, match=r"cannot be recorded \(.*not permitted.*\); leave the CUDA graph out"
    ) as caught:
        runner(images(1))
    assert "\n" not in str(caught.value)
    runner.close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backend_version": "1.2.3"}, r"made by rtx 1\.2\.3, this is 9\.9\.9; build again"),
        (
            {"compute_capabilities": ("7.5",)},
            r"for compute capability 7\.5, Fake GPU 0 has 8\.9; build it with --cc 8\.9",
        ),
        ({"spec": "no engine"}, r"tensorrt_rtx 9\.9\.9 refuses it: magic tag does not match; build again"),
        ({"spec": {**SPEC, "input": "pixels"}}, "has inputs pixels and outputs depth, pose_enc, expected images"),
        ({"spec": {**SPEC, "outputs": ["logits"]}}, "has inputs images and outputs logits"),
        ({"spec": {**SPEC, "types": {"depth": "INT8"}}}, "depth has type DataType.INT8, expected fp32"),
    ],
)
def test_engines_that_do_not_fit(trt, tmp_path, changes, message):
    path = write(tmp_path / "m.engine", **{"spec": SPEC, **changes})
    with pytest.raises(QvggtError, match=message) as caught:
        EngineRunner(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("built", "runs"),
    [("9.9.9", True), ("9.9.8", True), ("8.6", True), ("9.10.0", False), ("10.0.0", False), ("7.9.9", False)],
)
def test_version_compatible_engines(trt, tmp_path, built, runs):
    """Run on later versions (here 9.9.9) and the next major one, with the host code they hold allowed."""
    spec = {**SPEC, "host_code": True}
    path = write(tmp_path / "m.engine", spec, backend_version=built, options={"version_compatible": True})
    if runs:
        EngineRunner(path).close()
    else:
        with pytest.raises(QvggtError, match=r"this is 9\.9\.9; build again"):
            EngineRunner(path)
    words = "host code is not allowed" if built == VERSION else r"this is 9\.9\.9; build again"
    with pytest.raises(QvggtError, match=words):
        EngineRunner(write(path, spec, backend_version=built))


def test_an_unknown_builder_version_is_left_to_the_runtime(trt, tmp_path):
    EngineRunner(write(tmp_path / "m.engine", backend="trtexec", backend_version="unknown"))


def test_versions_are_compared_on_the_parts_both_have(trt, tmp_path):
    """trtexec prints three parts, the wheel has four."""
    path = write(tmp_path / "m.engine", backend="trtexec", backend_version=VERSION.rpartition(".")[0])
    assert EngineRunner(path).describe()["kind"] == "trtexec"


@pytest.mark.parametrize(
    ("capability", "built", "message"),
    [
        ("9.0", (), r"no kernels for compute capability 9\.0 \(H100, H200\).*--backend tensorrt"),
        ("9.0", ("8.9",), "--backend tensorrt"),
        ("7.5", (), r"portable set, which compute capability 7\.5 is not in"),
    ],
)
def test_gpus_that_rtx_has_nothing_for(trt, cuda, tmp_path, capability, built, message):
    cuda.capability = tuple(int(part) for part in capability.split("."))
    path = write(tmp_path / "m.engine", backend="rtx", compute_capabilities=built)
    with pytest.raises(QvggtError, match=message) as caught:
        EngineRunner(path)
    assert "\n" not in str(caught.value)
    assert f"--cc {capability}" not in str(caught.value) or capability == "7.5"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"fails": "a kernel\nbroke"}, r"tensorrt_rtx 9\.9\.9 failed: a kernel broke; build again"),
        (
            {"fails": "Requested amount of GPU memory: out of memory"},
            r"out of GPU memory: \d\.\d\d GB of 8\.59 GB are free",
        ),
        (
            {"no_context": "OutOfMemory (Requested size was 1)"},
            r"out of GPU memory: 8\.59 GB of 8\.59 GB are free on Fake",
        ),
        ({"no_context": True}, "makes no execution context: no reason given; free some GPU memory"),
        ({"no_shapes": True}, "cannot tell its shapes: shape inference"),
        ({"unknown_shape": True}, "cannot tell its shapes before it runs"),
        ({"no_size": True}, "cannot tell its scratch memory: no size"),
        ({"no_memory": True}, r"takes no scratch memory: \d+ bytes at \d+ will not do"),
        ({"no_address": True}, "takes no buffer for images: bad address"),
        ({"profiles": [[2, 2, 2], [1, 1, 1]], "no_profile": True}, "refuses profile 1: no such profile"),
        (
            {"scratch": 9 << 30},
            r"images \[1, 1, 3, 14, 28\]: out of GPU memory: needs 9\.66 GB, 8\.59 GB of 8\.59 GB are",
        ),
    ],
)
def test_what_tensorrt_says_no_to(trt, tmp_path, spec, words):
    """Every answer is looked at, or the log where there is none; in one line."""
    runner = EngineRunner(write(tmp_path / "m.engine", {**SPEC, **spec}))
    with pytest.raises(QvggtError, match=words) as caught:
        runner(images(1))
    assert "\n" not in str(caught.value)
    runner.close()


def test_an_old_error_on_the_log_is_no_answer(trt, engine):
    with EngineRunner(engine) as runner:
        runner.engine._log.log(trt.ILogger.Severity.ERROR, "of another engine")
        runner(images(1))


def test_memory_that_is_missing_can_be_freed(trt, cuda, engine):
    """After an error the runner goes on with what fits."""
    with EngineRunner(engine) as runner:
        runner(images(1))
        cuda.total = 3 * SCRATCH - 1  # one of 2 frames fits, but not beside one of 1
        with pytest.raises(QvggtError, match=r"needs 12\.61 MB, .* give fewer frames at a time"):
            runner(images(4))
        runner(images(1))
        np.testing.assert_allclose(runner(images(2)).depth[:, 0, 0], images(2).sum((1, 2, 3)), rtol=1e-5)


def test_a_card_that_failed_is_one_line(trt, cuda, engine):
    def run_until_it_fails():
        with EngineRunner(engine) as runner:  # closing does not hide it
            runner(images(1))
            cuda.broken = "CUDA error: an illegal memory access\nCUDA kernel errors might be reported later"
            try:
                runner(images(1))
            finally:
                cuda.broken = "CUDA error: of closing"

    with pytest.raises(QvggtError, match=r"GPU 0 failed: CUDA error: an illegal memory access; start the") as caught:
        run_until_it_fails()
    assert "\n" not in str(caught.value)


def test_other_errors_keep_their_words(cuda):
    with pytest.raises(RuntimeError, match="of ours"), open_gpu("m").active("x"):
        raise RuntimeError("of ours")


def test_weight_streaming(trt, cuda, tmp_path):
    path = write(tmp_path / "m.engine", {**SPEC, "streamable": 3_000_000_000})
    for asked, budget in ((None, 3_000_000_000), (1.5, 1_500_000_000), (0, 0), (9, 3_000_000_000)):
        with EngineRunner(path, weight_budget=asked) as runner:
            runner(images(1))
            assert runner.engine._engine.weight_streaming_budget_v2 == budget
    with pytest.raises(QvggtError, match=r"was built without weight streaming.* build it with --weight-streaming"):
        EngineRunner(write(tmp_path / "m.engine"), weight_budget=1)
    path = write(tmp_path / "m.engine", {**SPEC, "streamable": 10**9, "keeps_budget": True})
    with pytest.raises(QvggtError, match=r"keeps a budget of 1\.00 GB, asked for 500\.00 MB"):
        EngineRunner(path, weight_budget=0.5)


class TestKernels:
    """TensorRT-RTX compiles when it runs; what it compiled is kept."""

    def kept(self, tmp_path):
        return sorted((tmp_path / "cache").rglob("*.kernels"))

    def test_they_are_compiled_once(self, trt, engine, tmp_path):
        for _ in range(2):
            with EngineRunner(engine) as runner:
                runner(images(2))
                assert runner.notes == ()
            (file,) = self.kept(tmp_path)
            written = file.stat().st_mtime_ns
            assert file.name.startswith(runner.manifest.engine.sha256[:16] + "-Fake-GPU-0-")
            assert VERSION in file.name
        with EngineRunner(engine) as runner:
            first = "{'images': (1, 2, 3, 14, 28)}"
            assert runner.engine._kernels.kernels == {first, f"{first} late"}, "kept before all were compiled"
        assert self.kept(tmp_path)[0].stat().st_mtime_ns == written, "nothing new, nothing written"

    def test_a_server_keeps_them_without_closing(self, trt, engine, tmp_path):
        runner = EngineRunner(engine)
        runner(images(2))
        runner.engine.save_kernels()
        assert len(self.kept(tmp_path)) == 1

    @pytest.mark.parametrize("damage", ["torn", "other card", "folder"])
    def test_what_cannot_be_used_is_made_anew(self, trt, engine, tmp_path, damage):
        with EngineRunner(engine) as runner:
            runner(images(2))
        (file,) = self.kept(tmp_path)
        good = file.read_bytes()
        if damage == "torn":
            file.write_bytes(good[:-1])
        elif damage == "other card":
            kernel_cache.KernelCache(file).write(b"of another driver")
        else:
            file.unlink()
            file.mkdir()
        with EngineRunner(engine) as runner:
            (note,) = runner.notes
            assert "are not used, and compiled again" in note
            assert "\n" not in note
            runner(images(2))
        if damage != "folder":
            assert file.read_bytes() == good

    def test_a_folder_that_takes_nothing(self, trt, engine, tmp_path):
        (tmp_path / "cache").write_text("a file")
        with EngineRunner(engine) as runner:
            runner(images(2))
            part = runner.engine
        assert "compiled kernels are not kept" in part.notes[-1]
        assert "\n" not in part.notes[-1]

    def test_none_are_kept_where_none_are_wanted(self, use, engine, tmp_path, monkeypatch):
        use()
        monkeypatch.setenv("QVGGT_CACHE", "none")
        with EngineRunner(engine) as runner:
            runner(images(2))
        assert kernel_cache.cache_folder() is None
        monkeypatch.delenv("QVGGT_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert kernel_cache.cache_folder() == tmp_path / "xdg" / "qvggt"
        monkeypatch.delenv("XDG_CACHE_HOME")
        assert kernel_cache.cache_folder().parts[-2:] == (".cache", "qvggt")

    def test_the_driver(self, monkeypatch):
        class Driver:
            def __init__(self, name):
                if name == "absent":
                    raise OSError

            def cuDriverGetVersion(self, number):
                number._obj.value = 13010
                return 0

        monkeypatch.setattr(kernel_cache.ctypes, "CDLL", Driver)
        assert kernel_cache.driver_version() == "13010"
        monkeypatch.setattr(kernel_cache.ctypes, "CDLL", lambda name: Driver("absent"))
        assert kernel_cache.driver_version() == "unknown"


def test_no_manifest_no_run(trt, engine):
    manifest_path(engine).unlink()
    for opener in (EngineRunner, open_runner):
        with pytest.raises(QvggtError, match="has no manifest"):
            opener(engine)


def test_a_changed_engine_is_refused(trt, engine):
    data = bytearray(engine.read_bytes())
    data[-2] ^= 1
    engine.write_bytes(data)
    with pytest.raises(QvggtError, match="changed or replaced since it was built; do not run it"):
        open_runner(engine)


@pytest.mark.parametrize(
    ("built", "words"),
    [
        (None, "this PyTorch is built without CUDA; install one with it if there is a GPU here, else"),
        ("12.8", "PyTorch sees none here;"),
    ],
)
def test_without_a_gpu(engine, monkeypatch, built, words):
    """One line that helps: the engine goes to the card, or its ONNX file is evaluated here."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", built)
    with pytest.raises(QvggtError, match=rf"{words} copy the engine and its manifest to .* ONNX file here") as caught:
        EngineRunner(engine)
    assert "\n" not in str(caught.value)
    assert "use cpu" not in str(caught.value)
    with pytest.raises(QvggtError, match=r"an NVIDIA GPU only, got device cpu; give cuda, or copy the engine"):
        open_gpu("m", "cpu")


def test_pinned_memory_that_is_refused_is_ordinary(cuda, monkeypatch):
    plain = torch.empty

    def empty(*arguments, pin_memory=False, **options):
        if pin_memory:
            raise RuntimeError("CUDA error: out of memory")
        return plain(*arguments, **options)

    monkeypatch.setattr(cuda_module.torch, "empty", empty)
    assert open_gpu("m").pinned((2, 3), torch.float16).shape == (2, 3)


@pytest.mark.parametrize(
    ("backend", "name", "extra"), [("rtx", "tensorrt_rtx", "rtx"), ("tensorrt", "tensorrt", "gpu")]
)
def test_a_missing_package_names_the_extra(monkeypatch, backend, name, extra):
    def absent(wanted):
        raise ModuleNotFoundError(f"No module named {wanted!r}", name=wanted)

    monkeypatch.setattr(tensorrt_module, "import_module", absent)
    with pytest.raises(QvggtError, match=rf"{name} is needed to run .* pip install '\.\[{extra}\]'"):
        import_tensorrt(backend)


def test_a_package_without_its_driver_says_so(monkeypatch):
    def broken(wanted):
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(tensorrt_module, "import_module", broken)
    with pytest.raises(QvggtError, match=r"cannot be imported \(libcuda\.so\.1"):
        import_tensorrt("tensorrt")


def test_the_fake_has_the_names_of_the_real_one():
    """Whatever the engine asks of TensorRT is there in TensorRT-RTX 1.7, under that name."""
    trt = pytest.importorskip("tensorrt_rtx")
    asked = set(re.findall(r"\.([a-z_0-9]+)\b", inspect.getsource(engine_module)))
    pairs = {
        "Context": "IExecutionContext",
        "Engine": "ICudaEngine",
        "RuntimeConfig": "IRuntimeConfig",
        "RuntimeCache": "IRuntimeCache",
        "Runtime": "Runtime",
    }
    for ours, theirs in pairs.items():
        names = asked & set(vars(getattr(fake_tensorrt, ours)))
        assert names, ours
        assert {name for name in names if not hasattr(getattr(trt, theirs), name)} == set()
    for name in ("engine_host_code_allowed", "num_optimization_profiles", "streamable_weights_size", "num_io_tensors"):
        assert name in asked
        assert any(hasattr(kind, name) for kind in (trt.Runtime, trt.ICudaEngine)), name
    for name in re.findall(r"trt\.([A-Z]\w+)", inspect.getsource(engine_module)):
        assert hasattr(trt, name), name


def test_the_real_runtime_refuses_without_a_driver():
    trt = pytest.importorskip("tensorrt_rtx")
    log = logger_of(trt)
    assert log is logger_of(trt)
    runtime = trt.Runtime(log)
    if importlib.import_module("torch").cuda.is_available():
        pytest.skip("there is a GPU: tests/gpu runs engines")
    assert runtime.deserialize_cuda_engine(b"abc") is None
    assert "\n" not in log.last
    assert "CUDA" in log.last
