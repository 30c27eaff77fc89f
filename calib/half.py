"""bf16 where a calibration bears it: attention, and the float blocks whose outputs are learned from.

Grids, clips, norms, the products of quantized linears and everything that rounds stay fp32 or float64.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode


class _HalfAttention(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        return func(*(x.bfloat16() for x in args), **(kwargs or {})).to(args[0].dtype)


def half_attention(wanted: bool) -> AbstractContextManager[object]:
    """Inside, attention multiplies bf16 and returns the type it was given."""
    return _HalfAttention() if wanted else nullcontext()


def half_products(wanted: bool, device: torch.device) -> AbstractContextManager[object]:
    """Inside, linears and attention multiply bf16, as users of VGGT run it; the residual stream stays fp32."""
    return torch.autocast(device.type, torch.bfloat16) if wanted else nullcontext()
