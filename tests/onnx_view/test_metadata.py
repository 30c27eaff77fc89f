"""What a file says of itself: written, read strictly, and names of nodes that lead to modules."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import helper

from qvggt import QvggtError
from qvggt.onnx_view.metadata import Metadata, module_path, written


def metadata(entries: dict[str, str]) -> Metadata:
    model = onnx.ModelProto()
    helper.set_model_props(model, entries)
    return Metadata.of(model, Path("m.onnx"))


def test_what_is_written_is_read() -> None:
    linears = {"a.b": "w4a8-static", "c": "w4a16"}
    entries = written(source={"name": "tiny"}, linears=linears, frames="1:4:8", precision="fp16", attention=None)
    assert entries == {
        "qvggt.source": '{"name": "tiny"}',
        "qvggt.linears": '{"a.b": "w4a8-static", "c": "w4a16"}',
        "qvggt.frames": "1:4:8",
        "qvggt.precision": "fp16",
    }
    found = metadata({**entries, "other.key": "x"})
    assert found.entries == entries
    assert (found.source, found.linears, found.frames) == ({"name": "tiny"}, linears, (1, 4, 8))
    assert found.text("precision") == "fp16"
    assert found.config is found.text("family") is None
    found.check()


def test_only_known_keys_are_written() -> None:
    with pytest.raises(AssertionError, match="colour"):
        written(colour="red")


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        ("linears", "{", "is no JSON"),
        ("linears", "[1]", "is a list, expected a JSON object"),
        ("linears", '{"a": 4}', "expected the name of a format"),
        ("config", "3", "is a int"),
        ("source", "[" * 100_000, "is no JSON"),
    ],
)
def test_damaged_entries(key: str, text: str, words: str) -> None:
    with pytest.raises(QvggtError, match=rf"^m\.onnx: metadata qvggt\.{key}.*{words}.*; export again$") as caught:
        metadata({f"qvggt.{key}": text}).check()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "1:2", "0:1:2", "3:2:4", "1:2:-3", "1:2:\u0663", "1:2:" + "9" * 5000])
def test_frames_that_are_none(text: str) -> None:
    assert metadata({"qvggt.frames": text}).frames is None


def test_nodes_are_named_after_modules() -> None:
    assert module_path("aggregator.frame_blocks.0.mlp.fc1/MatMul_2") == "aggregator.frame_blocks.0.mlp.fc1"
    assert module_path("camera_head.iter.3.trunk.0.attn.qkv/MatMul") == "camera_head.trunk.0.attn.qkv"
    assert module_path("plain") == "plain"
    assert metadata({"qvggt.version": "0.1"}).module_of("a.iter.0.b/Conv") == "a.b"
    assert metadata({}).module_of("/a/b/Conv") == "/a/b/Conv"
