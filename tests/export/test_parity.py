"""The parity gate's own arithmetic: what passes, what fails, what is counted as a tie."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from meta_device import META, MetaDevice
from small_network import small_images, small_model

from qvggt.export.half_range import half_ranges
from qvggt.export.parity import LayerParity, OutputParity, check_linears, check_outputs, failures, tie_rows
from qvggt.export.precision import Precision
from qvggt.formats.table import find_format
from qvggt.models.vggt.network import VGGT
from qvggt.quant.linear import QuantLinear
from qvggt.quant.model import quantized_linears
from qvggt.quant.scheme import parse_scheme
from qvggt.sqnr import sqnr_db


def test_sqnr() -> None:
    signal = np.array([3.0, 4.0])
    assert sqnr_db(signal, signal) == math.inf
    assert sqnr_db(signal, signal * 1.1) == pytest.approx(20)
    assert sqnr_db(signal, np.array([3.0, np.nan])) == -math.inf


@pytest.mark.parametrize("activation", ["dynamic", "static"])
def test_ties_are_found_where_a_code_sits_between_two_integers(activation: str) -> None:
    format = find_format("w8a8", activation)  # type: ignore[arg-type]
    linear = torch.nn.Linear(4, 2)
    module = QuantLinear.from_float(linear, format, 1.0)
    x = torch.tensor([[1.0, 0.25, 0.1, 0.0], [1.0, 10.5 / 127, 0.1, 0.0], [1.0, 10.49 / 127, 0.1, 0.0]])
    assert tie_rows(module, x).tolist() == [False, True, False]


def test_weight_only_has_no_ties() -> None:
    format = find_format("w4a16", "dynamic")
    assert not tie_rows(QuantLinear.from_float(torch.nn.Linear(4, 2), format), torch.rand(3, 4)).any()


def test_a_report_fails_with_its_worst_part() -> None:
    good, bad = LayerParity("a", 1e-7, 100, 0), LayerParity("b", 1e-3, 100, 0)
    fine, poor = OutputParity("depth", 2, 60.0, 1e-4, 45.0), OutputParity("pose_enc", 2, 20.0, 1.0, 45.0)
    assert not failures((good,), (fine,))
    assert failures((good, bad), (fine,))
    assert failures((good,), (fine, poor))
    lines = failures((good, bad), (fine, poor))
    assert len(lines) == 2
    assert lines[0].startswith("b: relative error 1.00e-03")
    assert "pose_enc" in lines[1]


def test_the_reference_own_noise_lowers_the_floor() -> None:
    """A network that float noise alone moves by 20 dB cannot be held to 30; one it does not move can."""
    assert OutputParity("pose_enc", 2, 20.0, 1.0, 30.0, self_db=22.0)
    assert not OutputParity("pose_enc", 2, 15.0, 1.0, 30.0, self_db=22.0)
    assert not OutputParity("pose_enc", 2, 20.0, 1.0, 30.0, self_db=120.0)


def test_too_many_ties_are_no_accident() -> None:
    assert LayerParity("a", 1e-7, 100, 5)
    assert not LayerParity("a", 1e-7, 100, 6)


def test_outputs_are_compared_with_the_reference() -> None:
    model, images = small_model(), torch.rand(2, 3, 28, 28)
    with torch.no_grad():
        truth = {name: value.numpy() for name, value in model(images).items()}
    exact = check_outputs(lambda _: truth, model, [images], parse_scheme("fp32"))
    assert {p.name for p in exact} == set(truth)
    assert all(exact)
    noisy = {name: value + 0.1 for name, value in truth.items()}
    assert not any(check_outputs(lambda _: noisy, model, [images], parse_scheme("w8a8")))
    assert all(p.self_db > 60 for p in exact)
    with pytest.raises(ValueError, match="shape"):
        check_outputs(lambda _: {"depth": truth["depth"][:, :1]}, model, [images], parse_scheme("fp32"))


def test_the_reference_may_be_on_another_device(small_onnx: Path, small_quantized: VGGT) -> None:
    """The meta device in the place of a GPU: what ONNX Runtime and NumPy get has come to the CPU."""
    model, images = copy.deepcopy(small_quantized).to(META), small_images(2)
    with MetaDevice(model):
        linears = check_linears(small_onnx, model, images, progress=False)
        ranges = half_ranges(model, [images])
        shapes = {name: tuple(value.shape) for name, value in model(images.to(META)).items()}
        outputs = check_outputs(
            lambda _: {name: np.ones(shape, np.float32) for name, shape in shapes.items()},
            model,
            [images],
            parse_scheme("w8a8"),
            precision=Precision.FP16,
        )
    assert {p.name for p in outputs} == set(shapes)
    assert len(linears) == len(dict(quantized_linears(model)))
    assert ranges
