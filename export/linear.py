"""Emission of linear layers: the one place that chooses between floating point and Q/DQ."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from qvggt.export.graph import GraphBuilder
from qvggt.export.qdq import Target, emit_quant_linear
from qvggt.quant.linear import QuantLinear


def array(tensor: Tensor) -> NDArray[np.float32]:
    """A parameter as an fp32 array."""
    return tensor.detach().float().cpu().numpy()


def emit_linear(
    builder: GraphBuilder, path: str, module: nn.Module, x: str, target: Target, parameters: str = ""
) -> str:
    """x [..., K] -> [..., N].

    `path` names the nodes; `parameters` the initializers when they are shared by several call sites of one module
    (the unrolled camera iterations), by default the same.
    """
    if isinstance(module, QuantLinear):
        return emit_quant_linear(builder, path, module, x, target, parameters or path)
    if not isinstance(module, nn.Linear):
        raise TypeError(f"{path}: cannot export a {type(module).__name__} as a linear layer")
    owner = parameters or path
    weight = builder.constant(f"{owner}.weight", array(module.weight).T)
    y = builder.op("MatMul", [x, weight], path)
    return (
        y
        if module.bias is None
        else builder.op("Add", [y, builder.constant(f"{owner}.bias", array(module.bias))], path)
    )
