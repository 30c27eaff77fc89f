"""Steps run when something they depend on has changed, and only then."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest

from qvggt.errors import QvggtError
from qvggt.jobs import chain
from qvggt.jobs.chain import Digests, Step, run_steps
from qvggt.jobs.job import Doc, Job, Place, Result
from qvggt.journal import Journal
from qvggt.progress import Console


@dataclasses.dataclass(frozen=True)
class Copied(Result):
    good: bool

    @property
    def passed(self) -> bool:
        return self.good

    def to_dict(self, folder: Path | None = None) -> dict[str, Any]:
        return {"good": self.good}


@dataclasses.dataclass(frozen=True)
class CopyJob(Job[Copied]):
    """Copy a file in capitals, and count the runs."""

    name: ClassVar[str] = "copy"
    source: Annotated[Place, Doc("From.")]
    target: Annotated[Place, Doc("To.")]
    ending: Annotated[str, Doc("Behind it.")] = ""

    def execute(self, console: Console) -> Copied:
        text = Path(self.source).read_text()
        if text != "lazy":
            Path(self.target).write_text(text.upper() + self.ending)
        with open(Path(self.target).with_name("log"), "a") as log:
            log.write("x")
        console.result("copied")
        return Copied(text != "bad")


class Workshop(Console):
    """A step that copies a file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.source, self.target = folder, folder / "in", folder / "out"
        self.source.write_text("abc")
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def step(self, ending: str = "") -> Step:
        job = CopyJob(self.source, self.target, ending)
        return Step("copy it", job, (self.source,), (self.target,), self.folder / "steps" / "copy-it.json")

    def run(self, step: Step | None = None) -> bool:
        """Whether the step was reused."""
        before = self.runs
        journal = Journal(self.folder / "journal.jsonl", {"toy": 1}, "toy")
        self.done = run_steps([step or self.step()], journal, self)
        return self.runs == before

    @property
    def runs(self) -> int:
        log = self.folder / "log"
        return len(log.read_text()) if log.exists() else 0


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def test_a_second_run_reuses(workshop: Workshop) -> None:
    assert not workshop.run()
    assert workshop.target.read_text() == "ABC"
    assert "    copied" in workshop.said
    assert workshop.run()
    assert workshop.said[-1] == "    unchanged, reused"


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.source.write_text("abd"),
        lambda w: w.target.write_text("edited"),
        lambda w: w.target.unlink(),
        lambda w: (w.folder / "journal.jsonl").unlink(),
        lambda w: (w.folder / "steps" / "copy-it.json").unlink(),
    ],
    ids=["input", "output edited", "output gone", "journal gone", "result gone"],
)
def test_any_change_runs_it_again(workshop: Workshop, change: Any) -> None:
    workshop.run()
    change(workshop)
    assert not workshop.run()
    assert workshop.target.read_text() == workshop.source.read_text().upper()
    assert workshop.run()


def test_other_code_or_versions_run_it_again(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    workshop.run()
    monkeypatch.setattr(chain, "code_and_versions", lambda: "other")
    assert not workshop.run()


def test_another_job_runs_again(workshop: Workshop) -> None:
    workshop.run()
    assert not workshop.run(workshop.step("!"))
    assert workshop.target.read_text() == "ABC!"


def test_a_failed_check_ends_the_chain_and_is_run_again(workshop: Workshop) -> None:
    workshop.source.write_text("bad")
    second = dataclasses.replace(workshop.step(), name="never")
    journal = Journal(workshop.folder / "journal.jsonl", {"toy": 1}, "toy")
    done = run_steps([workshop.step(), second], journal, workshop)
    assert list(done) == ["copy it"]
    assert not done["copy it"].passed
    assert not workshop.run()


def test_missing_input_and_missing_output_are_named(workshop: Workshop) -> None:
    absent = workshop.folder / "absent"
    with pytest.raises(QvggtError, match=r"absent: missing, but step 'copy it' reads it"):
        workshop.run(dataclasses.replace(workshop.step(), inputs=(absent,)))
    workshop.source.write_text("lazy")
    with pytest.raises(QvggtError, match=r"out: step 'copy it' ended well but did not write it"):
        workshop.run()


def test_digest_of_a_folder_sees_names_content_and_depth(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "x").write_text("1")
    (folder / "y").write_text("2")

    def seen() -> str:
        return Digests().of([folder])[str(folder)]

    found = {seen()}
    (folder / "y").write_text("3")
    found.add(seen())
    (folder / "y").rename(folder / "z")
    found.add(seen())
    (folder / "z").rename(folder / "a" / "z")
    found.add(seen())
    assert len(found) == 4


def test_code_and_versions_is_stable() -> None:
    assert chain.code_and_versions() == chain.code_and_versions()
