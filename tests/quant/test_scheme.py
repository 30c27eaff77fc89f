from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_network import small_model

from qvggt.errors import QvggtError
from qvggt.formats.table import ACTIVATIONS, FORMATS, choices, find_format
from qvggt.models.family import find_family
from qvggt.models.vggt.config import VGGT_1B
from qvggt.models.vggt.network import VGGT
from qvggt.quant.model import check_overrides, prepare_, quantize_, scheme_linears
from qvggt.quant.scheme import (
    DEFAULT_PARTS,
    Scheme,
    parse_scheme,
)

NAMES = [*choices(), *FORMATS]


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(NAMES),
    st.sampled_from(ACTIVATIONS),
    st.lists(st.sampled_from(list(find_family().part_names)), unique=True),
    st.lists(st.tuples(st.sampled_from(["*", "aggregator.frame_blocks.3.*"]), st.sampled_from(NAMES)), max_size=2),
)
def test_json_round_trip(bits: str, act: str, parts: list[str], overrides: list[tuple[str, str]]) -> None:
    scheme = Scheme(bits, act, tuple(parts), tuple(overrides))  # type: ignore[arg-type]
    assert Scheme.from_dict(json.loads(scheme.to_json())) == scheme
    assert Scheme.from_dict(scheme.to_dict()) == scheme


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse_scheme("w8a8").bits = "w4a4"  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        find_format("w8a8").bits = "w4a4"  # type: ignore[misc]
    assert hash(parse_scheme("w8a8")) == hash(parse_scheme("w8a8"))


def test_a_bare_name_takes_the_defaults() -> None:
    assert (
        Scheme.from_dict(json.loads('{"bits": "w4a8"}'))
        == Scheme("w4a8", "dynamic", ("dino", "aggregator"))
        == parse_scheme("w4a8")
    )


@pytest.mark.parametrize(
    ("bits", "act", "label", "float_type", "needs_ranges"),
    [
        ("w4a4", "dynamic", "w4a4-dynamic", "fp32", False),
        ("w4a4", "static", "w4a4-static", "fp32", True),
        ("w4a16", "static", "w4a16", "fp32", False),
        ("fp32", "static", "fp32", "fp32", False),
        ("bf16", "dynamic", "bf16", "bf16", False),
    ],
)
def test_names_and_needs(bits: str, act: str, label: str, float_type: str, needs_ranges: bool) -> None:
    scheme = parse_scheme(bits, act)
    assert (scheme.label, scheme.float_type, scheme.needs_ranges) == (label, float_type, needs_ranges)


@pytest.fixture(scope="module")
def vggt_1b() -> VGGT:
    with torch.device("meta"):
        return VGGT(VGGT_1B)


@pytest.mark.parametrize(
    ("bits", "overrides", "needs_ranges"),
    [("fp32", (("*.fc2", "w8a8"),), True), ("w4a16", (("*.fc2", "fp16"),), False)],
)
def test_overrides_count_for_the_ranges(bits: str, overrides: tuple[tuple[str, str], ...], needs_ranges: bool) -> None:
    assert Scheme(bits, "static", overrides=overrides).needs_ranges == needs_ranges
    assert not Scheme(bits, "dynamic", overrides=overrides).needs_ranges


@pytest.mark.parametrize(
    ("parts", "count"),
    [(DEFAULT_PARTS, 288), (("aggregator",), 192), (("camera",), 16), (("dino", "aggregator", "camera"), 304), ((), 0)],
)
def test_linears_of_vggt_1b(parts: tuple[str, ...], count: int, vggt_1b: VGGT) -> None:
    """4 in each of 24 DINO, 24 + 24 aggregator and 4 camera trunk blocks."""
    found = [path for path, _, _ in scheme_linears(vggt_1b, parse_scheme("w4a4", parts=parts))]
    assert len(found) == count
    assert len(set(found)) == count


