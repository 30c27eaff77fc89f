"""Attention on codes in the exported file: its nodes, its numbers, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from calling import call, mistake
from small_network import small_batches, small_rounded
from torch import nn

from qvggt.engines.layer_report import layer_report
from qvggt.engines.layer_table import Operand, Row
from qvggt.errors import QvggtError
from qvggt.export.blocks import BlockEmitter, Rope
from qvggt.export.emulation import session_options
from qvggt.export.exporter import ExportConfig, export_onnx
from qvggt.export.graph import GraphBuilder
from qvggt.export.lint import lint_model
from qvggt.export.precision import Precision
from qvggt.formats.attention import FORMATS
from qvggt.models.block import Attention
from qvggt.models.rope import rope_tables
from qvggt.models.vggt.network import VGGT
from qvggt.onnx_view.file import open_onnx as view
from qvggt.onnx_view.graph_format import graph_format
from qvggt.onnx_view.network_facts import network_facts
from qvggt.quant.attention import QuantAttention, observed
from qvggt.quant.checkpoint import Provenance, save_calibrated
from qvggt.quant.scheme import Scheme
from qvggt.target import Target

SCHEME = Scheme("w8a8", attention="fp8")
GLOBAL = [f"aggregator.global_blocks.{i}.attn" for i in range(4)]


@pytest.fixture(scope="module")
def model() -> VGGT:
    with torch.no_grad():
        return small_rounded(SCHEME, small_batches(2, 2))


@pytest.fixture(scope="module")
def checkpoint(model: VGGT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attention") / "c"
    save_calibrated(folder, model, SCHEME, Provenance({"name": "small", "sha256": "0" * 64}))
    return folder


@pytest.fixture(scope="module")
def path(model: VGGT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For TensorRT, from 2 frames of 21 tokens on."""
    file = tmp_path_factory.mktemp("attention") / "m.onnx"
    config = ExportConfig(56, 56, ("pose",), (2, 4, 8), Target.TENSORRT, Precision.FP16)
    with torch.no_grad():
        export_onnx(model, SCHEME, config, file)
    return file


