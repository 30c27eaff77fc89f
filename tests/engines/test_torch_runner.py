"""PyTorch runner: the same numbers as the module, float types, and what it opens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_network import SIZE, small_model

from qvggt import QvggtError
from qvggt.engines.opening import open_runner
from qvggt.engines.torch_runner import TorchRunner, check_device, open_model
from qvggt.models.loading import save_model


@pytest.fixture
def images():
    return np.random.default_rng(0).random((2, 3, SIZE, SIZE), np.float32)


def test_equals_the_module(images):
    model = small_model()
    with torch.inference_mode():
        expected = model(torch.from_numpy(images))
    predictions = TorchRunner(model, "x")(images)
    assert np.array_equal(predictions.pose_enc, expected["pose_enc"][0].numpy())
    assert np.array_equal(predictions.depth, expected["depth"][0, ..., 0].numpy())
    assert np.array_equal(predictions.world_points, expected["world_points"][0].numpy())


@pytest.mark.parametrize("float_type", ["bf16", "fp16"])
def test_half_types_differ_a_little(images, float_type):
    model = small_model()
    full, half = TorchRunner(model, "x")(images), TorchRunner(model, "y", float_type)(images)
    assert half.pose_enc.dtype == np.float32
    error = np.abs(full.depth - half.depth).max() / np.abs(full.depth).max()
    assert 0 < error < 0.05


def test_outputs_follow_the_heads(images):
    runner = TorchRunner(small_model(heads=("camera", "depth")), "x")
    assert runner.outputs == ("pose_enc", "depth", "depth_conf")
    assert runner(images).world_points is None


def test_size_must_be_a_multiple_of_the_patch():
    with pytest.raises(QvggtError, match="height 20"):
        TorchRunner(small_model(), "x")(np.zeros((1, 3, 20, 28), np.float32))


def test_unknown_float_type_and_device():
    with pytest.raises(QvggtError, match="fp32, fp16, bf16, got 'fp8'"):
        TorchRunner(small_model(), "x", "fp8")
    for device in ("tpu", "meta", "cuda:99"):
        with pytest.raises(QvggtError, match=device):
            check_device(device)


def test_opens_float_weights(tmp_path, images):
    path = tmp_path / "small.safetensors"
    save_model(small_model(), path)
    with open_model(path) as runner:
        assert runner.label == "torch fp32 small.safetensors"
        assert runner.native_size == SIZE
        assert np.array_equal(runner(images).pose_enc, TorchRunner(small_model(), "x")(images).pose_enc)
        facts = runner.describe()
    assert (facts["kind"], facts["scheme"], facts["bytes"]) == ("pytorch", "fp32", path.stat().st_size)
    assert facts["versions"]["torch"] == torch.__version__
    assert open_model(path, float_type="bf16").label == "torch bf16 small.safetensors"


def test_opens_a_calibrated_checkpoint(small_checkpoint, small_quantized, images):
    runner = open_runner(small_checkpoint)
    assert runner.label == "fake-quant w8a8-dynamic w8a8"
    assert np.array_equal(runner(images).pose_enc, TorchRunner(small_quantized, "x")(images).pose_enc)
    facts = runner.describe()
    assert (facts["kind"], facts["scheme"]) == ("pytorch fake quant", "w8a8-dynamic")
    assert facts["scheme_json"]["bits"] == "w8a8"
    assert facts["bytes"] == sum(f.stat().st_size for f in small_checkpoint.iterdir())
    assert len(facts["sha256"]) == 64


def test_the_track_head_is_not_read(tmp_path):
    path = tmp_path / "tracked.safetensors"
    save_model(small_model(heads=("camera", "depth", "track")), path)
    assert open_model(path).model.track_head is None


def test_options_that_do_not_apply_are_refused(small_checkpoint):
    with pytest.raises(QvggtError, match="takes no 'main'"):
        open_model(small_checkpoint, revision="main")
    with pytest.raises(QvggtError, match="takes no 'bf16'"):
        open_model(small_checkpoint, float_type="bf16")


def test_missing_and_corrupt_weights(tmp_path):
    with pytest.raises(QvggtError, match=r"nothing\.safetensors: no such file"):
        open_model(tmp_path / "nothing.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(QvggtError, match=r"bad\.safetensors"):
        open_model(tmp_path / "bad.safetensors")
