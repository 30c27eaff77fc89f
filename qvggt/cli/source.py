"""What the MODEL argument of a command names: float weights to quantize, or a calibrated checkpoint to take as is."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from qvggt.errors import QvggtError
from qvggt.hub.loading import load
from qvggt.models.family import check_size, find_family
from qvggt.models.network import Network
from qvggt.quant.checkpoint import is_calibrated
from qvggt.quant.handle import Model
from qvggt.quant.scheme import Scheme, parse_scheme


def load_source(name: str, revision: str | None, offline: bool, *, calibrated: bool = True) -> Model:
    """Load "tiny", a weights file, a Hub id, or (unless not `calibrated`) a calibrated checkpoint directory."""
    if revision is not None and is_calibrated(name):
        raise QvggtError(f"--revision {revision}: {name} is a local calibrated checkpoint, which has none")
    model = load(name, revision=revision, offline=offline)
    if model.scheme is not None and not calibrated:
        raise QvggtError(f"{name}: is calibrated already ({model.scheme.label}); give the float checkpoint")
    return model


def scheme_of(bits: str, act: str, parts: str, overrides: Sequence[str]) -> Scheme:
    """The scheme that --bits, --act, --parts and --override name."""
    return with_overrides(parse_scheme(bits, act, [p for p in parts.split(",") if p]), overrides)


def with_overrides(scheme: Scheme, words: Sequence[str]) -> Scheme:
    """The scheme with what `--override PATTERN=BITS` adds; QvggtError for a word that is no PATTERN=BITS."""
    pairs = []
    for word in words:
        pattern, equals, bits = word.rpartition("=")
        if not (pattern and equals and bits):
            raise QvggtError(f"--override {word!r}: expected PATTERN=BITS, e.g. {find_family().override_example}=w4a16")
        pairs.append((pattern, bits))
    return dataclasses.replace(scheme, overrides=(*scheme.overrides, *pairs))


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
