"""The model a job names: float weights to quantize, or a calibrated checkpoint to take as is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qvggt.errors import QvggtError
from qvggt.formats.table import DEFAULT
from qvggt.models.family import check_size
from qvggt.quant.scheme import DESCRIPTION, Scheme, parse_scheme

if TYPE_CHECKING:
    from qvggt.jobs.job import Source
    from qvggt.models.network import Network
    from qvggt.quant.handle import Model


def load_source(source: Source, revision: str | None, offline: bool, *, calibrated: bool = True) -> Model:
    """Load "tiny", a weights file, a Hub id, or (unless not `calibrated`) a calibrated checkpoint; a `Model` is taken
    as it is. Its network is the caller's to change only where it was loaded here."""
    from qvggt.hub.loading import load
    from qvggt.quant.checkpoint import is_calibrated
    from qvggt.quant.handle import Model

    if isinstance(source, Model):
        model = source
    else:
        if revision is not None and is_calibrated(source):
            raise QvggtError(f"--revision {revision}: {source} is a local calibrated checkpoint, which has none")
        model = load(source, revision=revision, offline=offline)
    if model.scheme is not None and not calibrated:
        raise QvggtError(f"{model.name}: is calibrated already ({model.scheme.label}); give the float checkpoint")
    return model


def check_source(source: Source, revision: str | None) -> None:
    """QvggtError for a local model that is not there, found out without loading anything; the Hub is not asked."""
    from qvggt.hub.names import find_weights, hub_id

    if isinstance(source, str | Path) and hub_id(source) is None and not (Path(source) / DESCRIPTION).is_file():
        find_weights(source, revision=revision)


def scheme_of(
    format: str | None, act: str | None, parts: Sequence[str] | None, overrides: Sequence[tuple[str, str]] = ()
) -> Scheme:
    """The scheme that --bits, --act, --parts and --override name, with the defaults of those left out."""
    scheme = parse_scheme(format or DEFAULT, act or "dynamic", parts)
    return with_overrides(scheme, overrides)


def with_overrides(scheme: Scheme, overrides: Sequence[tuple[str, str]]) -> Scheme:
    """The scheme with more (pattern, format) pairs."""
    import dataclasses

    return dataclasses.replace(scheme, overrides=(*scheme.overrides, *overrides))


def image_size(size: tuple[int, int] | None, model: Network) -> tuple[int, int]:
    """(height, width) in pixels, checked against the patch size; the model's native square without one."""
    if size is None:
        return model.config.img_size, model.config.img_size
    check_size(*size, model.config.patch_size)
    return size
