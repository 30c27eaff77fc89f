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
from qvggt.export.parity import (
    LayerParity,
    OutputParity,
    check_linears,
    check_outputs,
    failures,
    spread_rows,
    tie_rows,
    verdict,
)
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


def test_where_exactly_a_check_fails() -> None:
    tolerance = 1e-5
    assert LayerParity("a", tolerance, 100, 5)
    assert not LayerParity("a", tolerance * 1.001, 100, 0)
    assert not LayerParity("a", 0.0, 100, 6)
    assert not LayerParity("a", math.inf, 100, 0)
    assert not LayerParity("a", math.nan, 100, 0)
    assert LayerParity("a", 9e-3, 100, 0, 1e-2)
    assert OutputParity("x", 1, 45.0, 0.0, 45.0)
    assert not OutputParity("x", 1, 44.9, 0.0, 45.0)
    assert OutputParity("x", 1, 30.0, 0.0, 45.0, self_db=36.0)
    assert not OutputParity("x", 1, 29.9, 0.0, 45.0, self_db=36.0)
    assert not OutputParity("x", 1, 44.9, 0.0, 45.0, self_db=51.0)


def test_the_worst_comes_first() -> None:
    """Of layers by how many times their own tolerance, of outputs by dB."""
    wide, narrow = LayerParity("wide", 3e-2, 9, 1, 1e-2), LayerParity("narrow", 5e-5, 8, 0)
    outputs = [OutputParity(name, 3, db, 0.0, 45.0) for name, db in (("b", 20.0), ("a", 10.0), ("c", 50.0))]
    assert failures([wide, narrow], outputs) == [
        "narrow: relative error 5.00e-05 > 1e-05 (8 tokens, 0 on ties)",
        "wide: relative error 3.00e-02 > 1e-02 (9 tokens, 1 on ties)",
        "a with 3 frames: SQNR 10.0 dB < 45.0 dB",
        "b with 3 frames: SQNR 20.0 dB < 45.0 dB",
    ]


@pytest.mark.parametrize(("count", "step"), [(1, 1), (4096, 1), (4097, 2), (8192, 2), (8193, 3)])
def test_tokens_are_spread_evenly_over_all_there_are(count: int, step: int) -> None:
    x = torch.arange(2 * count).float().reshape(1, count, 2)
    assert torch.equal(spread_rows(x), x[0, ::step])


def test_a_tie_is_an_error_beside_a_boundary_and_only_there() -> None:
    errors = np.array([0.0, 2e-5, 2e-5, 1e-5, np.nan])
    assert verdict("a", errors.copy(), np.array([True, True, False, True, False]), 1e-5) == LayerParity(
        "a", math.inf, 5, 1, 1e-5
    )
    assert verdict("a", errors[:4].copy(), np.array([True, True, False, True]), 1e-5).error == 2e-5
    assert verdict("a", errors[:2].copy(), np.array([True, True]), 1e-5) == LayerParity("a", 0.0, 2, 1, 1e-5)
    assert verdict("a", errors[1:2].copy(), np.array([True]), 1e-5).error == 0  # nothing but ties: MAX_TIES judges


def test_sequences_of_one_length_are_pooled_by_energy() -> None:
    """As of one long sequence; other lengths apart, and what is not finite spoils its own."""

    class Still(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"y": images.flatten(1).mean(1)}

    added = iter([0.3, -0.1, np.nan])

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        y = images.reshape(len(images), -1).mean(1)
        y[-1] += next(added)
        return {"y": y}

    batches = [torch.full((frames, 3, 2, 2), value) for frames, value in ((2, 1.0), (2, 3.0), (1, 2.0))]
    two, one = check_outputs(run, Still(), batches, parse_scheme("w8a8"))  # type: ignore[arg-type]
    assert (two.name, two.frames, one.frames) == ("y", 2, 1)
    assert two.sqnr_db == pytest.approx(10 * math.log10((1 + 1 + 9 + 9) / (0.3**2 + 0.1**2)), abs=1e-4)
    assert two.max_error == pytest.approx(0.3, abs=1e-6)
    assert two.self_db == pytest.approx(100, abs=1)  # an input 1e-5 larger
    assert two.floor_db == parse_scheme("w8a8").base.floor_db
    assert not one
    with pytest.raises(ValueError, match=r"output y: shape \(1, 2\), expected \(2,\)"):
        check_outputs(lambda x: {"y": np.zeros((1, 2))}, Still(), batches[:1], parse_scheme("w8a8"))  # type: ignore[arg-type]
