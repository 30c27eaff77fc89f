"""The model card (README.md) of a published checkpoint: what it is, how it was made, how good it is, how to use it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qvggt.errors import QvggtError
from qvggt.hub.names import ALIASES, HUB_ID
from qvggt.quant.checkpoint import Provenance
from qvggt.quant.scheme import Scheme

Kind = Literal["checkpoint", "onnx"]
LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
TINY_LICENCE = "apache-2.0"
THRESHOLDS = ("30", "15", "5", "3")


@dataclass(frozen=True)
class CardFacts:
    """What a card says. files: name -> bytes; model: the file `sha256` is of; metrics: a `qvggt-eval --json` report."""

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
        if self.licence is not None and not LICENCE.fullmatch(self.licence):
            raise QvggtError(
                f"licence {self.licence!r}: expected a Hub licence id such as apache-2.0, cc-by-nc-4.0 or other"
            )


def model_card(facts: CardFacts) -> str:
    """Markdown with the Hub's YAML header. QvggtError when the metrics are of other files or no evaluation report."""
    sections = [_header(facts), _title(facts), _scheme(facts), _calibration(facts), _metrics(facts)]
    return "\n\n".join([*sections, _use(facts), _files(facts), _licence(facts)]) + "\n"


def source_name(provenance: Provenance) -> str:
    """The source checkpoint's name without the folders of the machine it lay on."""
    name = str(provenance.source.get("name", "unknown"))
    name = ALIASES.get(name, name)
    return name if HUB_ID.fullmatch(name) and not name.endswith((".safetensors", ".pt", ".pth")) else Path(name).name


def _header(facts: CardFacts) -> str:
    source = source_name(facts.provenance)
    lines = ["---", f"license: {_licence_id(facts)}", "library_name: qvggt", "pipeline_tag: image-to-3d"]
    if HUB_ID.fullmatch(source):
        lines += [f"base_model: {source}", "base_model_relation: quantized"]
    tags = ["vggt", "quantized", *(["onnx"] if facts.kind == "onnx" else [])]
    if facts.scheme is not None:
        tags.append(facts.scheme.label)
    return "\n".join([*lines, "tags:", *(f"- {tag}" for tag in tags), "---"])


def _title(facts: CardFacts) -> str:
    label = "quantized" if facts.scheme is None else facts.scheme.label
    what = "calibrated checkpoint" if facts.kind == "checkpoint" else "ONNX file with standard Q/DQ nodes"
    name = _cell(source_name(facts.provenance))
    return (
        f"# {facts.repository.rpartition('/')[2]}\n\n"
        f"VGGT (images to cameras, depth and point maps) at low precision: a {what} of `{name}`, {label}, "
        "made with `qvggt`."
    )


def _scheme(facts: CardFacts) -> str:
    if facts.scheme is None:
        return "## Scheme\n\nNot stated in the file."
    scheme = facts.scheme
    rows = [
        ("bits", scheme.bits),
        ("activations", scheme.activation),
        ("parts", ", ".join(scheme.parts) or "none"),
        *((f"`{_cell(pattern)}`", bits) for pattern, bits in scheme.overrides),
    ]
    note = "Activation bits are the grid of the values; 4- and 6-bit activations run in int8 containers."
    return f"## Scheme\n\n{_table(('', ''), rows)}\n\n{note}"


def _calibration(facts: CardFacts) -> str:
    provenance = facts.provenance
    rows = [
        ("source", f"`{_cell(source_name(provenance))}`"),
        ("source sha256", str(provenance.source.get("sha256", ""))),
    ]
    calibration = provenance.calibration
    recipe = calibration.get("recipe")
    if isinstance(recipe, Mapping):
        rows.append(("recipe", str(recipe.get("name", ""))))
    elif "import" in calibration:
        rows.append(("imported from", str(calibration["import"])))
    frames = calibration.get("frames")
    if isinstance(frames, Mapping):
        count = sum(len(f) for f in frames.values() if isinstance(f, list))
        rows.append(("images", f"{count} frames of {len(frames)} sequences"))
    rows += [(f"calibration {key}", str(calibration[key])) for key in ("size", "seed", "sha256") if key in calibration]
    found = [layer.get("weight_sqnr_db") for layer in provenance.layers.values()]
    figures = [figure for figure in found if isinstance(figure, float)]
    if figures:
        rows.append(
            ("weight SQNR over linears", f"{min(figures):.1f} dB at worst, {sum(figures) / len(figures):.1f} dB mean")
        )
    rows += [(name, version) for name, version in provenance.versions.items()]
    return f"## Calibration\n\n{_table(('', ''), [(_cell(k), _cell(v)) for k, v in rows])}"


