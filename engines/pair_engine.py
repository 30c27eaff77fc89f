"""A network in two engines as one: what `Engine` offers, on a trunk for all frames and its dense heads for groups.

Tokens go from one to the other on the card. Not run on a GPU by this project yet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from qvggt.engines.manifest import Manifest, check_engine
from qvggt.errors import QvggtError
from qvggt.onnx_view.halves import GROUP, Half, heads_path, trunk_path
from qvggt.onnx_view.metadata import Metadata

Shape = tuple[int, ...]


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
    """trunk, heads: open engines on one GPU and stream. QvggtError, after closing both, where they do not fit."""

    def __init__(self, trunk: Any, heads: Any) -> None:
        self.trunk, self.heads = trunk, heads
        self.path, self.gpu, self.inputs, self.profiles = trunk.path, trunk.gpu, trunk.inputs, trunk.profiles
        self.levels: tuple[str, ...] = heads.inputs
        own = tuple(name for name in trunk.outputs if name not in self.levels)
        self.outputs: tuple[str, ...] = (*own, *heads.outputs)
        self.types = {**trunk.types, **heads.types}
        strange = [name for name in self.levels if trunk.types.get(name) != heads.types[name]]
        most = min(profile[name][2][1] for profile in heads.profiles for name in self.levels)
        frames = max(profile[name][2][1] for profile in trunk.profiles for name in trunk.inputs)
        if strange or most < min(GROUP, frames):
            self.close()
            why = f"{strange[0]} differs" if strange else f"it takes {most} frames at once, {min(GROUP, frames)} come"
            raise QvggtError(f"{heads.path}: does not fit {trunk.path.name}: {why}; build both again")

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.trunk.notes, *self.heads.notes)))

    def on_device(self, tensors: Mapping[str, Tensor], outputs: Sequence[str] | None = None) -> dict[str, Tensor]:
        """As `Engine.on_device`; maps of dense heads are not the engines' own buffers."""
        return self._run(tensors, outputs, self.gpu.empty)

    def on_host(self, tensors: Mapping[str, Tensor], outputs: Sequence[str] | None = None) -> dict[str, Tensor]:
        """As `Engine.on_host`: maps of dense heads leave the card group by group, so it never holds all of them."""
        with self.gpu.active(str(self.path)):
            on_card = {name: tensor.to(self.gpu.device, non_blocking=True) for name, tensor in tensors.items()}
            found = self._run(on_card, outputs, self.gpu.pinned)
            result = {name: value.cpu() for name, value in found.items()}
            self.gpu.wait()
            return {name: value.float() for name, value in result.items()}

    def _run(
        self, tensors: Mapping[str, Tensor], outputs: Sequence[str] | None, memory: Callable[..., Tensor]
    ) -> dict[str, Tensor]:
        names = self.outputs if outputs is None else tuple(outputs)
        wanted = [name for name in names if name in self.heads.outputs]
        own = [name for name in names if name not in wanted]
        found: dict[str, Tensor] = self.trunk.on_device(tensors, [*own, *(self.levels if wanted else ())])
        frames = tensors[self.inputs[0]].shape[1]
        for start in range(0, frames if wanted else 0, GROUP):
            group = slice(start, start + GROUP)
            part = self.heads.on_device({name: found[name][:, group] for name in self.levels}, wanted)
            for name, value in part.items():
                if name not in found:
                    found[name] = memory((1, frames, *value.shape[2:]), value.dtype)
                found[name][:, group].copy_(value, non_blocking=True)
        return {name: found[name] for name in names}

    def relaunch(self, shapes: Mapping[str, Shape]) -> None:
        """As `Engine.relaunch`, copies between the two left out."""
        self.trunk.relaunch(shapes)
        frames = shapes[self.inputs[0]][1]
        for start in range(0, frames, GROUP):
            count = min(GROUP, frames - start)
            low = self.heads.profiles[0]
            self.heads.relaunch({name: (1, count, *low[name][0][2:]) for name in self.levels})

    def save_kernels(self) -> None:
        self.trunk.save_kernels()
        self.heads.save_kernels()

    def describe(self) -> dict[str, Any]:
        """Of both together."""
        pair = self.trunk.describe(), self.heads.describe()
        return {key: sum(facts[key] for facts in pair) for key in pair[0]} | {"frames_at_once": GROUP}

    def close(self) -> None:
        self.heads.close()
        self.trunk.close()
