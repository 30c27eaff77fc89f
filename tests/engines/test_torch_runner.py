"""PyTorch runner: the same numbers as the module, float types, and what it opens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_network import SIZE, small_model

from qvggt import QvggtError
from qvggt.engines import torch_runner
from qvggt.engines.opening import open_runner
from qvggt.engines.torch_runner import TorchRunner, check_device, open_model, usual_type
from qvggt.models.loading import save_model
from qvggt.quant.handle import Model


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


def test_half_types_are_the_aggregators(images):
    """As under the autocast of VGGT's users: products in bf16, residual stream and heads in fp32."""
    model, seen = small_model(), {}

    def look(name):
        return lambda module, args, out: seen.update({name: out.dtype})

    paths = ("aggregator.patch_embed.blocks.0.mlp.fc1", "aggregator.frame_blocks.0.attn.qkv")
    paths += ("aggregator.frame_blocks.0", "aggregator.global_blocks.3", "camera_head.trunk.0.attn.qkv")
    paths += ("depth_head.scratch.output_conv1",)
    for path in paths:
        model.get_submodule(path).register_forward_hook(look(path))
    TorchRunner(model, "x", "bf16")(images)
    assert [seen[path] for path in paths] == [torch.bfloat16] * 2 + [torch.float32] * 4


def test_what_a_gpu_runs_unless_asked(small_float, small_checkpoint, monkeypatch):
    """Never run on a GPU here: the network is told to go there and does not."""
    model = Model(small_model(), "mine", "0" * 64)
    capabilities = {"cuda:0": (8, 9), "cuda:1": (7, 5)}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capabilities[str(device)])
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, device: module)
    assert [usual_type(device) for device in ("cpu", *capabilities)] == ["fp32", "bf16", "fp16"]
    assert open_runner(small_float, device="cuda:0").label == "torch float (bf16 aggregator) float.safetensors"
    assert open_runner(small_float, device="cuda:1").label == "torch float (fp16 aggregator) float.safetensors"
    assert open_runner(small_float, device="cuda:0", precision="fp32").float_type == "fp32"
    monkeypatch.setattr(torch_runner.copy, "deepcopy", lambda network: network)
    assert open_runner(model, device="cuda:0").float_type == "bf16"
    assert open_runner(small_checkpoint, device="cuda:0").describe()["precision"] == "fake quant in fp32"


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
    half = open_model(path, float_type="bf16")
    assert half.label == "torch float (bf16 aggregator) small.safetensors"
    assert half.describe()["precision"] == "float, bf16 aggregator, fp32 heads"
    assert facts["precision"] == "float, fp32"


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
