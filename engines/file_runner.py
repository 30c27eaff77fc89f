"""What the runners of ONNX files share: the facts of the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from qvggt.engines.network_file import read_network
from qvggt.engines.runner import Array, NetworkSizes, Runner
from qvggt.errors import QvggtError
from qvggt.models.vggt.config import VGGT_1B


class FileRunner(Runner):
    """A runner of an ONNX file, see `NetworkFile` for its interface and what QvggtError is raised for."""

    def __init__(self, path: str | Path) -> None:
        self.network = read_network(path)
        self.path, self.metadata, self.scheme = self.network.path, self.network.metadata, self.network.scheme
        self.frames, self.size = self.network.frames, self.network.size
        self.outputs, self.files = self.network.outputs, self.network.files

    def _facts(self) -> dict[str, Any]:
        unknown = "none: not written by qvggt-export, so scheme and source are unknown"
        return {**super()._facts(), "metadata": dict(self.metadata.entries) or unknown}

    def _failure(self, runtime: str, images: Array, words: str) -> QvggtError:
        frames, _, height, width = images.shape
        return QvggtError(f"{self.path}: {runtime} failed on {frames} frames of {height}x{width}: {words}")

    def network_sizes(self) -> NetworkSizes:
        """Read off the initializers that qvggt-export names; VGGT-1B's where they do not tell."""
        graph = onnx.load(str(self.path), load_external_data=False).graph
        shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        width, features, channels = VGGT_1B.embed_dim, VGGT_1B.dpt_features, VGGT_1B.dpt_head_channels
        if "camera_head.token_norm.weight" in shapes:
            width = shapes["camera_head.token_norm.weight"][0] // 2
        tail = shapes.get("depth_head.scratch.output_conv2.0.weight")
        if tail is not None and len(tail) == 4:
            channels, features = tail[0], 2 * tail[1]
        return NetworkSizes(width, features, channels)
