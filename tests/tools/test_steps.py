"""Steps run when something they depend on has changed, and only then."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from steps import Step, StepFailed, digest, run_step

from qvggt.errors import QvggtError

COPY = (
    "import pathlib, sys; source, target, log = map(pathlib.Path, sys.argv[1:]); "
    "target.write_text(source.read_text().upper()); log.open('a').write('x'); print('copied')"
)


class Workshop:
    """A step that copies a file in capitals and counts its runs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.source, self.target, self.log = folder, folder / "in", folder / "out", folder / "log"
        self.source.write_text("abc")

    def step(self, *extra: str) -> Step:
        command = (sys.executable, "-c", COPY, str(self.source), str(self.target), str(self.log), *extra)
        return Step("copy it", command, (self.source,), (self.target,))

    def run(self, step: Step | None = None, context: str = "v1") -> bool:
        """Whether the step was reused."""
        return run_step(step or self.step(), self.folder / "stamps", context)[1]

    @property
    def runs(self) -> int:
        return len(self.log.read_text())


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def test_a_second_run_reuses(workshop: Workshop) -> None:
    assert not workshop.run()
    assert workshop.target.read_text() == "ABC"
    assert workshop.run()
    assert workshop.runs == 1


def test_the_stamp_keeps_what_was_printed(workshop: Workshop, capfd: pytest.CaptureFixture[str]) -> None:
    first, _ = run_step(workshop.step(), workshop.folder / "stamps", "v1")
    assert "    copied\n" in capfd.readouterr().out
    again, reused = run_step(workshop.step(), workshop.folder / "stamps", "v1")
    assert reused
    assert again.printed == first.printed == "copied\n"
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.source.write_text("abd"),
        lambda w: w.target.write_text("edited"),
        lambda w: w.target.unlink(),
        lambda w: (w.folder / "stamps" / "copy-it.json").unlink(),
        lambda w: (w.folder / "stamps" / "copy-it.json").write_text('{"fingerprint": "'),
        lambda w: (w.folder / "stamps" / "copy-it.json").write_text('{"other": 1}'),
    ],
    ids=["input", "output edited", "output gone", "stamp gone", "stamp cut off", "stamp of another form"],
)
def test_any_change_runs_it_again(workshop: Workshop, change: object) -> None:
    workshop.run()
    change(workshop)  # type: ignore[operator]
    assert not workshop.run()
    assert workshop.runs == 2
    assert workshop.target.read_text() == workshop.source.read_text().upper()


def test_other_code_or_versions_run_it_again(workshop: Workshop) -> None:
    workshop.run(context="v1")
    assert not workshop.run(context="v2")


def test_another_command_runs_again(workshop: Workshop) -> None:
    workshop.run()
    program = COPY.replace("map(pathlib.Path, sys.argv[1:])", "map(pathlib.Path, sys.argv[1:4])")
    command = (*workshop.step().command[:2], program, *workshop.step().command[3:])
    assert not workshop.run(Step("copy it", command, (workshop.source,), (workshop.target,)))


def test_a_failed_step_is_not_done(workshop: Workshop) -> None:
    workshop.run()
    workshop.source.write_text("new")
    with pytest.raises(StepFailed, match=r"copy it failed \(exit code 1\)") as failure:
        workshop.run(workshop.step("too", "many"))
    assert failure.value.code == 1
    workshop.source.write_text("abc")
    assert not workshop.run()  # the stamp of the first run must not vouch for what a failed one may have left


def test_the_code_of_the_command_is_passed_on(workshop: Workshop) -> None:
    step = Step("gate", (sys.executable, "-c", "raise SystemExit(3)"), (), ())
    with pytest.raises(StepFailed) as failure:
        workshop.run(step)
    assert failure.value.code == 3


def test_missing_input_and_missing_output_are_named(workshop: Workshop) -> None:
    nothing = (sys.executable, "-c", "pass")
    absent = workshop.folder / "absent"
    with pytest.raises(QvggtError, match=r"absent: missing, but step 'a' reads it"):
        workshop.run(Step("a", nothing, (absent,), ()))
    with pytest.raises(QvggtError, match=r"absent: step 'b' ended well but did not write it"):
        workshop.run(Step("b", nothing, (), (absent,)))
    assert not (workshop.folder / "stamps" / "b.json").exists()


def test_digest_of_a_folder_sees_names_content_and_depth(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "x").write_text("1")
    (folder / "y").write_text("2")
    seen = {digest(folder)}
    (folder / "y").write_text("3")
    seen.add(digest(folder))
    (folder / "y").rename(folder / "z")
    seen.add(digest(folder))
    (folder / "z").rename(folder / "a" / "z")
    seen.add(digest(folder))
    assert len(seen) == 4


def test_stamp_is_plain_json(workshop: Workshop) -> None:
    workshop.run()
    stored = json.loads((workshop.folder / "stamps" / "copy-it.json").read_text())
    assert stored["outputs"] == {str(workshop.target): digest(workshop.target)}
