"""What the MODEL argument of a command names: float weights to quantize, or a calibrated checkpoint to take as is."""

from __future__ import annotations

from dataclasses import dataclass

from qvggt.errors import QvggtError
from qvggt.files import file_sha256
from qvggt.hub.loading import load_model
from qvggt.hub.names import find_weights
from qvggt.models.family import check_size
from qvggt.models.network import Network
from qvggt.quant.checkpoint import is_calibrated, load_calibrated
from qvggt.quant.scheme import Scheme


@dataclass(frozen=True)
class Source:
    """A loaded model; `scheme` is None for float weights. `name` and `sha256` identify the file it came from."""

    model: Network
    name: str
    sha256: str
    scheme: Scheme | None


def load_source(name: str, revision: str | None = None, offline: bool = False) -> Source:
    """Load "tiny", a weights file, a Hub id, or a calibrated checkpoint directory."""
    if is_calibrated(name):
        if revision is not None:
            raise QvggtError(f"--revision {revision}: {name} is a local calibrated checkpoint, which has none")
        loaded = load_calibrated(name)
        return Source(loaded.model, name, loaded.sha256, loaded.scheme)
    path = find_weights(name, revision=revision, offline=offline)
    model = load_model(name, heads="predicting", revision=revision, offline=offline, check_finite=True)
    return Source(model, name, file_sha256(path), None)


def parse_size(text: str | None, model: Network) -> tuple[int, int]:
    """`HxW` in pixels, checked against the patch size; the model's native square without one."""
    patch = model.config.patch_size
    if text is None:
        return model.config.img_size, model.config.img_size
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(p.isdigit() for p in parts):
        raise QvggtError(f"--size {text!r}: expected HxW in pixels, e.g. 392x518")
    height, width = int(parts[0]), int(parts[1])
    check_size(height, width, patch)
    return height, width


def parse_frames(text: str) -> tuple[int, int, int]:
    """`min:opt:max` frame counts, or one number for all three."""
    parts = text.split(":")
    if len(parts) not in (1, 3) or not all(p.isdigit() and int(p) > 0 for p in parts):
        raise QvggtError(f"--frames {text!r}: expected min:opt:max, e.g. 1:8:32")
    low, best, high = (int(p) for p in (parts if len(parts) == 3 else parts * 3))
    if not low <= best <= high:
        raise QvggtError(f"--frames {text!r}: expected min <= opt <= max")
    return low, best, high
