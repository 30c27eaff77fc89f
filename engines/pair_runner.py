"""A network in two files as one runner: the trunk on all frames, its dense heads on a few at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from qvggt.engines.file_runner import FileRunner
from qvggt.engines.network_file import INPUT, NetworkFile, read_heads, read_network
from qvggt.engines.runner import Array, NetworkSizes, Runner
from qvggt.onnx_view.halves import GROUP
from qvggt.predictions import OUTPUTS

Open = Callable[[NetworkFile], FileRunner]


def open_network(path: str | Path, open_file: Open) -> Runner:
    """The runner of a file, or of a trunk and the heads beside it. QvggtError as `read_network`, and for heads that are
    missing or of another export."""
    network = read_network(path)
    return PairRunner(open_file, network, read_heads(network)) if network.levels else open_file(network)


class PairRunner(Runner):
    """Trunk and heads, opened by the same runtime; tokens go from one to the other as they are, without a copy."""

    held = ("trunk", "heads")

    def __init__(self, open_file: Open, trunk: NetworkFile, heads: NetworkFile) -> None:
        self.trunk: FileRunner = open_file(trunk)
        try:
            self.heads: FileRunner = open_file(heads)
        except BaseException:
            self.trunk.close()
            raise
        first = self.trunk
        self.label, self.device, self.scheme = first.label, first.device, first.scheme
        self.size, self.frames = first.size, first.frames
        self.outputs = tuple(name for name in OUTPUTS if name in (*trunk.outputs, *heads.outputs))
        self.files = (*trunk.files, *heads.files)
        self.notes = tuple(dict.fromkeys((*first.notes, *self.heads.notes)))

    @property
    def scheme_label(self) -> str:
        return self.trunk.scheme_label

    def _run(self, images: Array) -> dict[str, Array]:
        return self._run_chosen(images, self.outputs)

    def _run_chosen(self, images: Array, outputs: Sequence[str]) -> dict[str, Array]:
        levels = self.trunk.network.levels
        wanted = [name for name in outputs if name in self.heads.outputs]
        found = self.trunk.run_tensors(
            {INPUT: np.ascontiguousarray(images)[None]},
            [*(name for name in outputs if name not in wanted), *(levels if wanted else ())],
        )
        tokens = {name: found.pop(name) for name in levels if wanted}
        if wanted:
            found |= in_groups(tokens, len(images), lambda group: self.heads.run_tensors(group, wanted))
        return {name: found[name] for name in outputs}

    def close(self) -> None:
        for runner in (self.trunk, self.heads):
            if runner is not None:
                runner.close()
        super().close()

    def describe(self) -> dict[str, Any]:
        return {**self.trunk.describe(), **self._facts(), "frames_at_once": GROUP}

    def network_sizes(self) -> NetworkSizes | None:
        sizes = self.trunk.network_sizes()
        return None if sizes is None else replace(sizes, chunk=GROUP)


def in_groups(
    tokens: Mapping[str, Any], frames: int, run: Callable[[dict[str, Any]], Mapping[str, Array]]
) -> dict[str, Array]:
    """What `run` makes of tokens {name: [1, S, ...]}, GROUP frames at a time: {name: [1, S, ...]}.

    The results are put where they belong at once: a list of groups would be held twice.
    """
    results: dict[str, Array] = {}
    for start in range(0, frames, GROUP):
        for name, part in run({key: value[:, start : start + GROUP] for key, value in tokens.items()}).items():
            if name not in results:
                results[name] = np.empty((1, frames, *part.shape[2:]), part.dtype)
            results[name][:, start : start + GROUP] = part
    return results
