"""What the parity gate does with the memory that is free, and the network it exports at a smaller size for that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from calling import call, mistake
from onnx import numpy_helper

from qvggt.engines.runner import NetworkSizes
from qvggt.errors import QvggtError
from qvggt.export.twin import compare_twins
from qvggt.jobs import gate, gate_memory
from qvggt.jobs.gate_memory import GateNeeds, fit_gate
from qvggt.models.family import MemoryFacts, find_family
from qvggt.models.vggt.config import VGGT_1B

GB = 10**9
LARGE = NetworkSizes(find_family().memory(VGGT_1B))
QUICK = ("--parity-sequences", 0, "--bits", "w4a8")


def needs(free: float | None) -> GateNeeds:
    """VGGT-1B with 4-bit blocks at its own size: 1.9 GB of codes and floats."""
    return GateNeeds(LARGE, int(1.9 * GB), (518, 518), None if free is None else int(free * GB))


def test_frames_follow_the_free_memory() -> None:
    assert needs(None).bytes(8, (518, 518)) > 20 * GB, "8 frames at 518x518 in ONNX Runtime"
    assert fit_gate(needs(None), 14).frames == (1, 2, 5, 8)
    assert fit_gate(needs(64), 14).frames == (1, 2, 5, 8)
    found = fit_gate(needs(22), 14)  # what a machine of 24 GB has
    assert (found.frames, found.size) == ((1, 2, 5), (518, 518))
    assert found.needs < 0.7 * 22 * GB


def test_the_size_follows_where_two_frames_do_not_fit() -> None:
    found = fit_gate(needs(6.4), 14)
    assert found.frames[:2] == (1, 2)
    height, width = found.size
    assert height == width < 518
    assert height % 14 == 0
    assert found.needs <= 0.7 * 6.4 * GB
    wide = GateNeeds(LARGE, int(1.9 * GB), (294, 518), int(5 * GB))
    height, width = fit_gate(wide, 14).size
    assert height < width
    assert (height % 14, width % 14) == (0, 0)


def test_what_was_asked_for_is_done_or_refused() -> None:
    assert fit_gate(needs(64), 14, (8,)).frames == (8,)
    assert fit_gate(needs(22), 14, (2,), (266, 266)).size == (266, 266)
    assert fit_gate(needs(14), 14, (8,)).size < (518, 518), "the frames stay, the size follows"
    with pytest.raises(QvggtError, match=r"up to 8 frames of 518x518 need about .* GiB, .* GiB are free; take fewer"):
        fit_gate(needs(14), 14, (8,), (518, 518))
    with pytest.raises(QvggtError, match=r"1 frames of .* need"):
        fit_gate(needs(1), 14)


def test_a_refusal_comes_before_any_file(
    small_float: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_memory, "free_memory", lambda _: 1000)
    assert "--no-check" in mistake(capsys, "export", small_float, *QUICK, "-o", tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
    assert "multiple" in mistake(capsys, "export", small_float, "-o", tmp_path / "m.onnx", "--parity-size", "30x28")
    assert call("export", small_float, "--no-check", "-o", tmp_path / "m.onnx") == 0


def test_the_same_network_at_another_size(
    small_float: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """End to end at 28x42, each linear in the file; nothing of the twin stays, and one that is another fails."""
    real, kept = gate.compare_twins, list[Any]()

    def watched(large: Path, small: Path) -> Any:
        other = tmp_path / "kept.onnx"
        other.write_bytes(small.read_bytes())
        kept.append(other)
        return real(large, small)

    monkeypatch.setattr(gate, "compare_twins", watched)
    out = tmp_path / "m.onnx"
    line = ("export", small_float, *QUICK, "-o", out, "--parity-size", "28x42", "--parity-frames", 2)
    assert call(*line) == 0
    printed = capsys.readouterr().out
    assert "end to end at 28x42: the same network as the file" in printed
    assert "36/36 quantized linears agree" in printed
    report = json.loads((tmp_path / "m.onnx.parity.json").read_text())
    assert (report["size"], report["passed"]) == ([28, 42], True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept.onnx", "m.onnx", "m.onnx.parity.json"]
    twin = compare_twins(out, kept[0])
    assert not twin.differences
    assert twin.nodes == len(onnx.load(out).graph.node)
    assert "aggregator.patch_embed.pos_embed" in twin.tables
    broken = onnx.load(kept[0])
    bias = next(t for t in broken.graph.initializer if t.name.endswith("blocks.0.mlp.fc2.bias"))
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(1), bias.name))
    broken.graph.node[-1].op_type = "Relu"
    onnx.save(broken, kept[0])
    assert [text.partition(":")[2] for text in compare_twins(out, kept[0]).differences] == [
        " is another node at the other size",
        " is another node at the other size",
        " has other values at the other size",
    ]
    monkeypatch.setattr(gate, "compare_twins", lambda *_: compare_twins(out, kept[0]))
    assert call(*line, "--overwrite") == 1
    captured = capsys.readouterr()
    assert "NOT the same network" in captured.out
    assert "has other values at the other size" in captured.err


def test_a_weight_may_not_depend_on_the_size(tmp_path: Path) -> None:
    for name, columns in (("a", 2), ("b", 3)):
        text = f"""<ir_version: 10, opset_import: ["" : 21]> g (float[1, 2] x) => (float[1, {columns}] y)
            <float[2, {columns}] w = {{ {", ".join(["1"] * 2 * columns)} }}> {{ y = MatMul(x, w) }}"""
        (tmp_path / f"{name}.onnx").write_bytes(onnx.parser.parse_model(text).SerializeToString())
    found = compare_twins(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert found.differences == ("w: is a weight of MatMul and depends on the size",)


def test_facts_are_the_networks_own() -> None:
    """A narrower network needs less."""
    small = NetworkSizes(MemoryFacts(128, 64, 14, 5, 32, 16))
    assert GateNeeds(small, 0, (518, 518), None).bytes(8, (518, 518)) < 0.2 * needs(None).bytes(8, (518, 518))
