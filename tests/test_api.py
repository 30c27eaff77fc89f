"""qvggt from Python: what README.md shows is run by test_readme.py; here what it does not show."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from small_network import small_images, small_scenes

import qvggt
from qvggt.calib.recipe import RECIPES


@pytest.fixture(scope="module")
def folder(small_float: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    shutil.copy(small_float, folder)
    small_scenes(folder / "scenes", 3, range(2), range(50, 51))
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> qvggt.Model:
    return qvggt.load(folder / "float.safetensors")


@pytest.fixture
def images() -> torch.Tensor:
    return small_images(2)


def test_quantize_leaves_the_float_model_alone(model: qvggt.Model, images: torch.Tensor) -> None:
    before = model(images)["depth"]
    quantized = qvggt.quantize(model, "w4a4", progress=False)
    assert torch.equal(model(images)["depth"], before)
    assert not torch.equal(quantized(images)["depth"], before)
    assert quantized.scheme is not None
    assert quantized.scheme.label == "w4a4-dynamic"
    assert model.scheme is None
    assert not model.layers
    assert quantized.layers["aggregator.frame_blocks.0.mlp.fc2"]["weight_sqnr_db"]


def test_a_saved_model_is_loaded_bit_for_bit(model: qvggt.Model, images: torch.Tensor, tmp_path: Path) -> None:
    quantized = qvggt.quantize(model, "w8a8", progress=False)
    again = qvggt.load(quantized.save(tmp_path / "c"))
    assert torch.equal(again(images)["depth"], quantized(images)["depth"])
    assert again.provenance.source["sha256"] == model.sha256
    plain = qvggt.load(model.save(tmp_path / "f.safetensors"))
    assert torch.equal(plain(images)["depth"], model(images)["depth"])
    with pytest.raises(qvggt.QvggtError, match=r"ending in \.safetensors"):
        model.save(tmp_path / "f")


def test_data_from_a_folder_and_from_tensors(model: qvggt.Model, folder: Path, images: torch.Tensor) -> None:
    static = qvggt.quantize(model, "w8a8", act="static", data=folder / "scenes", frames=2, progress=False)
    assert len(static.provenance.calibration["frames"]) == 2
    recipe = RECIPES["qvggt"].replace(epochs=1)
    learned = qvggt.quantize(model, "w4a4", recipe=recipe, data=[images, images.flip(0)], progress=False)
    assert learned.provenance.calibration["recipe"]["epochs"] == 1
    assert torch.isfinite(learned(images)["depth"]).all()


def test_export_without_and_with_the_check(model: qvggt.Model, images: torch.Tensor, tmp_path: Path) -> None:
    unchecked = qvggt.export(model, tmp_path / "f.onnx", size=(28, 56), outputs=["pose"])
    assert unchecked.parity is None
    quantized = qvggt.quantize(model, "w8a8", progress=False)
    exported = qvggt.export(quantized, tmp_path / "q.onnx", check=images, progress=False)
    assert exported.parity, exported.parity.failures()
    assert {output.name for output in exported.parity.outputs} >= {"pose_enc", "depth", "world_points"}
    with qvggt.open_runner(exported.path) as runner:
        assert isinstance(runner, qvggt.Runner)
        assert isinstance(runner(images.numpy()), qvggt.Predictions)
        with pytest.raises(qvggt.QvggtError, match="NaN"):
            runner((images * float("nan")).numpy())


def test_mistakes_are_one_line(model: qvggt.Model, images: torch.Tensor, tmp_path: Path) -> None:
    quantized = qvggt.quantize(model, "w8a8", progress=False)
    for call, words in (
        (lambda: qvggt.load(tmp_path / "none"), "no such file"),
        (lambda: qvggt.quantize(model, "w3a3"), "unknown bits"),
        (lambda: qvggt.quantize(model, recipe="best"), "unknown recipe"),
        (lambda: qvggt.quantize(model, recipe="qvggt"), "needs data"),
        (lambda: qvggt.quantize(model, act="static"), "needs data"),
        (lambda: qvggt.quantize(quantized), "quantized already"),
        (lambda: qvggt.quantize(model, act="static", data=[images[0]]), r"image tensors \[S, 3, H, W\]"),
        (lambda: qvggt.quantize(model, act="static", data=[images * float("inf")]), "NaN or infinity"),
        (lambda: qvggt.export(quantized, tmp_path / "m.onnx", target="gpu"), "target 'gpu'"),
        (lambda: qvggt.export(quantized, tmp_path / "m.onnx", check=images[..., :28]), "check: expected images"),
        (lambda: qvggt.export(quantized, tmp_path / "m.onnx", check=images * float("nan")), "NaN or infinity"),
        (lambda: qvggt.load("tiny", revision="v1"), "revision"),
    ):
        with pytest.raises(qvggt.QvggtError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
