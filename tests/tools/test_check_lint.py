"""Lint against the layer table: that a disagreement is found, and a few files in earnest."""

from __future__ import annotations

from pathlib import Path

import pytest
from check_lint import Disagreement, Kernel, Outcome, Promise, compare, unexpected

INT8 = Kernel("INT8 GEMM", promised=True, integer=True)
PADDED = Kernel("INT8 GEMM", promised=True, integer=True, padded=True)
FLOAT = Kernel("not quantized", promised=False, integer=False)
HALFWAY = Kernel("INT8 weight-only", promised=False, integer=False)
WEIGHT_ONLY = Kernel("INT4 weight-only", promised=True, integer=False)


def outcome(rules: tuple[str, ...], kernel: Kernel | None, integer: bool = True, **more: object) -> Outcome:
    return compare("f", [Promise(("m",), "w8a8", rules, integer)], [kernel], **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rules", "kernel", "integer"),
    [
        ((), INT8, True),
        ((), WEIGHT_ONLY, False),
        (("QV401",), FLOAT, True),
        (("QV201",), HALFWAY, True),
        (("QV305",), FLOAT, False),
        (("QV501",), PADDED, True),
        (("QV308",), INT8, True),
        (("QV301",), FLOAT, True),
    ],
)
def test_agreement(rules: tuple[str, ...], kernel: Kernel, integer: bool) -> None:
    found = outcome(rules, kernel, integer)
    assert (found.agree, found.disagreements) == (1, ())


@pytest.mark.parametrize(
    ("rules", "kernel", "integer"),
    [
        ((), FLOAT, True),
        ((), HALFWAY, True),
        ((), PADDED, True),
        (("QV310",), INT8, True),
        (("QV305",), WEIGHT_ONLY, False),
        (("QV501",), INT8, True),
    ],
)
def test_disagreement(rules: tuple[str, ...], kernel: Kernel, integer: bool) -> None:
    found = outcome(rules, kernel, integer)
    (wrong,) = found.disagreements
    assert found.agree == 0
    assert (wrong.file, wrong.node, wrong.builder) == ("f", "m", kernel.found)


def test_errors_and_refusals_of_the_file() -> None:
    assert outcome((), None, errors=["QV601"], refusal="no importer").agree == 1
    assert [d.node for d in outcome((), None, refusal="no importer").disagreements] == [""]
    assert [d.node for d in outcome((), INT8, errors=["QV601"]).disagreements] == [""]
    assert outcome(("QV308",), INT8, errors=["QV308"]).disagreements == ()  # it builds, with other numbers


def test_what_is_known_must_occur() -> None:
    wrong = Outcome("f", 1, 0, (Disagreement("f", "m", "silent", "not quantized"),), "", ())
    assert unexpected([wrong], {}) == ["f: m: lint silent, builder not quantized"]
    assert unexpected([wrong], {("f", "m"): "why", ("another file", "m"): "why"}) == []
    assert unexpected([wrong], {("f", "m"): "why", ("f", "n"): "why"}) == [
        "f: n: listed in KNOWN, but lint and builder agree"
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["ours/w4a4-dynamic/tensorrt/fp16", "onnxruntime/static products", "small/int4_shared"]
)
def test_files(name: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install '.[rtx]' in the clone")
    from check_lint import KNOWN, check_file
    from lint_files import ALL

    ALL[name](tmp_path / "m.onnx")
    found = check_file(name, tmp_path / "m.onnx", tmp_path)
    assert found.products
    assert unexpected([found], {key: why for key, why in KNOWN.items() if key[0] == name}) == []
