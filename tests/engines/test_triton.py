"""The Triton repository: its files open from where they lie, and Triton's own schema reads its configuration."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from test_manifest import manifest

from qvggt import QvggtError
from qvggt.engines.manifest import check_engine, manifest_path
from qvggt.engines.onnx_runner import OnnxRunner
from qvggt.engines.triton import CONFIG, MARKER, README, Served, serve_engine, serve_onnx, write_repository

SIZE = 56


@pytest.fixture(scope="module")
def with_data(small_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small file with its weights outside."""
    path = tmp_path_factory.mktemp("data") / "small.v1-w8a8.onnx"
    proto = onnx.load(small_onnx)
    onnx.save(proto, path, save_as_external_data=True, location="weights of it.data", size_threshold=1024)
    return path


@pytest.fixture
def engine(small_onnx: Path, tmp_path: Path) -> Path:
    """No engine, but a file with a manifest that says so."""
    path = tmp_path / "small.engine"
    path.write_bytes(b"engine bytes")
    manifest_path(path).write_text(manifest(path, backend="tensorrt").to_json())
    return path


def parsed(model: Served) -> Any:
    """The configuration as Triton's own protobuf reads it; the module is loaded alone, as its package needs gRPC."""
    found = importlib.util.find_spec("tritonclient")
    if found is None or found.origin is None:
        pytest.skip("tritonclient is not installed: pip install '.[dev]'")
    from google.protobuf import text_format

    place = Path(found.origin).parent / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return text_format.Parse(model.config(), module.ModelConfig())


def test_triton_reads_the_configuration(small_onnx: Path, engine: Path) -> None:
    config = parsed(serve_onnx(small_onnx, gpu=False))
    assert (config.name, config.backend) == ("small_onnxruntime", "onnxruntime")
    assert config.max_batch_size == 0
    (images,) = config.input
    assert (images.name, list(images.dims)) == ("images", [1, -1, 3, SIZE, SIZE])
    dims = {output.name: list(output.dims) for output in config.output}
    assert dims["pose_enc"] == [1, -1, 9]
    assert dims["depth"] == [1, -1, SIZE, SIZE, 1]
    assert {tensor.data_type for tensor in (*config.input, *config.output)} == {11}  # TYPE_FP32
    assert list(dims) == [output.name for output in onnx.load(small_onnx).graph.output]
    assert [group.kind for group in config.instance_group] == [2]  # KIND_CPU
    config = parsed(serve_engine(engine, small_onnx))
    assert (config.backend, config.default_model_filename) == ("tensorrt", "model.plan")
    assert [group.kind for group in config.instance_group] == [1]  # KIND_GPU


def test_every_file_opens_where_it_lies(with_data: Path, engine: Path, tmp_path: Path) -> None:
    """External data keeps the name the model calls it by; an engine keeps its manifest."""
    folder = tmp_path / "repository"
    models = [serve_onnx(with_data, gpu=True), serve_engine(engine, with_data)]
    write_repository(folder, models, ["A note."])
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    first, second = "small_v1_w8a8_onnxruntime", "small_tensorrt"
    assert names == {
        README, MARKER, f"{first}/{CONFIG}", f"{first}/1/model.onnx", f"{first}/1/weights of it.data",
        f"{second}/{CONFIG}", f"{second}/1/model.plan", f"{second}/1/model.plan.manifest.json",
    }  # fmt: skip
    images = np.random.default_rng(0).random((2, 3, SIZE, SIZE), np.float32)
    with OnnxRunner(folder / first / "1" / "model.onnx") as served, OnnxRunner(with_data) as own:
        assert np.array_equal(served(images).pose_enc, own(images).pose_enc)
    assert check_engine(folder / second / "1" / "model.plan").backend == "tensorrt"
    text = (folder / README).read_text()
    assert "A note." in text
    assert f"`{first}` | onnxruntime | GPU" in text
    write_repository(folder, models[:1])  # our own folder is replaced, with what is no longer served
    assert not (folder / second).exists()


def test_what_cannot_be_served(small_onnx: Path, engine: Path, tmp_path: Path) -> None:
    one = serve_onnx(small_onnx, gpu=False)
    with pytest.raises(QvggtError, match="two files would be served as 'small_onnxruntime'; rename one"):
        write_repository(tmp_path / "twice", [one, one])
    manifest_path(engine).write_text(manifest(engine).to_json())
    with pytest.raises(QvggtError, match="engine of TensorRT-RTX, which Triton has no backend for"):
        serve_engine(engine, small_onnx)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    shutil.copy(small_onnx, foreign / README)  # a README alone makes no repository of ours
    with pytest.raises(QvggtError, match="not ours to replace"):
        write_repository(foreign, [one])
    assert (foreign / README).exists()
