"""Versions of the tools a result depends on."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("qvggt", "torch", "numpy", "safetensors", "onnx", "onnxruntime")


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Package -> installed version, leaving out what is not installed."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
