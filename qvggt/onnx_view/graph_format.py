"""Which number format a file has: judged by its products, and whether its metadata says the same.

Other tools copy metadata from the file they were given: an export that was quantized afterwards still calls itself
fp32. What the graph says wins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from qvggt.formats.linear_format import LinearFormat
from qvggt.formats.table import FORMATS, find_format, is_format
from qvggt.onnx_view.graph import Model, Node, OfNode, once
from qvggt.onnx_view.metadata import Metadata
from qvggt.onnx_view.product import MOVES, Operand, Product, products, quantized_input, stored_chain
from qvggt.onnx_view.quantizer import CONTAINERS, FLOAT_TYPES, FP4, FP8, INT4, UINT4, as_quantizer, type_name

BITS: dict[int, int] = {INT4: 4, UINT4: 4, FP4: 4}  # of codes; 8 for others
FLOAT_CODES: dict[int, str] = {FP8: "fp8", FP4: "nvfp4"}
FLOAT_CONTAINERS = [CONTAINERS[codes] for codes in FLOAT_CODES]
_PRODUCTS = "MatMulInteger ConvInteger QLinearMatMul QLinearConv QGemm MatMulIntegerToFloat DynamicQuantizeMatMul"
INTEGER_PRODUCTS = frozenset(_PRODUCTS.split())
DYNAMIC = ("DynamicQuantizeMatMul", "MatMulIntegerToFloat")  # of integer products, those with ranges at run time
NBITS = "MatMulNBits"
MARK = " (graph)"
ENDS = ("scores", "context")  # of the names of an attention's products


@dataclass(frozen=True)
class Computed(OfNode):
    """A product with a weight, or of two low-bit operands: the name of its format, such as "w8a8-static" or "fp32".

    bits, mode: of a stored low-bit weight, and where the range of the activation comes from; None for floats. floats:
    containers of float grids among the two, such as {"FP8"}; empty for integers.
    """

    format: str
    bits: int | None = None
    mode: str | None = None
    floats: frozenset[str] = frozenset()

    @property
    def quantized(self) -> bool:
        return self.bits is not None


@dataclass(frozen=True)
class GraphFormat:
    """name: formats of the products, the most frequent quantized one first ("w8a8-static", "w8a8-dynamic+w4a16",
    "fp32"); "" for a graph without products. counts: format -> products. wrong: what the metadata says otherwise, one
    line, "" where it agrees or says nothing.
    """

    name: str
    counts: Mapping[str, int]
    wrong: str

    def label(self, claimed: str | None) -> str:
        """The name in a table: what the metadata claims where that is true, else "w8a8-static (graph)"."""
        if claimed is not None and not self.wrong:
            return claimed
        return f"{self.name}{MARK}" if self.name else "unknown scheme"


def graph_format(model: Model) -> GraphFormat:
    """Judge a file. QvggtError for damaged metadata."""
    found = computed(model)
    counts = Counter(product.format for product in found)
    quantized = Counter(product.format for product in found if product.quantized)
    floats = Counter(product.format for product in found if not product.quantized)
    halves = [kind for kind in floats if kind != "fp32"]  # half-precision networks keep fp32 islands
    names = [name for name, _ in quantized.most_common()] or halves[:1] or list(floats)[:1]
    return GraphFormat("+".join(names), dict(counts), _contradiction(model.metadata, found))


@once
def computed(model: Model) -> Iterator[Computed]:
    """Every product of a weight, and every one of two low-bit operands."""
    for product in products(model):
        if product.quantized or product.weight.constant:
            yield _of_product(product)
    for node in model.nodes:
        if node.op in INTEGER_PRODUCTS:
            dynamic = node.op in DYNAMIC or any(_maker(node, i) == "DynamicQuantizeLinear" for i in (0, 1))
            yield _named(node, 8, 8, "dynamic" if dynamic else "static")
        elif node.op == NBITS:
            yield _named(node, node.integer("bits", 4), None, None)


def _maker(node: Node, index: int) -> str:
    maker = node.scope.producer(node.input(index))
    return "" if maker is None else maker.op


def _named(node: Node, weight: int, activation: int | None, mode: str | None) -> Computed:
    name = f"w{weight}a{16 if activation is None else activation}"
    return Computed(node, name if mode is None else f"{name}-{mode}", weight, mode)


def _of_product(product: Product) -> Computed:
    weight, data = product.weight, product.data
    stored = _stored_codes(weight)
    if stored is None or not (product.quantized or product.weight_only):
        kind = product.scope.dtype(weight.name)
        return Computed(product.node, FLOAT_TYPES.get(kind, type_name(kind)))
    mode = None if data.dq is None else _mode(data)
    if {stored, data.codes} & FLOAT_CODES.keys():
        return Computed(product.node, *_float_format(stored, data.codes, mode))
    activation = None if mode is None else _activation_bits(data)
    return _named(product.node, BITS.get(stored, 8), activation, mode)


def _float_format(stored: int, read: int, mode: str | None) -> tuple[str, int, str | None, frozenset[str]]:
    """Name, bits, mode and float grids of a product with codes of floats: "fp8-static", "nvfp4", "w4afp8-dynamic"."""
    bits = BITS.get(stored, 8)
    floats = frozenset(CONTAINERS[codes] for codes in (stored, read) if codes in FLOAT_CODES)
    if mode is None:
        return f"w{bits}a16-{FLOAT_CODES[stored]}", bits, None, floats
    if stored in FLOAT_CODES:
        name = FLOAT_CODES[stored]
    else:
        name = f"w{bits}a{FLOAT_CODES[read].removeprefix('nv')}"
    # the ranges of NVFP4's blocks are always taken at run time
    return name if (stored, mode) == (FP4, "dynamic") else f"{name}-{mode}", bits, mode, floats


def _stored_codes(weight: Operand) -> int | None:
    """Type of the codes that are stored: those farthest from the product, where it expands them."""
    chain = [quantizer for node in stored_chain(weight) if (quantizer := as_quantizer(node)) is not None]
    return next((quantizer.codes for quantizer in reversed(chain) if not quantizer.quantizes), None)


def _mode(data: Operand) -> str:
    """Dynamic: the scale is computed at run time, or the values were divided by a range that is."""
    assert data.dq is not None
    if not data.dq.scope.is_constant(data.dq.scale):
        return "dynamic"
    before = quantized_input(data.dq)
    node = None if before is None else before.scope.producer(before.source)
    while node is not None and node.is_op(*MOVES, "Clip", "Cast"):
        node = node.scope.producer(node.input(0))
    divided = node is not None and node.is_op("Div") and not node.scope.is_constant(node.input(1))
    ranges = divided and node is not None and (node.scope.shape(node.input(1)) or (0,))[-1] == 1
    return "dynamic" if ranges else "static"


def _activation_bits(data: Operand) -> int:
    """Of the grid: fewer than the codes have where a Clip in front of the Q leaves less of it."""
    assert data.dq is not None
    before = quantized_input(data.dq)
    codes = data.dq.codes or (0 if before is None else before.codes)
    clip = None if before is None else before.scope.producer(before.source)
    if before is None or clip is None or not clip.is_op("Clip"):
        return BITS.get(codes, 8)
    high, scale = clip.scope.value(clip.input(2)), before.scope.value(before.scale)
    if high is None or scale is None or high.size != 1 or scale.size != 1:
        return BITS.get(codes, 8)
    largest = round(float(high.reshape(-1)[0]) / float(scale.reshape(-1)[0]))
    return min(BITS.get(codes, 8), largest.bit_length() + 1)


def _contradiction(metadata: Metadata, found: tuple[Computed, ...]) -> str:
    claimed, listed = metadata.bits, metadata.linears
    if claimed is None and listed is None:
        return ""
    formats = dict.fromkeys(found, "")
    if listed is not None:
        modules = {product: metadata.module_of(product.label) for product in found}
        attended = (metadata.attentions or {}).items()
        listed = listed | {f"{path}.{end}": f"{name}-static" for path, name in attended for end in ENDS}
        formats = {product: listed.get(module, "") for product, module in modules.items()}
        # a quantized linear may have float products beside its own: the online transform of its input
        right = {modules[product] for product, name in formats.items() if product.quantized and _agrees(product, name)}
        wrong = [
            product
            for product, name in formats.items()
            if not _agrees(product, name) and (product.quantized or modules[product] not in right)
        ]
    else:  # of an old export, without a list
        floats = not isinstance(_format(claimed or ""), LinearFormat)
        wrong = [product for product in found if product.quantized] if floats else []
    if not wrong:
        return ""
    first = wrong[0]
    expected = formats[first] or "no quantized product"
    return (
        f"{claimed or 'quantized'} by its metadata, but {len(wrong)} of {len(found)} products in the graph are not "
        f"what it says (first {first.label}: {expected} there, {first.format} in the graph); another tool has changed "
        "the file, the graph is believed"
    )


def _format(name: str) -> object:
    return find_format(name) if is_format(name) else None


def _agrees(product: Computed, claimed: str) -> bool:
    """Whether a product may be one of the claimed format; "" claims a float. Containers may be wider than the grid."""
    format = FORMATS.get(claimed)
    if not isinstance(format, LinearFormat):  # a float; or a format this program does not know
        return not product.quantized or claimed != ""
    grids = [operand.grid.container for operand in (format.weight, format.activation) if operand is not None]
    if product.bits is None or product.floats != set(grids) & set(FLOAT_CONTAINERS):
        return False
    if product.mode != format.mode and "FP4" not in product.floats:
        return False
    return product.bits >= format.weight.grid.storage_bits
