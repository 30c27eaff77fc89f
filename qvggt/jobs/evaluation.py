"""What an evaluation comes to: tables, the JSON report, the page, and rows for pandas."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qvggt.errors import QvggtError
from qvggt.jobs.job import Place, Result
from qvggt.jobs.places import beside_csv
from qvggt.lazy import optional
from qvggt.progress import Console

if TYPE_CHECKING:
    from pandas import DataFrame

    from qvggt.eval.result import CandidateResult


@dataclass(frozen=True, repr=False)
class Evaluation(Result):
    """Candidates on the same frames; the first is the baseline of the deltas.

    header: what they share: config, frame list, versions, notes (docs/evaluation.md). results: one per candidate.
    """

    header: dict[str, Any]
    results: tuple[CandidateResult, ...]

    @cached_property
    def report(self) -> dict[str, Any]:
        """The JSON document (docs/evaluation.md has its schema); files of its "worst" as this process finds them."""
        from qvggt.eval.report import make_report

        return make_report(self.results, self.header)

    def to_dict(self, folder: Path | None = None) -> dict[str, Any]:
        return {**self.report, "worst": beside(self.report["worst"], folder or Path())}

    def tables(self) -> str:
        """As the command prints them."""
        from qvggt.eval.tables import format_tables

        return format_tables(self.results)

    def page(self, path: Place) -> Path:
        """Write the report as one HTML page that needs no network; returns the path."""
        from qvggt.eval.html.page import page_of_report

        page_of_report(path, self.to_dict(Path(path).parent), Path(path).parent)
        return Path(path)

    def rows(self, of: Literal["candidates", "sequences"] = "candidates") -> list[dict[str, Any]]:
        """One row per candidate, or per candidate and sequence.

        A metric's columns are its name (docs/evaluation.md), NAME_low and NAME_high (95 %), NAME_delta, NAME_delta_low
        and NAME_delta_high; OUTPUT_sqnr_db, seconds and megabytes follow. Sequences have the values alone.
        """
        from qvggt.eval.rows import table_rows

        return table_rows(self.report, of)

    def csv(self, path: Place) -> tuple[Path, Path]:
        """Write `rows` as CSV: of candidates to `path`, of sequences beside it; returns both paths."""
        return write_tables(path, self.report)

    def to_frame(self, of: Literal["candidates", "sequences"] = "candidates") -> DataFrame:
        """`rows` as a pandas.DataFrame; QvggtError where pandas is not installed."""
        pandas = optional("pandas", "to_frame needs pandas, which is not installed: pip install pandas")
        return pandas.DataFrame(self.rows(of))

    def __repr__(self) -> str:
        from qvggt.eval.tables import accuracy

        count, name = len(self.results[0].records), self.header["config"].get("dataset")
        return "\n".join([f"Evaluation of {count} sequences of {name}", *accuracy(self.results)])


@dataclass(frozen=True, repr=False)
class Part(Evaluation):
    """A shard of an evaluation, to be merged with the others from the file `records`: no report of its own."""

    records: Path

    @property
    def summary(self) -> str:
        """Such as "shard 1/2: 3 of 5 sequences in a.jsonl"."""
        facts = self.to_dict()
        return "shard {}/{}: {done} of {of} sequences in {records}".format(*facts["shard"], **facts)

    def to_dict(self, folder: Path | None = None) -> dict[str, Any]:
        total = self.header["frame_list"]["sequences"]
        done = {"shard": self.header["shard"], "done": len(self.results[0].records), "of": total}
        return {**done, "records": str(self.records)}

    def page(self, path: Place) -> Path:
        raise QvggtError(f"{path}: a page is of a whole evaluation; give {self.records} and the others to merge")

    def csv(self, path: Place) -> tuple[Path, Path]:
        raise QvggtError(f"{path}: tables are of a whole evaluation; give {self.records} and the others to merge")


def evaluation_of(header: dict[str, Any], results: Sequence[CandidateResult]) -> Evaluation:
    """With a note for each metric that was asked for and that no sequence has."""
    records = [record for result in results for record in result.records]
    measured = {"depth": any(r.depth is not None for r in records), "points": any(r.points for r in records)}
    without = [
        f"{name}: not measured, no sequence has ground-truth depth or no candidate an output for it"
        for name, there in measured.items()
        if name in header["config"].get("metrics", ()) and not there
    ]
    return Evaluation({**header, "notes": [*header["notes"], *without]}, tuple(results))


def publish(evaluation: Evaluation, html: Place | None, csv: Place | None, show: bool, console: Console) -> None:
    """Say the tables and notes, and write the CSV files and the page."""
    from qvggt.eval.tables import by_sequence

    console.result(evaluation.tables())
    console.detail("\n".join(["", *by_sequence(evaluation.results), ""]))
    for note in evaluation.header["notes"]:
        console.say(f"note: {note}")
    if csv is not None:
        console.say("tables: {}, {}".format(*evaluation.csv(csv)))
    if html is not None:
        announce(evaluation.page(html), show, console.say, console)


def write_tables(csv: Place, report: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write the CSV files of a report; returns both paths."""
    from qvggt.eval.rows import write_csv

    write_csv(csv, report, "candidates")
    write_csv(beside_csv(csv), report, "sequences")
    return Path(csv), beside_csv(csv)


def announce(html: Path, show: bool, say: Callable[[str], None], console: Console) -> None:
    """Say where the page lies, and open it in a browser if asked; a machine without one is told so."""
    say(f"report: {html} ({html.stat().st_size / 1e6:.1f} MB)")
    if show:
        import webbrowser

        if not webbrowser.open(html.resolve().as_uri()):
            console.warn(f"--open: no browser found on this machine; open {html} in one")


def beside(entries: Sequence[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """The entries with "file" relative to a folder, so that both can be moved together."""
    start = os.path.abspath(folder)
    return [{**entry, "file": os.path.relpath(os.path.abspath(entry["file"]), start)} for entry in entries]
