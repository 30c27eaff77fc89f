"""Attention whose products read codes: the fake-quant reference of the exported Q/DQ around MatMul, Softmax, MatMul."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qvggt.device import device_of
from qvggt.errors import QvggtError
from qvggt.formats.attention import AttentionFormat
from qvggt.models.block import Attention

LAYERS = ("qkv", "q_norm", "k_norm", "proj")
SCORES = 1 << 25  # values of the scores that are held at a time


@dataclass(frozen=True)
class AttentionRange:
    """Largest magnitudes of q and k, both times the root of the attention scale, and of v; tokens: of the shortest
    sequence seen."""

    q: float
    k: float
    v: float
    tokens: int


class QuantAttention(Attention):
    """softmax(q k^T) v with q, k, v and the softmax output on the grid of its format, in fp32.

    q and k are rounded with the root of the attention scale in each, as the file has them. Shares the layers of the
    float attention it is made of. Buffer: `scales` fp32 [3], of q, k and v.
    """

    scales: Tensor

    def __init__(self, attention: Attention, format: AttentionFormat, ranges: AttentionRange | None = None) -> None:
        _share(self, attention)
        self.format = format
        known = (1.0,) * 3 if ranges is None else [format.scale(a) for a in (ranges.q, ranges.k, ranges.v)]
        self.register_buffer("scales", torch.tensor(known, device=device_of(attention)))

    def rounded(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v [..., L, head_dim] as the products read them, fp32."""
        root = self.head_dim**-0.25
        given = zip((q.float() * root, k.float() * root, v.float()), self.scales, strict=True)
        q, k, v = (self.format.grid.round(x, scale) * scale for x, scale in given)
        return q, k, v

    def probabilities(self, scores: Tensor) -> Tensor:
        """Rounded softmax of the scores [..., L, L], fp32."""
        scale = self.format.probability_scale
        return self.format.grid.round(scores.softmax(-1), scale) * scale

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        kind = q.dtype
        with torch.autocast(q.device.type, enabled=False):
            q, k, v = self.rounded(q, k, v)
            rows = max(1, SCORES // (q.shape[:2].numel() * k.shape[2]))
            parts = [self.probabilities(part @ k.transpose(-2, -1)) @ v for part in q.split(rows, dim=2)]
        return torch.cat(parts, dim=2).to(kind).transpose(1, 2).flatten(2)

    def extra_repr(self) -> str:
        return self.format.name


def _share(attention: Attention, source: Attention) -> Attention:
    """`attention`, made without its own layers, with those of `source`."""
    nn.Module.__init__(attention)
    attention.num_heads, attention.head_dim = source.num_heads, source.head_dim
    for name in LAYERS:
        setattr(attention, name, getattr(source, name))
    return attention.train(source.training)


def quantized_attentions(model: nn.Module) -> Iterator[tuple[str, QuantAttention]]:
    """(path, module) of every attention with a number format, in module order."""
    for path, module in model.named_modules():
        if isinstance(module, QuantAttention):
            yield path, module


@contextmanager
def floating(model: nn.Module, paths: Iterable[str]) -> Iterator[None]:
    """Inside, these quantized attentions of the model are floating point."""
    before = {path: model.get_submodule(path) for path in paths}
    try:
        for path, module in before.items():
            assert isinstance(module, QuantAttention)
            model.set_submodule(path, _share(Attention.__new__(Attention), module))
        yield
    finally:
        for path, module in before.items():
            model.set_submodule(path, module)


@contextmanager
def observed(model: nn.Module, paths: Iterable[str]) -> Iterator[dict[str, AttentionRange]]:
    """Inside, what these attentions of the model are given goes into the ranges, once they have run."""
    ranges: dict[str, AttentionRange] = {}

    def watch(path: str, module: Attention) -> None:
        attend, root = module.attend, module.head_dim**-0.25

        def seen(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            new = AttentionRange(_largest(path, q) * root, _largest(path, k) * root, _largest(path, v), k.shape[2])
            old = ranges.get(path, new)
            largest = max(old.q, new.q), max(old.k, new.k), max(old.v, new.v)
            ranges[path] = AttentionRange(*largest, min(old.tokens, new.tokens))
            return attend(q, k, v)

        module.attend = seen  # type: ignore[method-assign]

    modules = [(path, module) for path in paths if isinstance(module := model.get_submodule(path), Attention)]
    try:
        for each in modules:
            watch(*each)
        yield ranges
    finally:
        for _, module in modules:
            vars(module).pop("attend", None)


def _largest(path: str, x: Tensor) -> float:
    amax = float(x.detach().abs().amax())
    if not math.isfinite(amax):
        raise QvggtError(f"{path}: its input holds NaN or infinity, so it has no range; check weights and images")
    return amax
