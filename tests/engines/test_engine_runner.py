"""Engine runner: on a fake TensorRT that writes through real addresses; and what is refused before any GPU is asked."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pytest
from fake_tensorrt import SPEC, VERSION, FakeTensorRT, fake_gpu, write

from qvggt import QvggtError
from qvggt.engines import engine_runner, tensorrt_module
from qvggt.engines.engine_runner import EngineRunner
from qvggt.engines.manifest import manifest_path
from qvggt.engines.opening import open_runner
from qvggt.engines.tensorrt_module import import_tensorrt, logger_of


def images(frames):
    return np.random.default_rng(frames).random((frames, 3, 14, 28), np.float32)


def test_computes_through_the_buffers(trt, engine):
    with open_runner(engine) as runner:
        assert isinstance(runner, EngineRunner)
        for frames in (2, 4, 1, 2):
            pixels = images(frames)
            predictions = runner(pixels)
            assert predictions.depth.shape == (frames, 14, 28)
            np.testing.assert_allclose(predictions.pose_enc[:, 0], pixels.sum((1, 2, 3)), rtol=1e-5)
            assert predictions.world_points is None
        assert runner.gpu.stream.waits == 4
        assert set(runner.context.launches) == {77}
    assert runner.closed


def test_half_precision_is_converted_at_both_ends(trt, tmp_path):
    spec = {**SPEC, "types": {"images": "HALF", "depth": "HALF"}}
    with EngineRunner(write(tmp_path / "m.plan", spec)) as runner:
        depth = runner(images(2)).depth
    assert depth.dtype == np.float32
    expected = images(2).astype(np.float16).astype(np.float32).sum((1, 2, 3))
    np.testing.assert_allclose(depth[:, 0, 0], expected, rtol=1e-3)


def test_frames_outside_the_profile(trt, engine):
    runner = EngineRunner(engine)
    assert (runner.frames, runner.frame_range, runner.size) == (None, (1, 4), (14, 28))
    with pytest.raises(QvggtError, match=r"built for 1 to 4 frames, got 5; build it with --frames 1:5:5"):
        runner(images(5))
    with pytest.raises(QvggtError, match="expected images of 14x28"):
        runner(np.zeros((1, 3, 14, 14), np.float32))


def test_a_fixed_frame_count(trt, tmp_path):
    runner = EngineRunner(write(tmp_path / "m.engine", {**SPEC, "frames": [2, 2]}))
    assert runner.frames == 2
    with pytest.raises(QvggtError, match="expected 2 frames, got 3"):
        runner(images(3))


def test_describe(trt, engine):
    facts = EngineRunner(engine, cuda_graph=True).describe()
    assert (facts["kind"], facts["scheme"], facts["float_type"]) == ("rtx", "w8a8-dynamic", "fp16")
    assert facts["label"] == "rtx w8a8-dynamic m.engine"
    assert facts["bytes"] == engine.stat().st_size + manifest_path(engine).stat().st_size
    assert facts["versions"]["rtx"] == VERSION
    assert facts["device"] == "Fake GPU (compute capability 8.9)"
    assert facts["onnx_sha256"] == "0" * 64
    json.dumps(facts)


def test_rtx_records_cuda_graphs_itself(trt, engine):
    assert EngineRunner(engine).context.config is None
    runner = EngineRunner(engine, cuda_graph=True)
    assert runner.context.config.cuda_graph_strategy is trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    runner(images(1))
    runner(images(2))
    assert sorted(runner._buffers) == [1, 2]


def test_tensorrt_graphs_are_recorded_after_a_first_launch(monkeypatch, engine, tmp_path):
    module = FakeTensorRT("tensorrt", captures=False)
    monkeypatch.setattr(engine_runner, "import_tensorrt", lambda backend: module)
    monkeypatch.setattr(engine_runner, "open_gpu", lambda device: fake_gpu())
    calls = []

    class Graph:
        def replay(self):
            calls.append("replay")

    monkeypatch.setattr(EngineRunner, "_capture", lambda self, buffers: calls.append("capture") or Graph())
    monkeypatch.setattr(engine_runner, "_stream", lambda gpu: memoryview(b""))  # any context manager
    runner = EngineRunner(write(tmp_path / "t.plan", backend="tensorrt", compute_capabilities=()), cuda_graph=True)
    runner(images(1))
    runner(images(1))
    runner(images(2))
    assert calls == ["capture", "replay", "capture"]
    assert len(runner.context.launches) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backend_version": "1.2.3"}, r"made by rtx 1\.2\.3, this is 9\.9\.9; build again"),
        (
            {"compute_capabilities": ("7.5",)},
            r"for compute capability 7\.5, Fake GPU has 8\.9; build it with --cc 8\.9",
        ),
        ({"spec": "no engine"}, r"tensorrt_rtx 9\.9\.9 refuses it: magic tag does not match; build again"),
        ({"spec": {**SPEC, "no_context": True}}, "no execution context"),
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


def test_an_unknown_builder_version_is_left_to_the_runtime(trt, tmp_path):
    EngineRunner(write(tmp_path / "m.engine", backend="trtexec", backend_version="unknown"))


def test_versions_are_compared_on_the_parts_both_have(trt, tmp_path):
    """trtexec prints three parts, the wheel has four."""
    path = write(tmp_path / "m.engine", backend="trtexec", backend_version="9.9", compute_capabilities=())
    assert EngineRunner(path).describe()["kind"] == "trtexec"


@pytest.mark.parametrize(
    ("capability", "built", "message"),
    [
        ("9.0", (), r"no kernels for compute capability 9\.0 \(H100, H200\).*--backend tensorrt"),
        ("9.0", ("8.9",), "--backend tensorrt"),
        ("7.5", (), r"portable set, which compute capability 7\.5 is not in"),
    ],
)
def test_gpus_that_rtx_has_nothing_for(trt, tmp_path, monkeypatch, capability, built, message):
    monkeypatch.setattr("qvggt.engines.engine_runner.open_gpu", lambda device: fake_gpu(capability))
    path = write(tmp_path / "m.engine", compute_capabilities=built)
    with pytest.raises(QvggtError, match=message) as caught:
        EngineRunner(path)
    assert "\n" not in str(caught.value)
    assert f"--cc {capability}" not in str(caught.value) or capability == "7.5"


def test_a_failing_launch_says_why(trt, tmp_path):
    runner = EngineRunner(write(tmp_path / "m.engine", {**SPEC, "fails": True}))
    with pytest.raises(QvggtError, match="the engine failed: out of memory"):
        runner(images(1))


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


def test_without_a_gpu(engine):
    """On a machine with neither a GPU nor the version of the engine: one line, whichever is missed first."""
    with pytest.raises(QvggtError) as caught:
        EngineRunner(engine)
    assert "\n" not in str(caught.value)


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
