"""Files that are either whole or absent: atomic writes of files and directories, streaming hashes, words for faults."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qvggt.errors import QvggtError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CHUNK = 1 << 20  # bytes


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file as 64 hex digits, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK))
    try:
        with open(path, "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                digest.update(buffer[:count])
    except OSError as error:
        raise QvggtError(f"{path}: cannot be read ({reason(error)}); expected a readable file") from error
    return digest.hexdigest()


def read_object(path: Path, expected: str, name: str = "") -> dict[str, Any]:
    """The JSON object in a file, `expected` to be there; QvggtError, with `name` or the path, when there is none."""
    name = name or str(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise QvggtError(f"{name}: cannot be read ({reason(error)}); expected {expected}") from error
    except (ValueError, RecursionError) as error:
        raise QvggtError(f"{name}: is no JSON, expected {expected}") from error
    if not isinstance(values, dict):
        raise QvggtError(f"{name}: holds no JSON object, expected {expected}")
    return values


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; at the end of the block the file there takes `path`'s place.

    The temporary file exists, is empty, and keeps the suffix of `path` (some writers append one otherwise). Missing
    parent folders are made; a symbolic link is written through, not replaced. When the block raises, `path` is
    untouched and the temporary file is gone. Readers see the old content or the new, never a part.
    Raises QvggtError when the folder refuses writes, the disk is full or `path` is no regular file.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():  # a rename would destroy a device such as /dev/null
        kind = "a directory" if target.is_dir() else "no regular file"
        raise QvggtError(f"{path}: is {kind}, expected the name of a file to write")
    temporary = sibling(target, target.suffix)
    with translated(path, target, temporary):
        try:
            temporary.touch(exist_ok=False)
            mode = temporary.stat().st_mode  # follows the umask; some writers swap in a file of mode 0600
            yield temporary
            temporary.chmod(mode)
            sync(temporary)
            os.replace(temporary, target)
            sync(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: str | Path, *, replace: bool = False, marker: str | None = None) -> Iterator[Path]:
    """Yield an empty temporary directory beside `path`; at the end of the block it is renamed to `path`.

    An existing, non-empty `path` is an error before any work starts, unless `replace`: then the old directory is moved
    aside, the new one takes its name and the old one is deleted. `marker` guards that deletion: with it, only a
    directory that holds a file of this name (one we wrote ourselves) is replaced. When the block raises, `path` is
    untouched. Two renames make the swap, so a crash between them leaves the old directory under `.<name>.old-*`.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_dir():
        raise QvggtError(f"{path}: is a file, expected a directory to write; choose another name")
    occupied = target.is_dir() and any(target.iterdir())
    if occupied and not replace:
        raise QvggtError(f"{path}: is not empty; choose another directory, or ask for it to be replaced")
    if occupied and marker is not None and not (target / marker).is_file():
        raise QvggtError(f"{path}: holds no {marker}, so it is not ours to replace; choose another directory")
    temporary = sibling(target)
    with translated(path, target, temporary):
        try:
            temporary.mkdir()
            yield temporary
            for folder, _, names in os.walk(temporary):
                for name in names:
                    sync(Path(folder, name))
                sync(Path(folder))
            swap(temporary, target)
            sync(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def swap(new: Path, target: Path) -> None:
    """Rename directory `new` to `target`, deleting what was there; on failure `target` is as before."""
    if not target.exists():
        new.rename(target)
        return
    old = target.with_name(f".{target.name}.old-{secrets.token_hex(4)}")
    target.rename(old)
    try:
        new.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def sibling(target: Path, suffix: str = "") -> Path:
    """A hidden, unused name in the folder of `target`, so that a rename never crosses a file system.

    It tells the machine and process that writes there, for `clear_leftovers`.
    """
    return target.with_name(f"{_stem(target)}{_machine()}-{os.getpid()}-{secrets.token_hex(4)}{suffix}")


def clear_leftovers(target: Path) -> None:
    """Delete temporary files and folders that killed processes of this machine left beside `target`."""
    form = re.compile(rf"{re.escape(_stem(target) + _machine())}-(\d+)-[0-9a-f]{{8}}(\.[^.]*)?")
    with contextlib.suppress(OSError):  # a folder that may not be listed
        for place in list(target.parent.iterdir()):
            match = form.fullmatch(place.name)
            if match is None or _runs(int(match[1])):
                continue
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place, ignore_errors=True)
            else:
                place.unlink(missing_ok=True)


def _stem(target: Path) -> str:
    return f".{target.name[:40]}.tmp-"


def _machine() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _runs(process: int) -> bool:
    """Whether a process of this machine has this number; a process that may not be asked counts as running."""
    if os.name == "nt":  # there, signal 0 ends the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def sync(path: Path) -> None:
    """Flush a file or folder to the disk; a folder that cannot be opened (Windows) is left to the system."""
    try:
        handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    except OSError:
        if path.is_dir():
            return
        raise
    try:
        with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
            os.fsync(handle)
    finally:
        os.close(handle)


def check_file(path: Path, expected: str) -> None:
    """QvggtError unless a regular file is there; `expected`: what it should be, such as "a weights file"."""
    if not path.is_file():
        what = "a directory" if path.is_dir() else "nothing" if not path.exists() else "no regular file"
        raise QvggtError(f"{path}: {what} there, expected {expected}; check the path")


def reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def line(error: BaseException) -> str:
    """The first line of an exception's text, cut to a readable length."""
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:120]


def sniff(path: Path) -> str | None:
    """What a file is when it is plainly not weights, and what to do; None when it may be."""
    with open(path, "rb") as file:
        head = file.read(64).lstrip().lower()
    if not head:
        return "empty, expected weights; get the file again"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, expected weights; run `git lfs pull` or download the file itself"
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page, expected weights; download the file itself"
    return None


@contextmanager
def translated(path: str | Path, target: Path, temporary: Path) -> Iterator[None]:
    """Make the folder of `target` and clear it of leftovers; then, and in the block, file-system failures on the way to
    `path` become a QvggtError, and every other exception passes unchanged."""
    full = f"{path}: not written, the disk is full or over quota; free some space or choose another place"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(target)
        yield
    except OSError as error:
        if error.errno in FULL:
            raise QvggtError(full) from error
        place = Path(os.fsdecode(error.filename)) if isinstance(error.filename, (str, bytes)) else None
        if place is None or not (place == target or place.is_relative_to(temporary) or temporary.is_relative_to(place)):
            raise
        if isinstance(error, FileExistsError):
            raise QvggtError(f"{path}: cannot be written, {place} is a file, expected a folder") from error
        raise QvggtError(
            f"{path}: cannot be written ({reason(error)} at {place}); choose a place where you may write"
        ) from error
    except Exception as error:
        # libraries that write from native code report a full disk in words only
        if not isinstance(error, QvggtError) and os.strerror(errno.ENOSPC) in str(error):
            raise QvggtError(full) from error
        raise
