"""VGGT written from its specification, with the original parameter names."""

from qvggt.model.config import VGGT_1B, TrackConfig, VGGTConfig
from qvggt.model.loading import load_model, save_model
from qvggt.model.vggt import VGGT

__all__ = ["VGGT", "VGGT_1B", "TrackConfig", "VGGTConfig", "load_model", "save_model"]
