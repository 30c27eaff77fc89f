"""Stored 4-bit weights in types that ONNX Runtime has kernels for, before it opens the file.

ONNX Runtime computes a file's constants ahead of time, which is how INT4 codes become the int8 its kernels take, or
FP8. It does so through floats and keeps those of all weights until it has gone through the whole graph: 9.9 GB for
VGGT-1B (docs/storage.md). Here each weight goes through the same nodes in a session of its own and waits in a temporary
file. FP4, which it has no kernels for at all, is written out in float operators (`qvggt.onnx_view.fp4`).
"""

from __future__ import annotations

import mmap
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from qvggt.onnx_view.file import open_onnx
from qvggt.onnx_view.fp4 import has_fp4, without_fp4
from qvggt.onnx_view.graph import Model
from qvggt.onnxruntime_config import session_options

MANY = 64 << 20  # 4-bit weights; with fewer, ONNX Runtime's own way takes less than half a GB more
FOLDER = "session.model_external_initializers_file_folder_path"
BYTES = (TensorProto.INT8, TensorProto.FLOAT8E4M3FN)
GIVEN = "qvggt:expanded"  # location of the tensors that a session is given beside the model


class Expanded:
    """A model whose 4-bit weights of these chains are tensors of a byte each in a temporary file; it must live as long
    as a session of it.

    model: its bytes; other external data stays where it was. fp4: whether that was written out in it.
    """

    def __init__(self, ort: Any, opened: Model, found: list[list[NodeProto]], fp4: bool = False) -> None:
        self.fp4 = fp4
        stored = {tensor.name: tensor for tensor in opened.proto.graph.initializer}
        self._folder = None if opened.path is None else str(opened.path.parent)
        self._mapped: mmap.mmap | None = None
        self._names: list[str] = []
        self._values: list[Any] = []
        if found:
            self._expand(ort, opened, found, stored)
        self.model = opened.proto.SerializeToString()

    def _expand(self, ort: Any, opened: Model, found: list[list[NodeProto]], stored: dict[str, TensorProto]) -> None:
        shapes: dict[str, tuple[int, ...]] = {}
        kinds = {nodes[-1].output[0]: stored[nodes[-1].input[2]].data_type for nodes in found}
        with tempfile.TemporaryFile() as file:  # the mapping keeps it
            for nodes in found:
                read = {name: stored[name] for node in nodes for name in node.input if name in stored}
                kind = kinds[nodes[-1].output[0]]
                values = computed(ort, opened.proto, nodes, list(map(opened.values.whole, read.values())), kind)
                shapes[nodes[-1].output[0]] = values.shape
                file.write(values.tobytes())
            file.flush()
            self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        ends = accumulate(map(prod, shapes.values()))
        pieces = np.split(np.frombuffer(self._mapped, np.int8), list(ends)[:-1])
        for (name, shape), piece in zip(shapes.items(), pieces, strict=True):
            self._names.append(name)
            self._values.append(_value(ort, piece.reshape(shape), kinds[name]))
        replace_(opened.proto, found, shapes, kinds)

    def give(self, options: Any) -> None:
        """To the options of the session that opens `model`."""
        if self._names:
            options.add_external_initializers(self._names, self._values)
        if self._folder is not None:
            options.add_session_config_entry(FOLDER, self._folder)

    def settle(self) -> None:
        """Once the session is open: it has copied what its kernels want; the rest comes back when it is read."""
        self.model = b""
        if self._mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._mapped.madvise(mmap.MADV_DONTNEED)


def expanded(ort: Any, path: Path) -> Expanded | None:
    """None where a file has no FP4, and too few weights to expand for it to matter."""
    opened = open_onnx(path)
    if fp4 := has_fp4(opened.proto):
        opened = Model(without_fp4(opened.proto), opened.path)
    sizes = {tensor.name: prod(tensor.dims) for tensor in opened.proto.graph.initializer}
    found = list(chains(opened.proto))
    many = sum(sizes[nodes[0].input[0]] for nodes in found) >= MANY
    try:
        return Expanded(ort, opened, found if many else [], fp4) if fp4 or many else None
    except OSError:  # no room for temporary files: as ONNX Runtime does it
        return Expanded(ort, opened, [], fp4) if fp4 else None


def chains(model: ModelProto) -> Iterator[list[NodeProto]]:
    """The nodes that make int8 or FP8 of each INT4 initializer, in order; all else they read is stored as well."""
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    for last in model.graph.node:
        if last.op_type != "QuantizeLinear" or len(last.input) < 3 or stored.get(last.input[2]) not in BYTES:
            continue
        nodes = [last]
        while (before := makers.get(nodes[-1].input[0])) is not None:
            nodes.append(before)
        constant = all(name in stored for node in nodes for name in node.input[1:])
        if constant and stored.get(nodes[-1].input[0]) == TensorProto.INT4:
            yield nodes[::-1]


def _value(ort: Any, codes: NDArray[np.int8], kind: int) -> Any:
    if kind == TensorProto.INT8:
        return ort.OrtValue.ortvalue_from_numpy(codes)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(codes.view(np.uint8), kind)


def computed(
    ort: Any, model: ModelProto, nodes: list[NodeProto], read: list[Any], kind: int = TensorProto.INT8
) -> NDArray[np.int8 | np.uint8]:
    """What a chain makes of the tensors it reads, computed by ONNX Runtime as it stands; FP8 as bytes."""
    output = helper.make_tensor_value_info(nodes[-1].output[0], kind, None)
    graph = helper.make_graph(nodes, "weight", [], [output], initializer=read)
    alone = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    options = session_options(ort, 1)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_cpu_mem_arena = False
    session = ort.InferenceSession(alone.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.array(session.run(None, {})[0])  # a copy: ONNX Runtime's own array keeps its scratch memory


def replace_(
    model: ModelProto,
    found: list[list[NodeProto]],
    shapes: Mapping[str, tuple[int, ...]],
    kinds: Mapping[str, int] | None = None,
) -> None:
    """Let the model read the results of these chains, tensors of these shapes, in their place; int8 by default."""
    graph = model.graph
    reads = Counter(name for node in graph.node for name in node.input)
    reads.update(value.name for value in graph.output)
    gone = {nodes[-1].output[0] for nodes in found}
    for nodes in found:
        for node in nodes[-2::-1]:  # from the result back to what is stored, unless something else reads it
            reads[node.output[0]] -= 1
            if reads[node.output[0]] > 0:
                break
            gone.add(node.output[0])
    _drop(graph.node, [node.output[0] in gone for node in graph.node])
    still = {name for node in graph.node for name in node.input}
    _drop(graph.initializer, [tensor.name not in still for tensor in graph.initializer])
    for name, shape in shapes.items():
        kind = TensorProto.INT8 if kinds is None else kinds[name]
        tensor = graph.initializer.add(name=name, data_type=kind, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", GIVEN), ("offset", 0), ("length", prod(shape))):
            tensor.external_data.add(key=key, value=str(value))


def _drop(items: Any, gone: list[bool]) -> None:
    for index in reversed([index for index, drop in enumerate(gone) if drop]):
        del items[index]
