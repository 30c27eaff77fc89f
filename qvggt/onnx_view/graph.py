"""A read-only view of an ONNX model: who makes a tensor, who reads it, its type, shape and value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from qvggt.errors import QvggtError
from qvggt.onnx_view.inference import inferred, outline
from qvggt.onnx_view.metadata import Metadata
from qvggt.onnx_view.values import Values

_VARYING = "RandomNormal RandomNormalLike RandomUniform RandomUniformLike Multinomial Bernoulli"
VARYING = frozenset(_VARYING.split())
NUMBERS = {"value_float": "f", "value_floats": "floats", "value_int": "i", "value_ints": "ints"}

Shape = tuple["int | None", ...]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Node:
    """A node and the scope its tensor names belong to."""

    proto: NodeProto
    scope: Scope
    index: int

    @property
    def op(self) -> str:
        return self.proto.op_type

    @property
    def domain(self) -> str:
        return "" if self.proto.domain == "ai.onnx" else self.proto.domain

    @property
    def label(self) -> str:
        """The node's name, or its first output where the file gives it none."""
        return self.proto.name or (self.proto.output[0] if self.proto.output else f"{self.op}#{self.index}")

    @property
    def inputs(self) -> Sequence[str]:
        return self.proto.input

    @property
    def outputs(self) -> Sequence[str]:
        return self.proto.output

    def input(self, index: int) -> str:
        """Name of an input, "" when it is left out."""
        return self.proto.input[index] if index < len(self.proto.input) else ""

    def is_op(self, *names: str) -> bool:
        return self.domain == "" and self.op in names

    def _attribute(self, name: str, kind: int, default: Any) -> Any:
        """The default as well for one of another type, as damaged files have it."""
        values = (onnx.helper.get_attribute_value(a) for a in self.proto.attribute if (a.name, a.type) == (name, kind))
        return next(values, default)

    def integer(self, name: str, default: int = 0) -> int:
        return int(self._attribute(name, AttributeProto.INT, default))

    def real(self, name: str, default: float) -> float:
        return float(self._attribute(name, AttributeProto.FLOAT, default))

    def integers(self, name: str) -> list[int]:
        """Empty where there are none."""
        return list(self._attribute(name, AttributeProto.INTS, ()))

    def text(self, name: str, default: str = "") -> str:
        return str(self._attribute(name, AttributeProto.STRING, default.encode()).decode(errors="replace"))


@dataclass(frozen=True)
class OfNode:
    """Something that one node stands for."""

    node: Node

    @property
    def label(self) -> str:
        return self.node.label

    @property
    def op(self) -> str:
        return self.node.op

    @property
    def scope(self) -> Scope:
        return self.node.scope


class Scope:
    """The names of one graph: of the model, or of a branch or loop body, which also sees those around it."""

    def __init__(self, graph: GraphProto, values: Values, outer: Scope | None = None) -> None:
        self.outer, self.values = outer, values
        self.nodes = [Node(proto, self, index) for index, proto in enumerate(graph.node)]
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs = [value.name for value in graph.input if value.name not in self.initializers]
        self._producers = {name: node for node in self.nodes for name in node.outputs if name}
        self._infos = {info.name: info for info in (*graph.value_info, *graph.input, *graph.output)}
        self._constant: dict[str, bool] = {}
        self._readers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                if (owner := self._owner(name)) is not None:
                    owner._readers.setdefault(name, []).append(node)

    def _owner(self, name: str) -> Scope | None:
        if name in self._producers or name in self.initializers or name in self.inputs:
            return self
        return None if self.outer is None else self.outer._owner(name)

    def producer(self, name: str) -> Node | None:
        owner = self._owner(name)
        return None if owner is None else owner._producers.get(name)

    def consumers(self, name: str) -> list[Node]:
        """Nodes that read a tensor, in its own graph and in the graphs inside of it."""
        owner = self._owner(name)
        return [] if owner is None else owner._readers.get(name, [])

    def constant(self, name: str) -> TensorProto | None:
        """The tensor behind an initializer or a Constant node, also through Identity; None for anything else."""
        while (owner := self._owner(name)) is not None:
            if name in owner.initializers:
                return owner.initializers[name]
            node = owner._producers.get(name)
            if node is None or not node.is_op("Identity"):
                return _constant_node(node) if node is not None and node.is_op("Constant") else None
            name = node.input(0)
        return None

    def is_constant(self, name: str) -> bool:
        """Whether a tensor depends on no input of the graph (it may still have to be computed)."""
        stack, seen = [name], set()
        while stack:
            current = stack[-1]
            owner = self._owner(current)
            node = None if owner is None else owner._producers.get(current)
            if current in self._constant:
                stack.pop()
            elif node is None:
                self._constant[current] = owner is not None and current in owner.initializers
            elif node.op in VARYING or any(a.HasField("g") or a.graphs for a in node.proto.attribute):
                self._constant[current] = False
            else:
                seen.add(current)  # a cycle in a broken file ends here
                read = [i for i in node.inputs if i]
                if missing := [i for i in read if i not in self._constant and i not in seen]:
                    stack += missing
                else:
                    self._constant[current] = all(self._constant.get(i, False) for i in read)
        return self._constant[name]

    def value(self, name: str) -> NDArray[Any] | None:
        """The value of a stored constant; None when there is none or its bytes cannot be had."""
        tensor = self.constant(name)
        return None if tensor is None else self.values.array(tensor)

    def _stated(self, name: str) -> tuple[ValueInfoProto | None, TensorProto | None]:
        """What the graph says of a tensor, and the constant behind it: an initializer itself is never described."""
        owner = self._owner(name)
        if owner is None:
            return None, None
        return None if name in owner.initializers else owner._infos.get(name), owner.constant(name)

    def dtype(self, name: str) -> int:
        """TensorProto.DataType, 0 when unknown."""
        info, tensor = self._stated(name)
        if info is not None and info.type.HasField("tensor_type"):
            return info.type.tensor_type.elem_type
        return 0 if tensor is None else tensor.data_type

    def shape(self, name: str) -> Shape | None:
        """Dimensions, None for a symbolic one; None when the rank is unknown."""
        info, tensor = self._stated(name)
        if info is not None and info.type.tensor_type.HasField("shape"):
            return dims(info)
        return None if tensor is None else tuple(tensor.dims)

    def rank(self, name: str) -> int | None:
        shape = self.shape(name)
        return None if shape is None else len(shape)


