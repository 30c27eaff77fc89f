"""What a builder is expected to make of an ONNX graph, read from its nodes: quantized layers, attention, float type.

Nothing here follows external data; shapes and types of initializers are enough.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import onnx
from onnx import AttributeProto, NodeProto, TensorProto

from qvggt.formats.linear_format import LinearFormat
from qvggt.quant.scheme import Scheme

FLOAT_TYPES: dict[int, str] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.DOUBLE: "fp64",
}
CONTAINERS: dict[int, str] = {
    TensorProto.INT4: "INT4",
    TensorProto.UINT4: "UINT4",
    TensorProto.INT8: "INT8",
    TensorProto.UINT8: "UINT8",
    TensorProto.FLOAT8E4M3FN: "FP8",
}
SHAPE_ONLY = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity")
SCORES_TO_CONTEXT = (*SHAPE_ONLY, "Cast", "Mul", "Div", "Add", "Where", "Clip")
PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose")
GEMM, CONV = "GEMM", "conv"
CODES = ".weight_codes"  # how the exporter names the integer weights of the linear at a module path


@dataclass(frozen=True)
class QuantizedLinear:
    """A matrix product or convolution with low-bit weights, and the kernel it should become.

    path: module path (its node's name in foreign files). nodes: names of the product nodes, several where a module is
    used several times. weight_nodes: the Q/DQ nodes in front of the weight. inner, outer: K and N of the weight
    [K, N]; input values per output value and output channels of a convolution. weight, activation: containers such as
    "INT8"; activation None where it stays floating point. block: input channels per weight scale, None for one scale
    per tensor or row. wanted: see `wanted_kernel`. product: GEMM or CONV.
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


@dataclass(frozen=True)
class Attention:
    """The three nodes of one softmax attention."""

    scores: str
    softmax: str
    context: str


@dataclass(frozen=True)
class NetworkFacts:
    """inputs: name -> dimensions, None where symbolic. products: float type -> weights of matrix products and
    convolutions computed in it (a quantized one counts by the type it is dequantized to)."""

    inputs: dict[str, tuple[int | None, ...]]
    linears: tuple[QuantizedLinear, ...]
    attentions: tuple[Attention, ...]
    products: dict[str, int]

    @property
    def float_type(self) -> str:
        """The half type of any product with constant weights (half-precision networks keep fp32 islands), else fp32;
        "unknown" without such a product."""
        halves = {name: count for name, count in self.products.items() if name in ("fp16", "bf16")}
        if halves:
            return max(halves, key=lambda name: halves[name])
        return "fp32" if "fp32" in self.products else "unknown"


def wanted_kernel(weight: str, activation: str | None, product: str = GEMM) -> str:
    """Such as "INT8 GEMM", "INT4 GEMM", "FP8 GEMM", "INT8 conv" or "INT4 weight-only"."""
    if activation is None:
        return f"{weight} weight-only"
    return f"{weight if weight == activation else 'INT8'} {product}"


def network_facts(model: onnx.ModelProto, scheme: Scheme | None = None) -> NetworkFacts:
    """Read a graph; `scheme` adds the linears it wants quantized and the graph holds as floats."""
    graph = _Graph(model)
    linears: dict[str, QuantizedLinear] = {}
    products: Counter[str] = Counter()
    for node in model.graph.node:
        if node.op_type not in PRODUCTS or len(node.input) < 2:
            continue
        weight = graph.weight(node)
        if weight is None:
            continue
        products[weight.float_type] += weight.count
        if len(weight.dims) < 2:
            continue
        linear = _linear(graph, node, weight, scheme)
        if linear is None:
            continue
        known = linears.get(linear.path)
        linears[linear.path] = linear if known is None else _merged(known, linear)
    return NetworkFacts(_inputs(model), tuple(linears.values()), tuple(graph.attentions()), dict(products))


@dataclass(frozen=True)
class _Weight:
    """The constant operand of a product: its initializer, the Q/DQ nodes on the way, what type it arrives in."""

    name: str
    dims: tuple[int, ...]
    container: str | None
    float_type: str
    block: int | None
    nodes: tuple[str, ...]

    @property
    def count(self) -> int:
        result = 1
        for dim in self.dims:
            result *= dim
        return result


def _linear(graph: _Graph, node: NodeProto, weight: _Weight, scheme: Scheme | None) -> QuantizedLinear | None:
    product = GEMM if node.op_type in ("MatMul", "Gemm") else CONV
    inner, outer = weight.dims[-2:]
    if product == CONV:
        outer = weight.dims[0] if node.op_type == "Conv" else weight.dims[1]
        inner = weight.count // max(outer, 1)
    elif node.op_type == "Gemm" and _attribute(node, "transB", 0):
        inner, outer = outer, inner
    activation = graph.activation(node)
    if weight.container is not None:
        path = weight.name.removesuffix(CODES) if weight.name.endswith(CODES) else node.name or node.output[0]
        container, wanted = weight.container, wanted_kernel(weight.container, activation, product)
    else:
        path = weight.name.removesuffix(".weight")
        format = scheme.format(path) if scheme is not None and path != weight.name else None
        if format is None:
            return None
        container, wanted = weight.float_type, _wanted_by_scheme(format, product)
    nodes = (node.name or node.output[0],)
    return QuantizedLinear(
        path, nodes, weight.nodes, inner, outer, container, activation, weight.block, wanted, product
    )


def _wanted_by_scheme(format: LinearFormat, product: str) -> str:
    return wanted_kernel(format.weight.grid.container, None if format.activation is None else "INT8", product)


def _merged(a: QuantizedLinear, b: QuantizedLinear) -> QuantizedLinear:
    both = {**vars(a), "nodes": a.nodes + b.nodes, "weight_nodes": a.weight_nodes + b.weight_nodes}
    return QuantizedLinear(**both)


class _Graph:
    """Initializers and producers by tensor name."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = model.graph.node
        self.constants: dict[str, TensorProto] = {t.name: t for t in model.graph.initializer}
        self.producer: dict[str, NodeProto] = {}
        self.users: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for output in node.output:
                self.producer[output] = node
            for name in node.input:
                self.users.setdefault(name, []).append(node)
            if node.op_type == "Constant":
                for attribute in node.attribute:
                    if attribute.name == "value" and attribute.type == AttributeProto.TENSOR:
                        self.constants[node.output[0]] = attribute.t

    def weight(self, node: NodeProto) -> _Weight | None:
        """The second operand where it is constant, through Q/DQ, casts and changes of shape; None otherwise."""
        name, cast, scale, container, block = node.input[1], None, None, None, None
        nodes, flipped = [], False
        while name not in self.constants:
            producer = self.producer.get(name)
            if producer is None or not producer.input:
                return None
            if producer.op_type == "DequantizeLinear":
                nodes.append(producer.name)
                if scale is None:  # the one next to the product; one further up only unpacks what is stored
                    scale, block = self._type_out(producer), _attribute(producer, "block_size", 0) or None
            elif producer.op_type == "QuantizeLinear":
                nodes.append(producer.name)
                container = container or self._container(producer)
            elif producer.op_type == "Cast":
                cast = _attribute(producer, "to", 0) if cast is None and scale is None else cast
            elif producer.op_type == "Transpose":
                flipped = not flipped
            elif producer.op_type not in SHAPE_ONLY:
                return None
            name = producer.input[0]
        tensor = self.constants[name]
        found = cast if cast is not None else scale if scale is not None else tensor.data_type
        if scale is not None and container is None:
            container = CONTAINERS.get(tensor.data_type)
        kind = FLOAT_TYPES.get(found, TensorProto.DataType.Name(found))
        dims = tuple(reversed(tensor.dims)) if flipped else tuple(tensor.dims)
        return _Weight(name, dims, container, kind, block, tuple(nodes))

    def activation(self, node: NodeProto) -> str | None:
        """Container of the first operand where it was just dequantized, None where it is floating point."""
        producer = self._upstream(node.input[0], SHAPE_ONLY)
        if producer is None or producer.op_type != "DequantizeLinear":
            return None
        source = self._upstream(producer.input[0], SHAPE_ONLY)
        return self._container(source) if source is not None and source.op_type == "QuantizeLinear" else None

    def attentions(self) -> Iterator[Attention]:
        """Every Softmax between two products."""
        for node in self.nodes:
            if node.op_type != "Softmax":
                continue
            scores = self._upstream(node.input[0], SCORES_TO_CONTEXT)
            context = self._downstream(node.output[0])
            if scores is not None and scores.op_type == "MatMul" and context is not None:
                yield Attention(scores.name, node.name, context.name)

    def _upstream(self, name: str, through: tuple[str, ...]) -> NodeProto | None:
        node = self.producer.get(name)
        while node is not None and node.op_type in through and node.input:
            node = self.producer.get(node.input[0])
        return node

    def _downstream(self, name: str) -> NodeProto | None:
        users = self.users.get(name, [])
        while len(users) == 1 and users[0].op_type in SCORES_TO_CONTEXT:
            users = self.users.get(users[0].output[0], [])
        return users[0] if len(users) == 1 and users[0].op_type == "MatMul" else None

    def _container(self, quantize: NodeProto) -> str | None:
        zero = self.constants.get(quantize.input[2]) if len(quantize.input) > 2 else None
        kind = zero.data_type if zero is not None else _attribute(quantize, "output_dtype", 0) or TensorProto.UINT8
        return CONTAINERS.get(kind)

    def _type_out(self, dequantize: NodeProto) -> int:
        stated = _attribute(dequantize, "output_dtype", 0)
        scale = self.constants.get(dequantize.input[1])
        return stated or (scale.data_type if scale is not None else TensorProto.UNDEFINED)


def _attribute(node: NodeProto, name: str, default: int) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)


def _inputs(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    constants = {tensor.name for tensor in model.graph.initializer}
    return {
        value.name: tuple(d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim)
        for value in model.graph.input
        if value.name not in constants
    }
