"""What the runners of ONNX files share: the facts of the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from qvggt.engines.network_file import NetworkFile, read_network
from qvggt.engines.runner import Array, NetworkSizes, Runner
from qvggt.errors import QvggtError
from qvggt.models.family import DEFAULT, find_family


class FileRunner(Runner):
    """A runner of an ONNX file, see `NetworkFile` for its interface and what QvggtError is raised for."""

    def __init__(self, path: str | Path, read: Callable[[str | Path], NetworkFile] = read_network) -> None:
        self.network = read(path)
        self.path, self.metadata, self.scheme = self.network.path, self.network.metadata, self.network.scheme
        self.frames, self.size = self.network.frames, self.network.size
        self.outputs, self.files = self.network.outputs, self.network.files
        self.notes = (self.network.format.wrong,) if self.network.format.wrong else ()

    @property
    def scheme_label(self) -> str:
        return self.network.label

    def _facts(self) -> dict[str, Any]:
        unknown = "none: not written by qvggt export, so scheme and source are unknown"
        return {**super()._facts(), "metadata": dict(self.metadata.entries) or unknown}

    def _failure(self, runtime: str, images: Array, words: str) -> QvggtError:
        frames, _, height, width = images.shape
        return QvggtError(f"{self.path}: {runtime} failed on {frames} frames of {height}x{width}: {words}")

    def network_sizes(self) -> NetworkSizes | None:
        """Those in the metadata of qvggt export; None where the file does not tell."""
        config = self.metadata.config
        if config is None:
            return None
        family = find_family(self.metadata.text("family") or DEFAULT)
        return NetworkSizes(family.memory(family.config(config)))
