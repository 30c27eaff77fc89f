"""The base of every family's network: images in, named outputs out."""

from __future__ import annotations

from torch import Tensor, nn

from qvggt.models.family import ModelConfig


class Network(nn.Module):
    """Images [S, 3, H, W] or [B, S, 3, H, W], RGB in [0, 1] -> {name among OUTPUTS: tensor [B, S, ...]}.

    `query_points`: for networks that track points. Everything is in the state dict, so that a network built on the meta
    device is whole once it is loaded. Calibration, folding and export ask the family's description
    (qvggt.models.family) where things are.
    """

    config: ModelConfig

    def forward(self, images: Tensor, query_points: Tensor | None = None) -> dict[str, Tensor]:
        raise NotImplementedError


def module_at(network: nn.Module, path: str) -> nn.Module | None:
    """The module at a path, None where the network has none there (a head left out)."""
    try:
        return network.get_submodule(path)
    except AttributeError:
        return None
