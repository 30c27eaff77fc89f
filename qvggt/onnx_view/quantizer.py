"""QuantizeLinear and DequantizeLinear nodes as the rules see them: code type, scale, granularity."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from onnx import TensorProto

from qvggt.onnx_view.graph import Model, Node, OfNode, once

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
FP4_QUANTIZE = "TRT_FP4DynamicQuantize"  # TensorRT's NVFP4: block scales at run time are part of the format
TRT_DOMAINS = ("trt", "trt.plugins", "TRT")
DOMAINS = ("", "com.microsoft", *TRT_DOMAINS)  # TensorRT takes all for the same operator
INT8, UINT8, INT4, UINT4 = TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4
FP8, FP4 = TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT4E2M1
TRT_CODES: dict[str, int] = {  # TensorRT's own names, as NVIDIA's ModelOpt writes them: what their names say of codes
    f"TRT_{word}{kind}": codes for word, codes in (("INT4", INT4), ("FP8", FP8)) for kind in (QUANTIZE, DEQUANTIZE)
}
CONTAINERS: dict[int, str] = {INT4: "INT4", UINT4: "UINT4", INT8: "INT8", UINT8: "UINT8", FP8: "FP8", FP4: "FP4"}
SUPPORTED = frozenset({INT8, INT4, FP8, FP4})

FLOAT_TYPES: dict[int, str] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.DOUBLE: "fp64",
}
FLOATS = frozenset(FLOAT_TYPES)


def type_name(data_type: int) -> str:
    """INT8, FLOAT8E4M3FN, ...; a number for a type this version of onnx does not know."""
    known = data_type in TensorProto.DataType.values()
    return str(TensorProto.DataType.Name(data_type)) if known else f"type {data_type}"


@dataclass(frozen=True)
class Quantizer(OfNode):
    """A Q or DQ node. `codes` is the type of its low-bit side, 0 when unknown."""

    codes: int

    @property
    def source(self) -> str:
        return self.node.input(0)

    @property
    def scale(self) -> str:
        return self.node.input(1)

    @property
    def zero_point(self) -> str:
        return self.node.input(2)

    @property
    def quantizes(self) -> bool:
        return not self.op.endswith(DEQUANTIZE)

    @property
    def block_size(self) -> int:
        return self.node.integer("block_size")

    @property
    def axis(self) -> int:
        """As written, for a scale that has an axis; may be negative."""
        return self.node.integer("axis", 1)

    @property
    def positive_axis(self) -> int | None:
        """The axis of the scale counted from the front, None when the rank is unknown."""
        rank = self.scope.rank(self.source)
        return self.axis if self.axis >= 0 else None if rank is None else self.axis + rank

    def scale_count(self) -> int | None:
        """Number of elements of the scale, None when unknown."""
        shape = self.scope.shape(self.scale)
        return None if shape is None or None in shape else prod(dim or 0 for dim in shape)

    @property
    def per_tensor(self) -> bool:
        return self.scale_count() == 1 and self.blocks in (None, 1)

    @property
    def blocks(self) -> int | None:
        """How many blocks lie along the axis of a blocked scale, None for one that is not blocked."""
        shape, axis = self.scope.shape(self.scale), self.positive_axis
        if not self.block_size or shape is None or axis is None or axis >= len(shape):
            return None
        return shape[axis]

    @property
    def blocked(self) -> bool:
        """More than one block: a single one is the same as a scale per channel."""
        return bool(self.block_size) and self.blocks != 1

    def describe(self) -> str:
        if self.blocked:
            return f"blocks of {self.block_size} along axis {self.axis}"
        return "one scale" if self.per_tensor else f"a scale per index of axis {self.axis}"


def as_quantizer(node: Node | None) -> Quantizer | None:
    """The Q or DQ a node is, else None."""
    if node is None or node.domain not in DOMAINS or len(node.inputs) < 2:
        return None
    named = TRT_CODES.get(node.op, 0)
    if not named and node.op not in (QUANTIZE, DEQUANTIZE):
        return None
    if node.op.endswith(DEQUANTIZE):
        maker = node.scope.producer(node.input(0))
        if maker is not None and maker.op == FP4_QUANTIZE:  # a TensorRT operator, unknown to shape inference
            return Quantizer(node, FP4 if node.input(0) == maker.outputs[0] else FP8)
        return Quantizer(node, node.scope.dtype(node.input(0)) or named)
    codes = node.integer("output_dtype") or (node.scope.dtype(node.input(2)) if node.input(2) else named)
    return Quantizer(node, codes if codes or node.input(2) else UINT8)  # ONNX: uint8 where nothing says otherwise


@once
def quantizers(model: Model) -> Iterator[Quantizer]:
    """Every Q and DQ node of a model."""
    return (quantizer for node in model.nodes if (quantizer := as_quantizer(node)) is not None)