def test_the_last_matching_override_wins() -> None:
    overrides = (("aggregator.frame_blocks.*", "fp32"), ("*.frame_blocks.0.mlp.fc2", "w8a8"), ("depth_head.x", "w4a8"))
    scheme = Scheme("w4a4", overrides=overrides)
    assert scheme.format("aggregator.global_blocks.0.mlp.fc2") == find_format("w4a4", "dynamic")
    assert scheme.format("aggregator.frame_blocks.1.mlp.fc2") is None
    assert scheme.format("aggregator.frame_blocks.0.mlp.fc2") == find_format("w8a8", "dynamic")
    assert scheme.format("depth_head.x") == find_format("w4a8", "dynamic")
    assert scheme.format("aggregator.patch_embed.patch_embed.proj") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "list"),
        ('{"activation": "static"}', "bits"),
        ('{"bits": "w4a4", "colour": 1}', "colour"),
        ('{"bits": "w2a2"}', "w8a8, w4a8"),
        ('{"bits": "w4a4", "activation": "soft"}', "activation: expected one of dynamic, static"),
        ('{"bits": "w4a4", "parts": ["nose"]}', "dino, aggregator, camera"),
        ('{"bits": "w4a4", "parts": "dino"}', "parts: expected a list of strings, got str 'dino'"),
        ('{"bits": "w4a4", "parts": [["dino"]]}', "parts: expected a list of strings"),
        ('{"bits": "w4a4", "overrides": [["*"]]}', "overrides: expected a list of lists of two strings"),
        ('{"bits": "w4a4", "overrides": [[1, "w4a4"]]}', "overrides: expected a list of lists of two strings"),
        ('{"bits": "w4a4", "overrides": {"*": "w4a4"}}', "overrides: expected a list of lists of two strings"),
        ('{"bits": "w4a4", "overrides": [["*", "w1a1"]]}', "w1a1.*w8a8, w4a8"),
        ('{"bits": 4}', "bits: expected a string, got int '4'"),
        ('{"bits": ["w4a4"]}', "bits: expected a string, got list"),
        ('{"bits": "w4a4", "version": 9}', "update qvggt"),
    ],
)
def test_mistakes_are_named(text: str, words: str) -> None:
    with pytest.raises(QvggtError, match=words) as caught:
        Scheme.from_dict(json.loads(text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("scheme", "label"),
    [
        (Scheme("w4a4"), "w4a4-dynamic"),
        (Scheme("w4a16"), "w4a16"),
        (Scheme("fp32", parts=("dpt",)), "fp32"),
        (Scheme("w8a8", "static", ("aggregator", "dino")), "w8a8-static"),
        (Scheme("w8a8", parts=("dpt", "dino", "aggregator", "camera")), "w8a8-dynamic+camera+dpt"),
        (Scheme("w8a8", parts=("camera", "aggregator")), "w8a8-dynamic@aggregator+camera"),
        (Scheme("w4a4", overrides=(("*.fc2", "w8a8"),)), "w4a4-dynamic-mixed"),
    ],
)
def test_the_label_tells_schemes_apart(scheme: Scheme, label: str) -> None:
    assert scheme.label == label


def test_an_override_that_matches_nothing_is_an_error() -> None:
    model = small_model()
    check_overrides(model, Scheme("w4a4", overrides=(("*.mlp.fc2", "w8a8"), ("depth_head.projects.?", "w8a8"))))
    quantize_(model, Scheme("w4a4", overrides=(("*.mlp.fc2", "w8a8"),)))
    check_overrides(model, Scheme("w4a4", overrides=(("*.mlp.fc2", "w8a8"),)))  # quantized layers count too
    for call in (quantize_, prepare_, check_overrides):
        with pytest.raises(QvggtError, match=r"'\*\.fc3' \(w8a8\) matches no linear"):
            call(small_model(), Scheme("w4a4", overrides=(("*.fc3", "w8a8"),)))
