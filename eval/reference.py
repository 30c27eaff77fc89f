"""Which candidate is the one that a file was made from, and how close to it the file has to be."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from qvggt.formats.table import find_format, is_format
from qvggt.onnx_view.metadata import PREFIX

Facts = Mapping[str, Any]


def own_references(facts: Sequence[Facts]) -> list[dict[str, Any] | None]:
    """Per candidate, from what the runners say of themselves: "label" of the candidate it has to agree with (None: it
    is not among them), "name" of that file or checkpoint where known, "floor_db": the SQNR that `qvggt export` asks of
    its format. None for candidates that say nothing of their origin, as PyTorch models, which are references."""
    return [_own(entry, [other for other in facts if other is not entry]) for entry in facts]


def _own(entry: Facts, others: Sequence[Facts]) -> dict[str, Any] | None:
    metadata = entry.get("metadata")
    written = metadata if isinstance(metadata, Mapping) else {}
    source, scheme = _object(written.get(f"{PREFIX}source")), _object(written.get(f"{PREFIX}scheme"))
    built_from = entry.get("onnx_sha256")
    if source.get("sha256") is None and built_from is None:
        return None
    found = [other for other in others if built_from is not None and other.get("sha256") == built_from]
    found += [other for other in others if other.get("sha256") == source.get("sha256") and _computes(other, scheme)]
    floors = [
        find_format(name).floor_db
        for name in (scheme.get("bits"), written.get(f"{PREFIX}precision"))
        if isinstance(name, str) and is_format(name)
    ]
    return {
        "label": found[0].get("label") if found else None,
        "name": source.get("name"),
        "floor_db": min(floors, default=None),
    }


def _computes(other: Facts, scheme: Mapping[str, Any]) -> bool:
    """Whether a PyTorch candidate of that checkpoint quantizes as the scheme says, or both do not quantize; then the
    one in fp32 is the reference: a bf16 aggregator is further from it than a file may be."""
    own = other.get("scheme_json")
    if not str(other.get("kind")).startswith("pytorch") or other.get("sha256") is None:
        return False
    if own is not None:
        return own == scheme
    return other.get("float_type", "fp32") == "fp32" and scheme.get("bits") in ("fp32", "fp16", "bf16")


def _object(value: Any) -> Mapping[str, Any]:
    """An entry of the metadata, which holds JSON as text."""
    try:
        value = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, Mapping) else {}
