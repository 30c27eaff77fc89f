"""The emitted network against PyTorch, for any frame count from one file."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from reference_weights import fill
from torch import nn

from qvggt.errors import QvggtError
from qvggt.export.exporter import ExportConfig, export_onnx
from qvggt.export.graph import GraphBuilder
from qvggt.export.network import emit_network
from qvggt.models.vggt.config import VGGTConfig
from qvggt.models.vggt.network import VGGT
from qvggt.quant.scheme import parse_scheme
from qvggt.target import Target

FP32 = parse_scheme("fp32")
FRAMES = (1, 2, 5, 8)
OUTPUTS = {
    "pose": {"pose_enc"},
    "depth": {"depth", "depth_conf"},
    "points": {"world_points", "world_points_conf"},
}


def images(frames: int, height: int = 42, width: int = 70) -> torch.Tensor:
    return torch.rand(1, frames, 3, height, width, generator=torch.Generator().manual_seed(frames))


@pytest.fixture(scope="module")
def graph(exported: Path) -> onnx.GraphProto:
    return onnx.load(exported).graph


@pytest.mark.parametrize("frames", FRAMES)
def test_equals_torch_for_any_frame_count(
    exported: Path, tiny_model: VGGT, open_onnx: Any, assert_close: Any, frames: int
) -> None:
    x = images(frames)
    got = open_onnx(exported)(x)
    assert set(got) == set.union(*OUTPUTS.values())
    assert_close(got, tiny_model(x))


@pytest.mark.parametrize(("height", "width"), [(56, 56), (28, 98), (84, 14)])
def test_equals_torch_at_other_sizes(
    tiny_model: VGGT, open_onnx: Any, assert_close: Any, tmp_path: Path, height: int, width: int
) -> None:
    """The native square (positions as stored), and shapes down to one patch wide (positions resized)."""
    export_onnx(tiny_model, FP32, ExportConfig(height, width), tmp_path / "m.onnx")
    x = images(3, height, width)
    assert_close(open_onnx(tmp_path / "m.onnx")(x), tiny_model(x))


@pytest.mark.parametrize("chosen", [("pose",), ("depth",), ("points", "pose")])
def test_subset_of_outputs(
    tiny_model: VGGT, open_onnx: Any, assert_close: Any, tmp_path: Path, chosen: tuple[str, ...]
) -> None:
    export_onnx(tiny_model, FP32, ExportConfig(42, 70, chosen), tmp_path / "m.onnx")
    x = images(2)
    got = open_onnx(tmp_path / "m.onnx")(x)
    assert set(got) == set.union(*(OUTPUTS[c] for c in chosen))
    assert_close(got, tiny_model(x))
    heads = {i.name.split(".")[0] for i in onnx.load(tmp_path / "m.onnx").graph.initializer if "_head" in i.name}
    assert heads == {{"pose": "camera_head", "depth": "depth_head", "points": "point_head"}[c] for c in chosen}


def test_only_standard_ops_at_opset_21(exported: Path) -> None:
    model = onnx.load(exported)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 21)]
    assert {n.domain for n in model.graph.node} == {""}
    assert not model.functions


def test_only_ops_tensorrt_takes(graph: onnx.GraphProto) -> None:
    """Attention fails to build in fp32 and antialiasing is unsupported (spec/tensorrt.md 3)."""
    assert not {n.op_type for n in graph.node} & {"Attention", "Gemm", "NonZero", "If", "Loop", "Einsum"}
    for node in graph.node:
        if node.op_type == "Resize":
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            assert attributes["mode"] == b"linear"
            assert attributes["coordinate_transformation_mode"] == b"align_corners"
            assert not attributes.get("antialias")


def test_frame_count_is_symbolic_and_shapes_are_inferred(exported: Path) -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load(exported), strict_mode=True, data_prop=True)

    def dims(value: onnx.ValueInfoProto) -> list[int | str]:
        return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]

    assert dims(model.graph.input[0]) == [1, "frames", 3, 42, 70]
    assert {o.name: dims(o) for o in model.graph.output} == {
        "pose_enc": [1, "frames", 9],
        "depth": [1, "frames", 42, 70, 1],
        "depth_conf": [1, "frames", 42, 70],
        "world_points": [1, "frames", 42, 70, 3],
        "world_points_conf": [1, "frames", 42, 70],
    }
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in [*model.graph.value_info, *model.graph.output]}
    assert not [o for n in model.graph.node for o in n.output if o not in ranks]
    assert ranks["aggregator.global_blocks.0.attn.scores/MatMul"] == 4


def test_initializers_are_named_like_the_parameters_and_stored_once(graph: onnx.GraphProto, tiny_model: VGGT) -> None:
    names = [i.name for i in graph.initializer]
    assert len(names) == len(set(names))
    tokens = ("cls_token", "register_token", "register_tokens", "mask_token", "camera_token", "empty_pose_tokens")
    # those are merged, folded or unused
    expected = {n for n in tiny_model.state_dict() if n.rsplit(".", 1)[-1] not in tokens}
    assert expected <= set(names)


def test_every_linear_is_one_matmul_named_after_its_module(graph: onnx.GraphProto, tiny_model: VGGT) -> None:
    products = {n.name: n for n in graph.node if n.op_type == "MatMul"}
    for path, module in tiny_model.aggregator.named_modules(prefix="aggregator"):
        if isinstance(module, nn.Linear):
            node = products[f"{path}/MatMul"]
            assert list(node.input[1:]) == [f"{path}.weight"]
            assert list(node.output) == [f"{path}/MatMul"]
    shapes = {i.name: list(i.dims) for i in graph.initializer}
    assert shapes["aggregator.frame_blocks.0.attn.qkv.weight"] == [64, 192]  # [K, N]


def test_node_names_are_unique(graph: onnx.GraphProto) -> None:
    names = [n.name for n in graph.node]
    outputs = [o for n in graph.node for o in n.output]
    assert len(set(names)) == len(names)
    assert len(set(outputs)) == len(outputs)


def test_identity_layer_scales_and_plain_norms_emit_nothing(
    tiny_model: VGGT, open_onnx: Any, assert_close: Any, tmp_path: Path
) -> None:
    """What folding leaves behind: no LayerScale, norms without affine."""
    model = copy.deepcopy(tiny_model)
    for block in [
        *model.aggregator.patch_embed.blocks,
        *model.aggregator.frame_blocks,
        *model.aggregator.global_blocks,
    ]:
        block.ls1, block.ls2 = nn.Identity(), nn.Identity()
        block.norm1 = nn.LayerNorm(64, eps=block.norm1.eps, elementwise_affine=False)
        block.norm2 = nn.LayerNorm(64, eps=block.norm2.eps, bias=False)
        # a folded branch would carry the gain in its last linear
        block.attn.proj.weight.mul_(0.3)
        block.mlp.fc2.weight.mul_(0.3)
    export_onnx(model, FP32, ExportConfig(42, 70), tmp_path / "m.onnx")
    x = images(3)
    assert_close(open_onnx(tmp_path / "m.onnx")(x), model(x))
    nodes = onnx.load(tmp_path / "m.onnx").graph.node
    scales = [n.name for n in nodes if n.name.startswith("aggregator") and (".ls1/" in n.name or ".ls2/" in n.name)]
    assert not scales


def test_a_linear_without_bias_adds_nothing(
    tiny_config: VGGTConfig, open_onnx: Any, assert_close: Any, tmp_path: Path
) -> None:
    model = fill(VGGT(tiny_config.replace(heads=("camera",))))
    attn = model.aggregator.frame_blocks[1].attn
    attn.proj.bias = None
    export_onnx(model, FP32, ExportConfig(28, 28, ("pose",)), tmp_path / "m.onnx")
    names = {n.name for n in onnx.load(tmp_path / "m.onnx").graph.node}
    assert "aggregator.frame_blocks.1.attn.proj/MatMul" in names
    assert "aggregator.frame_blocks.1.attn.proj/Add" not in names
    x = images(2, 28, 28)
    assert_close(open_onnx(tmp_path / "m.onnx")(x), model(x))


@pytest.mark.parametrize(
    "break_model",
    [
        lambda m: setattr(m.aggregator.frame_blocks[0], "norm1", nn.BatchNorm1d(64)),
        lambda m: setattr(m.aggregator.frame_blocks[0], "ls1", nn.Tanh()),
        lambda m: setattr(m.aggregator.frame_blocks[0].mlp, "fc1", nn.Bilinear(1, 1, 1)),
        lambda m: m.depth_head.projects.__setitem__(0, nn.Conv1d(1, 1, 1)),
    ],
)
def test_a_module_it_does_not_know_is_an_error_and_never_skipped(
    tiny_model: VGGT, break_model: Callable[[VGGT], None]
) -> None:
    model = copy.deepcopy(tiny_model)
    break_model(model)
    with pytest.raises(TypeError, match="cannot export a"):
        emit_network(GraphBuilder(), model, 28, 28, ("depth",), Target.CPU)


@pytest.mark.parametrize(
    ("height", "width", "outputs", "message"),
    [
        (43, 70, ("pose",), "height 43 is not a positive multiple"),
        (42, 0, ("pose",), "width 0 is not a positive multiple"),
        (42, 70, ("track",), "unknown output 'track'"),
        (42, 70, (), "no output chosen"),
    ],
)
def test_mistakes_are_named(
    tiny_model: VGGT, height: int, width: int, outputs: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(QvggtError, match=message):
        export_onnx(tiny_model, FP32, ExportConfig(height, width, outputs), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_head_is_named(tiny_config: VGGTConfig) -> None:
    model = VGGT(tiny_config.replace(heads=("depth",)))
    with pytest.raises(QvggtError, match="output 'pose' needs the camera head"):
        emit_network(GraphBuilder(), model, 28, 28, ("pose",), Target.CPU)
