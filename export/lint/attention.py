"""Rules on attention whose products read codes: what TensorRT makes one kernel of, and what stores all scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from onnx import TensorProto

from qvggt.export.lint.rule import Place, Severity, rule
from qvggt.formats.attention import LONGEST_INT8, SHORTEST
from qvggt.onnx_view.graph import Model, Node, once
from qvggt.onnx_view.network_facts import attention_products
from qvggt.onnx_view.product import MOVES, Product
from qvggt.onnx_view.quantizer import FP8, INT8, as_quantizer

NAMES = ("queries", "keys", "softmax output", "values")
BETWEEN = (*MOVES, "Cast", "Mul")  # what is between the place where frames are put together and the product


@dataclass(frozen=True)
class Attention:
    """One attention of a model that reads codes somewhere."""

    scores: Product
    softmax: Node
    context: Product

    @property
    def codes(self) -> tuple[int, ...]:
        """Types of what q, k, the softmax output and v are dequantized from, 0 of floats."""
        operands = self.scores.data, self.scores.weight, self.context.data, self.context.weight
        return tuple(operand.codes for operand in operands)

    @property
    def whole(self) -> bool:
        """All four have codes of one type."""
        return len({*self.codes}) == 1

    def shortest(self, model: Model) -> int | None:
        """Tokens of its shortest sequence, None where the file does not tell."""
        scope, name = self.scores.scope, self.scores.data.name
        shape = scope.shape(name)
        if shape is not None and len(shape) > 1 and shape[-2] is not None:
            return shape[-2]
        # of frames put together: what a frame has, times the smallest count of them
        frames = model.metadata.frames
        while frames is not None and (node := scope.producer(name)) is not None:
            before = scope.shape(node.input(0))
            if node.is_op("Reshape") and before is not None and len(before) == 4 and before[0] is None and before[1]:
                return before[1] * frames[0]
            if not node.is_op(*BETWEEN) and as_quantizer(node) is None:
                return None
            name, scope = node.input(0), node.scope
        return None


@once
def attentions(model: Model) -> Iterator[Attention]:
    """Those that read codes."""
    for scores, softmax, context in attention_products(model):
        attention = Attention(scores, softmax, context)
        if any(attention.codes):
            yield attention


def _places(model: Model, wrong: Callable[[Attention], str | None]) -> Iterator[Place]:
    for attention in attentions(model):
        if (detail := wrong(attention)) is not None:
            yield Place(attention.scores.label, attention.scores.op, detail)


@rule("QV901", "attention-in-part", Severity.WARNING)
def in_part(model: Model) -> Iterator[Place]:
    """attention with codes in some of queries, keys, softmax output and values, or of several types: TensorRT makes no
    attention kernel of it, and stores all scores.

    Fix: quantize all four to FP8, or none.
    """

    def wrong(attention: Attention) -> str | None:
        floats = [name for name, codes in zip(NAMES, attention.codes, strict=True) if not codes]
        return None if attention.whole else f"floating point: {', '.join(floats)}" if floats else "several types"

    yield from _places(model, wrong)


@rule("QV902", "attention-codes-in-float32", Severity.WARNING)
def in_float32(model: Model) -> Iterator[Place]:
    """attention on codes in a float32 network: TensorRT makes no attention kernel of it, and stores all scores.

    Fix: dequantize to float16 or bfloat16, or leave attention in floating point.
    """

    def wrong(attention: Attention) -> str | None:
        return "" if attention.scores.scope.dtype(attention.scores.data.name) == TensorProto.FLOAT else None

    yield from _places(model, wrong)


@rule("QV903", "attention-int8", Severity.WARNING)
def int8(model: Model) -> Iterator[Place]:
    """INT8 attention becomes one kernel up to 512 tokens only, and with its output in INT8 too; else all scores are
    stored. Softmax outputs of many keys are lost below its smallest code.

    Fix: use FP8, or leave attention in floating point.
    """

    def wrong(attention: Attention) -> str | None:
        if not attention.whole or attention.codes[0] != INT8:
            return None
        shape = attention.scores.scope.shape(attention.scores.data.name) or (None,)
        tokens = shape[-2] if len(shape) > 1 else None
        if tokens is None or tokens > LONGEST_INT8:
            return f"{'any number of' if tokens is None else tokens} tokens"
        return None if _quantized_next(attention.context.node) else "its output is floating point"

    yield from _places(model, wrong)


@rule("QV904", "attention-short", Severity.WARNING)
def short(model: Model) -> Iterator[Place]:
    """FP8 attention over sequences that may have fewer than 32 tokens: TensorRT makes no attention kernel of it, and
    stores all scores.

    Fix: leave this attention in floating point, or export for larger images or more frames at least.
    """

    def wrong(attention: Attention) -> str | None:
        tokens = attention.shortest(model) if attention.whole and attention.codes[0] == FP8 else None
        return f"{tokens} tokens" if tokens is not None and tokens < SHORTEST else None

    yield from _places(model, wrong)


def _quantized_next(node: Node) -> bool:
    """Whether a QuantizeLinear reads what this node gives, through nodes that only move data."""
    while len(readers := node.scope.consumers(node.outputs[0])) == 1:
        node = readers[0]
        if (quantizer := as_quantizer(node)) is not None:
            return quantizer.quantizes
        if not node.is_op(*MOVES, "Cast"):
            return False
    return False
