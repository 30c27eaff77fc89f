"""Rules on what ONNX Runtime cannot open or changes, for the target cpu."""

from __future__ import annotations

from collections.abc import Iterator

from qvggt.export.lint.rule import CPU, Place, Severity, rule
from qvggt.onnx_view.graph import Model, Node
from qvggt.onnx_view.quantizer import FP8, INT4, INT8, Quantizer, as_quantizer, quantizers

PROPAGATED = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice")
SIGNED = (FP8, INT4)  # of those the optimizer knows INT8 for what it is
FIRST_OPSET = 21  # in which a QuantizeLinear has an output_dtype


@rule("QV701", "onnx-runtime-propagation", Severity.ERROR, targets=CPU)
def propagation(model: Model) -> Iterator[Place]:
    """an operator that only moves data behind a DequantizeLinear with an int8 zero point: ONNX Runtime 1.32 adds a Q
    and DQ beyond it, mistakes the type of their zero point and refuses its own graph. qvggt opens the file
    without that optimizer (QDQPropagationTransformer), other programs have to be told.

    Fix: quantize behind that operator, leave the zero point out, or disable the optimizer.
    """
    opsets = [entry.version for entry in model.proto.opset_import if entry.domain in ("", "ai.onnx")]
    if not opsets or opsets[0] < FIRST_OPSET:
        return
    for dq in quantizers(model):
        if dq.quantizes or not dq.zero_point or dq.codes != INT8 or dq.scope.is_constant(dq.source):
            continue
        readers = _readers(dq.node)
        moves = [node for node, _ in readers if node.is_op(*PROPAGATED)] if len(readers) == 1 else []
        while moves:
            readers = _readers(move := moves.pop())
            if len(readers) < 2 and not _requantized(move):
                yield Place(dq.label, dq.op, f"beyond {move.op} {move.label}")
                break
            moves += [node for node, _ in readers if node.is_op(*PROPAGATED)]


@rule("QV702", "onnx-runtime-relu", Severity.ERROR, quantizers, targets=CPU)
def dropped_relu(quantizer: Quantizer) -> Iterator[str]:
    """a ReLU right in front of a QuantizeLinear to FP8 or INT4 with a zero point: ONNX Runtime 1.32 takes a zero point
    of 0 for the least code, as of UINT8, and drops the ReLU (ReluQuantRewrite).

    Fix: leave the zero point out, or put a Max with the least value of the codes between the two.
    """
    if not quantizer.quantizes or not quantizer.zero_point or quantizer.codes not in SIGNED or not quantizer.per_tensor:
        return
    relu = quantizer.scope.producer(quantizer.source)
    while relu is not None and relu.is_op("Identity"):
        relu = relu.scope.producer(relu.input(0))
    if relu is not None and relu.is_op("Relu") and len(_readers(relu)) == 1:
        yield f"{quantizer.describe()}, behind {relu.label}"


def _requantized(move: Node) -> bool:
    """Whether a Q follows, with only such operators before it and no other reader on the way."""
    while len(readers := _readers(move)) == 1:
        move = readers[0][0]
        if not move.is_op(*PROPAGATED):
            quantizer = as_quantizer(move)
            return quantizer is not None and quantizer.quantizes
    return False


def _readers(node: Node) -> list[tuple[Node, int]]:
    """Who reads a node's first output, with the index of the input, as if there were no Identity."""
    found = []
    for reader in node.scope.consumers(node.outputs[0]):
        if reader.is_op("Identity"):
            found += _readers(reader)
        else:
            found += [(reader, index) for index, name in enumerate(reader.inputs) if name == node.outputs[0]]
    return found
