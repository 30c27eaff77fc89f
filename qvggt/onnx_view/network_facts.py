"""What a builder is expected to make of an ONNX graph: quantized layers, attention, float type.

No bytes of a weight are read; shapes and types are enough.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod

from qvggt.onnx_view.graph import Model, Node, dims
from qvggt.onnx_view.product import MOVES, Product, products, stored_chain
from qvggt.onnx_view.quantizer import DEQUANTIZE, FLOAT_TYPES, FP4, FP8, INT4, QUANTIZE, quantizers, type_name

SCORES_TO_CONTEXT = (*MOVES, "Cast", "Mul", "Div", "Add", "Where", "Clip", QUANTIZE, DEQUANTIZE)
GEMM, CONV, ATTENTION = "GEMM", "conv", "attention"
CODE_TYPES: dict[int, str] = {INT4: "int4", FP8: "fp8", FP4: "fp4"}


@dataclass(frozen=True)
class QuantizedLinear:
    """A matrix product or convolution with low-bit weights, and the kernel it should become.

    path: module path (its node's name in foreign files). nodes: names of the product nodes, several where a module is
    used several times, none where the file lists a module that its graph lacks. weight_nodes: the Q/DQ nodes in front
    of the weight. inner, outer: K and N of the weight [K, N]; input values per output value and output channels of a
    convolution. weight, activation: containers such as "INT8"; activation None where it stays floating point. block:
    input channels per weight scale, None for one scale per tensor or row. wanted: see `wanted_kernel`; of a module
    that should be low-bit and is not, the kernel of others of its format. product: GEMM or CONV. window: kernel
    positions of a convolution, a factor of `inner`.
    """

    path: str
    nodes: tuple[str, ...]
    weight_nodes: tuple[str, ...]
    inner: int
    outer: int
    weight: str
    activation: str | None
    block: int | None
    wanted: str
    product: str = GEMM
    window: int = 1


@dataclass(frozen=True)
class Attention:
    """The three nodes of one softmax attention. containers: of q, k, the softmax output and v, None where floats.
    listed: the file says that it is quantized."""

    scores: str
    softmax: str
    context: str
    containers: tuple[str | None, ...] = (None,) * 4
    listed: bool = False

    @property
    def wanted(self) -> str:
        """Such as "FP8 attention", the kernel it should become; "" of a floating-point one."""
        codes = [each for each in self.containers if each is not None]
        return f"{codes[0]} {ATTENTION}" if codes else f"quantized {ATTENTION}" if self.listed else ""


@dataclass(frozen=True)
class NetworkFacts:
    """inputs: name -> dimensions, None where symbolic. products: float type -> weights of matrix products and
    convolutions computed in it (a quantized one counts by the type it is dequantized to). types: those of its tensors
    that not every GPU has kernels for, of "int4", "fp8", "fp4" and "bf16"."""

    inputs: dict[str, tuple[int | None, ...]]
    linears: tuple[QuantizedLinear, ...]
    attentions: tuple[Attention, ...]
    products: dict[str, int]
    types: frozenset[str] = frozenset()

    @property
    def float_type(self) -> str:
        """The half type of any product with constant weights (half-precision networks keep fp32 islands), else fp32;
        "unknown" without such a product."""
        halves = [name for name in self.products if name in ("fp16", "bf16")]
        return max(halves, key=self.products.__getitem__, default="fp32" if "fp32" in self.products else "unknown")


def wanted_kernel(weight: str, activation: str | None, product: str = GEMM) -> str:
    """Such as "INT8 GEMM", "FP8 GEMM", "FP4 GEMM", "INT8 conv" or "INT4 weight-only"."""
    if activation is None:
        return f"{weight} weight-only"
    integers = {weight, activation} <= {"INT4", "INT8"}
    return f"{weight if weight == activation else 'INT8' if integers else activation} {product}"


def network_facts(model: Model) -> NetworkFacts:
    """Read a graph. What its metadata lists as quantized and the graph holds as floats is among the linears too; a
    convolution it lists whose weights alone are low-bit is not: it is stored so and computed in floats, on purpose."""
    listed = model.metadata.linears or {}
    uses: dict[str, list[Product]] = {}
    types: Counter[str] = Counter()
    stems = set()
    for product in products(model):
        shape = product.weight_shape
        if not product.weight.constant or shape is None:
            continue
        types[_float_type(product)] += prod(shape)
        path = model.metadata.module_of(product.label)
        if path in listed and product.weight_only and not product.is_gemm:
            stems.add(path)
        elif len(shape) > 1 and (product.weight.container is not None or path in listed):
            uses.setdefault(path, []).append(product)
    found = [_linear(path, [p for p in some if p.weight.container] or some) for path, some in uses.items()]
    missing = [path for path in listed if path not in uses and path not in stems]
    found += [QuantizedLinear(path, (), (), 0, 0, "?", None, None, "") for path in missing]
    inputs = {value.name: dims(value) for value in model.inputs}
    codes = {CODE_TYPES[q.codes] for q in quantizers(model) if q.codes in CODE_TYPES} | {"bf16"} & set(types)
    return NetworkFacts(inputs, tuple(_wanted(found, listed)), tuple(_attentions(model)), dict(types), frozenset(codes))


def _float_type(product: Product) -> str:
    """Of the weight as the product reads it."""
    kind = product.scope.dtype(product.weight.name)
    return FLOAT_TYPES.get(kind, type_name(kind))


def _linear(path: str, uses: list[Product]) -> QuantizedLinear:
    """The linear or convolution that is used in some products of one weight; `wanted` "" where that is a float."""
    first = next((use for use in uses if not use.data.constant), uses[0])  # a product of constants needs no kernel
    shape, product = first.weight_shape or (), GEMM if first.is_gemm else CONV
    if product == GEMM:
        inner = first.sum_length or 0
        outer = prod(shape[-2:]) // max(inner, 1)
    else:
        outer = shape[0] if first.op == "Conv" else shape[1]
        inner = prod(shape) // max(outer, 1)
    container, dq = first.weight.container, first.weight.dq
    activation = None if first.data.constant else first.data.container
    nodes = tuple(use.label for use in uses)
    stored = tuple(node.label for use in uses for node in stored_chain(use.weight))
    types = container or _float_type(first), activation, None if dq is None else dq.block_size or None
    wanted = "" if container is None else wanted_kernel(container, activation, product)
    window = 1 if product == GEMM else prod(shape[2:])
    return QuantizedLinear(path, nodes, stored, inner, outer, *types, wanted, product, window)


def _wanted(linears: list[QuantizedLinear], formats: Mapping[str, str]) -> Iterator[QuantizedLinear]:
    """With what is wanted of those that are floats: the kernel of others of their format, else the format's name."""
    keys = [(formats.get(linear.path), linear.product) for linear in linears]
    kernels = {key: linear.wanted for key, linear in zip(keys, linears, strict=True) if linear.wanted}
    for key, linear in zip(keys, linears, strict=True):
        yield replace(linear, wanted=linear.wanted or kernels.get(key, f"{key[0]} {key[1]}"))


def _attentions(model: Model) -> Iterator[Attention]:
    """Every Softmax between two products."""
    for scores, softmax, context in attention_products(model):
        factors = (scores.data, scores.weight, context.data, context.weight)
        listed = model.metadata.module_of(softmax.label) in (model.metadata.attentions or {})
        containers = tuple(each.container for each in factors)
        yield Attention(scores.label, softmax.label, context.label, containers, listed)


def attention_products(model: Model) -> Iterator[tuple[Product, Node, Product]]:
    """The product of queries and keys, the Softmax, and its product with the values, of every attention."""
    known = {product.label: product for product in products(model)}
    for node in model.nodes:
        if node.is_op("Softmax") and (scores := _scores(node)) is not None and (context := _context(node)) is not None:
            yield known[scores.label], node, known[context.label]


def _scores(softmax: Node) -> Node | None:
    node = softmax.scope.producer(softmax.input(0))
    while node is not None and node.is_op(*SCORES_TO_CONTEXT):
        node = node.scope.producer(node.input(0))
    return node if node is not None and node.is_op("MatMul") else None


def _context(softmax: Node) -> Node | None:
    node = softmax
    while node.outputs and len(readers := node.scope.consumers(node.outputs[0])) == 1:
        node = readers[0]
        if not node.is_op(*SCORES_TO_CONTEXT):
            return node if node.is_op("MatMul") else None
    return None
