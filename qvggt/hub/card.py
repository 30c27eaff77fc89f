"""The model card (README.md) of a published checkpoint: what it is, how it was made, how good it is, how to use it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from qvggt.errors import QvggtError
from qvggt.hub.licence import check_licence, licence_for
from qvggt.hub.names import ALIASES, HUB_ID, SUFFIXES
from qvggt.quant.checkpoint import Provenance
from qvggt.quant.scheme import Scheme

Kind = Literal["checkpoint", "onnx"]


@dataclass(frozen=True)
class CardFacts:
    """What a card says. files: name -> bytes; model: the file `sha256` is of; metrics: a `qvggt eval --json` report."""

    kind: Kind
    repository: str
    model: str
    sha256: str
    files: Mapping[str, int]
    scheme: Scheme | None
    provenance: Provenance
    metrics: Mapping[str, Any] | None = None
    licence: str | None = None

    def __post_init__(self) -> None:
        if self.licence is not None:
            check_licence(self.licence)


def model_card(facts: CardFacts) -> str:
    """Markdown with the Hub's YAML header. QvggtError when the metrics are of other files or no evaluation report, or
    the licence is unknown or does not fit (`licence_for`)."""
    from jinja2 import Environment, StrictUndefined

    source, metrics = source_name(facts.provenance), facts.metrics or {}
    candidates, ours = _candidates(facts)
    made = Environment(
        finalize=cell, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    made.filters["number"] = number
    template = made.from_string(files("qvggt.hub").joinpath("card.md.jinja").read_text(encoding="utf-8"))
    return template.render(
        facts=facts,
        scheme=facts.scheme,
        source=source,
        base_model=HUB_ID.fullmatch(source),
        licence=licence_for(source, facts.licence),
        calibration=_calibration(facts.provenance),
        candidates=candidates,
        ours=ours,
        config=metrics.get("config") or {},
        frames=metrics.get("frame_list") or {},
        cell=cell,
    )


def source_name(provenance: Provenance) -> str:
    """The source checkpoint's name: its Hub id, or the file's without the folders of the machine it lay on."""
    name = str(provenance.source.get("name", "unknown"))
    on_hub = name.partition(":")[0]
    on_hub = ALIASES.get(on_hub, on_hub)
    return on_hub if HUB_ID.fullmatch(on_hub) and not on_hub.endswith(SUFFIXES) else Path(name).name


def cell(value: Any) -> str:
    """Text that cannot leave its table cell or turn into HTML or a link: some of it comes from other people's files."""
    return re.sub(r"[|`<>\[\]\s]+", " ", str(value)).strip()[:120]


def number(value: Any, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) and not isinstance(value, bool) else "not measured"


def _calibration(provenance: Provenance) -> list[tuple[str, Any]]:
    """Name and value of everything known."""
    calibration = provenance.calibration
    rows: list[tuple[str, Any]] = [("source sha256", provenance.source.get("sha256", ""))]
    recipe, frames = calibration.get("recipe"), calibration.get("frames")
    if isinstance(recipe, Mapping):
        rows.append(("recipe", recipe.get("name", "")))
    elif "import" in calibration:
        rows.append(("imported from", calibration["import"]))
    if isinstance(frames, Mapping):
        count = sum(len(f) for f in frames.values() if isinstance(f, list))
        rows.append(("images", f"{count} frames of {len(frames)} sequences"))
    rows += [(f"calibration {key}", calibration[key]) for key in ("size", "seed", "sha256") if key in calibration]
    figures = [layer.get("weight_sqnr_db") for layer in provenance.layers.values()]
    if figures := [figure for figure in figures if isinstance(figure, float)]:
        mean = sum(figures) / len(figures)
        rows.append(("weight SQNR over linears", f"{min(figures):.1f} dB at worst, {mean:.1f} dB mean"))
    return [*rows, *provenance.versions.items()]


def _candidates(facts: CardFacts) -> tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]]:
    """All of the report, and those that ran the file of this card; none without a report."""
    if facts.metrics is None:
        return (), ()
    candidates = facts.metrics.get("candidates")
    if not isinstance(candidates, Sequence) or not candidates or not all(isinstance(c, Mapping) for c in candidates):
        raise QvggtError("metrics: expected a JSON report of `qvggt eval --json`, got one without candidates")
    ours = [candidate for candidate in candidates if _is_ours(candidate, facts.sha256)]
    if not ours:
        raise QvggtError(
            f"metrics: no candidate ran {facts.model} of sha256 {facts.sha256[:12]}...; evaluate the file you push"
        )
    return candidates, ours


def _is_ours(candidate: Mapping[str, Any], sha256: str) -> bool:
    files = candidate.get("files")
    hashes = [f.get("sha256") for f in files if isinstance(f, Mapping)] if isinstance(files, Sequence) else []
    return sha256 in (candidate.get("sha256"), *hashes)
