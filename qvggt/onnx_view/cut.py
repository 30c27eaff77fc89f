"""One linear of an exported file as a model of its own."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import ModelProto

from qvggt.errors import QvggtError
from qvggt.onnx_view.graph import Model
from qvggt.onnx_view.product import Product, products
from qvggt.onnx_view.segment import Dims, segment_model


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


def calls_in(model: Model, path: str) -> set[int]:
    """Which calls of the quantized linear at a module path are in the file."""
    return {model.metadata.call_of(product.label) for product in _products(model, path)}


def _products(model: Model, path: str) -> list[Product]:
    return [p for p in products(model) if p.weight.container and model.metadata.module_of(p.label) == path]


def cut_linear(model: Model, path: str, dims: Dims = (1, "rows", None), call: int | None = None) -> Cut:
    """The nodes of the quantized linear at a module path, with their initializers; QvggtError if the file has none.

    call: which of its calls, where it is used several times (the unrolled camera iterations), by default the first in
    the file. A convolution is found likewise; `dims` are then those of its maps.
    """
    mine = [p for p in _products(model, path) if call in (None, model.metadata.call_of(p.label))]
    if not mine:
        raise QvggtError(f"{model.path}: no nodes of {path}: expected the linear the scheme names; export again")
    prefixes = (mine[0].label.rpartition("/")[0] + "/", f"{path}.weight/")
    scope = mine[0].node.scope
    nodes = [node for node in scope.nodes if node.label.startswith(prefixes)]
    made = {name for node in nodes for name in node.outputs}
    read = {name for node in nodes for name in node.inputs}
    inputs = sorted(read - made - {"", *scope.initializers})
    outputs = [name for node in nodes for name in node.outputs if name not in read]
    if len(inputs) != 1 or len(outputs) != 1:
        raise QvggtError(f"{model.path}: {path} has inputs {inputs} and outputs {outputs}, expected one of each")
    return Cut(segment_model(model, nodes, {inputs[0]: dims}, outputs[0]), inputs[0], scope.dtype(inputs[0]))
