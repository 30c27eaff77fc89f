"""CPU benchmark and profile: names of candidates, ratios, kinds of work; and that every runtime computes the same."""

from __future__ import annotations

import numpy as np
import pytest
from bench_cpu import rows_of, sqnr_db
from cpu_candidates import (
    SLICE_1B,
    Candidate,
    Spec,
    Timing,
    in_basis,
    make_input,
    open_candidate,
    parse_spec,
    write_file,
)
from profile_cpu import kind_of, summary

from qvggt import QvggtError

SIZE = (28, 28)


def test_specs():
    assert parse_spec("w8a8") == Spec("w8a8", "w8a8")
    assert parse_spec("w8a8:static+dpt/fused") == Spec("w8a8:static+dpt/fused", "w8a8", "static", ("dpt",), True)
    assert parse_spec("w4a4+camera+dpt").parts == ("camera", "dpt")
    names = ["w8a8", "w8a8:static", "w8a8/fused", "w8a8+dpt"]
    assert len({parse_spec(name).file for name in names}) == len(names)
    for wrong in ("", "w8a8:dynamic", "w8a8/fused+dpt", "w8 a8"):
        with pytest.raises(QvggtError, match="expected BITS"):
            parse_spec(wrong)


def test_ratios_are_of_the_first_row():
    candidates = [Candidate("torch", "fp32", "m", 1), Candidate("openvino", "bf16", "m", 1, "w8a8", "m.onnx")]
    truth = np.ones(8, np.float32)
    timings = [
        Timing([4.0, 2.0, 3.0], [2.0, 2.0, 2.0], {"y": truth}, 10),
        Timing([1.0, 1.5, 9.0], [0.5, 0.4, 0.6], {"y": truth * 1.01}, 5),
    ]
    first, second = rows_of(candidates, timings, {"w8a8": 7})
    assert (first["speed_up"], first["file_bytes"], second["file_bytes"]) == (1.0, None, 7)
    assert second["candidate"] == "OpenVINO w8a8 bf16"
    assert (second["speed_up"], second["cpu_speed_up"]) == (2.0, 4.0)
    assert second["sqnr_db"]["y"] == pytest.approx(40, abs=0.01)
    assert "sqnr_db" not in first
    assert sqnr_db(truth, truth) > 200


@pytest.mark.parametrize(
    ("name", "op", "kind"),
    [
        ("aggregator.frame_blocks.3.attn.qkv/MatMul", "MatMulIntegerToFloat", "linears"),
        ("aggregator.frame_blocks.3.mlp.fc2/MatMul", "FullyConnected", "linears"),
        ("aggregator.frame_blocks.3.mlp.fc2/Abs", "Abs", "around linears"),
        ("aggregator.global_blocks.0.attn.scores/MatMul", "FusedMatMul", "attention"),
        ("aggregator.global_blocks.0.attn/Softmax", "Softmax", "attention"),
        ("aggregator.global_blocks.0.attn.context/MultiHeadAttention", "MultiHeadAttention", "attention"),
        ("aggregator.patch_embed.blocks.0.attn/Transpose_1", "Transpose", "moves"),
        ("aggregator.patch_embed.blocks.0.norm1/LayerNormalization", "LayerNormalization", "norms"),
        ("aggregator.patch_embed.blocks.0.mlp/Gelu", "BiasGelu", "GELU"),
        ("depth_head.scratch.layer1_rn/Conv", "QLinearConv", "DPT convolutions"),
        ("point_head.scratch.output_conv1/Resize", "Resize", "DPT rest"),
        ("camera_head.trunk.0.attn.qkv/MatMul", "MatMul", "camera head"),
        ("aggregator.patch_embed.patch_embed.proj/Conv", "Conv", "rest"),
    ],
)
def test_kinds_of_work(name, op, kind):
    assert kind_of(name, op) == kind


def test_the_profile_adds_up():
    rows = summary({("a.attn.qkv/MatMul", "MatMul"): 3.0, ("a.attn.qkv/Add", "Add"): 1.0})
    assert [(row["kind"], row["share"]) for row in rows] == [("linears", 0.75), ("around linears", 0.25)]


@pytest.mark.parametrize("text", ["fp32", pytest.param("w8a8/fused", marks=pytest.mark.slow)])
def test_the_block_slice_is_one_network_in_every_runtime(tmp_path, text):
    pytest.importorskip("openvino")
    spec = parse_spec(text)
    size = write_file(SLICE_1B, spec, *SIZE, tmp_path / spec.file)
    assert size == (tmp_path / spec.file).stat().st_size
    tokens = make_input(SLICE_1B, 2, *SIZE)
    common = {"model": SLICE_1B, "threads": 1, "size": SIZE}
    expected = open_candidate(Candidate("torch", "fp32", **common))(tokens)["out"]
    for runtime in ("onnxruntime", "openvino"):
        file = Candidate(runtime, "fp32", spec=text, onnx=str(tmp_path / spec.file), folded=spec.quantized, **common)
        found = in_basis(file, open_candidate(file)(in_basis(file, tokens))["out"], back=True)
        assert sqnr_db(expected, found) > (110 if text == "fp32" else 35)
