from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.external_data_helper import ExternalDataInfo, uses_external_data
from small_network import small_images, small_rounded

import qvggt.export.exporter as exporter
from qvggt.errors import QvggtError
from qvggt.export.exporter import ExportConfig, export_onnx
from qvggt.export.parity import check_linears
from qvggt.models.vggt.config import VGGTConfig
from qvggt.models.vggt.network import VGGT
from qvggt.onnx_view.file import open_onnx
from qvggt.quant.model import quantized_linears
from qvggt.quant.scheme import Scheme, parse_scheme

FP32 = parse_scheme("fp32")


@pytest.fixture(scope="module")
def external(tiny_model: VGGT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("external") / "tiny.onnx"
    written = export_onnx(tiny_model, FP32, ExportConfig(42, 70, external_above=0), path)
    assert written.data == path.with_name("tiny.onnx.data")
    assert written.bytes == path.stat().st_size + written.data.stat().st_size
    return path


def test_external_data_gives_the_same_numbers(external: Path, exported: Path, open_onnx: Any) -> None:
    images = torch.rand(1, 3, 3, 42, 70, generator=torch.Generator().manual_seed(0))
    inline, outside = open_onnx(exported)(images), open_onnx(external)(images)
    for name, value in inline.items():
        np.testing.assert_array_equal(outside[name], value)


def test_external_data_stays_in_one_file_without_overlaps(external: Path) -> None:
    assert sorted(p.name for p in external.parent.iterdir()) == ["tiny.onnx", "tiny.onnx.data"]
    tensors = [t for t in onnx.load(external, load_external_data=False).graph.initializer if uses_external_data(t)]
    assert len(tensors) > 100
    infos = [ExternalDataInfo(t) for t in tensors]
    spans = sorted((int(i.offset or 0), int(i.length or 0)) for i in infos)
    assert {i.location for i in infos} == {"tiny.onnx.data"}
    assert all(a + n <= b for (a, n), (b, _) in itertools.pairwise(spans))
    assert sum(spans[-1]) == (external.parent / "tiny.onnx.data").stat().st_size


def test_external_files_can_be_moved_together(external: Path, open_onnx: Any, tmp_path: Path) -> None:
    for name in ("tiny.onnx", "tiny.onnx.data"):
        (tmp_path / name).write_bytes((external.parent / name).read_bytes())
    assert open_onnx(tmp_path / "tiny.onnx")(torch.zeros(1, 1, 3, 42, 70))["pose_enc"].shape == (1, 1, 9)


def test_both_pass_the_full_checker(external: Path, exported: Path) -> None:
    for path in (external, exported):
        onnx.checker.check_model(str(path), full_check=True)


@pytest.mark.parametrize("above", [0, 1 << 40])
def test_equal_models_give_equal_bytes(tiny_model: VGGT, tmp_path: Path, above: int) -> None:
    for folder in ("a", "b"):
        export_onnx(tiny_model, FP32, ExportConfig(28, 28, external_above=above), tmp_path / folder / "m.onnx")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_metadata(exported: Path, tiny_config: VGGTConfig) -> None:
    model = onnx.load(exported, load_external_data=False)
    metadata = {p.key: p.value for p in model.metadata_props}
    assert Scheme.from_dict(json.loads(metadata["qvggt.scheme"])) == FP32
    assert metadata["qvggt.size"] == "42x70"
    assert set(json.loads(metadata["qvggt.semantics"])) >= {"images", "pose_enc", "depth", "world_points"}
    assert metadata["qvggt.family"] == "vggt"
    assert VGGTConfig.from_dict(json.loads(metadata["qvggt.config"])) == tiny_config
    assert json.loads(metadata["qvggt.linears"]) == {}


@pytest.mark.parametrize(("bits", "names"), [("w4a8", {"w4a8-static"}), ("w4a16", {"w4a16"})])
def test_the_file_lists_what_it_holds_quantized(bits: str, names: set[str], tmp_path: Path) -> None:
    """Not the camera head, which this export leaves out; the parity gate asks for no other."""
    scheme = parse_scheme(bits, "static", ("aggregator", "camera"))
    images = small_images(1, size=28)
    model = small_rounded(scheme, [images])
    quantized = [path for path, _ in quantized_linears(model)]
    export_onnx(model, scheme, ExportConfig(28, 28, ("depth",)), tmp_path / "m.onnx")
    listed = open_onnx(tmp_path / "m.onnx").metadata.linears
    assert listed is not None
    assert set(listed.values()) == names
    assert set(listed) == {path for path in quantized if path.startswith("aggregator.")} < set(quantized)
    assert {p.path for p in check_linears(tmp_path / "m.onnx", model, images, progress=False)} == set(listed)


@pytest.mark.parametrize("above", [0, 1 << 40])
def test_a_failure_midway_leaves_nothing(
    tiny_model: VGGT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, above: int
) -> None:
    emit = exporter.emit_network

    def then_fail(*arguments: Any) -> None:
        emit(*arguments)
        raise RuntimeError

    monkeypatch.setattr(exporter, "emit_network", then_fail)
    with pytest.raises(RuntimeError):
        export_onnx(tiny_model, FP32, ExportConfig(28, 28, external_above=above), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_float_types_that_contradict_each_other_are_named(tiny_model: VGGT, tmp_path: Path) -> None:
    with pytest.raises(QvggtError, match="--bits fp16: expected --precision fp16, got fp32"):
        export_onnx(tiny_model, parse_scheme("fp16"), ExportConfig(28, 28), tmp_path / "m.onnx")
