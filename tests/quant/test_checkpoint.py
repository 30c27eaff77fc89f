from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_network import SIZE, small_model

from qvggt.calib.rtn import quantize_rtn_
from qvggt.errors import QvggtError
from qvggt.files import file_sha256
from qvggt.model import VGGT
from qvggt.quant import Scheme, parse_scheme, quantized_linears
from qvggt.quant import checkpoint as module
from qvggt.quant.checkpoint import Provenance, is_calibrated, load_calibrated, save_calibrated
from qvggt.rotation.config import FoldConfig
from qvggt.rotation.fold import fold_
from qvggt.rotation.structure import applied_fold

FORMS = [("w8a8", "dynamic"), ("w4a8", "dynamic"), ("w6a6", "static"), ("w4a4", "static"), ("w4a16", "dynamic")]


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def made(images: torch.Tensor, scheme: Scheme, folded: bool = False) -> VGGT:
    model = small_model()
    if folded:
        fold_(model, FoldConfig(seed=3))
    quantize_rtn_(model, scheme, [images], progress=False)
    return model


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize(("bits", "act"), FORMS)
def test_bit_for_bit(bits: str, act: str, folded: bool, images: torch.Tensor, tmp_path: Path) -> None:
    scheme = parse_scheme(bits, act)
    model = made(images, scheme, folded)
    save_calibrated(tmp_path / "c", model, scheme, Provenance(source={"name": "x"}, layers={"a": {"e": 1.0}}))
    loaded = load_calibrated(tmp_path / "c")
    assert loaded.scheme == scheme
    assert loaded.provenance == Provenance(source={"name": "x"}, layers={"a": {"e": 1.0}})
    assert (applied_fold(loaded.model) is not None) == folded
    state = loaded.model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    with torch.no_grad():
        first, second = model(images), loaded.model(images)
    assert all(torch.allclose(first[k], second[k], rtol=0, atol=1e-6) for k in first)
    assert len(list(quantized_linears(loaded.model))) == 36


@pytest.fixture
def saved(images: torch.Tensor, tmp_path: Path) -> Path:
    scheme = parse_scheme("w8a8")
    save_calibrated(tmp_path / "c", made(images, scheme), scheme, Provenance())
    assert is_calibrated(tmp_path / "c")
    return tmp_path / "c"


def edit(folder: Path, **changes: object) -> None:
    description = json.loads((folder / "quant.json").read_text())
    for key, value in changes.items():
        if value is None:
            del description[key]
        else:
            description[key] = value
    (folder / "quant.json").write_text(json.dumps(description))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format_version": 99}, "format_version 99"),
        ({"scheme": None}, "'scheme'"),
        ({"weights_sha256": "0" * 64}, "does not match"),
        ({"config": {"embed_dim": 7}}, "embed_dim 7"),
        ({"scheme": {"bits": "w9a9"}}, "w9a9"),
        ({"layers": []}, "'layers'"),
    ],
)
def test_descriptions_that_do_not_fit(changes: dict[str, object], words: str, saved: Path) -> None:
    edit(saved, **changes)
    with pytest.raises(QvggtError, match=words) as caught:
        load_calibrated(saved)
    assert "\n" not in str(caught.value)


def test_tensors_that_do_not_fit(saved: Path) -> None:
    tensors = load_file(saved / "model.safetensors")
    key = "aggregator.frame_blocks.0.mlp.fc2.codes"
    for changed, words in (
        ({k: v for k, v in tensors.items() if k != key}, "absent"),
        ({**tensors, key: tensors[key][:3].clone()}, key),
        ({**tensors, key: tensors[key].float()}, "torch.int8"),
        ({**tensors, "extra": torch.zeros(1)}, "extra"),
    ):
        save_file(changed, saved / "model.safetensors")
        edit(saved, weights_sha256=file_sha256(saved / "model.safetensors"))
        with pytest.raises(QvggtError, match=words):
            load_calibrated(saved)


def test_a_changed_tensor_file_is_noticed(saved: Path) -> None:
    path = saved / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(QvggtError, match="was changed"):
        load_calibrated(saved)


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_descriptions_that_are_none(text: str, saved: Path) -> None:
    (saved / "quant.json").write_text(text)
    with pytest.raises(QvggtError, match=r"quant\.json"):
        load_calibrated(saved)


def test_a_failure_leaves_nothing(images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scheme = parse_scheme("w8a8")
    model = made(images, scheme)

    def fail(*_: object) -> None:
        raise RuntimeError("interrupted")

    monkeypatch.setattr(module, "write_tensors", fail)
    with pytest.raises(RuntimeError):
        save_calibrated(tmp_path / "c", model, scheme, Provenance())
    assert list(tmp_path.iterdir()) == []


def test_only_a_checkpoint_is_replaced(images: torch.Tensor, tmp_path: Path) -> None:
    scheme = parse_scheme("w8a8")
    model = made(images, scheme)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("keep")
    with pytest.raises(QvggtError):
        save_calibrated(tmp_path / "mine", model, scheme, Provenance(), replace=True)
    save_calibrated(tmp_path / "c", model, scheme, Provenance())
    with pytest.raises(QvggtError):
        save_calibrated(tmp_path / "c", model, scheme, Provenance())
    save_calibrated(tmp_path / "c", model, scheme, Provenance(), replace=True)
    assert (tmp_path / "mine" / "notes").read_text() == "keep"
