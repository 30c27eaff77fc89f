"""What code asks of a machine: operations, bytes moved and memory, counted while it runs on tensors without values.

Shapes and types decide all three, so the code itself is run on torch's `meta` device, where a tensor has both and
nothing else. Numbers that the code asks for (a largest value, how well a step does) are 0 there, and
what it checks is true.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
Kind = Literal["fp64", "fp32", "half", "attention", "copy", "none"]
"""What an operation waits for beside its bytes: products of a type, fp32 attention, the way between host and device,
nothing."""


@dataclass(frozen=True)
class Operation:
    """One call of a kernel: floating-point operations (a multiply-add is two), bytes read and written."""

    kind: Kind
    flops: int
    bytes: int


@dataclass(frozen=True)
class Work:
    """Operations with how often they run, and the most bytes that what they made took at one time."""

    operations: Mapping[Operation, float] = field(default_factory=dict)
    peak: int = 0

    def __add__(self, other: Work) -> Work:
        """One after the other."""
        both = Counter(self.operations)
        both.update(other.operations)
        return Work(both, max(self.peak, other.peak))

    def __mul__(self, times: float) -> Work:
        return Work({operation: times * count for operation, count in self.operations.items()}, self.peak)

    def __sub__(self, other: Work) -> Work:
        """What it does beyond the other; some operations may be there less than not at all, the sums are right."""
        rest = Counter(self.operations)
        rest.subtract(other.operations)
        return Work(rest, self.peak)

    def total(self, of: Callable[[Operation], float]) -> float:
        return sum(count * of(operation) for operation, count in self.operations.items())

    @property
    def flops(self) -> float:
        return self.total(lambda operation: operation.flops)

    @property
    def bytes(self) -> float:
        return self.total(lambda operation: operation.bytes)


Seen = dict[Any, tuple[Operation, Any]]


class Counting(TorchDispatchMode):
    """Counts what runs inside; on the meta device with stand-ins for what depends on values.

    seen: what calls of some shapes came to, to be shared by those who count the same code again.
    """

    def __init__(self, seen: Seen | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: Counter[Operation] = Counter()
        self.live = self.peak = self.before = 0
        self._known: dict[int, weakref.ref[Any]] = {}
        self._seen: Seen = {} if seen is None else seen

    @property
    def work(self) -> Work:
        return Work(dict(self.operations), self.peak)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(result.alias_info is not None and not result.alias_info.is_write for result in func._schema.returns):
            return func(*args, **kwargs)  # a view
        key = _key(func, args, kwargs)
        if key is not None and key in self._seen:  # a loop: PyTorch's way to the same shapes takes ten times as long
            operation, likes = self._seen[key]
            self.operations[operation] += 1
            if likes is None:
                return args[0]
            again = tuple(aten.empty_strided.default(*like[:2], dtype=like[2], device="meta") for like in likes)
            for tensor in again:
                self._hold(tensor)
            return again if len(func._schema.returns) > 1 else again[0]
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        virtual = any(tensor.is_meta for tensor in given)
        out = (STAND_INS.get(func._overloadpacket, func) if virtual else func)(*args, **kwargs)
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        for tensor in made:
            self._hold(tensor)
        operation = _operation(func._overloadpacket, args, kwargs, out, given, made)
        self.operations[operation] += 1
        if key is not None and out is args[0]:
            self._seen[key] = operation, None
        elif key is not None and made and _new(func, made):
            self._seen[key] = operation, tuple((tuple(t.shape), t.stride(), t.dtype) for t in made)
        return out

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)

        def free(_: Any) -> None:
            self.live -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, free)


def _key(func: Any, args: Any, kwargs: Any) -> Any:
    """Equal for calls with like results; None for those that read values or have no tensor to go by."""
    if not args or func._overloadpacket is aten._local_scalar_dense:
        return None
    virtual, parts = False, list[Any]((func,))
    for value in (*args, *kwargs.values()):
        for item in value if isinstance(value, list) else (value,):
            if isinstance(item, Tensor):
                virtual = virtual or item.is_meta
                parts.append((item.shape, item.stride(), item.dtype))
            else:
                parts.append(item)
        parts.append(None)  # [a, b], c is not [a], b, c
    return tuple(parts) if virtual else None


def _new(func: Any, made: list[Tensor]) -> bool:
    """Whether an operation returns these tensors alone, and all of them are on the device and its own."""
    returns = func._schema.returns
    return len(made) == len(returns) and all(t.is_meta for t in made) and all(r.alias_info is None for r in returns)


def _operation(packet: Any, args: Any, kwargs: Any, out: Any, given: list[Tensor], made: list[Tensor]) -> Operation:
    count = FLOPS.get(packet) or flop_registry.get(packet)
    flops = 0 if count is None else int(count(*args, **kwargs, out_val=out))
    moved = sum(t.nbytes for t in {id(t): t for t in (*given, *made)}.values())
    if packet in MOVES and len({t.device for t in (*given, *made)}) > 1:
        return Operation("copy", 0, moved // 2)
    return Operation(_kind(packet, made or given) if flops else "none", flops, moved)


def _kind(packet: Any, tensors: list[Tensor]) -> Kind:
    dtype = tensors[0].dtype if tensors else torch.float32
    if dtype in (torch.float16, torch.bfloat16):
        return "half"
    return "attention" if "attention" in str(packet) else "fp64" if dtype == torch.float64 else "fp32"


def _rows(*shape: int) -> Callable[..., Tensor]:
    return lambda *args, **kwargs: torch.empty(shape, dtype=torch.int64, device="meta")


def _picked(x: Tensor, indices: Any) -> Tensor:
    """Where a mask picks, it picks all."""
    whole: list[Tensor | None] = []
    for index in indices:
        masks = index is not None and index.dtype == torch.bool
        whole += [_rows(index.numel())()] * index.dim() if masks else [index]
    return aten.index(x, whole)


def _attended(q: Tensor, k: Tensor, *_: Any, out_val: Any = None, **__: Any) -> int:
    """Two products of [L, d] with [d, M], for every head."""
    return 4 * q.numel() * k.shape[-2]


def _attended_back(_out: Tensor, q: Tensor, k: Tensor, *_: Any, out_val: Any = None, **__: Any) -> int:
    """The scores again, and four products of that size."""
    return 10 * q.numel() * k.shape[-2]


def _outer(x: Tensor, a: Tensor, b: Tensor, **_: Any) -> int:
    return 2 * a.numel() * b.numel()


def _cubed(parts: float) -> Callable[..., int]:
    return lambda x, *_, out_val=None, **__: int(parts * x.numel() * x.shape[-1])


FLOPS: dict[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attended,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attended_back,
    aten.addr: _outer,
    aten.addr_: _outer,
    aten.addmm_: lambda x, a, b, out_val=None, **_: 2 * a.numel() * b.shape[-1],
    aten.linalg_cholesky_ex: _cubed(1 / 3),
    aten.cholesky_inverse: _cubed(2 / 3),
    aten._linalg_eigh: _cubed(9),
    aten._linalg_svd: _cubed(20),
    aten.linalg_qr: _cubed(4),
    aten._linalg_solve_ex: _cubed(8 / 3),
}
"""Of what PyTorch's own counter leaves out."""


