"""Exit codes and one-line errors, on a toy command."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import calling
import pytest
import typer

from qvggt import QvggtError, __version__
from qvggt.cli.terminal import LONGEST, one_line, run
from qvggt.jobs.places import check_file_place, check_folder, check_new_file

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(epilog="Example: toy fine")
def toy(what: str, count: Annotated[int, typer.Option(min=1)] = 1) -> None:
    """A toy."""
    if what == "mistake":
        raise QvggtError("file.x: expected\n  this,   got that")
    if what == "interrupt":
        raise KeyboardInterrupt
    if what == "abort":
        raise typer.Abort
    if what == "failed":
        raise typer.Exit(1)
    if what == "fault":
        raise ZeroDivisionError("a fault of the program")
    typer.echo(f"{what} {count}")


def call(capsys, *args):
    code = calling.call(app, *args)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_success(capsys):
    assert call(capsys, "fine", "--count", "3") == (0, "fine 3\n", "")


def test_a_mistake_is_one_line_and_code_2(capsys):
    assert call(capsys, "mistake") == (2, "", "error: file.x: expected this, got that\n")


def test_what_a_message_quotes_cannot_reach_the_terminal():
    assert one_line("a\x1b[2J\x00b\u2028c") == "a?[2J?b c"
    long = one_line("start " + "x" * 5000 + " end")
    assert long.startswith("start x")
    assert long.endswith("x end")
    assert len(long) <= LONGEST + 5
    assert one_line("é, 図") == "é, 図"


@pytest.mark.parametrize(
    "args", [(), ("fine", "--bogus"), ("fine", "--count", "0"), ("fine", "--count", "x"), ("fine", "more")]
)
def test_a_wrong_call_is_one_line_and_code_2(capsys, args):
    code, out, err = call(capsys, *args)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "--help)" in err


@pytest.mark.parametrize("what", ["interrupt", "abort"])
def test_interruption_is_130_without_words(capsys, what):
    code, _, err = call(capsys, what)
    assert code == 130
    assert "Traceback" not in err


def test_exit_codes_of_commands_are_kept(capsys):
    assert call(capsys, "failed") == (1, "", "")


def test_faults_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run(app, ["fault"])


def test_version_needs_no_arguments(capsys):
    assert call(capsys, "--version") == (0, f"qvggt {__version__}\n", "")


def test_help_shows_the_example_and_the_version_option(capsys):
    code, out, _ = call(capsys, "--help")
    assert code == 0
    assert "Example: toy fine" in out
    assert "--version" in out
    assert "Print the version" in out


def test_check_file_place(tmp_path):
    check_file_place(tmp_path / "new" / "deep" / "file.json")
    assert list(tmp_path.iterdir()) == []
    check_file_place(Path("relative.json"))
    with pytest.raises(QvggtError, match="is a folder, expected a file to write"):
        check_file_place(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(QvggtError, match="Not a directory"):
        check_file_place(tmp_path / "file" / "x.json")
    with pytest.raises(QvggtError, match="no regular file"):
        check_file_place(Path(os.devnull))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_a_place_is_tried_rather_than_asked():
    """/proc grants root access and still refuses files."""
    with pytest.raises(QvggtError, match=r"/proc/x\.json: cannot be written"):
        check_file_place(Path("/proc/x.json"))


def test_what_is_there_is_replaced_when_asked_alone(tmp_path):
    check_new_file(tmp_path / "empty", overwrite=False)
    (tmp_path / "empty").write_text("")
    check_new_file(tmp_path / "empty", overwrite=False)
    (tmp_path / "full").write_text("mine")
    check_new_file(tmp_path / "full", overwrite=True)
    with pytest.raises(QvggtError, match=r"full: exists already; .* --overwrite"):
        check_new_file(tmp_path / "full", overwrite=False)


def test_check_folder(tmp_path):
    check_folder(tmp_path, "photographs")
    with pytest.raises(QvggtError, match="none: is not a folder, expected photographs"):
        check_folder(tmp_path / "none", "photographs")
