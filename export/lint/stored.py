"""Rules on how weights are stored: odd sizes, packed bytes, and files outside of the model."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from qvggt.errors import QvggtError
from qvggt.export.lint.rule import ALL, Place, Severity, rule
from qvggt.onnx_view.external_data import described
from qvggt.onnx_view.graph import Model
from qvggt.onnx_view.graph_format import graph_format
from qvggt.onnx_view.product import Product, products
from qvggt.onnx_view.quantizer import FP4, FP8, INT4, INT8, Quantizer, quantizers


@rule("QV501", "odd-size", Severity.WARNING, products)
def odd_size(product: Product) -> Iterator[str]:
    """a weight with an odd number of rows or columns: TensorRT pads it at every run and loses the fused kernel.

    Fix: pad the weight to an even size when exporting.
    """
    dq = product.weight.dq
    if dq is None or not product.is_gemm or not product.weight.constant:
        return
    shape = product.scope.shape(product.weight.name) or ()
    loses = dq.codes in (INT4, FP4) or (product.weight_only and dq.codes in (INT8, FP8) and not dq.per_tensor)
    if loses and any(dim is not None and dim % 2 for dim in shape[-2:]):
        yield "x".join(str(dim) for dim in shape[-2:])


@rule("QV502", "stored-bytes", Severity.ERROR, targets=ALL)
def stored_bytes(model: Model) -> Iterator[Place]:
    """the stored bytes do not fit the shape (4 bits: two codes a byte, low first, an odd count is padded).

    Fix: pack it again.
    """
    for tensor in model.proto.graph.initializer:
        need = described(tensor).nbytes
        if tensor.HasField("raw_data") and need is not None and len(tensor.raw_data) != need:
            yield Place(tensor.name, "initializer", f"{len(tensor.raw_data)} bytes, expected {need}")


@rule("QV503", "external-data", Severity.ERROR, targets=ALL)
def external_data(model: Model) -> Iterator[Place]:
    """external data that may not be read.

    Fix: do not run the file before this is mended.
    """
    for name, error in model.values.faults:
        yield Place(name, "initializer", str(error).removeprefix(f"{model.path}: tensor {name}: "))


@rule("QV504", "odd-count", Severity.ERROR, quantizers, documented=True)
def odd_count(quantizer: Quantizer) -> Iterator[str]:
    """an odd number of INT4 codes: TensorRT packs two in a byte and refuses the model.

    Fix: pad the tensor to an even number of elements, or store int8 codes.
    """
    shape = quantizer.scope.shape(quantizer.source)
    if quantizer.codes == INT4 and shape is not None and None not in shape and prod(d or 0 for d in shape) % 2:
        yield "x".join(map(str, shape)) or "one code"


@rule("QV505", "metadata", Severity.WARNING, targets=ALL)
def metadata(model: Model) -> Iterator[Place]:
    """the metadata of qvggt export says another format than the graph has, as after a tool that copied it: reports
    show what the graph has.

    Fix: remove the qvggt.* entries, or quantize with qvggt.
    """
    try:
        wrong = graph_format(model).wrong
    except QvggtError as error:  # damaged: runners refuse it
        wrong = str(error)
    if wrong:
        yield Place("metadata", "qvggt.*", wrong)