def _moved(x: Tensor, **options: Any) -> Tensor:
    """To the host come zeros, which take no memory."""
    if torch.device(options.get("device") or "meta").type == "meta":
        return aten._to_copy(x, **options)
    return torch.zeros((), dtype=options.get("dtype") or x.dtype).expand(x.shape)


MOVES = (aten._to_copy, aten.copy_)
TYPES = 11
STAND_INS: dict[Any, Callable[..., Any]] = {
    aten._to_copy: _moved,
    aten.copy_: lambda x, y, *_: x if x.is_meta else x.zero_(),
    aten._local_scalar_dense: lambda x: True if x.dtype == torch.bool else 0.0 if x.is_floating_point() else 0,
    aten.equal: lambda *_: True,
    aten.allclose: lambda *_, **__: True,
    aten.index: _picked,
    # masks that are looked up tell types of tokens apart, of which there are about so many
    aten.nonzero: lambda x: _rows(max(1, x.numel() // TYPES), x.dim())(),
    aten._unique2: lambda x, *_, **__: (_rows(1)(), _rows(0)(), _rows(0)()),
    aten.bincount: lambda x, weights=None, minlength=0: torch.empty(minlength, dtype=torch.int64, device="meta"),
}


class _FusedAttention(TorchFunctionMode):
    """On the meta device PyTorch takes attention apart; machines have a kernel that never holds the scores."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention and args[0].is_meta:
            return aten._scaled_dot_product_flash_attention_for_cpu(*args[:3])[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def counting(seen: Seen | None = None) -> Iterator[Counting]:
    """What runs inside is counted."""
    autocast = torch.autocast
    torch.autocast = lambda *_, **__: nullcontext()  # type: ignore[assignment,misc] # it knows no meta device
    try:
        with _FusedAttention(), Counting(seen) as counter:
            yield counter
    finally:
        torch.autocast = autocast  # type: ignore[misc]
