"""The gate's segments: a good file passes in every node, and what is broken between two layers is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from small_network import SIZE, small_images, small_model, small_rounded

from qvggt.export.boundaries import Boundaries, watched
from qvggt.export.exporter import ExportConfig, export_onnx
from qvggt.export.precision import Precision
from qvggt.export.segments import SegmentParity, SegmentReport, check_segments, nudged, relative
from qvggt.models.vggt.network import VGGT
from qvggt.onnx_view.file import open_onnx
from qvggt.onnx_view.halves import heads_path
from qvggt.quant.scheme import parse_scheme
from qvggt.target import Target

ALL = ("dino", "aggregator", "camera", "dpt", "rest")
FRAME, GLOBAL = "aggregator.frame_blocks.0", "aggregator.global_blocks.1"


def checked(path: Path, model: VGGT, frames: tuple[int, ...] = (1, 3), **options: Precision) -> SegmentReport:
    return check_segments(path, model, small_images(max(frames)), frames, progress=False, **options)


def node(model: ModelProto, name: str) -> NodeProto:
    return next(n for n in model.graph.node if n.name == name)


def change(model: ModelProto, name: str, factor: float | np.ndarray) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == name)
    value = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array((value.astype(np.float32) * factor).astype(value.dtype), name))


def test_every_node_of_a_good_file_is_proven(small_onnx: Path, small_quantized: VGGT) -> None:
    report = checked(small_onnx, small_quantized)
    assert report.failures == []
    assert (report.nodes, report.frames) == (len(onnx.load(small_onnx).graph.node), (1, 3))
    assert report.layers == 36  # the quantized linears
    assert {s.tolerance for s in report.segments} == {1e-5}
    assert max(s.error for s in report.segments) > 1e-9  # something was compared


def test_a_network_in_two_files(small_pair: Path, small_quantized: VGGT) -> None:
    trunk, heads = (checked(file, small_quantized, (2,)) for file in (small_pair, heads_path(small_pair)))
    assert (trunk + heads).failures == []
    ends = {s.target for s in trunk.segments}
    assert {"pose_enc", "tokens_0", "tokens_3"} <= ends
    assert {"depth", "world_points_conf"} <= {s.target for s in heads.segments}
    assert (trunk + heads).nodes == trunk.nodes + heads.nodes


def test_what_is_broken_is_named(small_onnx: Path, small_quantized: VGGT, tmp_path: Path) -> None:
    """Each at its place, and nothing else; the faults of issue 13 have a test of their own."""
    model = onnx.load(small_onnx)
    node(model, "aggregator.patch_embed.blocks.0.mlp/Gelu").attribute[0].s = b"tanh"
    change(model, "aggregator.patch_embed.patch_embed.proj.weight", 1.0001)
    change(model, f"{FRAME}.ls1.gamma", 1.0001)
    (epsilon,) = (a for a in node(model, f"{GLOBAL}.norm2/LayerNormalization").attribute if a.name == "epsilon")
    epsilon.f *= 10
    change(model, "camera_head.embed_pose.weight", 1.01)
    residual, stem = f"{GLOBAL}/Add_1", "aggregator.patch_embed.patch_embed.proj/Conv"
    place = list(model.graph.node).index(node(model, residual))
    node(model, residual).output[0] = "sum"
    for kind, source, result in ((TensorProto.FLOAT, "bf16", residual), (TensorProto.BFLOAT16, "sum", "bf16")):
        cast = helper.make_node("Cast", [source], [result], name=f"{GLOBAL}/Cast_{kind}", to=kind)
        model.graph.node.insert(place + 1, cast)
    model.graph.node.append(helper.make_node("Neg", [residual], ["dead"], name="nowhere/Neg"))
    onnx.save(model, tmp_path / "m.onnx")
    report = checked(tmp_path / "m.onnx", small_quantized, (2,))
    failed = {s.target: s for s in report.segments if not s}
    camera = {f"camera_head.iter.{i}.embed_pose/Add": f"camera_head.iter.{i}.embed_pose" for i in (1, 2, 3)}
    assert {target: s.path for target, s in failed.items()} == camera | {
        "aggregator.patch_embed.blocks.0.mlp/Gelu": "aggregator.patch_embed.blocks.0.mlp",
        stem: stem,  # of which the images' Reshape is a part
        f"{FRAME}.norm2/LayerNormalization": FRAME,
        f"{FRAME}/Add_1": FRAME,
        f"{GLOBAL}.norm2/LayerNormalization": GLOBAL,
        residual: GLOBAL,
    }
    assert failed[f"{GLOBAL}.norm2/LayerNormalization"].probe  # normal tokens do not show it
    assert report.left == ("nowhere/Neg",)
    assert len(report.failures) == len([s for s in report.segments if not s]) + 2
    assert f"{GLOBAL}.norm2/LayerNormalization: epsilon 0.0001, the reference has 1e-05" in report.failures


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16])
def test_a_half_precision_file_is_held_to_what_it_stores(precision: Precision, tmp_path: Path) -> None:
    """To the tolerance of fp32: a hundredth, which the type itself hides, is seen."""
    images, scheme = small_images(2), parse_scheme("w4a16", parts=ALL)
    model = small_rounded(scheme, [images])
    config = ExportConfig(SIZE, SIZE, target=Target.TENSORRT, precision=precision)
    export_onnx(model, scheme, config, tmp_path / "m.onnx")
    assert checked(tmp_path / "m.onnx", model, (2,), precision=precision).failures == []
    broken = onnx.load(tmp_path / "m.onnx")
    change(broken, f"{FRAME}.ls2.gamma", 1.01)
    change(broken, "attention_scale_16", 1.01)
    change(broken, "aggregator.special_tokens.1", 1.01)
    onnx.save(broken, tmp_path / "m.onnx")
    failed = {s.path for s in checked(tmp_path / "m.onnx", model, (2,), precision=precision).segments if not s}
    assert failed == {FRAME, "aggregator.patch_embed.blocks.0.attn"} | ({"aggregator"} & failed)


def test_tokens_of_a_probe_have_all_sizes(small_onnx: Path, small_quantized: VGGT) -> None:
    bounds, seen = Boundaries.of(open_onnx(small_onnx), small_quantized), dict[str, tuple[torch.Tensor, torch.Tensor]]()
    with torch.no_grad(), watched(bounds, small_quantized, lambda name, *pair: seen.update({name: pair}), probe=True):
        small_quantized(small_images(2))
    made, passed = seen[f"{FRAME}.attn.qkv/Add"]
    largest = passed.abs().amax(-1).flatten()
    assert (
        torch.allclose(largest.unique(), torch.tensor([1e-4, 1e-3, 1e-2, 0.1, 1.0]), rtol=1e-5)
        or len({round(float(v), 6) for v in largest}) == 5
    )
    assert torch.allclose(torch.nn.functional.normalize(made, dim=-1), torch.nn.functional.normalize(passed, dim=-1))
    assert not any(module._forward_hooks for module in small_quantized.modules())


def test_an_error_is_relative_to_the_largest_value() -> None:
    expected = np.array([[1.0, -4.0], [0.0, 2.0]], np.float32)
    assert relative(expected, expected) == 0
    assert relative(expected + np.float32(0.5), expected) == pytest.approx(0.125)
    assert relative(expected.reshape(4), expected) == 0
    assert relative(expected[:1], expected) == np.inf
    assert relative(np.full_like(expected, np.nan), expected) == np.inf
    x = np.linspace(1, 2, 100, dtype=np.float32)
    assert 0 < relative(nudged(x, 1e-5), x) < 1.1e-5


def test_a_report_fails_with_its_worst_part() -> None:
    good, bad = (SegmentParity(path, f"{path}/Add", 3, error, 2, (56, 56)) for path, error in (("a", 1e-6), ("b", 0.1)))
    report = SegmentReport((good, bad), 4, 20, ("c/Neg",), (1, 2))
    assert report.worst is bad
    assert report.failures == [
        "b (its 3 nodes up to b/Add): relative error 1.00e-01 > 1e-05 (2 frames of 56x56)",
        "c/Neg: a node that no segment proves",
    ]
    both = report + SegmentReport((good,), 1, 5, (), (4,))
    assert (both.layers, both.nodes, both.frames, len(both.segments)) == (5, 25, (1, 2, 4), 3)


def test_a_float_file_is_cut_at_its_linears(small_float_onnx: Path) -> None:
    report = checked(small_float_onnx, small_model(), (2,))
    assert report.failures == []
    assert report.layers == 0
    assert f"{FRAME}.mlp.fc1" in {s.path for s in report.segments}
