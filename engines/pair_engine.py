"""A network in two engines as one: what `Engine` offers, on a trunk for all frames and its dense heads for groups.

Tokens go from one to the other on the card. Not run on a GPU by this project yet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qvggt.engines.engine import Engine
from qvggt.engines.manifest import Manifest, check_engine
from qvggt.errors import QvggtError
from qvggt.onnx_view.halves import GROUP, Half, heads_path, trunk_path
from qvggt.onnx_view.metadata import Metadata

Memory = Callable[[Sequence[int], torch.dtype], Tensor]


def find_heads(engine: Path, manifest: Manifest) -> tuple[Path, Manifest] | None:
    """The engine of dense heads beside that of a trunk, checked against its own manifest; None for a whole network.

    QvggtError for heads that are given alone, missing, or of another export.
    """
    metadata = Metadata(manifest.metadata, engine)
    if metadata.half is None:
        return None
    again = f"build both with qvggt build {trunk_path(manifest.onnx[0].name).name}"
    if metadata.half is Half.HEADS:
        raise QvggtError(f"{engine}: holds dense heads only, which go with {trunk_path(engine).name}; give that file")
    path = heads_path(engine)
    if not path.is_file():
        raise QvggtError(f"{engine}: is a trunk, whose dense heads {path.name} are not beside it; {again}")
    found = check_engine(path)
    mine, theirs = (str(m.text("pair"))[:12] for m in (metadata, Metadata(found.metadata, path)))
    if mine != theirs or found.backend != manifest.backend:
        other = f"belongs to export {theirs} of {found.backend}, {engine.name} to {mine} of {manifest.backend}"
        raise QvggtError(f"{path}: {other}; {again}")
    return path, found


class EnginePair:
    """trunk, heads: open engines on one GPU and stream, with one block of scratch memory. QvggtError where they do not
    fit."""

    def __init__(self, trunk: Engine, heads: Engine) -> None:
        self.trunk, self.heads = trunk, heads
        self.path, self.gpu, self.inputs, self.profiles = trunk.path, trunk.gpu, trunk.inputs, trunk.profiles
        self.levels = heads.inputs
        self.outputs = (*(name for name in trunk.outputs if name not in self.levels), *heads.outputs)
        self.types = {**trunk.types, **heads.types}
        self._card: dict[str, Tensor] = {}  # what the engines themselves have no buffers for, as they see a group each
        self._host: dict[str, Tensor] = {}
        given = {name: trunk.types.get(name) for name in self.levels}
        most = max(profile[name][2][1] for profile in heads.profiles for name in self.levels)
        frames = max(profile[name][2][1] for profile in trunk.profiles for name in self.inputs)
        if given != {name: heads.types[name] for name in self.levels}:
            raise QvggtError(f"{heads.path}: takes other tokens than {trunk.path.name} gives; build both again")
        if most < min(GROUP, frames):
            raise QvggtError(f"{heads.path}: takes {most} frames at once, expected {GROUP}; build both again")

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.trunk.notes, *self.heads.notes)))

    def on_device(self, tensors: Mapping[str, Tensor], outputs: Sequence[str] | None = None) -> dict[str, Tensor]:
        """As `Engine.on_device`."""
        names = self._chosen(outputs)
        with self.gpu.active(str(self.path)) as caller, torch.no_grad():
            self.gpu.stream.wait_stream(caller)
            found = self._run(tensors, names, self._card, self.gpu.empty)
            caller.wait_stream(self.gpu.stream)
        return found

    def on_host(self, tensors: Mapping[str, Tensor], outputs: Sequence[str] | None = None) -> dict[str, Tensor]:
        """As `Engine.on_host`. What dense heads compute leaves the card group by group, so it never holds all of it."""
        names = self._chosen(outputs)
        with self.gpu.active(str(self.path)), torch.no_grad():
            given = {}
            for name in self.inputs:
                shape = tuple(tensors[name].shape)
                host = self._buffer(self._host, name, shape, self.gpu.pinned)
                host.copy_(tensors[name])
                given[name] = self._buffer(self._card, name, shape, self.gpu.empty)
                given[name].copy_(host, non_blocking=True)
            found = self._run(given, names, self._host, self.gpu.pinned)
            for name in names:
                if name not in self.heads.outputs:
                    host = self._buffer(self._host, name, tuple(found[name].shape), self.gpu.pinned)
                    found[name] = host.copy_(found[name], non_blocking=True)
            self.gpu.wait()
            return {name: found[name].to(torch.float32, copy=True) for name in names}

    def _run(
        self, tensors: Mapping[str, Tensor], names: Sequence[str], kept: dict[str, Tensor], memory: Memory
    ) -> dict[str, Tensor]:
        """Trunk, then heads; what these compute goes to buffers of `memory`, which are kept."""
        wanted = [name for name in names if name in self.heads.outputs]
        own = [name for name in names if name not in wanted]
        found = self.trunk.on_device(tensors, [*own, *(self.levels if wanted else ())])
        frames = tensors[self.inputs[0]].shape[1]
        for start in range(0, frames if wanted else 0, GROUP):
            group = slice(start, start + GROUP)
            for name, part in self.heads.on_device({k: found[k][:, group] for k in self.levels}, wanted).items():
                whole = self._buffer(kept, name, (1, frames, *part.shape[2:]), memory)
                found[name] = whole
                whole[:, group].copy_(part, non_blocking=True)
        return {name: found[name] for name in names}

    def _buffer(self, kept: dict[str, Tensor], name: str, shape: tuple[int, ...], memory: Memory) -> Tensor:
        if name not in kept or tuple(kept[name].shape) != shape:
            kept.pop(name, None)  # before the other one is asked for
            kept[name] = memory(shape, self.types[name])
        return kept[name]

    def _chosen(self, outputs: Sequence[str] | None) -> tuple[str, ...]:
        unknown = [name for name in outputs or () if name not in self.outputs]
        if unknown:
            raise QvggtError(f"{self.path}: has no output {unknown[0]}, only {', '.join(self.outputs)}")
        return self.outputs if outputs is None else tuple(outputs)

    def relaunch(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """As `Engine.relaunch`; copies between the two are left out as well."""
        self.trunk.relaunch(shapes)
        frames = shapes[self.inputs[0]][1]
        sizes = {name: low[2:] for name, (low, _, _) in self.heads.profiles[0].items()}
        for start in range(0, frames, GROUP):
            self.heads.relaunch({name: (1, min(GROUP, frames - start), *size) for name, size in sizes.items()})

    def save_kernels(self) -> None:
        """As `Engine.save_kernels`."""
        self.trunk.save_kernels()
        self.heads.save_kernels()

    def describe(self) -> dict[str, Any]:
        """Of both, which share their scratch memory."""
        first, second = self.trunk.describe(), self.heads.describe()
        scratch = {key: max(first[key], second[key]) for key in first if key.endswith("_bytes")}
        return {**first, **scratch, "contexts": first["contexts"] + second["contexts"], "frames_at_once": GROUP}

    def close(self) -> None:
        """As `Engine.close`."""
        self._card.clear()
        self._host.clear()
        self.heads.close()
        self.trunk.close()
