from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from reference_weights import fill
from torch import nn

import qvggt.export.exporter as exporter
from qvggt.errors import QvggtError
from qvggt.export.exporter import ExportConfig, export_onnx
from qvggt.export.graph import GraphBuilder
from qvggt.export.parity import check_linears
from qvggt.models.vggt.config import VGGTConfig
from qvggt.models.vggt.network import VGGT
from qvggt.quant.model import quantize_
from qvggt.quant.scheme import parse_scheme

FP32 = parse_scheme("fp32")


def test_rotations_of_a_folded_model_are_exported(
    tiny_model: VGGT, open_onnx: Any, assert_close: Any, tmp_path: Path
) -> None:
    model = copy.deepcopy(tiny_model)
    torch.manual_seed(0)
    model.aggregator.patch_rotation = nn.Linear(64, 64, bias=False)
    assert model.camera_head is not None
    model.camera_head.token_rotation = nn.Linear(128, 128)
    export_onnx(model, FP32, ExportConfig(28, 28), tmp_path / "m.onnx")
    x = torch.rand(1, 2, 3, 28, 28)
    assert_close(open_onnx(tmp_path / "m.onnx")(x), model(x))


@pytest.mark.parametrize("bits", ["w8a8", "w4a4"])
def test_linears_of_the_unrolled_camera_head_are_found(tiny_config: VGGTConfig, tmp_path: Path, bits: str) -> None:
    model = fill(VGGT(tiny_config.replace(heads=("camera",))))
    scheme = parse_scheme(bits, parts=("camera",))
    quantize_(model, scheme)
    export_onnx(model, scheme, ExportConfig(28, 28, ("pose",)), tmp_path / "m.onnx")
    report = check_linears(tmp_path / "m.onnx", model, torch.rand(3, 3, 28, 28), progress=False)
    assert {p.path for p in report} == {
        f"camera_head.trunk.0.{n}" for n in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    }
    assert all(report)


@pytest.mark.parametrize("above", [0, 1 << 40])
@pytest.mark.parametrize("fault", ["node", "shape"])
def test_a_file_the_checker_refuses_is_never_published(
    tiny_model: VGGT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, above: int, fault: str
) -> None:
    config = ExportConfig(28, 28, external_above=above)
    export_onnx(tiny_model, FP32, config, tmp_path / "m.onnx")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    emit = exporter.emit_network

    def then_break(builder: GraphBuilder, *arguments: Any) -> None:
        emit(builder, *arguments)
        if fault == "node":
            builder.nodes[5].op_type = "Nope"
        else:
            builder.outputs[0].type.tensor_type.shape.dim[2].dim_value = 7

    monkeypatch.setattr(exporter, "emit_network", then_break)
    with pytest.raises(QvggtError, match=r"m\.onnx: not written, it fails onnx\.checker"):
        export_onnx(tiny_model, FP32, config, tmp_path / "m.onnx")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("outputs", [("pose",), ("depth",), ("pose", "depth", "points")])
def test_no_node_is_dead(tiny_model: VGGT, tmp_path: Path, outputs: tuple[str, ...]) -> None:
    export_onnx(tiny_model, FP32, ExportConfig(28, 28, outputs), tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx").graph
    used = {i for n in graph.node for i in n.input} | {o.name for o in graph.output}
    assert not [n.name for n in graph.node if not used.intersection(n.output)]
    assert {i.name for i in graph.initializer} <= used


def test_points_near_the_origin_keep_their_digits(tiny_config: VGGTConfig, open_onnx: Any, tmp_path: Path) -> None:
    """The tail sign(y) expm1 |y| has relative precision; exp(y) - 1 in fp32 has none below 1e-7."""
    model = fill(VGGT(tiny_config.replace(heads=("point",))))
    assert model.point_head is not None
    last = model.point_head.scratch.get_submodule("output_conv2.2")
    last.weight.mul_(1e-6)
    last.bias.mul_(1e-6)
    export_onnx(model, FP32, ExportConfig(28, 28, ("points",)), tmp_path / "m.onnx")
    x = torch.rand(1, 2, 3, 28, 28)
    got, expected = open_onnx(tmp_path / "m.onnx")(x)["world_points"], model(x)["world_points"].numpy()
    assert np.abs(got - expected).max() < 1e-4 * np.abs(expected).max()


def test_position_maps_are_stored_by_row_and_column(exported: Path) -> None:
    sizes = {i.name: int(np.prod(i.dims)) for i in onnx.load(exported).graph.initializer if "position" in i.name}
    assert sizes
    assert max(sizes.values()) <= 32 * 70
