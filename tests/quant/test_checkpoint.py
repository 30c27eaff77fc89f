from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_network import small_images, small_model

from qvggt.calib.rtn import quantize_rtn_
from qvggt.errors import QvggtError
from qvggt.files import file_sha256
from qvggt.models.fold_config import FoldConfig
from qvggt.models.folded import applied_fold
from qvggt.models.vggt.config import VGGTConfig
from qvggt.models.vggt.network import VGGT
from qvggt.quant import checkpoint as module
from qvggt.quant.checkpoint import Provenance, is_calibrated, load_calibrated, save_calibrated
from qvggt.quant.linear import QuantLinear
from qvggt.quant.model import quantized_linears, scheme_linears
from qvggt.quant.scheme import Scheme, parse_scheme
from qvggt.quant.transform import InputTransform, TransformSpec
from qvggt.rotation.fold import fold_

FORMS = [(bits, act) for bits in ("w8a8", "w4a8", "w6a6", "w4a4") for act in ("dynamic", "static")]
FORMS += [("w4a16", "dynamic")]
FC2 = "aggregator.frame_blocks.0.mlp.fc2"
PROVENANCE = Provenance(
    source={"name": "x", "sha256": "1" * 64},
    calibration={"frames": 4, "list": [["apple", [1, 5]]], "sha256": "2" * 64},
    versions={"torch": "2"},
    layers={"a": {"error": 1.0}},
)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return small_images(2)


def network() -> VGGT:
    """All heads on 1 DINO, 1 frame and 1 global block: 12 linears of the default parts."""
    return small_model(aa_depth=1, dpt_layers=(0, 0, 0, 0))


def made(images: torch.Tensor, scheme: Scheme, folded: bool = False) -> VGGT:
    model = network()
    if folded:
        fold_(model, FoldConfig(seed=3))
    quantize_rtn_(model, scheme, [images], progress=False)
    return model


def check_equal(model: VGGT, loaded: VGGT, images: torch.Tensor) -> None:
    """Tensors and outputs, bit for bit."""
    first, second = model.state_dict(), loaded.state_dict()
    assert list(first) == list(second)
    assert all(torch.equal(value, second[key]) and value.dtype == second[key].dtype for key, value in first.items())
    with torch.no_grad():
        first, second = model(images), loaded(images)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(("bits", "act"), FORMS)
def test_bit_for_bit(bits: str, act: str, images: torch.Tensor, tmp_path: Path) -> None:
    scheme = parse_scheme(bits, act)
    model = made(images, scheme)
    save_calibrated(tmp_path / "c", model, scheme, PROVENANCE)
    loaded = load_calibrated(tmp_path / "c")
    assert loaded.scheme == scheme
    assert loaded.provenance == PROVENANCE
    assert loaded.sha256 == file_sha256(tmp_path / "c" / "model.safetensors")
    assert applied_fold(loaded.model) is None
    assert len(list(quantized_linears(loaded.model))) == 12
    check_equal(model, loaded.model, images)


@pytest.mark.parametrize(("bits", "act"), [("w8a8", "dynamic"), ("w4a4", "static")])
def test_bit_for_bit_when_folded(bits: str, act: str, images: torch.Tensor, tmp_path: Path) -> None:
    scheme = parse_scheme(bits, act, ("dino", "aggregator", "camera"))
    model = made(images, scheme, folded=True)
    save_calibrated(tmp_path / "c", model, scheme, Provenance())
    loaded = load_calibrated(tmp_path / "c").model
    assert applied_fold(loaded) == FoldConfig(seed=3)
    check_equal(model, loaded, images)


def test_bit_for_bit_with_transforms_overrides_and_clips(images: torch.Tensor, tmp_path: Path) -> None:
    scheme = Scheme("w4a4", overrides=(("*.attn.proj", "w4a16"), ("*.frame_blocks.*.fc1", "fp32")))
    model = network()
    specs = {}
    for path, linear, format in scheme_linears(model, scheme):
        transform = None
        if path.endswith("fc2"):
            specs[path] = TransformSpec(rotation=True, scale="global" in path)
            transform = InputTransform(linear.in_features, specs[path], seed=len(path))
            if transform.scale is not None:
                transform.scale = torch.rand(linear.in_features) + 0.5
        scale = format.weight.scale(linear.weight)
        codes = format.weight.codes(linear.weight, scale)
        module = QuantLinear.from_codes(codes, scale, linear.bias, format, transform)
        if format.activation is not None:
            module.act_clip = torch.tensor([0.7, 0.9])
        model.set_submodule(path, module)
    save_calibrated(tmp_path / "c", model, scheme, Provenance())
    stored = json.loads((tmp_path / "c" / "quant.json").read_text())["transforms"]
    assert stored == {path: asdict(spec) for path, spec in specs.items()}
    loaded = load_calibrated(tmp_path / "c")
    assert loaded.scheme == scheme
    check_equal(model, loaded.model, images)


