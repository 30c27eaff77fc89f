"""Ways to damage a file, as hypothesis strategies: bytes of any file, values in JSON, safetensors headers and ONNX."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import onnx
from hypothesis import strategies as st


@dataclass(frozen=True)
class Damaged:
    """Content of a damaged file, and in words what was done to it."""

    how: str
    data: bytes = field(repr=False)


Damage = Callable[[bytes], st.SearchStrategy[Damaged]]

ODD_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1 << 31, 1 << 63, -(1 << 70), 1e308, -0.5, float("nan"), float("inf"), "", "x",
    "../../etc/passwd", "a\nb\u2028c", "\u0000", [], [[]], {}, {"a": None}, [0] * 50, "9" * 400,
)  # fmt: skip
ODD_WORDS = (
    "", "x", "w3a3", "-1", "0", "1:2", "3:2:1", "99999999999999999999", "56x", "0x0", "57x57", "dino,dino,x", "a b",
    "é\u2028", "../..", "1e9", "nan", "'; rm", ",", "x" * 3000,
)  # fmt: skip
OTHER_FILES = (
    b"",
    bytes(100),
    b"<!DOCTYPE html><html>",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    b"PK\x03\x04" + bytes(range(50)),
    b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94.",
    b"[" * 100_000,
    b"{}",
    b"null",
)
SOME_BYTES = st.binary(min_size=1, max_size=512)


@st.composite
def flipped(draw: st.DrawFn, data: bytes, end: int = 1 << 62) -> Damaged:
    """Up to 16 bytes before `end` replaced."""
    places = st.integers(0, min(len(data), end) - 1)
    changes = draw(st.dictionaries(places, st.integers(0, 255), min_size=1, max_size=16))
    changed = bytearray(data)
    for place, value in changes.items():
        changed[place] = value
    return Damaged(f"{changes} put in", bytes(changed))


def flipped_head(data: bytes) -> st.SearchStrategy[Damaged]:
    """Where formats keep their structure."""
    return flipped(data, 256)


@st.composite
def spliced(draw: st.DrawFn, data: bytes) -> Damaged:
    """A run of bytes cut out, zeroed, or added."""
    start = draw(st.integers(0, len(data) - 1))
    way = draw(st.sampled_from(("cut off", "cut out", "zeroed", "added")))
    if way == "cut off":
        return Damaged(f"cut to {start} bytes", data[:start])
    if way == "added":
        more = draw(SOME_BYTES)
        return Damaged(f"{len(more)} bytes added at {start}", data[:start] + more + data[start:])
    length = min(draw(st.integers(1, 512)), len(data) - start)
    put = bytes(length) if way == "zeroed" else b""
    return Damaged(f"{length} bytes {way} at {start}", data[:start] + put + data[start + length :])


def something_else(_data: bytes) -> st.SearchStrategy[Damaged]:
    content = st.sampled_from(OTHER_FILES) | st.binary(max_size=1000)
    return content.map(lambda data: Damaged(f"{data[:20]!r}... of {len(data)} bytes instead", data))


BYTES: tuple[Damage, ...] = (spliced, flipped, flipped_head, something_else)


@st.composite
def odd_json(draw: st.DrawFn, data: bytes) -> Damaged:
    """One value of a JSON document replaced, removed or added."""
    how: list[str] = []
    changed = odd(draw, json.loads(data), how)
    return Damaged(" ".join(how), json.dumps(changed).encode())


def odd_gzip_json(data: bytes) -> st.SearchStrategy[Damaged]:
    inner = odd_json(gzip.decompress(data))
    return inner.map(lambda found: Damaged(found.how, gzip.compress(found.data, mtime=0)))


def odd_header(data: bytes) -> st.SearchStrategy[Damaged]:
    """A safetensors file with an odd value in its header, whose length is right again."""
    (size,) = struct.unpack("<Q", data[:8])
    return odd_json(data[8 : 8 + size]).map(
        lambda found: Damaged(found.how, struct.pack("<Q", len(found.data)) + found.data + data[8 + size :])
    )


def odd(draw: st.DrawFn, value: Any, how: list[str]) -> Any:
    """A copy of a JSON value in which one place is odd; `how` is told which."""
    stop = draw(st.integers(0, 9)) == 9
    if isinstance(value, dict | list) and value and not stop:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = draw(st.sampled_from(keys))
        way = draw(st.sampled_from(("inside", "inside", "inside", "inside", "removed", "added")))
        how.append(f"{key!r} {way}")
        changed = value.copy()
        if way == "removed":
            del changed[key]
        elif way == "inside" or isinstance(changed, list):
            changed[key] = odd(draw, value[key], how)
        else:
            changed[draw(st.sampled_from(("", "x", f"{key}x")))] = draw(st.sampled_from(ODD_VALUES))
        return changed
    found = draw(st.sampled_from(ODD_VALUES))
    how.append(f"now {found!r}")
    return found


@st.composite
def odd_line(draw: st.DrawFn, data: bytes) -> Damaged:
    """A text file with one word replaced."""
    words = data.decode().split(" ")
    place = draw(st.integers(0, len(words) - 1))
    words[place] = draw(st.sampled_from(("nan", "inf", "-1", "x", "", "1e999", "0 0", "\u2028", "1\n")))
    return Damaged(f"word {place} now {words[place]!r}", " ".join(words).encode())


@st.composite
def odd_onnx(draw: st.DrawFn, data: bytes) -> Damaged:
    """An ONNX message with one thing in it changed that a parser does not mind."""
    model = onnx.ModelProto.FromString(data)
    graph = model.graph

    def one_of(items: Any) -> Any:
        return items[draw(st.integers(0, len(items) - 1))]

    node, tensor, value = one_of(graph.node), one_of(graph.initializer), one_of([*graph.input, *graph.output])
    ways = ["initializer", "node", "operator", "type", "opset", "metadata", "value type", "value shape"]
    ways += ["input"] if node.input else []
    ways += ["dims"] if tensor.dims else []
    way = one_of(ways)
    if way == "initializer":
        graph.initializer.remove(tensor)
    elif way == "node":
        graph.node.remove(node)
    elif way == "operator":
        node.op_type = one_of(["Nothing", "Loop", "If", "MatMul", ""])
    elif way == "input":
        node.input[one_of(range(len(node.input)))] = one_of(["", "nothing", graph.output[0].name])
    elif way == "dims":
        tensor.dims[one_of(range(len(tensor.dims)))] = one_of([0, -1, 1 << 40, 7])
    elif way == "type":
        tensor.data_type = one_of([0, 1, 3, 8, 10, 22, 99])
    elif way == "opset":
        model.opset_import[0].version = one_of([0, 1, 13, 99, -5])
    elif way == "metadata":
        one_of(model.metadata_props).value = one_of(["", "x", "{}", "[1]", "9" * 1000, '{"bits": 7}', "0x0", "-1:0:5"])
    elif way == "value type":
        value.type.tensor_type.elem_type = one_of([0, 7, 10, 99])
    elif value.type.tensor_type.shape.dim:
        one_of(value.type.tensor_type.shape.dim).dim_value = one_of([0, -1, 5, 1 << 40])
    return Damaged(f"{way} (node {node.name}, tensor {tensor.name}, value {value.name})", model.SerializeToString())


@st.composite
def odd_location(draw: st.DrawFn, data: bytes) -> Damaged:
    """An ONNX message whose external data points elsewhere."""
    model = onnx.ModelProto.FromString(data)
    outside = [t for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    tensor = outside[draw(st.integers(0, len(outside) - 1))]
    entry = tensor.external_data[draw(st.integers(0, len(tensor.external_data) - 1))]
    words = ("../m.onnx.data", "/etc/passwd", "", "nothing", "-1", "9" * 18, "x", ".", "\x00", "4095")
    entry.value = draw(st.sampled_from(words))
    return Damaged(f"{entry.key} of {tensor.name} now {entry.value!r}", model.SerializeToString())
