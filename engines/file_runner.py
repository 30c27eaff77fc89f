"""What the runners of ONNX files share: the facts of the file."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvggt.engines.network_file import INPUT, NetworkFile, read_network
from qvggt.engines.runner import Array, NetworkSizes, Runner
from qvggt.errors import QvggtError
from qvggt.models.family import DEFAULT, find_family


class FileRunner(Runner):
    """A runner of an ONNX file, see `NetworkFile` for its interface and what QvggtError is raised for."""

    def __init__(self, source: str | Path | NetworkFile) -> None:
        self.network = source if isinstance(source, NetworkFile) else read_network(source)
        self.path, self.metadata, self.scheme = self.network.path, self.network.metadata, self.network.scheme
        self.frames, self.size = self.network.frames, self.network.size
        self.outputs, self.files = self.network.outputs, self.network.files
        self.notes = (self.network.format.wrong,) if self.network.format.wrong else ()

    def _run(self, images: Array) -> dict[str, Array]:
        return self.run_tensors({INPUT: np.ascontiguousarray(images)[None]}, self.outputs)

    @abstractmethod
    def run_tensors(self, tensors: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        """The file's inputs by name -> those of its outputs, levels among them, as it has them."""

    @property
    def scheme_label(self) -> str:
        return self.network.label

    def _facts(self) -> dict[str, Any]:
        unknown = "none: not written by qvggt export, so scheme and source are unknown"
        return {**super()._facts(), "metadata": dict(self.metadata.entries) or unknown}

    def _failure(self, runtime: str, tensors: Mapping[str, NDArray[Any]], words: str) -> QvggtError:
        shape = next(iter(tensors.values())).shape  # images [1, S, 3, H, W] or tokens [1, S, P, C]
        each = "x".join(map(str, shape[3:])) if INPUT in tensors else f"{shape[2]} tokens"
        return QvggtError(f"{self.path}: {runtime} failed on {shape[1]} frames of {each}: {words}")

    def network_sizes(self) -> NetworkSizes | None:
        """Those in the metadata of qvggt export; None where the file does not tell."""
        config = self.metadata.config
        if config is None:
            return None
        family = find_family(self.metadata.text("family") or DEFAULT)
        return NetworkSizes(family.memory(family.config(config)))
