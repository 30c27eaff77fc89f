"""Results of a long job on disk, one JSON line each: what lets it go on where it was interrupted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qvggt.errors import QvggtError
from qvggt.files import atomic_write, reason

FORMAT = 1


class Journal:
    """A JSON-lines file: the job, then (key, value) pairs in the order they were found. `values`: those so far.

    `job` is everything the values depend on; a file of another job is refused with QvggtError, in which `what` names
    it and `place` (by default the file) is what to delete. A last line cut short by a kill is dropped. Floats read back
    exactly. Without a path nothing is kept.
    """

    def __init__(self, path: Path | None, job: dict[str, Any], what: str, place: Path | None = None) -> None:
        self.path = path
        self.values: dict[str, Any] = {}
        if path is None:
            return
        header = json.dumps({"format": FORMAT, "job": job}, sort_keys=True)
        place = place or path
        lines = _lines(path, place)
        if path.exists() and lines[:1] != [header]:
            raise QvggtError(f"{place}: holds an unfinished {what} of another kind; delete it to start anew")
        whole = [header]
        for line in lines[1:]:
            try:
                key, value = json.loads(line)
            except (ValueError, TypeError):
                break
            self.values[key] = value
            whole.append(line)
        with atomic_write(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in whole), encoding="utf-8")

    def add(self, key: str, value: Any) -> None:
        """Keep a JSON-ready value; it is on disk when this returns."""
        self.values[key] = value
        if self.path is not None:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps([key, value]) + "\n")

    def remove(self) -> None:
        """Delete the file once its result is saved elsewhere."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _lines(path: Path, place: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    except (OSError, ValueError) as error:
        why = reason(error) if isinstance(error, OSError) else "no text"
        raise QvggtError(f"{path}: cannot be read ({why}); delete {place} to start anew") from error
