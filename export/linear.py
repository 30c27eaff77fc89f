"""Emission of linear layers: the one place that chooses between floating point and Q/DQ."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from qvggt.export.graph import GraphBuilder
from qvggt.export.precision import Precision
from qvggt.export.qdq import emit_quant_linear
from qvggt.export.token_types import TokenTypes
from qvggt.quant.linear import QuantLinear
from qvggt.target import Target


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
    (the unrolled camera iterations), by default the same. `types`: of the tokens, for linears that
    treat them apart.
    """
    precision = precision or builder.precision
    if isinstance(module, QuantLinear):
        return emit_quant_linear(builder, path, module, x, target, parameters or path, precision, types)
    if not isinstance(module, nn.Linear):
        raise TypeError(f"{path}: cannot export a {type(module).__name__} as a linear layer")
    owner = parameters or path
    weight = builder.real(f"{owner}.weight", array(module.weight).T, precision)
    y = builder.op("MatMul", [builder.cast(x, precision, path), weight], path)
    if module.bias is None:
        return y
    return builder.op("Add", [y, builder.real(f"{owner}.bias", array(module.bias), precision)], path)
