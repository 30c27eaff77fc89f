from __future__ import annotations

import weakref

import pytest
import torch
from small_network import SIZE, small_images, small_model
from torch import nn

from qvggt.errors import QvggtError
from qvggt.formats.table import find_format
from qvggt.models.vggt.config import VGGT_1B
from qvggt.models.vggt.network import VGGT
from qvggt.quant.linear import QuantLinear
from qvggt.quant.model import prepare_, quantize_, quantized_linears, scheme_linears, transform_specs
from qvggt.quant.scheme import Scheme, parse_scheme
from qvggt.quant.transform import TransformSpec

FC2 = "aggregator.frame_blocks.0.mlp.fc2"


def network() -> VGGT:
    """1 DINO block, 1 frame and 1 global block, a camera trunk of 1 block: 4 linears each."""
    return small_model(aa_depth=1, dpt_layers=(0, 0, 0, 0), heads=("camera",))


def test_vggt_1b() -> None:
    """The published 192 linears with 603,979,776 weights (spec/quantvggt.md section 0) leave every other as it was."""
    with torch.device("meta"):
        model = VGGT(VGGT_1B)
    before = {path for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    prepare_(model, parse_scheme("w4a4", parts=("aggregator",)))
    found = dict(quantized_linears(model))
    assert len(found) == 192
    assert sum(module.codes.numel() for module in found.values()) == 603_979_776
    assert all(module.codes.is_meta for module in found.values())
    assert {path for path, module in model.named_modules() if isinstance(module, nn.Linear)} == before - found.keys()


@pytest.mark.parametrize("bits", ["w8a8", "w4a8", "w6a6", "w4a4", "w4a16"])
def test_only_the_schemes_linears_change(bits: str) -> None:
    model, scheme = network(), parse_scheme(bits, parts=("aggregator",))
    before = dict(model.state_dict())
    wanted = [path for path, _, _ in scheme_linears(model, scheme)]
    assert wanted == [
        f"aggregator.{kind}_blocks.0.{name}"
        for kind in ("frame", "global")
        for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    ]
    quantize_(model, scheme)
    assert [path for path, _ in quantized_linears(model)] == wanted
    assert list(scheme_linears(model, scheme)) == []
    after = model.state_dict()
    for key, value in before.items():
        owner, _, leaf = key.rpartition(".")
        if owner in wanted and leaf == "weight":
            assert key not in after
        else:
            assert torch.equal(after[key], value), key


def test_each_linear_has_its_own_format() -> None:
    """Overrides reach linears outside the parts, and take some out."""
    overrides = (("aggregator.*.fc2", "w4a16"), ("*.frame_blocks.*", "fp32"), ("camera_head.embed_pose", "w4a8"))
    model = network()
    quantize_(model, Scheme("w8a8", parts=("aggregator",), overrides=overrides))
    formats = {path: module.format for path, module in quantized_linears(model)}
    w8a8, w4a16 = find_format("w8a8"), find_format("w4a16")
    assert formats == {
        "aggregator.patch_embed.blocks.0.mlp.fc2": w4a16,
        "aggregator.global_blocks.0.attn.qkv": w8a8,
        "aggregator.global_blocks.0.attn.proj": w8a8,
        "aggregator.global_blocks.0.mlp.fc1": w8a8,
        "aggregator.global_blocks.0.mlp.fc2": w4a16,
        "camera_head.embed_pose": find_format("w4a8"),
    }
    assert model(torch.rand(2, 3, SIZE, SIZE))["pose_enc"].isfinite().all()


def test_a_float_scheme_changes_nothing() -> None:
    model = network()
    quantize_(model, parse_scheme("bf16"))
    assert list(quantized_linears(model)) == []
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_more_bits_are_closer() -> None:
    images = small_images(2)
    expected = network()(images)["pose_enc"]
    errors = []
    for bits in ("w8a8", "w6a6", "w4a4"):
        model = network()
        quantize_(model, parse_scheme(bits))
        errors.append(float((model(images)["pose_enc"] - expected).norm() / expected.norm()))
    assert errors[0] < errors[1] < errors[2]
    assert errors[0] < 0.02


def test_static_takes_the_range_of_its_path() -> None:
    model, scheme = network(), parse_scheme("w8a8", "static")
    paths = [path for path, _, _ in scheme_linears(model, scheme)]
    quantize_(model, scheme, {path: 1.0 + i for i, path in enumerate(paths)} | {"elsewhere": 99.0})
    assert [float(module.act_amax) for _, module in quantized_linears(model)] == [1.0 + i for i in range(len(paths))]


def test_a_missing_range_leaves_the_model_untouched() -> None:
    model, scheme = network(), parse_scheme("w8a8", "static")
    ranges = {path: 1.0 for path, _, _ in scheme_linears(model, scheme)}
    del ranges[FC2]
    for given, named in ((ranges, FC2), ({}, "patch_embed.blocks.0.attn.qkv"), (None, "patch_embed.blocks.0.attn.qkv")):
        with pytest.raises(QvggtError, match=named):
            quantize_(model, scheme, given)
        assert list(quantized_linears(model)) == []


def test_float_weights_are_freed_one_at_a_time() -> None:
    """At 1B the float weights are 3.6 GB: what was replaced must not wait for the last one."""
    model, scheme = network(), parse_scheme("w8a8")
    alive: list[weakref.ref[nn.Module]] = []
    most = 0
    for path, linear, format in scheme_linears(model, scheme):
        alive.append(weakref.ref(linear))
        model.set_submodule(path, QuantLinear.from_float(linear, format))
        most = max(most, sum(ref() is not None for ref in alive))
    assert len(alive) == 12
    assert most <= 2  # the one at hand and, at most, the one before


@pytest.mark.parametrize(("bits", "act"), [("w8a8", "dynamic"), ("w4a4", "static"), ("w4a16", "dynamic")])
def test_prepared_models_have_the_tensors_of_quantized_ones(bits: str, act: str) -> None:
    scheme = parse_scheme(bits, act)
    quantized = network()
    quantize_(quantized, scheme, {path: 1.0 for path, _, _ in scheme_linears(quantized, scheme)})
    with torch.device("meta"):
        prepared = VGGT(quantized.config)
        prepare_(prepared, scheme)
    expected, got = quantized.state_dict(), prepared.state_dict()
    assert list(got) == list(expected)
    assert all((got[key].shape, got[key].dtype) == (value.shape, value.dtype) for key, value in expected.items())
    assert all(value.is_meta for value in got.values())


def test_prepared_transforms() -> None:
    model = network()
    specs = {FC2: TransformSpec(rotation=True, scale=True), FC2.replace("fc2", "fc1"): TransformSpec(scale=True)}
    prepare_(model, parse_scheme("w4a4"), specs)
    assert transform_specs(model) == specs
    module = model.get_submodule(FC2)
    assert isinstance(module, QuantLinear)
    assert {key for key in module.state_dict() if key.startswith("transform.")} == {
        "transform.scale",
        "transform.rotation.signs",
        "transform.rotation.left",
        "transform.rotation.right",
    }


def test_a_linear_without_bias_stays_without() -> None:
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8))
    scheme = Scheme("w8a8", overrides=(("*", "w8a8"),))
    quantize_(model, scheme)
    assert [module.bias is None for _, module in quantized_linears(model)] == [True, False]
    empty = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8))
    prepare_(empty, scheme)
    empty.load_state_dict(model.state_dict())
