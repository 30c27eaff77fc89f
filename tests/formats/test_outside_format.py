"""A format registered from outside the package goes through every stage, with no file of the package touched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from small_network import SIZE, small_batches, small_model

from qvggt.calib.calibrate import calibrate_
from qvggt.calib.recipe import find_recipe
from qvggt.calib.rtn import quantize_rtn_
from qvggt.calib.sensitivity import weight_bytes
from qvggt.errors import QvggtError
from qvggt.export.emulation import session_options
from qvggt.export.exporter import ExportConfig, export_onnx
from qvggt.export.forms import table
from qvggt.export.lint import errors, lint_model
from qvggt.export.parity import check_linears, check_outputs
from qvggt.formats.granularity import ROW, TOKEN, block
from qvggt.formats.grid import IntegerGrid
from qvggt.formats.linear_format import LinearFormat
from qvggt.formats.table import FORMATS, choices, find_format, register
from qvggt.formats.tensor_format import TensorFormat
from qvggt.models.vggt.network import VGGT
from qvggt.onnx_view.file import open_onnx
from qvggt.onnx_view.network_facts import network_facts
from qvggt.quant.checkpoint import Provenance, load_calibrated, save_calibrated
from qvggt.quant.linear import QuantLinear
from qvggt.quant.model import quantized_linears, settled
from qvggt.quant.scheme import Scheme, parse_scheme
from qvggt.target import Target

PATH = "aggregator.frame_blocks.0.mlp.fc1"
DEPTH = 1  # frame and global blocks

pytestmark = pytest.mark.usefixtures("one_thread", "no_grad")


@pytest.fixture(autouse=True)
def format() -> Iterator[LinearFormat]:
    weight = TensorFormat(IntegerGrid(5, narrow=True), ROW)
    activation = TensorFormat(IntegerGrid(5), TOKEN, dynamic=True)
    made = LinearFormat("w5a5", 33.0, ("w5a5", "w8a8", "fp32"), weight=weight, activation=activation)
    register(made)
    yield made
    del FORMATS["w5a5-dynamic"]


def network() -> VGGT:
    return small_model(seed=3, aa_depth=DEPTH, dpt_layers=(0, 0, 0, 0))


def batches() -> list[torch.Tensor]:
    return small_batches(2, 2)


@pytest.fixture(params=["rtn", "qvggt"])
def calibrated(request: pytest.FixtureRequest) -> tuple[VGGT, Scheme]:
    model, scheme = network(), parse_scheme("w5a5")
    if request.param == "rtn":
        quantize_rtn_(model, scheme, progress=False)
    else:
        with torch.enable_grad():
            learning = find_recipe("qvggt").replace(epochs=1)
            reports = calibrate_(model, scheme, learning, batches(), progress=False)
        scheme = settled(model, scheme)
        assert any(report.learned != report.start for report in reports.values())
    return model, scheme


def test_rounding(format: LinearFormat) -> None:
    grid = IntegerGrid(5)
    assert grid.round(torch.tensor([0.5, 1.5, 99.0, -99.0]), 1.0).tolist() == [0, 2, 15, -16]
    x = torch.linspace(-3, 3, 61)
    scale = format.weight.scale(x[None])
    assert format.weight.codes(x[None], scale).unique().tolist() == list(range(-15, 16))


def test_names_and_budgets() -> None:
    assert choices()[-1] == "w5a5"
    assert parse_scheme("w5a5").label == Scheme("w5a5-dynamic").label == "w5a5-dynamic"
    mixed = Scheme("w4a4", overrides=(("*.fc1", "w5a5-dynamic"),))
    assert mixed.format(PATH) is find_format("w5a5")
    assert parse_scheme("w5a5").base.ladder[0] == "w5a5"
    assert weight_bytes(network(), parse_scheme("w5a5")) == weight_bytes(network(), parse_scheme("w8a8"))


def test_the_checkpoint_packs_five_bits(calibrated: tuple[VGGT, Scheme], tmp_path: Path) -> None:
    model, scheme = calibrated
    save_calibrated(tmp_path / "c", model, scheme, Provenance())
    loaded = load_calibrated(tmp_path / "c")
    assert loaded.scheme == scheme
    expected, got = model.state_dict(), loaded.model.state_dict()
    assert list(expected) == list(got)
    assert all(torch.equal(value, got[key]) and value.dtype == got[key].dtype for key, value in expected.items())
    stored = load_file(tmp_path / "c" / "model.safetensors")[f"{PATH}.codes"]
    assert (stored.dtype, stored.numel()) == (torch.uint8, 256 * 64 * 5 // 8)
    assert expected[f"{PATH}.codes"].abs().max() == 15


@pytest.mark.parametrize("target", list(Target))
def test_export_lint_parity_and_layer_facts(target: Target, calibrated: tuple[VGGT, Scheme], tmp_path: Path) -> None:
    model, scheme = calibrated
    path = tmp_path / "m.onnx"
    export_onnx(model, scheme, ExportConfig(SIZE, SIZE, target=target), path)
    assert not errors(lint_model(path, target))
    images = batches()[0]
    results = check_linears(path, model, images, progress=False)
    assert len(results) == len(list(quantized_linears(model))) == 4 * (1 + 2 * DEPTH)
    assert all(results), [p for p in results if not p]
    session = ort.InferenceSession(path, session_options(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    outputs = check_outputs(
        lambda x: dict(zip(names, session.run(None, {"images": x[None]}), strict=True)), model, [images], scheme
    )
    assert all(outputs), outputs
    assert all(output.floor_db == 33.0 for output in outputs)
    facts = network_facts(open_onnx(path))
    kernels = {(linear.path, linear.weight, linear.activation, linear.wanted) for linear in facts.linears}
    assert kernels == {(path, "INT8", "INT8", "INT8 GEMM") for path, _ in quantized_linears(model)}


def test_a_form_can_come_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that no form takes is refused by name; a registered form is used where it says so."""
    format = find_format("w5a5")
    odd = replace(format, bits="w5a5b", weight=TensorFormat(format.weight.grid, block(16)))
    monkeypatch.setitem(FORMATS, odd.name, odd)
    model, scheme = network(), Scheme("w5a5b")
    quantize_rtn_(model, scheme, progress=False)
    with pytest.raises(QvggtError, match="w5a5b-dynamic: cannot be exported"):
        export_onnx(model, scheme, ExportConfig(SIZE, SIZE), tmp_path / "m.onnx")
    outside = (lambda f: f is odd, lambda site, module, x: site.op("MatMul", [x, site.real("w", weight(module))]))
    monkeypatch.setattr(table, "FORMS", [*table.FORMS, outside])
    export_onnx(model, scheme, ExportConfig(SIZE, SIZE), tmp_path / "m.onnx")
    names = {tensor.name for tensor in onnx.load(tmp_path / "m.onnx").graph.initializer}
    assert f"{PATH}.w" in names


def weight(module: QuantLinear) -> NDArray[np.float32]:
    return module.weight_dequantized().numpy().T
