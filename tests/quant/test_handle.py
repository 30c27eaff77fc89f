"""What a model says of itself: a few lines, whatever its network holds."""

from __future__ import annotations

import pytest
from small_network import small_batches, small_model

import qvggt
from qvggt.quant.checkpoint import Provenance
from qvggt.quant.handle import Model
from qvggt.quant.model import quantized_linears


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(small_model(), "small.safetensors", "0123456789abcdef" * 4)


def weights(text: str) -> str:
    return next(part for part in text.split(", ") if part.endswith("M weights"))


def test_a_float_model_in_three_lines(model: Model) -> None:
    assert repr(model).splitlines() == [
        "Model small.safetensors (sha256 0123456789ab)",
        f"  vggt, {sum(p.numel() for p in model.network.parameters()) / 1e6:.1f} M weights, made for 56x56 pixels, "
        "heads camera, point, depth",
        "  float weights",
    ]


def test_a_quantized_model_says_how(model: Model) -> None:
    quantized = qvggt.quantize(model, "w8a8", act="static", batches=small_batches(2, 2))
    text = repr(quantized)
    _, sizes, scheme, origin = text.splitlines()
    count = len(list(quantized_linears(quantized.network)))
    assert count > 0
    assert scheme == f"  w8a8-static: {count} linears quantized, parts {', '.join(quantized.scheme.parts)}"
    assert origin == "  recipe rtn"
    assert weights(sizes) == weights(repr(model).splitlines()[1])  # codes count as the weights they stand for
    about = repr(quantized.provenance)
    assert (
        about == f"Provenance(source small.safetensors; calibration recipe, seed, threads, device; "
        f"{len(quantized.layers)} layers)"
    )
    frames = {"a/0": [0, 1], "a/1": [2, 3]}
    known = Model(quantized.network, "n", "0" * 64, quantized.scheme, Provenance(calibration={"frames": frames}))
    assert repr(known).splitlines()[3] == "  calibrated on 2 sequences"
    assert len(repr(Model(quantized.network, "n", "0" * 64, quantized.scheme)).splitlines()) == 3
    assert repr(Provenance()) == "Provenance()"
