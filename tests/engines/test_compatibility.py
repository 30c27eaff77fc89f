"""Versions and GPUs: what the table refuses, and that docs and the installed builder say the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from qvggt.engines.compatibility import (
    CARDS,
    format_types,
    least_capability,
    portable_set,
    same_version,
    tables,
    too_old,
    why_not,
)
from qvggt.formats.table import find_format

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("10.13.3", "10.13.3.9", True),  # trtexec prints three parts, the wheel has four
        ("10.13.3.9", "10.13.3.9", True),
        ("10.13.3.9", "10.13.3.8", False),
        ("10.13.3", "10.13.2.6", False),
        ("unknown", "11.4.1", True),
        ("1.7.1.116", "9.9.9", False),
        ("10.13.0rc1", "10.13.0", True),
    ],
)
def test_versions_are_compared_on_what_both_name(first: str, second: str, same: bool) -> None:
    assert same_version(first, second) is same_version(second, first) is same


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        (("rtx", "1.7.1", "8.9"), None),
        (("tensorrt", "10.12.0", "9.0"), None),
        (("tensorrt", "11.4.1", "8.7"), None),
        (("trtexec", "unknown", "9.0"), None),
        (("rtx", "", "13.7"), None),  # newer than the table: the builder knows
        (("rtx", "1.7.1", "9.0"), "compute capability 9.0 (H100, H200)"),
        (("rtx", "1.7.1", "8.7"), "Jetson Orin"),
        (("rtx", "1.7.1", "7.0"), "only from 7.5 on"),
        (("tensorrt", "10.3.0.30", "8.7"), "JetPack 7, JetPack 6 has 10.3"),
        (("trtexec", "10.11.0", ""), "expected 10.12 or newer"),
    ],
)
def test_what_runs(question: tuple[str, str, str], reason: str | None) -> None:
    found = why_not(*question)
    assert (found is None) if reason is None else (found is not None and reason in found)
    assert "\n" not in (found or "")


def test_types_need_their_generation() -> None:
    assert why_not("rtx", capability="7.5") is None
    assert why_not("rtx", capability="7.5", types=("int4",)) == (
        "TensorRT-RTX has no int4 kernels for compute capability 7.5, only from 8.0 on"
    )
    assert why_not("rtx", capability="8.6", types=("int4", "bf16")) is None
    assert why_not("tensorrt", capability="8.6", types=("fp8",)) is not None


@pytest.mark.parametrize(
    ("format", "types", "rtx", "own", "chosen"),
    [
        ("w8a8", set(), "", "", ()),
        ("w4a4", {"int4"}, "8.0", "", ()),
        ("bf16", {"bf16"}, "8.0", "8.0", ()),
        ("fp8", {"fp8"}, "8.9", "8.9", ("8.9", "12.0", "12.1")),
        ("w4afp8", {"int4", "fp8"}, "8.9", "8.9", ("8.9", "12.0", "12.1")),
        ("nvfp4", {"fp4", "fp8"}, "12.0", "10.0", ("12.0", "12.1")),
    ],
)
def test_formats_run_on(format: str, types: set[str], rtx: str, own: str, chosen: tuple[str, ...]) -> None:
    assert format_types(find_format(format)) == types
    assert (least_capability("rtx", types), least_capability("tensorrt", types)) == (rtx, own)
    assert portable_set(types) == chosen


def test_the_type_that_needs_most_is_named() -> None:
    """Whatever the order."""
    for types in (["fp8", "fp4", "int4"], ["int4", "fp4", "fp8"]):
        assert "no fp4 kernels for compute capability 8.6" in (why_not("rtx", capability="8.6", types=types) or "")


def test_an_old_rtx_is_not_known() -> None:
    assert too_old("rtx", "1.2.0") is None


def test_the_tables_of_the_page_are_these() -> None:
    assert tables() in (ROOT / "docs" / "tensorrt.md").read_text(encoding="utf-8")


def test_the_builder_knows_these_generations() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: pip install '.[rtx]' in the clone")
    known = {name for name in trt.ComputeCapability.__members__ if name.startswith("SM")}
    assert known >= {f"SM{card.capability.replace('.', '')}" for card in CARDS if card.rtx}
    assert not known & {f"SM{card.capability.replace('.', '')}" for card in CARDS if not card.rtx}
