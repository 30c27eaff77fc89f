"""Matrix products and convolutions with the Q/DQ their operands come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from qvggt.onnx_view.graph import Model, Node, OfNode, Scope, once
from qvggt.onnx_view.quantizer import CONTAINERS, FLOATS, Quantizer, as_quantizer

PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose")
MOVES = ("Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice")  # seen through when compiled
NEARBY = 4  # steps that are searched for a Q/DQ pair which stands too far from its product
_POINTWISE = (
    "Relu Gelu Mul Add Sub Div Clip Sigmoid Tanh Erf LeakyRelu HardSwish Swish Softmax LayerNormalization Cast "
    "Identity Reshape Transpose Squeeze Unsqueeze Flatten Slice"
)
POINTWISE = frozenset(_POINTWISE.split())


@dataclass(frozen=True)
class Operand:
    """One factor of a product.

    dq: the DequantizeLinear it comes from, None for a float. axis: along which of the operand's own axes the scale
    varies, None when it does not or the way there is not followed. reduced: the axis the product sums over.
    constant: it depends on no input of the model.
    """

    name: str
    dq: Quantizer | None
    axis: int | None
    reduced: int | None
    constant: bool

    @property
    def codes(self) -> int:
        return 0 if self.dq is None else self.dq.codes

    @property
    def container(self) -> str | None:
        """Such as "INT8"; None for a float and for codes of a type that has no product."""
        return CONTAINERS.get(self.codes)

    @property
    def along_sum(self) -> bool:
        """One scale per index of the axis that is summed over: it cannot be taken out of the sum."""
        return self.dq is not None and self.axis is not None and self.axis == self.reduced


@dataclass(frozen=True)
class Product(OfNode):
    """A product of two operands; `data` is the activation where the other one is a weight."""

    data: Operand
    weight: Operand

    @property
    def quantized(self) -> bool:
        """Both operands are low-bit."""
        return self.data.dq is not None and self.weight.dq is not None

    @property
    def weight_only(self) -> bool:
        return self.data.dq is None and self.weight.dq is not None and self.weight.constant

    @property
    def is_gemm(self) -> bool:
        return self.op in ("MatMul", "Gemm")

    @property
    def weight_shape(self) -> tuple[int, ...] | None:
        """As the product reads it, None when unknown."""
        shape = self.scope.shape(self.weight.name)
        return None if shape is None or None in shape else tuple(dim or 0 for dim in shape)

    @property
    def sum_length(self) -> int | None:
        """How many products one output sums, None when unknown."""
        shape = self.scope.shape(self.weight.name)
        if shape is None or self.weight.reduced is None or not self.is_gemm:
            return None
        return shape[self.weight.reduced] if self.weight.reduced < len(shape) else None


@once
def products(model: Model) -> Iterator[Product]:
    """Every product and convolution of a model."""
    for node in model.nodes:
        if node.is_op(*PRODUCTS) and len(node.inputs) >= 2:
            first, second = (_operand(node, index) for index in (0, 1))
            swap = first.constant and not second.constant
            yield Product(node, second, first) if swap else Product(node, first, second)


def _operand(node: Node, index: int) -> Operand:
    scope, name = node.scope, node.input(index)
    dq, axis = find_dq(scope, name)
    return Operand(name, dq, axis, _reduced_axis(node, index), scope.is_constant(name))


def _reduced_axis(node: Node, index: int) -> int | None:
    rank = node.scope.rank(node.input(index))
    if node.op == "Gemm":
        return int(bool(node.integer("transB"))) if index else int(not node.integer("transA"))
    if node.op == "MatMul":
        return None if rank is None else rank - 1 if index == 0 or rank == 1 else rank - 2
    if index == 0 or node.op == "Conv":
        return 1  # channels; a convolution also sums over the window, along which no scale can vary
    return 0


def find_dq(scope: Scope, name: str) -> tuple[Quantizer | None, int | None]:
    """The DQ an operand comes from through nodes that only move data, casts and, on constants, factors of the scales.

    Also the axis along which its scale varies, in the operand's own axes; None when it is one scale, or the way is not
    followed (Reshape).
    """
    moves: list[Node] = []
    while True:
        node = scope.producer(name)
        if node is None:
            return None, None
        if (dq := as_quantizer(node)) is not None:
            fused = not dq.quantizes and all(_fused_factor(dq, node) for node in moves if node.is_op("Mul", "Div"))
            return (dq, _moved_axis(dq, moves)) if fused else (None, None)
        if node.is_op(*MOVES) or (node.is_op("Cast") and node.integer("to") in FLOATS):
            read: str | None = node.input(0)
        else:
            read = _scaled_input(node) if node.is_op("Mul", "Div") and scope.is_constant(name) else None
        if read is None:
            return None, None
        moves.append(node)
        name, scope = read, node.scope


def _scaled_input(node: Node) -> str | None:
    """The other input of a product with a stored factor."""
    for index in (0, 1) if node.op == "Mul" else (1,):
        if node.scope.constant(node.input(index)) is not None:
            return node.input(1 - index)
    return None


def factor_shape(node: Node) -> tuple[int | None, ...]:
    """Of the stored factor of a product that `_scaled_input` knows."""
    stored = node.input(1) if node.scope.constant(node.input(1)) is not None else node.input(0)
    return node.scope.shape(stored) or ()


def _fused_factor(dq: Quantizer, node: Node) -> bool:
    """Whether TensorRT takes a factor into the scale: one number, or one for every scale per channel."""
    count = prod(dim or 0 for dim in factor_shape(node))
    return count == 1 or (count == dq.scale_count() and not dq.blocked)


def _moved_axis(dq: Quantizer, moves: list[Node]) -> int | None:
    axis = dq.positive_axis
    if dq.per_tensor or axis is None or (dq.block_size and not dq.blocked):
        return None
    for move in reversed(moves):
        if move.is_op("Transpose"):
            rank = move.scope.rank(move.input(0))
            perm = move.integers("perm") or list(range(rank or 0))[::-1]
            if axis not in perm:
                return None
            axis = perm.index(axis)
        elif not (move.is_op("Identity", "Cast", "Slice", "Mul", "Div")):
            return None
    return axis


def scale_codes(quantizer: Quantizer) -> Quantizer | None:
    """The DQ that the scales of a Q or DQ are read from, as NVFP4's block scales are codes themselves; None for others.

    Through casts and factors that are one stored number: TensorRT takes those into the second scale.
    """
    scope, name = quantizer.scope, quantizer.scale
    while (node := scope.producer(name)) is not None:
        if (found := as_quantizer(node)) is not None:
            return None if found.quantizes else found
        read: str | None = node.input(0)
        if node.is_op("Mul", "Div"):
            read = _scaled_input(node) if prod(dim or 0 for dim in factor_shape(node)) == 1 else None
        elif not node.is_op("Cast", "Identity"):
            return None
        if read is None:
            return None
        name, scope = read, node.scope
    return None


def quantized_input(dq: Quantizer) -> Quantizer | None:
    """The Q in front of a DQ, through nodes that only move data; None for stored codes."""
    scope, name = dq.scope, dq.source
    while (node := scope.producer(name)) is not None:
        if (quantizer := as_quantizer(node)) is not None:
            return quantizer if quantizer.quantizes else None
        if not node.is_op(*MOVES, "Relu"):
            return None
        name, scope = node.input(0), node.scope
    return None


def stored_chain(operand: Operand) -> Iterator[Node]:
    """The Q and DQ nodes between an operand and what is stored, nearest first."""
    dq = operand.dq
    while dq is not None:
        yield dq.node
        if (before := quantized_input(dq)) is None:
            return
        yield before.node
        dq, _ = find_dq(before.scope, before.source)


def distant_dq(scope: Scope, name: str) -> tuple[Quantizer, Node] | None:
    """A DQ a few pointwise steps before an operand that comes from none, and the node that stands between."""
    frontier = [(name, NEARBY, scope)]
    while frontier:
        current, steps, scope = frontier.pop(0)
        node = scope.producer(current)
        if node is None or steps == 0 or node.op not in POINTWISE:
            continue
        for read in node.inputs:
            quantizer = as_quantizer(node.scope.producer(read)) if read else None
            if quantizer is not None and not quantizer.quantizes:
                return quantizer, node
            frontier.append((read, steps - 1, node.scope))
    return None