@pytest.mark.parametrize("bits", ["w8a8", "w6a6", "w4a4"])
def test_version_1_is_read(bits: str, images: torch.Tensor, tmp_path: Path) -> None:
    """Every tensor as the network has it: int8 codes, fp32 floats."""
    scheme = parse_scheme(bits)
    model, folder = made(images, scheme, folded=True), tmp_path / "c"
    save_calibrated(folder, model, scheme, PROVENANCE)
    save_file(model.state_dict(), folder / "model.safetensors")
    edit(folder, format_version=1, weights_sha256=file_sha256(folder / "model.safetensors"))
    loaded = load_calibrated(folder)
    assert loaded.scheme == scheme
    check_equal(model, loaded.model, images)


def test_codes_and_floats_take_no_more_room_than_they_need(images: torch.Tensor, tmp_path: Path) -> None:
    scheme = Scheme("w4a4", overrides=(("*.fc2", "w6a6"), ("*.proj", "w8a8")))
    model = made(images, scheme)
    head = model.camera_head
    assert head is not None
    head.embed_pose.bias.fill_(2.0**-100)  # too small for fp16
    head.empty_pose_tokens.copy_(torch.tensor([-0.0, torch.inf, 1 / 3, 1, 2, 3, 4, 5, 6]).half())
    save_calibrated(tmp_path / "c", model, scheme, Provenance())
    stored = load_file(tmp_path / "c" / "model.safetensors")
    block = "aggregator.frame_blocks.0"
    codes = {name: stored[f"{block}.{name}.codes"] for name in ("attn.qkv", "attn.proj", "mlp.fc2")}
    assert {name: (c.dtype, c.numel()) for name, c in codes.items()} == {
        "attn.qkv": (torch.uint8, 192 * 64 // 2),
        "attn.proj": (torch.int8, 64 * 64),
        "mlp.fc2": (torch.uint8, 64 * 256 * 6 // 8),
    }
    assert stored["camera_head.embed_pose.bias"].dtype == torch.bfloat16
    assert stored["camera_head.empty_pose_tokens"].dtype == torch.float16
    assert stored["camera_head.embed_pose.weight"].dtype == torch.float32
    loaded = load_calibrated(tmp_path / "c").model.state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(value.flatten().view(torch.uint8), loaded[key].flatten().view(torch.uint8)), key


def test_a_loaded_model_is_ready_and_saves_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    loaded = load_calibrated(saved)
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    save_calibrated(tmp_path / "again", loaded.model, loaded.scheme, loaded.provenance)
    for name in ("model.safetensors", "quant.json"):
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes()


def refuse(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def test_contents(saved: Path) -> None:
    assert sorted(p.name for p in saved.iterdir()) == ["model.safetensors", "quant.json"]
    description = json.loads((saved / "quant.json").read_text(), parse_constant=refuse)
    config = description.pop("config")
    assert VGGTConfig.from_dict(config) == network().config
    assert description == {
        "format_version": 2,
        "scheme": {
            "bits": "w8a8",
            "activation": "dynamic",
            "parts": ["dino", "aggregator"],
            "overrides": [],
            "constant_ranges": [],
            "version": 1,
            "family": "vggt",
        },
        "fold": None,
        "transforms": {},
        "weights_sha256": file_sha256(saved / "model.safetensors"),
        "source": {"name": "x", "sha256": "1" * 64},
        "calibration": {"frames": 4, "list": [["apple", [1, 5]]], "sha256": "2" * 64},
        "versions": {"torch": "2"},
        "layers": {"a": {"error": 1.0}},
    }
    tensors = load_file(saved / "model.safetensors")
    linear = {key.removeprefix(f"{FC2}."): value for key, value in tensors.items() if key.startswith(f"{FC2}.")}
    assert {key: (value.dtype, list(value.shape)) for key, value in linear.items()} == {
        "codes": (torch.int8, [64, 256]),
        "weight_scale": (torch.float32, [64, 1]),
        "bias": (torch.float32, [64]),
        "act_clip": (torch.float16, [2]),  # two ones, which fp16 holds
    }


def test_figures_that_are_not_finite_are_null(images: torch.Tensor, tmp_path: Path) -> None:
    """A weight of zeros has no noise: its SQNR is infinite, for which JSON has no word."""
    scheme, model = parse_scheme("w8a8"), network()
    model.get_submodule(FC2).weight.zero_()  # type: ignore[union-attr, operator]
    table = quantize_rtn_(model, scheme, progress=False)
    assert table[FC2] == {"weight_sqnr_db": math.inf}
    save_calibrated(tmp_path / "c", model, scheme, Provenance(layers=table))
    json.loads((tmp_path / "c" / "quant.json").read_text(), parse_constant=refuse)
    layers = load_calibrated(tmp_path / "c").provenance.layers
    assert layers[FC2] == {"weight_sqnr_db": None}
    assert {path: value for path, value in layers.items() if path != FC2} == {
        path: value for path, value in table.items() if path != FC2
    }


@pytest.fixture(scope="module")
def written(images: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    scheme, folder = parse_scheme("w8a8"), tmp_path_factory.mktemp("written") / "c"
    with torch.no_grad():
        save_calibrated(folder, made(images, scheme), scheme, PROVENANCE)
    return folder


@pytest.fixture
def saved(written: Path, tmp_path: Path) -> Path:
    """A copy of its own."""
    shutil.copytree(written, tmp_path / "c")
    assert is_calibrated(tmp_path / "c")
    return tmp_path / "c"


def check_refused(folder: Path, *words: str) -> None:
    """One line that names the words."""
    with pytest.raises(QvggtError) as caught:
        load_calibrated(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


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
        ({"format_version": None}, "format_version None"),
        ({"weights_sha256": "0" * 64}, "does not match"),
        ({"weights_sha256": 7}, "weights_sha256: expected"),
        ({"config": {"embed_dim": 7}}, "embed_dim 7"),
        ({"config": {"embed_dim": "wide"}}, "embed_dim: expected an integer, got str 'wide'"),
        ({"config": {"num_heads": 0}}, "num_heads: expected an integer from 1"),
        ({"config": {"heads": 3}}, "heads: expected a list of strings"),
        ({"scheme": {"bits": "w9a9"}}, "w9a9"),
        ({"scheme": {"bits": "w8a8", "parts": 3}}, "parts: expected a list of strings"),
        ({"scheme": {"bits": "w8a8", "family": "da7"}}, "model family 'da7'"),
        ({"scheme": {"bits": "w8a8", "overrides": [["*"]]}}, "overrides: expected a list of"),
        ({"scheme": {"bits": "w4a16"}}, "attn.qkv.codes expected [6144], got [192, 64]"),
        ({"scheme": {"bits": "w8a8", "activation": "static"}}, "act_amax"),
        ({"scheme": {"bits": "w8a8", "parts": ["aggregator"]}}, "patch_embed.blocks.0.attn.qkv"),
        ({"fold": {"seed": "x"}}, "fold.seed: expected an integer"),
        ({"fold": {}}, "patch_rotation"),
        ({"fold": {"block": 16}}, "fold.block: expected null, got int '16'"),
        ({"transforms": {FC2: {"colour": 1}}}, f"unknown key 'transforms.{FC2}.colour'"),
        ({"transforms": {FC2: 3}}, "transforms: expected an object of objects"),
        ({"transforms": {FC2: {"scale": True}}}, f"{FC2}.transform.scale expected [256], got absent"),
        ({"transforms": {FC2: {"kinds": 2**80}}}, "describes no model that can be built"),
        ({"layers": []}, "layers: expected an object"),
    ],
)
def test_descriptions_that_do_not_fit(changes: dict[str, object], words: str, saved: Path) -> None:
    edit(saved, **changes)
    check_refused(saved, str(saved), words, "" if "scheme" in changes or "config" in changes else "calibrate again")


@pytest.mark.parametrize(
    "key",
    ["scheme", "config", "fold", "transforms", "weights_sha256", "source", "calibration", "versions", "layers"],
)
def test_every_key_is_needed(key: str, saved: Path) -> None:
    edit(saved, **{key: None})
    check_refused(saved, str(saved / "quant.json"), f"{key}: expected")


def test_tensors_that_do_not_fit(saved: Path) -> None:
    tensors = load_file(saved / "model.safetensors")
    key = f"{FC2}.codes"
    for changed, words in (
        ({k: v for k, v in tensors.items() if k != key}, f"{key} expected [64, 256], got absent"),
        ({**tensors, key: tensors[key][:3].clone()}, f"{key} expected [64, 256], got [3, 256]"),
        ({**tensors, key: tensors[key].float()}, f"{key} expected torch.int8, got torch.float32"),
        ({**tensors, "extra": torch.zeros(())}, "extra expected absent, got []"),
    ):
        save_file(changed, saved / "model.safetensors")
        edit(saved, weights_sha256=file_sha256(saved / "model.safetensors"))
        check_refused(saved, str(saved / "model.safetensors"), words)


def test_a_missing_tensor_file(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    assert is_calibrated(saved)
    check_refused(saved, str(saved / "model.safetensors"), "cannot be read")


def test_a_missing_description(saved: Path) -> None:
    (saved / "quant.json").unlink()
    assert not is_calibrated(saved)
    check_refused(saved, str(saved / "quant.json"), "expected a calibrated checkpoint")
    assert not is_calibrated(saved / "nowhere")


@pytest.mark.parametrize("position", [100, -1])
def test_a_changed_tensor_file_is_noticed(position: int, saved: Path) -> None:
    path = saved / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    check_refused(saved, str(path), "was changed")
    path.write_bytes(data[:-1])
    check_refused(saved, str(path), "was changed")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\xff"])
def test_descriptions_that_are_none(text: str, saved: Path) -> None:
    (saved / "quant.json").write_bytes(text.encode("latin-1"))
    check_refused(saved, str(saved / "quant.json"))


@pytest.mark.parametrize("replaced", [False, True])
def test_a_failure_midway_leaves_all_as_it_was(
    replaced: bool, images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheme = parse_scheme("w8a8")
    model = made(images, scheme)
    folder = tmp_path / "c"
    if replaced:
        save_calibrated(folder, model, scheme, PROVENANCE)
    before = {p: p.read_bytes() for p in folder.glob("*")}
    assert len(before) == (2 if replaced else 0)

    def fail(path: Path, *_: object) -> None:
        path.write_bytes(b"half of it")
        raise RuntimeError("interrupted")

    for name in ("write_tensors", "transform_specs"):  # while the first file is written, and between the two
        with monkeypatch.context() as patch:
            patch.setattr(module, name, fail if name == "write_tensors" else lambda _: 1 / 0)
            with pytest.raises((RuntimeError, ZeroDivisionError)):
                save_calibrated(folder, model, scheme, Provenance(), replace=replaced)
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
        assert list(tmp_path.iterdir()) == ([folder] if replaced else [])


def test_only_a_checkpoint_is_replaced(images: torch.Tensor, tmp_path: Path) -> None:
    scheme = parse_scheme("w8a8")
    model = made(images, scheme)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("keep")
    with pytest.raises(QvggtError, match=r"holds no quant\.json"):
        save_calibrated(tmp_path / "mine", model, scheme, Provenance(), replace=True)
    save_calibrated(tmp_path / "c", model, scheme, Provenance())
    with pytest.raises(QvggtError, match="is not empty"):
        save_calibrated(tmp_path / "c", model, scheme, PROVENANCE)
    assert load_calibrated(tmp_path / "c").provenance == Provenance()
    save_calibrated(tmp_path / "c", model, scheme, PROVENANCE, replace=True)
    assert load_calibrated(tmp_path / "c").provenance == PROVENANCE
    assert (tmp_path / "mine" / "notes").read_text() == "keep"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "mine"]


def test_a_model_stays_usable_when_its_checkpoint_is_replaced(images: torch.Tensor, saved: Path) -> None:
    """Its tensors are mapped from the old file."""
    loaded = load_calibrated(saved)
    expected = loaded.model(images)["pose_enc"]
    other = parse_scheme("w4a4")
    save_calibrated(saved, made(images, other), other, Provenance(), replace=True)
    assert torch.equal(loaded.model(images)["pose_enc"], expected)
    assert load_calibrated(saved).scheme == other


@pytest.mark.parametrize("digit", [0, 8, 12, 63])
def test_every_digit_of_the_hash_counts(digit: int, saved: Path) -> None:
    right = file_sha256(saved / "model.safetensors")
    wrong = right[:digit] + ("0" if right[digit] != "0" else "1") + right[digit + 1 :]
    edit(saved, weights_sha256=wrong)
    shown = f"sha256 {right[:12]} does not match quant.json ({wrong[:12]}); the directory was changed: calibrate again"
    check_refused(saved, str(saved / "model.safetensors"), shown)


def test_notes_lie_beside_it_and_are_not_read(saved: Path, tmp_path: Path) -> None:
    loaded = load_calibrated(saved)
    notes = {"log.txt": "h\u00e4lt\n", "plan.json": "{"}
    save_calibrated(tmp_path / "n", loaded.model, loaded.scheme, loaded.provenance, notes=notes)
    assert {p.name for p in (tmp_path / "n").iterdir()} == {"model.safetensors", "quant.json", *notes}
    assert {name: (tmp_path / "n" / name).read_text(encoding="utf-8") for name in notes} == notes
    assert load_calibrated(tmp_path / "n").provenance == PROVENANCE


def test_a_provenance_in_one_line() -> None:
    assert repr(Provenance()) == "Provenance()"
    assert repr(PROVENANCE) == "Provenance(source x; calibration frames, list, sha256; 1 layers)"
    assert repr(Provenance(calibration={"frames": 4})) == "Provenance(calibration frames)"
    assert repr(Provenance(source={"sha256": "1"}, layers={"a": {}, "b": {}})) == "Provenance(2 layers)"