def _metrics(facts: CardFacts) -> str:
    if facts.metrics is None:
        return "## Accuracy\n\nNot measured: no evaluation report was given when this card was made."
    candidates = facts.metrics.get("candidates")
    if not isinstance(candidates, Sequence) or not candidates or not all(isinstance(c, Mapping) for c in candidates):
        raise QvggtError("metrics: expected a JSON report of `qvggt-eval --json`, got one without candidates")
    if not any(_is_ours(candidate, facts.sha256) for candidate in candidates):
        raise QvggtError(
            f"metrics: no candidate ran {facts.model} of sha256 {facts.sha256[:12]}...; evaluate the file you push"
        )
    rows = []
    for candidate in candidates:
        auc = candidate.get("auc") or {}
        figures = [_number(auc.get(t), 2) for t in THRESHOLDS]
        size = _number((candidate.get("bytes") or 0) / 1e6 or None, 2)
        mark = " (this)" if _is_ours(candidate, facts.sha256) else ""
        rows.append((_cell(candidate.get("label", "")) + mark, *figures, _number(candidate.get("abs_rel"), 4), size))
    config = facts.metrics.get("config") or {}
    frames = facts.metrics.get("frame_list") or {}
    head = ("candidate", *(f"AUC@{t}" for t in THRESHOLDS), "depth abs-rel", "MB")
    counts = f"{_cell(config.get('frames', '?'))} frames a sequence, {_cell(frames.get('sequences', '?'))} sequences"
    said = (
        f"Camera AUC in points; dataset {_cell(config.get('dataset', 'unknown'))}, {counts}, "
        f"frame list {_cell(frames.get('sha256'))[:12]}."
    )
    return f"## Accuracy\n\n{_table(head, rows)}\n\n{said}"


def _use(facts: CardFacts) -> str:
    if facts.kind == "checkpoint":
        lines = [
            f"qvggt-pull {facts.repository} -o model",
            "qvggt-eval --model model --dataset co3d --root DATA",
            "qvggt-export model -o model.onnx",
        ]
    else:
        lines = [
            f"qvggt-pull {facts.repository} -o model",
            f"qvggt-eval --engine model/{facts.model} --dataset co3d --root DATA",
        ]
    return "## Use\n\n```bash\n" + "\n".join(lines) + "\n```\n\nPin a version with `--revision COMMIT`."


def _files(facts: CardFacts) -> str:
    rows = [(f"`{name}`", f"{size / 1e6:.2f} MB") for name, size in facts.files.items()]
    said = f"sha256 of `{facts.model}`: `{facts.sha256}`. No file is a pickle."
    return f"## Files\n\n{_table(('file', 'size'), rows)}\n\n{said}"


def _licence(facts: CardFacts) -> str:
    return (
        "## Licence\n\nA quantized form of a model's weights remains under the licence of those weights: read that of "
        f"`{_cell(source_name(facts.provenance))}` before use. The `qvggt` code is Apache-2.0."
    )


def _licence_id(facts: CardFacts) -> str:
    if facts.licence is not None:
        return facts.licence
    return TINY_LICENCE if facts.provenance.source.get("name") == "tiny" else "other"


def _is_ours(candidate: Mapping[str, Any], sha256: str) -> bool:
    files = candidate.get("files")
    hashes = [f.get("sha256") for f in files if isinstance(f, Mapping)] if isinstance(files, Sequence) else []
    return sha256 in (candidate.get("sha256"), *hashes)


def _number(value: Any, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) and not isinstance(value, bool) else "not measured"


def _cell(value: Any) -> str:
    """Text that cannot leave its table cell or turn into HTML or a link: some of it comes from other people's files."""
    return re.sub(r"[|`<>\[\]\s]+", " ", str(value)).strip()[:120]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)
