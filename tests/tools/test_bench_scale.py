"""Files of VGGT-1B's size with random weights have the structure that trained networks' get."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bench_scale
import calibrated
import pytest
from calibrated import calibrated_, given_steps, usual_steps
from small_network import small_batches, small_model

from qvggt.calib import reconstruct
from qvggt.calib.reconstruct import BlockReport
from qvggt.calib.steps import Steps, choose_steps
from qvggt.quant.model import quantized_linears
from qvggt.quant.scheme import Scheme

QKV, PROJ, FC1, FC2 = "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"
GIVEN = {QKV: Steps(center=True, rank=16), PROJ: Steps(), FC1: Steps(constant_range=True, rank=1)}
GIVEN[FC2] = Steps(center=True, rotation=True)


def structure(network: Any) -> dict[str, Any]:
    """(rank, whether it centers, whether it rotates) of the linears of a DINO block."""
    found = {}
    for path, linear in quantized_linears(network):
        spec = None if linear.transform is None else linear.transform.spec
        words = None if spec is None else (spec.rank, bool(spec.kinds), linear.transform.rotation is not None)
        found[path.partition("blocks.0.")[2]] = words
    return found


def test_steps_are_given_whatever_the_inputs_say() -> None:
    network, scheme = small_model(), Scheme("w4a4", parts=("dino",))
    with given_steps(GIVEN):
        scheme = calibrated_(network, scheme, small_batches(1), nearest=True)
    found = structure(network)
    assert found == {QKV: (8, True, False), PROJ: None, FC1: (8, False, False), FC2: (0, True, True)}
    assert [path.rpartition(".")[2] for path in scheme.constant_ranges] == ["fc1"]
    assert reconstruct.choose_steps is choose_steps


def test_the_steps_of_most_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Steps(rank=16, db=20.0), Steps(db=31.0), Steps(rank=16, db=22.0)]
    reports = {str(i): BlockReport(0, 0, 0, {QKV: row}) for i, row in enumerate(rows)}
    monkeypatch.setattr(calibrated, "calibrate_", lambda *_, **__: reports)
    assert usual_steps(small_model(), Scheme("w4a4"), []) == {QKV: Steps(rank=16)}


def test_steps_follow_one_another(small_float: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint is written, and the file made of it; what is rounded to nearest needs none."""
    monkeypatch.setattr(calibrated, "usual_steps", lambda *_: GIVEN)
    monkeypatch.setattr(bench_scale, "scheme_of", lambda form: Scheme(form, parts=("dino",)))
    path = tmp_path / "w4a4.onnx"
    told = bench_scale.calibrate(str(small_float), "w4a4", path, (56, 56))
    assert told["branches"].startswith("2 of 4 linears have a branch of rank 8 ")
    assert told["steps"][FC2] == {"center": True, "rotation": True}
    network, scheme = bench_scale.quantized(str(small_float), "w4a4", path)
    assert structure(network)[QKV] == (8, True, False)
    assert scheme.constant_ranges == ("aggregator.patch_embed.blocks.0.mlp.fc1",)
    nearest, _ = bench_scale.quantized(str(small_float), "fp8-dynamic", path)
    assert set(structure(nearest).values()) == {None}
