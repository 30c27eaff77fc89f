"""One linear of an exported file as a model of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnx import ModelProto, TensorProto, helper

from qvggt.errors import QvggtError
from qvggt.onnx_view.graph import Model
from qvggt.onnx_view.product import products

HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)

Dims = Sequence[int | str | None]


@dataclass(frozen=True)
class Cut:
    """A linear [1, rows, K] -> [1, rows, N]; rank 3 as in the network, so the same kernels run.

    Both ends are fp32; `type` is the element type of the input in the network, to which it is cast first.
    """

    model: ModelProto
    input: str
    type: int


def expected_in(model: Model, path: str) -> bool:
    """Whether the quantized linear at a path must be in the file: not where the file lists others and has no product
    of that name either, since an export may leave out heads."""
    listed = model.metadata.linears
    if listed is None or path in listed:
        return True
    return any(model.metadata.module_of(product.label) == path for product in products(model))


def cut_linear(model: Model, path: str, dims: Dims = (1, "rows", None)) -> Cut:
    """The nodes of the quantized linear at a module path, with their initializers; QvggtError if the file has none.

    A linear that is used several times (the unrolled camera iterations) is taken at its first use. A convolution is
    found likewise; `dims` are then those of its maps.
    """
    mine = [p for p in products(model) if p.weight.container and model.metadata.module_of(p.label) == path]
    if not mine:
        raise QvggtError(f"{model.path}: no nodes of {path}: expected the linear the scheme names; export again")
    prefixes = (mine[0].label.rpartition("/")[0] + "/", f"{path}.weight/")
    scope = mine[0].node.scope
    nodes = [node.proto for node in scope.nodes if node.label.startswith(prefixes)]
    made = {name for node in nodes for name in node.output}
    read = {name for node in nodes for name in node.input}
    stored = sorted(name for name in read - made if name in scope.initializers)
    inputs = sorted(read - made - {"", *stored})
    outputs = [name for node in nodes for name in node.output if name not in read]
    if len(inputs) != 1 or len(outputs) != 1:
        raise QvggtError(f"{model.path}: {path} has inputs {inputs} and outputs {outputs}, expected one of each")
    weights = [tensor for name in stored if (tensor := model.values.whole(scope.initializers[name])) is not None]
    start, end, type = inputs[0], outputs[0], scope.dtype(inputs[0])
    if type in HALF:
        start = f"{inputs[0]}/fp32"
        nodes.insert(0, helper.make_node("Cast", [start], inputs, name=inputs[0], to=type))
    if scope.dtype(outputs[0]) in HALF:
        end = f"{outputs[0]}/fp32"
        nodes.append(helper.make_node("Cast", outputs, [end], name=end, to=TensorProto.FLOAT))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, list(dims)) for name in (start, end))
    graph = helper.make_graph(nodes, path, [x], [y], weights)
    cut = helper.make_model(graph, opset_imports=list(model.proto.opset_import), ir_version=model.proto.ir_version)
    return Cut(cut, start, type)
