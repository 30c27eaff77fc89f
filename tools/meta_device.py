"""torch's `meta` device in the place of a GPU: shapes without numbers, and what a GPU would not forgive.

Inside `MetaDevice` an operation on tensors of both devices is an error, as it is between a CPU and a GPU (numbers of no
dimension may mix, as they do there); what needs numbers gets made-up ones, and what comes back to the CPU is zeros.
The bytes of all tensors on the device are counted, and so is the largest sum there was: what a GPU's allocator would
have held, but for rounding, workspaces of kernels and its own reserve.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device("meta")
MOVES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class MixedDevices(AssertionError):
    """An operation got tensors on the CPU and on the device."""


class MetaDevice(TorchDispatchMode):
    """held, peak: bytes on the device now and at most, with those of `modules`, which are there from the start.

    peak may be set back to `held`, to see the largest of what follows.
    """

    def __init__(self, *modules: torch.nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held = self.peak = 0
        self.storages: dict[int, Any] = {}
        self.attention, self.autocast = FusedAttention(), patch.object(torch, "autocast", _autocast)
        self.count(t for module in modules for t in (*module.parameters(), *module.buffers()))

    def __enter__(self) -> MetaDevice:
        self.autocast.start()
        self.attention.__enter__()  # type: ignore[no-untyped-call]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self.attention.__exit__(*error)  # type: ignore[no-untyped-call]
        self.autocast.stop()

    def count(self, tensors: Iterable[Tensor]) -> None:
        """Count the storages of these tensors until they are gone."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if tensor.device == META and key not in self.storages:
                self.storages[key] = weakref.ref(storage, self._gone(key, size))
                self.held += size
        self.peak = max(self.peak, self.held)

    def _gone(self, key: int, size: int) -> Callable[[object], None]:
        def gone(_: object) -> None:
            del self.storages[key]
            self.held -= size

        return gone

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        ours = [t for t in given if t.device == META]
        if func not in MOVES and ours and any(t.device != META and t.dim() for t in given):
            shapes = ", ".join(f"{t.device.type}{list(t.shape)}" for t in given)
            raise MixedDevices(f"{func}: {shapes}")
        out = self._stand_in(func, args, kwargs) if ours else None
        out = func(*args, **kwargs) if out is None else out
        self.count(leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor))
        return out

    def _stand_in(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What an operation returns that needs the numbers on the device; None for all others."""
        aten, first = torch.ops.aten, args[0]
        if func == aten._local_scalar_dense.default:
            return torch.ones((), dtype=first.dtype).item()
        if func == aten._to_copy.default and torch.device(kwargs.get("device") or META) != META:
            return torch.zeros(first.shape, dtype=kwargs.get("dtype") or first.dtype)
        if func == aten.copy_.default and first.device != META:
            return first.zero_()
        if func == aten.nonzero.default:  # as if all were true
            return torch.empty(first.numel(), first.dim(), dtype=torch.int64, device=META)
        if func == aten.equal.default:
            return True
        return None


def _autocast(device: str, *args: Any, **options: Any) -> AbstractContextManager[object]:
    """The meta device has none; a GPU does."""
    return nullcontext() if device == "meta" else torch.amp.autocast(device, *args, **options)


class FusedAttention(TorchFunctionMode):
    """Attention on the meta device as the fused kernels of a GPU do it: nothing of [tokens, tokens] is ever held."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is scaled_dot_product_attention and args[0].device == META:
            return _Fused.apply(*args)  # type: ignore[no-untyped-call]
        return func(*args, **(kwargs or {}))


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        devices = {t.device for t in (q, k, v)}
        if len(devices) > 1:
            raise MixedDevices(f"attention: {devices}")
        out, sums = torch.empty_like(q), torch.empty(q.shape[:-1], device=META)
        ctx.save_for_backward(q, k, v, out, sums)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        q, k, v, _, _ = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
