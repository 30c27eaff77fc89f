"""ONNX Runtime on the GPU, and PyTorch there: the same numbers, latency and memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gpu_lab import FRAMES, Form, Lab, agreement, target_of
from measuring import Results, device_bytes, summary, wall_seconds

from qvggt.engines.onnx_runner import PROVIDERS, OnnxRunner
from qvggt.engines.torch_runner import TorchRunner
from qvggt.target import Target

pytestmark = pytest.mark.gpu
FORMS = [Form("fp32", precision="fp32"), Form("w8a8", precision="fp32"), Form("w4a16", precision="fp32")]


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_onnx_runtime(lab: Lab, provider: str, form: Form, providers: list[str], results: Results) -> None:
    wanted = PROVIDERS[provider]
    if wanted[0] not in providers:
        pytest.skip(f"{wanted[0]} is not in this onnxruntime: pip install onnxruntime-gpu in its place")
    exported = lab.exported(form, Target.CPU if provider == "cuda" else Target.TENSORRT)
    before = device_bytes()
    with OnnxRunner(exported.path, wanted) as runner:
        found = agreement(runner.run_named, exported, lab)
        images = lab.images(FRAMES[1]).numpy()
        figures = {
            "sqnr_db": found.sqnr_db(),
            f"{len(images)} frames": {
                "call": summary(wall_seconds(lambda: runner(images))),
                "device_bytes": device_bytes() - before,
            },
            "runner": runner.describe(),
        }
    results.add(f"onnxruntime {provider} {form}", figures)
    if provider == "cuda":  # TensorRT may compute in fp16 there: reported, not judged
        assert found, found.failures()


@pytest.mark.parametrize("float_type", ["fp32", "fp16", "bf16"])
def test_pytorch_baseline(lab: Lab, float_type: str, results: Results) -> None:
    if lab.calibrated is not None and float_type != "fp32":
        pytest.skip(f"{lab.source} is calibrated ({lab.calibrated.scheme.label}), whose reference computes in fp32")
    exported = lab.exported(Form("fp32", precision="fp32"), Target.CPU)
    images = lab.images(FRAMES[1])
    with torch.inference_mode():
        expected = exported.model(images)["pose_enc"].numpy()
    before = device_bytes()
    runner = TorchRunner(exported.model, "x", float_type, device="cuda")
    try:
        found = runner.run_named(images.numpy())["pose_enc"]
        figures = {
            "call": summary(wall_seconds(lambda: runner(images.numpy()))),
            "device_bytes": device_bytes() - before,
        }
    finally:
        exported.model.cpu()  # the runner moved it; others compare with it on the CPU
    results.add(f"pytorch {float_type}", {f"{len(images)} frames": figures})
    assert abs(found - expected).max() < (0.02 if float_type == "fp32" else 0.2)


@pytest.mark.forms([Form("fp16"), Form("w8a8")])
def test_polygraphy_run(lab: Lab, backend: str, form: Form) -> None:
    """`polygraphy run` builds and runs an engine and compares it with ONNX Runtime by itself.

    Median, since single roundings flip (docs/tensorrt.md); the test above judges the whole error.
    """
    tool = shutil.which("polygraphy", path=str(Path(sys.executable).parent)) or shutil.which("polygraphy")
    if tool is None:
        pytest.skip("polygraphy is not installed")
    side, path = lab.side, lab.exported(form, target_of(backend)).path
    shapes = [f"images:[1,{frames},3,{side},{side}]" for frames in (1, 2, 4)]
    low, opt, high = (["--trt-min-shapes", shapes[0]], ["--trt-opt-shapes", shapes[1]], ["--trt-max-shapes", shapes[2]])
    command = [tool, "run", str(path), "--onnxrt", "--trt", "--strongly-typed"]
    command += [*low, *opt, *high, "--input-shapes", shapes[1], "--val-range", "[0,1]"]
    command += ["--check-error-stat", "median", "--rtol", "0.05", "--atol", "0.01"]
    environment = {**os.environ, "POLYGRAPHY_USE_TENSORRT_RTX": "1"} if backend == "rtx" else dict(os.environ)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
