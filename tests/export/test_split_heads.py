"""Trunk and dense heads in two files: every weight in one of them, the types between them, nothing by halves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from qvggt import QvggtError
from qvggt.export import exporter
from qvggt.export.exporter import ExportConfig, export_onnx
from qvggt.export.precision import Precision
from qvggt.models.vggt.network import VGGT
from qvggt.onnx_view.halves import GROUP, group_profile, heads_path, trunk_path
from qvggt.quant.scheme import parse_scheme
from qvggt.target import Target

FP32 = parse_scheme("fp32")
SPLIT = ExportConfig(42, 70, frames=(1, 4, 100), split_heads=True)
Dims = list[int | str]


def dims(value: onnx.ValueInfoProto) -> Dims:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key.removeprefix("qvggt."): entry.value for entry in model.metadata_props}


@pytest.fixture(scope="module")
def pair(tiny_model: VGGT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pair") / "m.v1.onnx"
    written = export_onnx(tiny_model, FP32, SPLIT, path)
    assert written.heads == heads_path(path) == path.with_name("m.v1.heads.onnx")
    assert trunk_path(written.heads) == path
    assert written.bytes == path.stat().st_size + written.heads.stat().st_size
    return path


def test_every_weight_and_output_is_in_one_of_them(pair: Path, exported: Path) -> None:
    whole, trunk, heads = (onnx.load(file).graph for file in (exported, pair, heads_path(pair)))
    named = [{t.name for t in graph.initializer if "." in t.name} for graph in (whole, trunk, heads)]
    assert named[1] | named[2] == named[0]
    assert not named[1] & named[2]
    assert {name.split(".")[0] for name in named[2]} == {"depth_head", "point_head"}
    levels = {f"tokens_{i}": [1, "frames", 20, 128] for i in (0, 1, 2, 3)}
    assert {o.name: dims(o) for o in trunk.output} == {"pose_enc": [1, "frames", 9], **levels}
    assert {i.name: dims(i) for i in heads.input} == levels
    assert [o.name for o in (*trunk.output[:1], *heads.output)] == [o.name for o in whole.output]


def test_what_they_say_of_themselves(pair: Path, exported: Path) -> None:
    whole, trunk, heads = (metadata(onnx.load(file)) for file in (exported, pair, heads_path(pair)))
    assert (trunk["half"], heads["half"]) == ("trunk", "heads")
    assert (trunk["frames"], heads["frames"]) == ("1:4:100", f"1:4:{GROUP}")
    assert trunk["pair"] == heads["pair"]
    assert whole.keys() == trunk.keys() - {"half", "pair"}
    assert json.loads(trunk["config"]) == json.loads(whole["config"])


def test_the_same_export_is_the_same_bytes_and_other_weights_another_pair(
    pair: Path, tiny_model: VGGT, tmp_path: Path
) -> None:
    export_onnx(tiny_model, FP32, SPLIT, again := tmp_path / pair.name)
    for mine, theirs in ((pair, again), (heads_path(pair), heads_path(again))):
        assert mine.read_bytes() == theirs.read_bytes()
    weight = tiny_model.depth_head.projects[0].weight  # type: ignore[union-attr]
    kept = weight.detach().clone()
    try:
        weight[0, 0] += 1
        export_onnx(tiny_model, FP32, SPLIT, again)
    finally:
        weight.copy_(kept)
    assert metadata(onnx.load(again))["pair"] != metadata(onnx.load(pair))["pair"]


@pytest.mark.parametrize(("precision", "kind"), [(Precision.FP16, "FLOAT16"), (Precision.BF16, "FLOAT")])
def test_tokens_keep_the_type_of_the_network(tiny_model: VGGT, tmp_path: Path, precision: Precision, kind: str) -> None:
    """bf16 becomes fp32: numpy lacks the type, and the heads of such a network are fp32."""
    config = ExportConfig(28, 28, ("depth",), target=Target.TENSORRT, precision=precision, split_heads=True)
    export_onnx(tiny_model, FP32, config, path := tmp_path / "m.onnx")
    trunk, heads = (onnx.load(file).graph for file in (path, heads_path(path)))
    types = {onnx.TensorProto.DataType.Name(v.type.tensor_type.elem_type) for v in (*trunk.output, *heads.input)}
    assert types == {kind}
    assert {o.type.tensor_type.elem_type for o in heads.output} == {onnx.TensorProto.FLOAT}


def test_weights_outside(tiny_model: VGGT, tmp_path: Path) -> None:
    """Each half decides by its own size."""
    config = ExportConfig(28, 28, split_heads=True, external_above=1_000_000)
    written = export_onnx(tiny_model, FP32, config, tmp_path / "m.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.heads.onnx", "m.onnx", "m.onnx.data"]
    assert (written.data, written.bytes) == (
        tmp_path / "m.onnx.data",
        sum(p.stat().st_size for p in tmp_path.iterdir()),
    )


def test_nothing_is_left_of_a_half_that_fails(
    tiny_model: VGGT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emit: Callable[..., None] = exporter.emit_network

    def then_fail(*arguments: Any) -> None:
        emit(*arguments)
        if arguments[-1] is not None and arguments[-1].value == "heads":
            raise QvggtError("no more")

    monkeypatch.setattr(exporter, "emit_network", then_fail)
    with pytest.raises(QvggtError, match="no more"):
        export_onnx(tiny_model, FP32, SPLIT, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_network_without_dense_heads_is_refused(tiny_model: VGGT, tmp_path: Path) -> None:
    with pytest.raises(QvggtError, match="--split-heads: pose has no dense head"):
        export_onnx(tiny_model, FP32, ExportConfig(28, 28, ("pose",), split_heads=True), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("frames", "heads"),
    [((1, 8, 32), (1, 8, 8)), ((1, 4, 100), (1, 4, 8)), ((20, 20, 20), (1, 8, 8)), ((3, 3, 3), (3, 3, 3))],
)
def test_frames_of_a_group(frames: tuple[int, int, int], heads: tuple[int, int, int]) -> None:
    assert group_profile(frames) == group_profile(group_profile(frames)) == heads


def test_torch_runs_groups_of_the_same_size() -> None:
    from qvggt.models.dpt import FRAMES_PER_CHUNK

    assert GROUP == FRAMES_PER_CHUNK
