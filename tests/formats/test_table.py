"""The table of named formats: what a name stands for, and that nobody else takes one apart."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from qvggt.errors import QvggtError
from qvggt.formats.granularity import ROW, TENSOR, TOKEN, Granularity, block
from qvggt.formats.grid import IntegerGrid
from qvggt.formats.linear_format import Activation, FloatFormat, LinearFormat, integer_format
from qvggt.formats.table import FORMATS, blocks, choices, choices_text, find_format, is_format, register, with_block
from qvggt.quant.scheme import Scheme, parse_scheme

ROOT = Path(__file__).parent.parent.parent
ROOMS = ("qvggt", "calib", "export", "engines", "eval")
TAKEN_APART = re.compile(  # how a format is counted, compared or split by hand
    r"weight_bits|act_bits|\bbits (==|!=|<=?|>=?) \d|\[1:\]\.split\(|split\(\"a\"\)|endswith\(\"a16\"\)"
    r"|\b2(\.0)? \*\* \(|FLOORS_DB|LADDERS|INTEGERS|CONV_BITS|WEIGHT_ONLY_BLOCK"
)
NOT_FORMATS = {"qvggt/models/vggt/tracker.py"}  # levels of a pyramid


@pytest.mark.parametrize(
    ("name", "act", "weight", "weight_scales", "inputs", "input_scales"),
    [
        ("w8a8", "dynamic", 8, ROW, 8, TOKEN),
        ("w4a8", "static", 4, ROW, 8, TENSOR),
        ("w6a6", "dynamic", 6, ROW, 6, TOKEN),
        ("w4a4", "static", 4, ROW, 4, TENSOR),
        ("w4a16", "static", 4, block(128), None, None),
    ],
)
def test_integer_formats(
    name: str, act: Activation, weight: int, weight_scales: Granularity, inputs: int | None, input_scales: Granularity
) -> None:
    format = find_format(name, act)
    assert format.weight.grid == IntegerGrid(weight, narrow=True)
    assert format.weight.granularity == weight_scales
    assert not format.weight.dynamic
    assert format.name == (name if inputs is None else f"{name}-{act}")
    if inputs is None:
        assert format.activation is None
        assert format.convolution is None
    else:
        assert format.activation is not None
        assert format.activation.grid == IntegerGrid(inputs)
        assert (format.activation.granularity, format.activation.dynamic) == (input_scales, act == "dynamic")
        assert format.convolution is not None
        assert format.convolution.name == f"w{weight}a8-static"


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("bits", range(3, 9))
def test_an_integer_grid(bits: int, narrow: bool) -> None:
    grid = IntegerGrid(bits, narrow)
    q = 2 ** (bits - 1) - 1
    assert (grid.lowest, grid.highest, grid.storage_bits) == (-q if narrow else -q - 1, q, bits)
    assert (grid.container, grid.container_bits) == (("INT4", 4) if bits <= 4 else ("INT8", 8))
    assert grid.fraction == 2 ** (1 - bits)


def test_a_name_without_a_mode_takes_the_one_asked_for() -> None:
    assert find_format("w4a4") is find_format("w4a4-dynamic") is FORMATS["w4a4-dynamic"]
    assert find_format("w4a4", "static") is find_format("w4a4-static", "dynamic")
    assert find_format("fp16", "static") is FORMATS["fp16"]
    assert choices() == ["w8a8", "w4a8", "w6a6", "w4a4", "w4a16", "fp8", "w4afp8", "nvfp4", "fp32", "fp16", "bf16"]
    assert choices_text() == "w8a8, w4a8, w6a6, w4a4, w4a16, fp8, w4afp8, nvfp4, fp32, fp16 or bf16"
    assert not is_format("w4")
    with pytest.raises(QvggtError, match="unknown bits 'w4': expected one of w8a8, w4a8"):
        find_format("w4")


def test_what_hangs_on_a_format() -> None:
    shape = (24, 300)
    stored = {name: find_format(name).stored_bytes(shape) for name in ("w8a8", "w6a6", "w4a4", "w4a16", "fp32")}
    assert stored == {"w8a8": 7296, "w6a6": 7296, "w4a4": 3696, "w4a16": 3600 + 24 * 3 * 4, "fp32": 28800}
    assert [find_format(name).cost for name in ("w8a8", "w4a8", "w4a4", "w4a16", "fp32")] == [64, 32, 16, 64, 1024]
    for format in FORMATS.values():
        assert all(is_format(name) for name in format.ladder)
        assert not format.ladder or format.ladder[0] == format.bits
        assert isinstance(format, FloatFormat) == (not format.ladder)


def test_a_name_is_registered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="w8a8-dynamic is registered already"):
        register(FORMATS["w8a8-dynamic"])
    format = integer_format(3, 3, "static", floor_db=20.0, ladder=())
    monkeypatch.setitem(FORMATS, format.name, format)
    assert Scheme("w3a3", "static").base is format
    with pytest.raises(QvggtError, match="w3a3: has no dynamic activations; expected w3a3-static"):
        Scheme("w3a3", "dynamic")


def test_the_mode_can_differ_per_layer() -> None:
    scheme = Scheme("w4a4", overrides=(("*.fc1", "w8a8-static"), ("*.fc2", "w8a8")))
    names = {}
    for layer in ("attn.qkv", "mlp.fc1", "mlp.fc2"):
        format = scheme.format(f"aggregator.frame_blocks.0.{layer}")
        assert format is not None
        names[layer] = format.name
    assert names == {"attn.qkv": "w4a4-dynamic", "mlp.fc1": "w8a8-static", "mlp.fc2": "w8a8-dynamic"}
    assert scheme.needs_ranges
    assert scheme.label == "w4a4-dynamic-mixed"
    assert Scheme.from_dict(json.loads(scheme.to_json())) == scheme
    assert parse_scheme("w4a4-static") == parse_scheme("w4a4", "static")
    assert Scheme("w4a4-static").label == "w4a4-static"


def test_names_and_help_texts_need_no_torch() -> None:
    code = "import sys, qvggt.formats.table as table; print(table.choices_text(), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"


def sources() -> list[Path]:
    files = [p for room in ROOMS for p in sorted((ROOT / room).rglob("*.py"))]
    assert len(files) > 150
    home = ROOT / "qvggt" / "formats"
    return [p for p in files if home not in p.parents and str(p.relative_to(ROOT)) not in NOT_FORMATS]


def test_nobody_else_takes_a_format_apart() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sources()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if TAKEN_APART.search(line)
    ]
    assert not found, "\n".join(found)


def test_nobody_else_names_an_integer_format() -> None:
    """As a value in code; docstrings, help texts and examples may."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value}"
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if re.fullmatch(r"w\d+a\d+(-\w+)?", node.value)
    ]
    assert not found, "\n".join(found)


def test_the_formats_of_convolutions_are_equal_where_their_numbers_are() -> None:
    convolutions = {name: format.convolution for name, format in FORMATS.items() if isinstance(format, LinearFormat)}
    assert convolutions["w4a4-dynamic"] == convolutions["w4a8-static"]
    assert convolutions["w8a8-dynamic"] != convolutions["w4a8-dynamic"]


def test_blocks_are_chosen_beside_the_name() -> None:
    assert list(blocks()) == [16, 32, 64, 128]
    assert [find_format(name).weight.granularity for name in blocks().values()] == [block(n) for n in blocks()]  # type: ignore[attr-defined]
    assert with_block("w4a16", 32) == "w4a16b32"
    assert "w4a16b32" not in choices()
    with pytest.raises(QvggtError, match="--bits w4a16 has blocks of 16, 32, 64, 128"):
        with_block("w4a16", 48)
    with pytest.raises(QvggtError, match="--bits w8a8 has no blocks"):
        with_block("w8a8", 32)
