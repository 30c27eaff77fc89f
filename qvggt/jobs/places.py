"""Whether a job can read and write where it is to: found out by trying, before the work."""

from __future__ import annotations

import tempfile
from pathlib import Path

from qvggt.errors import QvggtError
from qvggt.files import reason


def check_file_place(path: Path) -> None:
    """QvggtError unless a file can be written at `path`, over one that is there."""
    if path.exists() and not path.is_file():
        raise QvggtError(f"{path}: is {'a folder' if path.is_dir() else 'no regular file'}, expected a file to write")
    check_place(path)


def check_new_file(path: Path, overwrite: bool) -> None:
    """As `check_file_place`; what is there already is replaced with `overwrite` alone."""
    check_file_place(path)
    if path.exists() and path.stat().st_size and not overwrite:
        raise QvggtError(f"{path}: exists already; choose another name, or add --overwrite to replace it")


def check_new_tables(csv: str | Path | None, overwrite: bool) -> None:
    """As `check_new_file`, of the CSV files of an evaluation; nothing for None."""
    if csv is not None:
        for file in (Path(csv), beside_csv(csv)):
            check_new_file(file, overwrite)


def beside_csv(path: str | Path) -> Path:
    """Where the rows of sequences go: "eval.csv" -> "eval-sequences.csv"."""
    return Path(path).with_name(f"{Path(path).stem}-sequences{Path(path).suffix}")


def check_new_folder(path: Path, overwrite: bool, what: str) -> None:
    """QvggtError unless a folder can be written at `path`; `what` is there already is replaced with `overwrite`."""
    check_place(path)
    if path.exists() and any(path.iterdir() if path.is_dir() else [path]) and not overwrite:
        raise QvggtError(f"{path}: exists already; choose another folder, or add --overwrite to replace {what}")


def check_readable(path: Path, expected: str) -> None:
    """QvggtError unless a file can be read at `path`; `expected`: what it should be."""
    try:
        path.open("rb").close()
    except OSError as error:
        raise QvggtError(f"{path}: cannot be read ({reason(error)}); expected {expected}") from error


def check_folder(path: Path, expected: str) -> None:
    """QvggtError unless a folder is at `path`; `expected`: what it should be."""
    if not path.is_dir():
        raise QvggtError(f"{path}: is not a folder, expected {expected}; check the path")


def check_place(path: Path) -> None:
    """QvggtError unless a file or folder can be made in the folder of `path`, or in the nearest one that exists."""
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise QvggtError(
            f"{path}: cannot be written ({reason(error)} at {folder}); choose a place where you may write"
        ) from error
