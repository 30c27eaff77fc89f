"""Runners with one interface, and engine builders."""

from qvggt.engines.runner import Runner
from qvggt.predictions import Predictions

__all__ = ["Predictions", "Runner"]
