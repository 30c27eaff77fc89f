"""Reports of evaluations that are over: record files put together, the page and the tables of a JSON report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from qvggt.errors import QvggtError
from qvggt.files import line, read_object
from qvggt.jobs.evaluation import Evaluation, announce, evaluation_of, publish, write_tables
from qvggt.jobs.job import Doc, Job, Place, Result
from qvggt.jobs.options import Csv, Show
from qvggt.jobs.places import check_new_file, check_new_tables, check_readable
from qvggt.progress import Console


@dataclass(frozen=True)
class MergeJob(Job[Evaluation]):
    """Put the record files of an evaluation together: its tables and its report."""

    name: ClassVar[str] = "merge"
    examples: ClassVar[tuple[str, ...]] = ("qvggt eval merge a.jsonl b.jsonl --json r.json --html r.html",)

    files: Annotated[
        Sequence[Place], Doc("Record files (--records) of all shards of one run.", argument=True, metavar="FILE")
    ]
    _: KW_ONLY
    html: Annotated[Place | None, Doc("Where to write the report as one HTML page.", metavar="FILE")] = None
    csv: Csv = None
    show: Show = False

    def check(self) -> None:
        check_page(self.html, self.show)

    def prepare(self) -> None:
        if self.html is not None:
            check_new_file(Path(self.html), self.overwrite)
        check_new_tables(self.csv, self.overwrite)
        for file in self.files:
            check_readable(Path(file), "a record file")

    def execute(self, console: Console) -> Evaluation:
        from qvggt.eval.merging import merge_records

        header, results = merge_records([Path(file) for file in self.files])
        count = len(self.files)
        console.say(f"{len(results[0].records)} sequences of {count} record {'file' if count == 1 else 'files'}")
        evaluation = evaluation_of(header, results)
        publish(evaluation, self.html, self.csv, self.show, console)
        return evaluation


@dataclass(frozen=True)
class ReportPage(Result):
    """The page of a report, and the JSON file it was made from."""

    page: Path
    report: Path

    def to_dict(self, folder: Path | None = None) -> dict[str, Any]:
        return {"page": str(self.page), "report": str(self.report), "bytes": self.page.stat().st_size}


@dataclass(frozen=True)
class ReportJob(Job[ReportPage]):
    """The report of a finished evaluation as one HTML page that needs no network."""

    name: ClassVar[str] = "report"
    examples: ClassVar[tuple[str, ...]] = ("qvggt eval report r.json --html r.html --open",)

    report: Annotated[Place, Doc("What qvggt eval --json wrote.", argument=True, metavar="JSON")]
    _: KW_ONLY
    html: Annotated[Place | None, Doc("Where to write the page. [beside the JSON, as .html]", metavar="FILE")] = None
    csv: Csv = None
    show: Show = False

    @property
    def page(self) -> Path:
        """Where it is written."""
        return Path(self.report).with_suffix(".html") if self.html is None else Path(self.html)

    def check(self) -> None:
        if self.page.resolve() == Path(self.report).resolve():
            raise QvggtError(f"--html {self.page}: is the report itself; give another name")

    def prepare(self) -> None:
        check_new_file(self.page, self.overwrite)
        check_new_tables(self.csv, self.overwrite)
        check_readable(Path(self.report), "a report of qvggt eval --json")

    def execute(self, console: Console) -> ReportPage:
        from qvggt.eval.html.page import page_of_file

        if self.csv is not None:
            console.result("tables: {}, {}".format(*write_tables(self.csv, read_report(Path(self.report)))))
        page_of_file(self.page, self.report)
        announce(self.page, self.show, console.result, console)
        return ReportPage(self.page, Path(self.report))


def read_report(path: Path) -> dict[str, Any]:
    """A file of qvggt eval --json as rows need it; QvggtError where it lacks what they are made of."""
    report = read_object(path, "a report of qvggt eval --json")
    from qvggt.eval.rows import table_rows

    try:
        table_rows(report, "candidates"), table_rows(report, "sequences")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{type(error).__name__}: {line(error)}"
        raise QvggtError(f"{path}: has no complete rows ({what}); give what qvggt eval --json wrote") from error
    return report


def check_page(html: Place | None, show: bool) -> None:
    """QvggtError for a page that is to be opened and not written."""
    if show and html is None:
        raise QvggtError("--open: give --html FILE, which it opens")
