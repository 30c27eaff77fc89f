"""The result of a calibration-set selection: every pooled sequence, what became of it and why; as a JSON file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from qvggt.calib.diversity import PICKS, Pick
from qvggt.data.class_modes import check_mode
from qvggt.errors import QvggtError
from qvggt.files import atomic_write, reason
from qvggt.mapping import Check, from_mapping

FORMAT = 1
Status = Literal["chosen", "left", "rejected"]


@dataclass(frozen=True)
class SelectionConfig:
    """clusters of the frame similarities, sequences per cluster, and how they are picked (`calib/diversity.py`).

    deep_rounds: the last rounds of frame and global blocks whose statistics are judged. false_alarm: share of good
    sequences the noise filter may lose; with 0 it only looks for what is no finite number. min_judges: a category with
    fewer sequences is judged by the whole pool.
    class_mode: categories the pool is drawn from (`qvggt/data/class_modes.py`).
    """

    clusters: int = 5
    per_cluster: int = 4
    seed: int = 0
    pick: Pick = "spread"
    deep_rounds: int = 4
    false_alarm: float = 0.05
    min_judges: int = 8
    class_mode: str = "all"

    def __post_init__(self) -> None:
        check_mode(self.class_mode)
        if self.pick not in PICKS:
            raise QvggtError(f"selection: pick {self.pick!r}, expected one of {', '.join(PICKS)}")
        if not 0 <= self.false_alarm < 1:
            raise QvggtError(f"selection: false_alarm {self.false_alarm}, expected 0 (no filter) to below 1")
        for name, least in (("clusters", 1), ("per_cluster", 1), ("seed", 0), ("deep_rounds", 1), ("min_judges", 3)):
            if getattr(self, name) < least:
                raise QvggtError(f"selection: {name} {getattr(self, name)}, expected at least {least}")

    @property
    def size(self) -> int:
        """Sequences to choose."""
        return self.clusters * self.per_cluster


@dataclass(frozen=True)
class Violation:
    """A statistic of a block's input outside what its category shows; None: no finite number, or no range known."""

    layer: str
    statistic: str
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Pooled:
    """One sequence of the pool. similarity: of frames 1..S-1 to frame 0; empty where it is no finite number.
    cluster, distance to its centre and violation
    are None where there is none."""

    key: str
    category: str
    status: Status
    reason: str
    similarity: tuple[float, ...]
    cluster: int | None = None
    distance: float | None = None
    violation: Violation | None = None


@dataclass(frozen=True)
class Selection:
    """All sequences of the pool, sorted by key."""

    config: SelectionConfig
    sequences: tuple[Pooled, ...]

    @property
    def chosen(self) -> tuple[str, ...]:
        """Keys of the chosen sequences, sorted."""
        return tuple(s.key for s in self.sequences if s.status == "chosen")

    @property
    def rejected(self) -> tuple[str, ...]:
        """Keys of the sequences taken for noise, sorted."""
        return tuple(s.key for s in self.sequences if s.status == "rejected")

    @property
    def sha256(self) -> str:
        """Hash of the configuration and of everything known about every sequence."""
        return hashlib.sha256(json.dumps(self._content(), sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `from_dict` reads it back."""
        return {"format": FORMAT, "sha256": self.sha256, "chosen": list(self.chosen), **self._content()}

    def to_json(self) -> str:
        """The text of a selection file."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_dict(cls, values: object) -> Selection:
        """QvggtError for another format, a damaged list or one edited by hand."""
        stored = from_mapping(_Stored, values, "selection", advice="select again")
        selection = cls(stored.config, stored.sequences)
        if stored.sha256 != selection.sha256 or stored.chosen != selection.chosen:
            raise QvggtError("selection: content does not match its sha256, it was changed by hand; select again")
        return selection

    def summary(self) -> str:
        """One line for a terminal."""
        return (
            f"{len(self.chosen)} of {len(self.sequences)} sequences chosen from "
            f"{len({s.cluster for s in self.sequences if s.cluster is not None})} clusters, "
            f"{len(self.rejected)} rejected as noise"
        )

    def _content(self) -> dict[str, Any]:
        sequences = [dataclasses.asdict(s) | {"similarity": list(s.similarity)} for s in self.sequences]
        return {"config": dataclasses.asdict(self.config), "sequences": sequences}


@dataclass(frozen=True)
class _Stored:
    """What `Selection.to_dict` writes."""

    format: Annotated[int, Check(str(FORMAT), FORMAT.__eq__)]
    sha256: str
    chosen: tuple[str, ...]
    config: SelectionConfig
    sequences: tuple[Pooled, ...]


def save_selection(path: str | Path, selection: Selection) -> None:
    """Write the list as JSON; atomic."""
    with atomic_write(path) as temporary:
        temporary.write_text(selection.to_json(), encoding="utf-8")


def load_selection(path: str | Path) -> Selection:
    """Read what `save_selection` wrote; QvggtError when the file is missing, damaged or changed."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise QvggtError(f"{path}: cannot be read ({reason(error)}); expected a saved selection") from error
    except ValueError as error:
        raise QvggtError(f"{path}: is no JSON, expected a saved selection; select again") from error
    try:
        return Selection.from_dict(values)
    except QvggtError as error:
        raise QvggtError(f"{path}: {error}") from error
