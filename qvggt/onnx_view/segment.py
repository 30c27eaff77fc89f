"""A file cut at boundary tensors: every piece a model of its own, and no node in none of them.

Each piece ends in one boundary tensor and begins at others. Where every piece computes from the values a reference has
at its beginning the value the reference has at its end, the whole file computes what the reference computes, whatever
the boundaries are: they say only how finely it is proven.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from onnx import ModelProto, NodeProto, TensorProto, helper

from qvggt.onnx_view.graph import Model, Node, Scope

Dims = Sequence["int | str | None"]

HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
FLOATS = (TensorProto.FLOAT, *HALF)
FOLLOWS = ("Reshape", "Transpose", "Relu")  # a convolution under its name


@dataclass(frozen=True)
class Use:
    """One use of a module: the one float tensor that its nodes read and the one that others read of it, None where
    there are none or several. call: which of the module's calls it is."""

    path: str
    call: int
    input: str | None
    output: str | None
    nodes: tuple[Node, ...] = field(repr=False)


def find_uses(model: Model, paths: Collection[str], deep: bool = True) -> Iterator[Use]:
    """The uses of modules that a file has, by the names of its nodes.

    A module's nodes are those of its path and, if `deep`, of all paths below it, else those that make its weight.
    """
    scope, wanted = model.scopes[0], set(paths)
    groups: dict[tuple[str, int], list[Node]] = defaultdict(list)
    for node in scope.nodes:
        place = model.metadata.module_of(node.label)
        for path in _above(place) if deep else {place, place.removesuffix(".weight")}:
            if path in wanted:
                groups[path, model.metadata.call_of(node.label)].append(node)
    for (path, call), nodes in groups.items():
        yield Use(path, call, *_ends(scope, nodes), tuple(nodes))


def _above(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition(".")[0]


def _ends(scope: Scope, nodes: list[Node]) -> tuple[str | None, str | None]:
    made = {name for node in nodes for name in node.outputs}
    read = {name for node in nodes for name in node.inputs if name and name not in made}
    inputs = [name for name in read if scope.dtype(name) in FLOATS and not scope.is_constant(name)]
    mine = {node.index for node in nodes}
    ends = {name for name in made if any(reader.index not in mine for reader in scope.consumers(name))}
    outputs = [name for name in ends if scope.dtype(name) in FLOATS and not scope.is_constant(name)]
    return (inputs[0] if len(inputs) == 1 else None), (outputs[0] if len(outputs) == 1 else None)


def unfollowed(scope: Scope, name: str) -> str:
    """What a convolution itself makes, of what comes out of its nodes."""
    while (node := scope.producer(name)) is not None and node.is_op(*FOLLOWS):
        name = node.input(0)
    return name


@dataclass(frozen=True)
class Segment:
    """What makes the tensor `target` from the tensors `feeds`."""

    target: str
    feeds: tuple[str, ...]
    nodes: tuple[Node, ...] = field(repr=False)

    @property
    def path(self) -> str:
        """Common module path of the nodes that compute floats."""
        floats = [n for n in self.nodes if any(n.scope.dtype(o) in FLOATS for o in n.outputs)]
        places = [re.split(r"[./]", n.label.rpartition("/")[0]) for n in floats or self.nodes]
        shared = []
        for words in zip(*places, strict=False):
            if len(set(words)) > 1:
                break
            shared.append(words[0])
        return ".".join(shared) or self.target


def cut_segments(model: Model, boundaries: Iterable[str]) -> tuple[Segment, ...]:
    """The segments that end in the boundary tensors and in the outputs of a file, in the order of its nodes."""
    scope = model.scopes[0]
    ends = {value.name for value in model.proto.graph.output}
    inputs = set(scope.inputs)
    stops = {*boundaries, *inputs, *ends}
    targets = [name for node in scope.nodes for name in node.outputs if name in stops]
    return tuple(_segment(scope, target, stops) for target in targets)


def _segment(scope: Scope, target: str, stops: set[str]) -> Segment:
    nodes: dict[int, Node] = {}
    feeds, pending = set[str](), [target]
    while pending:
        node = scope.producer(pending.pop())
        if node is None or node.index in nodes:
            continue
        nodes[node.index] = node
        for name in filter(None, node.inputs):
            if name in stops and name != target:
                feeds.add(name)
            else:
                pending.append(name)
    return Segment(target, tuple(sorted(feeds)), tuple(nodes[i] for i in sorted(nodes)))


def uncovered(model: Model, covered: Iterable[Node]) -> tuple[str, ...]:
    """Names of the nodes of a file that are not among these; nodes of branches and loop bodies are in none."""
    seen = {id(node) for node in covered}
    return tuple(node.label for node in model.nodes if id(node) not in seen)


def segment_model(model: Model, nodes: Iterable[Node], feeds: Mapping[str, Dims], target: str) -> ModelProto:
    """Nodes as a model of its own, with the initializers they read. Its inputs `feeds` are fp32 of these dimensions,
    and so is its output: a half type is cast at both ends."""
    scope = model.scopes[0]
    protos = [node.proto for node in nodes]
    read = {name for node in protos for name in node.input} - set(feeds)
    weights = [model.values.whole(scope.initializers[name]) for name in sorted(read & scope.initializers.keys())]
    halves = {name: f"{name}/half" for name in (*feeds, target) if scope.dtype(name) in HALF}
    if halves:
        protos = [_renamed(node, halves) for node in protos]
    casts = [helper.make_node("Cast", [n], [h], name=h, to=scope.dtype(n)) for n, h in halves.items() if n != target]
    if target in halves:
        end = f"{target}/fp32"
        protos.append(helper.make_node("Cast", [halves[target]], [target], name=end, to=TensorProto.FLOAT))
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(dims)) for name, dims in feeds.items()]
    output = helper.make_tensor_value_info(target, TensorProto.FLOAT, None)
    stored = [tensor for tensor in weights if tensor is not None]
    graph = helper.make_graph([*casts, *protos], "segment", inputs, [output], stored)
    return helper.make_model(graph, opset_imports=list(model.proto.opset_import), ir_version=model.proto.ir_version)


def _renamed(node: NodeProto, names: Mapping[str, str]) -> NodeProto:
    """A copy that reads and makes tensors of other names."""
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [names.get(name, name) for name in node.input]
    copy.output[:] = [names.get(name, name) for name in node.output]
    return copy
