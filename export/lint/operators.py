"""Rules on operators: those TensorRT has no importer for, and forms of others it refuses.

Found by handing the node tests of onnx 1.23 and small graphs to the parser and builder of TensorRT-RTX 1.7.1
(docs/tensorrt.md says how). TensorRT itself has plugins for a few of them, such as NonZero and RoiAlign.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import onnx
from onnx import TensorProto

from qvggt.export.lint.rule import Severity, nodes, rule
from qvggt.onnx_view.graph import Node
from qvggt.onnx_view.quantizer import FLOATS, TRT_DOMAINS, as_quantizer

_UNSUPPORTED = """
AffineGrid Bernoulli BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor CausalConvWithState CenterCropPad
Col2Im Compress ConcatFromSequence ConvInteger CumProd DFT DeformConv Det DynamicQuantizeLinear ImageDecoder
LinearAttention MatMulInteger MaxUnpool MelWeightMatrix NegativeLogLikelihoodLoss NonMaxSuppression NonZero Optional
OptionalGetElement OptionalHasElement QLinearConv QLinearMatMul RegexFullMatch RoiAlign SequenceAt SequenceConstruct
SequenceEmpty SequenceErase SequenceInsert SequenceLength SequenceMap SoftmaxCrossEntropyLoss SplitToSequence
StringConcat StringNormalizer StringSplit SwiGLU TfIdfVectorizer Unique
"""
UNSUPPORTED = frozenset(_UNSUPPORTED.split())
NATIVE = frozenset({"DeformConv", "NonMaxSuppression", "NonZero", "RoiAlign"})  # TensorRT itself imports them
REPLACEMENT = {
    "DynamicQuantizeLinear": "use QuantizeLinear with a constant scale",
    "MatMulInteger": "use DequantizeLinear and MatMul",
    "ConvInteger": "use DequantizeLinear and Conv",
    "QLinearMatMul": "use DequantizeLinear, MatMul and QuantizeLinear",
    "QLinearConv": "use DequantizeLinear, Conv and QuantizeLinear",
}
# com.microsoft operators that mean the same as the standard ones and build; Q and DQ as well
KNOWN_CONTRIB = frozenset({"Gelu", "RotaryEmbedding"})
ABSENT_PLUGINS = frozenset({"TRT_INT8QuantizeLinear", "TRT_INT8DequantizeLinear"})
KNOWN_STANDARD = frozenset({"SimplifiedLayerNormalization"})  # ONNX Runtime writes it without a domain
_REDUCTIONS = "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare"
REDUCTIONS = frozenset(f"Reduce{name}" for name in _REDUCTIONS.split())
CROP = "tf_crop_and_resize"


@rule("QV601", "operator", Severity.ERROR, nodes, spared=NATIVE)
def operator(node: Node) -> Iterator[str]:
    """TensorRT-RTX has no importer for this operator.

    Fix: compute it outside of the model, fold it into constants, or write it with other operators.
    """
    if node.domain == "" and node.op in UNSUPPORTED:
        yield REPLACEMENT.get(node.op, "")


@rule("QV602", "foreign-domain", Severity.ERROR, nodes)
def foreign_domain(node: Node) -> Iterator[str]:
    """an operator outside of ai.onnx: TensorRT wants a plugin of that name, or takes it for the standard operator of
    that name.

    Fix: write it with ai.onnx operators (no ONNX Runtime optimisation above the basic level), or load the plugin.
    """
    if as_quantizer(node) is not None:
        return
    if node.domain == "":
        plugin = node.op.endswith("_TRT") or node.op.startswith("TRT_")
        if not plugin and node.op not in KNOWN_STANDARD and not onnx.defs.has(node.op):
            yield "no operator of ONNX"
    elif node.domain in TRT_DOMAINS:
        if node.op in ABSENT_PLUGINS:
            yield "TensorRT-RTX has no such plugin"
    elif not (node.domain == "com.microsoft" and node.op in KNOWN_CONTRIB):
        yield node.domain


@rule("QV603", "resize-antialias", Severity.ERROR, nodes)
def resize_antialias(node: Node) -> Iterator[str]:
    """Resize with antialiasing, which TensorRT refuses.

    Fix: resize constants (position embeddings) before the export, inputs outside of the model.
    """
    if node.is_op("Resize") and node.integer("antialias"):
        yield ""


@rule("QV604", "attention-float32", Severity.ERROR, nodes)
def attention_float32(node: Node) -> Iterator[str]:
    """the Attention operator in float32: TensorRT has no kernel and does not build.

    Fix: export at opset 21, where attention is written as MatMul and Softmax, or in float16 or bfloat16.
    """
    if node.is_op("Attention") and node.scope.dtype(node.input(0)) == TensorProto.FLOAT:
        yield ""


@rule("QV605", "gemm-rank", Severity.ERROR, nodes)
def gemm_rank(node: Node) -> Iterator[str]:
    """Gemm of operands that are not matrices: TensorRT refuses the model.

    Fix: use MatMul and Add.
    """
    if node.is_op("Gemm"):
        ranks = [node.scope.rank(name) for name in node.inputs[:2]]
        if any(rank not in (2, None) for rank in ranks):
            yield f"ranks {ranks[0]} and {ranks[1]}"


def _policy(node: Node) -> str:
    """What TensorRT does not know of a Resize."""
    if node.text("coordinate_transformation_mode") == CROP:
        return f"coordinates {CROP}"
    policy = _unusual(node, "keep_aspect_ratio_policy", "stretch")
    return policy and f"aspect ratio policy {policy}"


def _unusual(node: Node, name: str, usual: str) -> str:
    text = node.text(name, usual)
    return "" if text == usual else text


def _computed_axes(node: Node) -> bool:
    return node.input(1) != "" and not node.scope.is_constant(node.input(1))


# (operators, what is refused of them, what fills its braces: nothing, or false, where the form is fine)
LIMITS: tuple[tuple[str, str, Callable[[Node], Any]], ...] = (
    ("AveragePool MaxPool", "dilations {}", lambda node: d if set(d := node.integers("dilations")) - {1} else None),
    ("Attention LayerNormalization MaxPool", "more than one output", lambda node: sum(map(bool, node.outputs)) > 1),
    ("BatchNormalization", "training mode", lambda node: node.integer("training_mode")),
    ("Mod", "floats with fmod 0", lambda node: not node.integer("fmod") and node.scope.dtype(node.input(0)) in FLOATS),
    ("Resize", "{}", _policy),
    ("ScatterElements ScatterND", "reduction {}", lambda node: _unusual(node, "reduction", "none")),
    (f"Squeeze Unsqueeze {' '.join(REDUCTIONS)}", "axes computed when the model runs", _computed_axes),
)


@rule("QV606", "operator-form", Severity.ERROR, nodes)
def operator_form(node: Node) -> Iterator[str]:
    """a form of this operator that TensorRT refuses.

    Fix: write it another way.
    """
    for operators, words, refused in LIMITS if node.domain == "" else ():
        if node.op in operators.split() and (what := refused(node)):
            yield words.format(what)
