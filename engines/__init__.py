"""Runners with one interface, and engine builders."""

from qvggt.engines.runner import Predictions, Runner

__all__ = ["Predictions", "Runner"]
