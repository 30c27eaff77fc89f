"""The model a job names: float weights to quantize, or a calibrated checkpoint to take as is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from qvggt.errors import QvggtError
from qvggt.formats.table import DEFAULT, with_block
from qvggt.models.family import DEFAULT as VGGT
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
    from qvggt.quant.handle import Model

    model = source if isinstance(source, Model) else load(source, revision=revision, offline=offline)
    if model.scheme is not None and not calibrated:
        raise QvggtError(f"{model.name}: is calibrated already ({model.scheme.label}); give the float checkpoint")
    return model


def is_calibrated(source: Source) -> bool:
    """Whether a model is quantized already, or a local checkpoint that is; asks no torch."""
    if isinstance(source, str | Path):
        return (Path(source) / DESCRIPTION).is_file()
    return source.scheme is not None


def check_source(source: Source, revision: str | None = None) -> None:
    """QvggtError for a local model that is not there or has no revisions; asks neither torch nor the Hub."""
    from qvggt.hub.names import find_weights, hub_id

    if not isinstance(source, str | Path):
        return
    if not is_calibrated(source):
        if hub_id(source) is None:
            find_weights(source, revision=revision)
    elif revision is not None:
        raise QvggtError(f"--revision {revision}: {source} is a local calibrated checkpoint, which has none")


def scheme_of(
    format: str | None,
    act: str | None,
    parts: Sequence[str] | None,
    overrides: Sequence[tuple[str, str]] = (),
    family: str = VGGT,
    block: int | None = None,
) -> Scheme:
    """The scheme that --bits, --act, --parts, --override and --block name, with the defaults of those left out."""
    bits = format or DEFAULT
    scheme = parse_scheme(bits if block is None else with_block(bits, block), act or "dynamic", parts, family)
    return replace(scheme, overrides=(*scheme.overrides, *overrides))


def image_size(size: tuple[int, int] | None, model: Network) -> tuple[int, int]:
    """(height, width) in pixels, checked against the patch size; the model's native square without one."""
    if size is None:
        return model.config.img_size, model.config.img_size
    check_size(*size, model.config.patch_size)
    return size