@dataclass(frozen=True)
class Model:
    """A model without its weights: `path` is where it lies, None for one that is only in memory.

    What a file says is looked at when it is asked for: opening one costs no more than parsing it.
    """

    proto: ModelProto
    path: Path | None = None
    _memo: dict[str, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def values(self) -> Values:
        return Values(self.proto, self.path)

    @cached_property
    def metadata(self) -> Metadata:
        return Metadata.of(self.proto, self.path)

    @property
    def data(self) -> tuple[Path, ...]:
        """The external data files it uses, as real paths in name order."""
        return tuple(sorted({span.file for span in self.values.spans}))

    @property
    def inputs(self) -> list[ValueInfoProto]:
        """What a caller has to give: the inputs that have no value of their own."""
        stored = {tensor.name for tensor in self.proto.graph.initializer}
        return [value for value in self.proto.graph.input if value.name not in stored]

    @cached_property
    def scopes(self) -> tuple[Scope, ...]:
        """The main graph, then those inside of it, with inferred types and shapes; local functions are expanded."""
        _check_names(self.proto.graph, self.path)
        scopes: list[Scope] = []
        pending: list[tuple[GraphProto, Scope | None]] = [(inferred(outline(self.proto)).graph, None)]
        while pending:
            graph, outer = pending.pop()
            _check_names(graph, self.path)
            scope = Scope(graph, self.values, outer)
            scopes.append(scope)
            for node in graph.node:
                for attribute in node.attribute:
                    inner = ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs)
                    pending += [(g, scope) for g in inner]
        return tuple(scopes)

    @property
    def nodes(self) -> Iterator[Node]:
        for scope in self.scopes:
            yield from scope.nodes


def once(find: Callable[[Model], Iterable[T]]) -> Callable[[Model], tuple[T, ...]]:
    """A search of a whole model that is done once, for all who ask."""

    def found(model: Model) -> tuple[T, ...]:
        if find.__name__ not in model._memo:
            model._memo[find.__name__] = tuple(find(model))
        result: tuple[T, ...] = model._memo[find.__name__]
        return result

    return found


def dims(value: ValueInfoProto) -> Shape:
    """Dimensions of a graph input or output, None where symbolic; none at all where the rank is unknown."""
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim)


def tensor_types(proto: ModelProto) -> dict[str, int]:
    """Element type of every tensor of the main graph, where it is known."""
    scope = Model(proto).scopes[0]
    names = [*scope.initializers, *scope.inputs, *(name for node in scope.nodes for name in node.outputs)]
    return {name: kind for name in names if (kind := scope.dtype(name))}


def _check_names(graph: GraphProto, path: Path | None) -> None:
    """protobuf hands out names that are no UTF-8 as bytes; only damaged files have them."""
    names: list[str | bytes] = [info.name for info in (*graph.value_info, *graph.input, *graph.output)]
    names += [tensor.name for tensor in graph.initializer]
    for node in graph.node:
        names += [node.name, node.op_type, node.domain, *node.input, *node.output]
        names += [attribute.name for attribute in node.attribute]
    if any(isinstance(name, bytes) for name in names):
        raise QvggtError(f"{path or 'model'}: corrupt ONNX (a name is no UTF-8); get it again, or export again")


def _constant_node(node: Node) -> TensorProto | None:
    for attribute in node.proto.attribute:
        if attribute.name == "value":
            return attribute.t
        if (value := getattr(attribute, NUMBERS.get(attribute.name, ""), None)) is not None:
            dtype = np.float32 if "float" in attribute.name else np.int64
            return onnx.numpy_helper.from_array(np.array(value, dtype))
    return None
