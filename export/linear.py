"""Emission of linear layers: centers and online transforms of the input, then the form its format asks for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from qvggt.export.forms import site as forms
from qvggt.export.forms.code_product import int4_product
from qvggt.export.forms.site import FP32, Site
from qvggt.export.forms.table import find_form
from qvggt.export.graph import GraphBuilder
from qvggt.export.precision import Precision
from qvggt.export.token_types import TokenTypes
from qvggt.models.family import LINEARS
from qvggt.quant.linear import QuantLinear
from qvggt.quant.transform import InputTransform
from qvggt.target import Target

BEFORE_GELU = LINEARS[2]


def array(tensor: Tensor) -> NDArray[np.float32]:
    """A parameter as an fp32 array."""
    return tensor.detach().float().cpu().numpy()


def emit_linear(
    builder: GraphBuilder,
    path: str,
    module: nn.Module,
    x: str,
    target: Target,
    parameters: str = "",
    precision: Precision | None = None,
    types: TokenTypes | None = None,
) -> str:
    """x [..., K] of any float type -> [..., N] in `precision` (by default the network's), or in fp32 from a quantized
    linear whose scales are applied in fp32.

    `path` names the nodes; `parameters` the initializers when they are shared by several call sites of one module
    (the unrolled camera iterations), by default the same. `types`: of the tokens. Where a quantized linear centers its
    input, that happens in nodes `<path>.center/...` before and `<path>.kind_bias/...` after, which leave the linear
    itself as any other.
    """
    site = Site(builder, path, parameters or path, target, precision or builder.precision)
    if not isinstance(module, QuantLinear):
        return _float(site, module, x)
    copies = int4_product(module.format, target)
    if module.types:
        if types is None or module.transform is None or module.transform.center is None:
            raise TypeError(f"{path}: centers its input, and needs the types of its tokens")
        before, off = site.at(f"{path}.center"), -array(module.transform.center)
        x = types.added(before, before.cast(x, FP32), "center", off, copies)
    along = None
    if module.transform is not None:
        x = _transformed(site, module.transform, x)
        if module.transform.basis is not None:
            x, along = _apart(site, module.transform.basis, x, module.transform.spec.whole)
    y = find_form(module.format)(site, module, x)
    if along is not None and module.branch is not None:
        past = site.op("MatMul", [along, site.real("branch", array(module.branch))])
        y = site.op("Add", [y, site.cast(past, builder.precision_of(y))])
    if module.kind_bias is not None and types is not None:
        return types.added(site.at(f"{path}.kind_bias"), y, "kind_bias", array(module.kind_bias), copies)
    return site.biased(y, module.bias, negative=path.endswith(BEFORE_GELU))


def _float(site: Site, module: nn.Module, x: str) -> str:
    if not isinstance(module, nn.Linear):
        raise TypeError(f"{site.path}: cannot export a {type(module).__name__} as a linear layer")
    weight = site.real("weight", array(module.weight).T)
    y = site.op("MatMul", [site.cast(x, site.precision), weight])
    if module.bias is None:
        return y
    return site.op("Add", [y, site.real("bias", array(module.bias))])


def _transformed(site: Site, transform: InputTransform, x: str) -> str:
    """An online Kronecker Hadamard as two small products on [N, L, rows, cols], then a factor per channel.

    The products run in the network's float type; what comes before and after them in fp32.
    """
    rotation, b = transform.rotation, site.builder
    x = site.cast(x, FP32)
    if rotation is not None:
        if bool((rotation.signs != 1).any()):
            x = site.op("Mul", [x, site.constant("transform.signs", forms.array(rotation.signs))])
        rows, cols = rotation.factors
        x = b.reshape(site.cast(x, site.precision), (0, 0, rows, cols), site.path)
        left = site.real("transform.left", np.ascontiguousarray(forms.array(rotation.left).T))
        right = site.real("transform.right", forms.array(rotation.right))
        x = site.op("MatMul", [site.op("MatMul", [left, x]), right])
        x = site.cast(b.reshape(x, (0, 0, rows * cols), site.path), FP32)
    if transform.scale is not None:
        x = site.op("Mul", [x, site.constant("transform.scale", forms.array(transform.scale))])
    return x


def _apart(site: Site, basis: Tensor, x: str, whole: bool) -> tuple[str, str]:
    """x fp32 -> (it without its parts along the basis unless it stays whole, fp32; these parts). Both small products
    are in the network's float type, what is left is taken in fp32."""
    down = site.real("transform.basis", array(basis))
    along = site.op("MatMul", [site.cast(x, site.precision), down])
    if whole:
        return x, along
    back = site.op("Transpose", [down], perm=[1, 0])
    return site.op("Sub", [x, site.cast(site.op("MatMul", [along, back]), FP32)]), along