@pytest.mark.parametrize("turned", [False, True])
def test_the_same_numbers(turned: bool) -> None:
    """One attention alone, on what it is given in a network."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer, x = Attention(128, 2, qk_norm=turned).requires_grad_(False), torch.randn(3, 69, 128)
    rope = rope_tables(8, 8, 64, 5, 100.0) if turned else None
    with observed(nn.ModuleDict({"attn": layer}), ["attn"]) as ranges:
        floats = layer(x, rope)
    format = FORMATS["fp8"]
    assert format is not None
    quantized = QuantAttention(layer, format, ranges["attn"])
    builder = GraphBuilder()
    emitter = BlockEmitter(builder, Target.CPU, (-1, 69), Rope.of(rope) if rope is not None else None)
    y = emitter.attention("attn", quantized, builder.input("x", ["n", 69, 128]), "attn")
    builder.output(y, "y", ["n", 69, 128])
    session = ort.InferenceSession(builder.model("m", {}, "0").SerializeToString(), session_options())
    got, expected = session.run(None, {"x": x.numpy()})[0], quantized(x, rope)
    assert np.abs(got - expected.numpy()).max() < 1e-5 * float(expected.abs().max())
    assert float((floats - expected).abs().max()) > 1e-3 * float(expected.abs().max())


def test_facts_and_metadata(path: Path) -> None:
    file = view(path)
    assert file.metadata.attentions == dict.fromkeys(GLOBAL, "fp8")
    assert graph_format(file).wrong == ""
    wanted = [attention for attention in network_facts(file).attentions if attention.wanted]
    assert [attention.containers for attention in wanted] == [("FP8",) * 4] * 4
    assert lint_model(path) == []


def test_short_sequences_are_linted(model: VGGT, tmp_path: Path) -> None:
    """One frame is too short."""
    config = ExportConfig(56, 56, ("pose",), (1, 4, 8), Target.TENSORRT, Precision.FP16)
    export_onnx(model, SCHEME, config, tmp_path / "m.onnx")
    found = lint_model(tmp_path / "m.onnx")
    assert {finding.rule for finding in found} == {"QV904"}
    assert len(found) == len(GLOBAL)
    assert "21 tokens" in found[0].line()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target": Target.TENSORRT}, "attention fp8: TensorRT fuses it in fp16 and bf16 networks only"),
        ({"fused_attention": True}, "fused attention: ONNX Runtime's and OpenVINO's operator takes no fp8"),
    ],
)
def test_what_is_refused(model: VGGT, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(QvggtError, match=words):
        export_onnx(model, SCHEME, ExportConfig(56, 56, **changes), tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("types", "together", "found", "note"),
    [
        (("FP8",) * 3, True, "FP8 attention", ""),
        (("Half",) * 3, True, "not quantized", "one kernel, which reads Half"),
        (("FP8",) * 2, False, "not quantized", "the scores are stored"),
    ],
)
def test_the_layer_report(path: Path, types: tuple[str, ...], together: bool, found: str, note: str) -> None:
    """A build fails where quantized attention is not one kernel that reads codes."""
    facts = network_facts(view(path))
    rows = []
    for attention in facts.attentions:
        nodes = (attention.scores, attention.softmax, attention.context)
        read = types if attention.wanted else ("Half",) * 3
        inputs = tuple(Operand(str(i), (4, -1, 64), kind) for i, kind in enumerate(read))
        for i, part in enumerate([nodes] if together else [nodes[:1], nodes[1:2], nodes[2:]]):
            rows.append(Row(f"{attention.scores}{i}", "kgen", inputs, (), (), "", part))
    report = layer_report(facts, rows)
    assert [(v.path, v.found, v.note) for v in report.quantized_attentions] == [(p, found, note) for p in GLOBAL]
    failed = {verdict.path for verdict in report.failed}
    assert bool(failed & {*GLOBAL}) == (found != "FP8 attention")
    assert ("4/4 in FP8" in report.summary) == (found == "FP8 attention")


def test_a_file_that_lost_its_codes(path: Path) -> None:
    """What its metadata lists and its graph has not is wanted all the same."""
    file = view(path)
    for node in file.proto.graph.node:
        if node.name.startswith(GLOBAL[0]) and node.op_type == "QuantizeLinear" and ".qkv" not in node.name:
            node.op_type = "Identity"
            del node.input[1:]
    changed = next(a for a in network_facts(type(file)(file.proto)).attentions if a.softmax.startswith(GLOBAL[0]))
    assert changed.wanted


@pytest.mark.slow
def test_a_build_with_stored_scores_fails(
    model: VGGT, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sequences of 21 tokens in the smallest shape, then of 42."""
    pytest.importorskip("tensorrt_rtx")
    options = ("-o", tmp_path / "m.engine", "--cc", "8.9", "--overwrite")
    assert call("build", path, "--frames", "1:2:4", *options) == 1
    shown = capsys.readouterr()
    assert "FP8 attention expected, not quantized: the scores are stored" in shown.err
    assert "0/4 in FP8" in shown.out
    assert call("build", path, *options) == 0
    assert "4/4 in FP8" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words", "left"),
    [
        (("--target", "tensorrt"), "note: attention stays floating point in 4 blocks", 0),
        (("--target", "tensorrt", "--frames", "2:4:8"), "", 4),
        ((), "note: no CPU runtime has FP8 kernels", 4),
    ],
)
def test_exports_say_what_becomes_of_it(
    checkpoint: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    words: str,
    left: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = tmp_path / "m.onnx"
    assert call("export", checkpoint, "-o", place, "--no-check", "--outputs", "pose", *options) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note")]
    assert [words in line for line in notes] == [True] * bool(words)
    assert len(view(place).metadata.attentions or {}) == left


def test_fp32_for_tensorrt_is_refused(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--target", "tensorrt", "--precision", "fp32", "--frames", "2:4:8", "--no-check")
    text = mistake(capsys, "export", checkpoint, "-o", tmp_path / "m.onnx", *options)
    assert "TensorRT fuses it in fp16 and bf16 networks only" in text
    assert not (tmp_path / "m.onnx").exists()
