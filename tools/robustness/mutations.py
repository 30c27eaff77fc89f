"""Ways to damage a file: bytes of any kind of file, and values inside JSON, safetensors headers and ONNX messages."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable
from random import Random
from typing import Any

Mutation = Callable[[bytes, Random], bytes]

ODD_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1 << 31, 1 << 63, -(1 << 70), 1e308, -0.5, float("nan"), float("inf"), "", "x",
    "../../etc/passwd", "a\nb\u2028c", "\u0000", [], [[]], {}, {"a": None}, [0] * 50, "9" * 400,
)  # fmt: skip


def truncated(data: bytes, random: Random) -> bytes:
    return data[: random.randrange(len(data))] if data else data


def flipped(data: bytes, random: Random) -> bytes:
    """Up to 16 random bytes replaced."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 16)):
        changed[random.randrange(len(changed))] = random.randrange(256)
    return bytes(changed)


def flipped_head(data: bytes, random: Random) -> bytes:
    """As `flipped`, within the first 256 bytes, where formats keep their structure."""
    return flipped(data[:256], random) + data[256:]


def zeroed(data: bytes, random: Random) -> bytes:
    start = random.randrange(len(data))
    length = min(random.randint(1, 4096), len(data) - start)
    return data[:start] + bytes(length) + data[start + length :]


def cut_out(data: bytes, random: Random) -> bytes:
    start = random.randrange(len(data))
    return data[:start] + data[start + random.randint(1, 512) :]


def grown(data: bytes, random: Random) -> bytes:
    start = random.randrange(len(data) + 1)
    return data[:start] + random.randbytes(random.randint(1, 512)) + data[start:]


def replaced(_data: bytes, random: Random) -> bytes:
    """Something else altogether."""
    return random.choice(
        [
            b"",
            b"\x00" * 100,
            b"<!DOCTYPE html><html>",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            b"PK\x03\x04" + random.randbytes(50),
            b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94.",
            b"[" * 100_000,
            b"{}",
            b"null",
            random.randbytes(1000),
        ]
    )


BYTES: tuple[Mutation, ...] = (truncated, truncated, flipped, flipped_head, zeroed, cut_out, grown, replaced)


def odd_json(data: bytes, random: Random) -> bytes:
    """One value of a JSON document replaced, removed or added."""
    return json.dumps(odd(json.loads(data), random)).encode()


def odd_gzip_json(data: bytes, random: Random) -> bytes:
    return gzip.compress(odd_json(gzip.decompress(data), random), mtime=0)


def odd_header(data: bytes, random: Random) -> bytes:
    """A safetensors file with an odd value in its header, whose length is right again."""
    (size,) = struct.unpack("<Q", data[:8])
    header = json.dumps(odd(json.loads(data[8 : 8 + size]), random)).encode()
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def odd_line(data: bytes, random: Random) -> bytes:
    """A text file with one word replaced."""
    words = data.decode(errors="replace").split(" ")
    words[random.randrange(len(words))] = random.choice(["nan", "inf", "-1", "x", "", "1e999", "0 0", "\u2028", "1\n"])
    return " ".join(words).encode()


def odd_onnx(data: bytes, random: Random) -> bytes:
    """An ONNX message with one thing in it changed that a parser does not mind."""
    import onnx

    model = onnx.ModelProto()
    model.ParseFromString(data)
    graph = model.graph
    kind = random.randrange(10)
    node = random.choice(list(graph.node))
    tensor = random.choice(list(graph.initializer))
    if kind == 0:
        graph.initializer.remove(tensor)
    elif kind == 1:
        graph.node.remove(node)
    elif kind == 2:
        node.op_type = random.choice(["Nothing", "Loop", "If", "MatMul", ""])
    elif kind == 3 and node.input:
        node.input[random.randrange(len(node.input))] = random.choice(["", "nothing", graph.output[0].name])
    elif kind == 4 and tensor.dims:
        tensor.dims[random.randrange(len(tensor.dims))] = random.choice([0, -1, 1 << 40, 7])
    elif kind == 5:
        tensor.data_type = random.choice([0, 1, 3, 8, 10, 22, 99])
    elif kind == 6:
        model.opset_import[0].version = random.choice([0, 1, 13, 99, -5])
    elif kind == 7:
        entry = random.choice(list(model.metadata_props))
        entry.value = random.choice(["", "x", "{}", "[1]", "9" * 1000, '{"bits": 7}', "0x0", "-1:0:5"])
    elif kind == 8:
        value = random.choice([*graph.input, *graph.output])
        value.type.tensor_type.elem_type = random.choice([0, 7, 10, 99])
    else:
        value = random.choice([*graph.input, *graph.output])
        shape = value.type.tensor_type.shape.dim
        if shape:
            shape[random.randrange(len(shape))].dim_value = random.choice([0, -1, 5, 1 << 40])
    return model.SerializeToString()


def odd_location(data: bytes, random: Random) -> bytes:
    """An ONNX message whose external data points elsewhere."""
    import onnx

    model = onnx.ModelProto()
    model.ParseFromString(data)
    outside = [t for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    entry = random.choice(list(random.choice(outside).external_data))
    entry.value = random.choice(
        ["../m.onnx.data", "/etc/passwd", "", "nothing", "-1", "9" * 18, "x", ".", "\x00", "4095"]
    )
    return model.SerializeToString()


def odd(value: Any, random: Random) -> Any:
    """A copy of a JSON value in which one place is odd."""
    if isinstance(value, dict) and value and random.random() < 0.92:
        key = random.choice(list(value))
        choice = random.random()
        if choice < 0.12:
            return {k: v for k, v in value.items() if k != key}
        if choice < 0.2:
            return {**value, random.choice(["", "x", key + "x"]): odd_value(random)}
        return {**value, key: odd(value[key], random)}
    if isinstance(value, list) and value and random.random() < 0.9:
        index = random.randrange(len(value))
        choice = random.random()
        if choice < 0.1:
            return value[:index] + value[index + 1 :]
        return [*value[:index], odd(value[index], random), *value[index + 1 :]]
    return odd_value(random)


def odd_value(random: Random) -> Any:
    return random.choice(ODD_VALUES)
