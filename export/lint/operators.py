"""Rules on operators: those TensorRT has no importer for, and forms of others it refuses.

Found by handing the node tests of onnx 1.23 and small graphs to the parser and builder of TensorRT-RTX 1.7.1
(docs/tensorrt.md says how). TensorRT itself has plugins for a few of them, such as NonZero and RoiAlign.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx
from onnx import TensorProto

from qvggt.export.lint.rule import Severity, nodes, rule
from qvggt.onnx_view.graph import Node
from qvggt.onnx_view.quantizer import FLOATS

_UNSUPPORTED = """
AffineGrid Bernoulli BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor CausalConvWithState CenterCropPad
Col2Im Compress ConcatFromSequence ConvInteger CumProd DFT DeformConv Det DynamicQuantizeLinear ImageDecoder
LinearAttention MatMulInteger MaxUnpool MelWeightMatrix NegativeLogLikelihoodLoss NonMaxSuppression NonZero Optional
OptionalGetElement OptionalHasElement QLinearConv QLinearMatMul RegexFullMatch RoiAlign SequenceAt SequenceConstruct
SequenceEmpty SequenceErase SequenceInsert SequenceLength SequenceMap SoftmaxCrossEntropyLoss SplitToSequence
StringConcat StringNormalizer StringSplit SwiGLU TfIdfVectorizer Unique
"""
UNSUPPORTED = frozenset(_UNSUPPORTED.split())
REPLACEMENT = {
    "DynamicQuantizeLinear": "use QuantizeLinear with a constant scale",
    "MatMulInteger": "use DequantizeLinear and MatMul",
    "ConvInteger": "use DequantizeLinear and Conv",
    "QLinearMatMul": "use DequantizeLinear, MatMul and QuantizeLinear",
    "QLinearConv": "use DequantizeLinear, Conv and QuantizeLinear",
}
# com.microsoft operators that mean the same as the standard ones and build; QuantizeLinear and so on as well
KNOWN_CONTRIB = frozenset({"Gelu", "QuantizeLinear", "DequantizeLinear", "RotaryEmbedding"})
KNOWN_STANDARD = frozenset({"SimplifiedLayerNormalization"})  # ONNX Runtime writes it without a domain
PLUGIN_DOMAINS = frozenset({"trt", "trt.plugins", "TRT"})
_REDUCTIONS = "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare"
REDUCTIONS = frozenset(f"Reduce{name}" for name in _REDUCTIONS.split())


@rule("QV601", "operator", Severity.ERROR, nodes)
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
    if node.domain == "":
        plugin = node.op.endswith("_TRT") or node.op.startswith("TRT_")
        if not plugin and node.op not in KNOWN_STANDARD and not onnx.defs.has(node.op):
            yield "no operator of ONNX"
    elif node.domain not in PLUGIN_DOMAINS and not (node.domain == "com.microsoft" and node.op in KNOWN_CONTRIB):
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


def _dilated(node: Node) -> str | None:
    dilations = node.integers("dilations")
    return f"dilations {dilations}" if any(d != 1 for d in dilations) else None


def _training(node: Node) -> str | None:
    return "training mode" if node.integer("training_mode") else None


def _more_outputs(node: Node) -> str | None:
    return "more than one output" if len([name for name in node.outputs if name]) > 1 else None


def _reduction(node: Node) -> str | None:
    kind = node.text("reduction", "none")
    return f"reduction {kind}" if kind != "none" else None


def _computed_axes(node: Node) -> str | None:
    axes = node.input(1)
    return "axes computed when the model runs" if axes and not node.scope.is_constant(axes) else None


def _resize(node: Node) -> str | None:
    policy = node.text("keep_aspect_ratio_policy", "stretch")
    coordinates = node.text("coordinate_transformation_mode", "half_pixel")
    if coordinates == "tf_crop_and_resize":
        return f"coordinates {coordinates}"
    return f"aspect ratio policy {policy}" if policy != "stretch" else None


def _float_modulo(node: Node) -> str | None:
    whole = not node.integer("fmod")
    return "floats with fmod 0" if whole and node.scope.dtype(node.input(0)) in FLOATS else None


LIMITS: dict[str, tuple[Callable[[Node], str | None], ...]] = {
    "Attention": (_more_outputs,),
    "AveragePool": (_dilated,),
    "BatchNormalization": (_training,),
    "LayerNormalization": (_more_outputs,),
    "MaxPool": (_dilated, _more_outputs),
    "Mod": (_float_modulo,),
    "Resize": (_resize,),
    "ScatterElements": (_reduction,),
    "ScatterND": (_reduction,),
    "Squeeze": (_computed_axes,),
    "Unsqueeze": (_computed_axes,),
    **dict.fromkeys(REDUCTIONS, (_computed_axes,)),
}


@rule("QV606", "operator-form", Severity.ERROR, nodes)
def operator_form(node: Node) -> Iterator[str]:
    """a form of this operator that TensorRT refuses.

    Fix: write it another way.
    """
    for limit in LIMITS.get(node.op, ()) if node.domain == "" else ():
        if (found := limit(node)) is not None:
            yield found
