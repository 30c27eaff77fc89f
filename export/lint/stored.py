"""Rules on how weights are stored: odd sizes, packed bytes, and files outside of the model."""

from __future__ import annotations

from collections.abc import Iterator

from qvggt.export.lint.finding import Severity
from qvggt.export.lint.rule import ALL, Place, rule
from qvggt.onnx_view.external_data import described
from qvggt.onnx_view.graph import Model
from qvggt.onnx_view.product import products
from qvggt.onnx_view.quantizer import FP8, INT4, INT8


@rule(
    "QV501",
    "odd-size",
    Severity.WARNING,
    reason="a weight with an odd number of rows or columns: TensorRT pads it at every run and loses the fused kernel",
    fix="pad the weight to an even size when exporting",
)
def odd_size(model: Model) -> Iterator[Place]:
    for product in products(model):
        dq = product.weight.dq
        if dq is None or not product.is_gemm or not product.weight.constant:
            continue
        shape = product.node.scope.shape(product.weight.name)
        loses = dq.codes == INT4 or (product.weight_only and dq.codes in (INT8, FP8))
        if loses and shape is not None and any(dim is not None and dim % 2 for dim in shape[-2:]):
            yield Place(product.node.label, product.node.op, "x".join(str(dim) for dim in shape[-2:]))


@rule(
    "QV502",
    "stored-bytes",
    Severity.ERROR,
    reason="the stored bytes do not fit the shape (4 bits: two codes a byte, low first, an odd count is padded)",
    fix="pack it again",
    targets=ALL,
)
def stored_bytes(model: Model) -> Iterator[Place]:
    for tensor in model.proto.graph.initializer:
        need = described(tensor).nbytes
        if tensor.HasField("raw_data") and need is not None and len(tensor.raw_data) != need:
            yield Place(tensor.name, "initializer", f"{len(tensor.raw_data)} bytes, expected {need}")


@rule(
    "QV503",
    "external-data",
    Severity.ERROR,
    reason="external data that may not be read",
    fix="do not run the file before this is mended",
    targets=ALL,
)
def external_data(model: Model) -> Iterator[Place]:
    for tensor, error in model.values.faults:
        text = str(error)
        prefix = f"{model.path}: tensor {tensor.name}: "
        yield Place(tensor.name, "initializer", text.removeprefix(prefix))
