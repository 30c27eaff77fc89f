"""Two files of one network at two image sizes: what is compared end to end at a small size holds for the large one.

Files hold for one size what depends on it: positions, and the numbers in their Reshapes. All else must be the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnx import NodeProto, TensorProto

from qvggt.onnx_view.file import open_onnx
from qvggt.onnx_view.graph import Model

WEIGHT_READERS = ("MatMul", "Gemm", "Conv", "ConvTranspose", "DequantizeLinear", "QuantizeLinear", "LayerNormalization")


@dataclass(frozen=True)
class Twin:
    """nodes: that are the same but for what they read. weights: stored tensors that are the same, byte by byte. tables:
    names of those that depend on the size. differences: all that should not be, a line each."""

    nodes: int
    weights: int
    tables: tuple[str, ...]
    differences: tuple[str, ...]


def compare_twins(large: Path, small: Path) -> Twin:
    """Of two exports of one network in memory."""
    first, second = open_onnx(large), open_onnx(small)
    nodes = [[_node(node) for node in model.proto.graph.node] for model in (first, second)]
    differences = [f"{name}: is another node at the other size" for (name, *_) in _unlike(*nodes)]
    weights, tables = 0, list[str]()
    stored = {tensor.name: tensor for tensor in second.proto.graph.initializer}
    for tensor in first.proto.graph.initializer:
        other = stored.pop(tensor.name, None)
        if other is None or list(tensor.dims) != list(other.dims):
            tables.append(tensor.name)
        elif tensor.data_type == other.data_type and _bytes(first, tensor) == _bytes(second, other):
            weights += 1
        else:
            differences.append(f"{tensor.name}: has other values at the other size")
    tables += stored
    read = _readers(first, tables) | _readers(second, tables)
    differences += [f"{name}: is a weight of {op} and depends on the size" for name, op in sorted(read.items())]
    return Twin(len(nodes[0]), weights, tuple(tables), tuple(differences))


def _node(node: NodeProto) -> tuple[str, ...]:
    """All of a node but what it reads: its name, operator and attributes."""
    return (node.name, node.domain, node.op_type, *(repr(attribute) for attribute in node.attribute), *node.output)


def _unlike(first: list[tuple[str, ...]], second: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    known, others = set(first), set(second)
    return [node for node in first if node not in others] + [node for node in second if node not in known]


def _bytes(model: Model, tensor: TensorProto) -> bytes | None:
    whole = model.values.whole(tensor)
    return None if whole is None else whole.SerializeToString() if not whole.raw_data else whole.raw_data


def _readers(model: Model, names: list[str]) -> dict[str, str]:
    """Which of these tensors a product, or what comes before one, reads."""
    wanted = set(names)
    return {
        name: node.op_type
        for node in model.proto.graph.node
        for name in node.input
        if name in wanted and node.op_type in WEIGHT_READERS
    }
