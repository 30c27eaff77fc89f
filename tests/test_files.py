from __future__ import annotations

import errno
import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qvggt import files
from qvggt.errors import QvggtError
from qvggt.files import atomic_directory, atomic_write, file_sha256


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def one_line(excinfo: pytest.ExceptionInfo[QvggtError], *parts: str) -> None:
    text = str(excinfo.value)
    assert "\n" not in text
    for part in parts:
        assert part in text


@settings(deadline=None, max_examples=20)
@given(size=st.integers(0, 5), extra=st.integers(-1, 1))
def test_sha256_over_chunk_borders(tmp_path_factory: pytest.TempPathFactory, size: int, extra: int) -> None:
    path = tmp_path_factory.mktemp("sha") / "f"
    data = bytes(range(256)) * (size * files.CHUNK // 512)  # halves of a chunk
    data = data[:extra] if extra < 0 else data + b"x" * extra
    path.write_bytes(data)
    assert file_sha256(path) == hashlib.sha256(data).hexdigest()


def test_sha256_of_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(QvggtError) as e:
        file_sha256(tmp_path / "no")
    one_line(e, "no", "No such file")


def test_write_replaces_and_makes_parents(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "model.json"
    for text in ("one", "two"):
        with atomic_write(target) as temporary:
            assert temporary.parent == target.parent
            assert temporary.suffix == ".json"
            temporary.write_text(text)
            assert text == "one" or target.read_text() == "one"
        assert target.read_text() == text
    assert names(target.parent) == ["model.json"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, QvggtError])
def test_write_leaves_the_old_file_when_the_block_raises(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "f.txt"
    target.write_text("old")

    def half() -> None:
        with atomic_write(target) as temporary:
            temporary.write_text("half")
            raise error("stop")

    with pytest.raises(error):
        half()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["f.txt"]


def test_write_mode_follows_the_umask_even_if_the_writer_swaps_the_file(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        with atomic_write(tmp_path / "f") as temporary:
            temporary.unlink()
            temporary.touch(mode=0o600)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o644


def test_write_goes_through_a_symbolic_link(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.write_text("old")
    (tmp_path / "link").symlink_to(real)
    with atomic_write(tmp_path / "link") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert real.read_text() == "new"


def test_write_accepts_long_non_ascii_names(tmp_path: Path) -> None:
    target = tmp_path / ("é" * 120 + ".txt")
    with atomic_write(target) as temporary:
        temporary.write_text("x")
    assert target.read_text() == "x"


def test_write_refuses_directories_devices_and_files_as_folders(tmp_path: Path) -> None:
    with pytest.raises(QvggtError) as e, atomic_write(tmp_path):
        pass
    one_line(e, "a directory")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(QvggtError) as e, atomic_write(tmp_path / "pipe"):
        pass
    one_line(e, "no regular file")
    (tmp_path / "file").touch()
    for inside in ("file/x", "file/y/x"):
        with pytest.raises(QvggtError) as e, atomic_write(tmp_path / inside):
            pass
        one_line(e, "cannot be written")
    assert names(tmp_path) == ["file", "pipe"]


def test_unwritable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(
        self: Path, *_: object, **__: object
    ) -> None:  # root ignores permission bits, so the refusal is simulated
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(QvggtError) as e, atomic_write(tmp_path / "f"):
        pass
    one_line(e, "Permission denied")


def test_full_disk_from_python_and_from_a_library(tmp_path: Path) -> None:
    for error in (OSError(errno.ENOSPC, "No space left on device"), RuntimeError("io: No space left on device (28)")):
        with pytest.raises(QvggtError) as e, atomic_write(tmp_path / "f"):
            raise error
        one_line(e, "disk is full")
    assert names(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk_for_real(tmp_path: Path) -> None:
    with pytest.raises(QvggtError) as e, atomic_write(tmp_path / "f"), open("/dev/full", "w") as file:
        file.write("x" * 100000)
    one_line(e, "disk is full")


def test_errors_of_other_files_are_not_ours(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "f"):
        (tmp_path / "input").read_text()
    assert names(tmp_path) == []


def test_directory_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "out" / "run"
    with atomic_directory(target) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "a").write_text("a")
        assert not target.exists()
    assert (target / "sub" / "a").read_text() == "a"
    assert names(target.parent) == ["run"]


def test_directory_takes_the_place_of_an_empty_one_only(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with atomic_directory(tmp_path / "run") as temporary:
        (temporary / "a").touch()
    started = False
    with pytest.raises(QvggtError) as e, atomic_directory(tmp_path / "run"):
        started = True
    one_line(e, "not empty")
    assert not started
    assert names(tmp_path / "run") == ["a"]


def test_directory_replace_swaps_the_whole_content(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "stale").touch()
    with atomic_directory(tmp_path / "run", replace=True) as temporary:
        (temporary / "fresh").touch()
        assert names(tmp_path / "run") == ["stale"]
    assert names(tmp_path / "run") == ["fresh"]
    assert names(tmp_path) == ["run"]


def test_directory_replace_respects_the_marker(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").touch()
    with pytest.raises(QvggtError) as e, atomic_directory(home, replace=True, marker="quant.json"):
        pass
    one_line(e, "quant.json")
    (home / "quant.json").touch()
    with atomic_directory(home, replace=True, marker="quant.json"):
        pass
    assert names(home) == []


def test_directory_block_that_raises_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "old").touch()

    def half() -> None:
        with atomic_directory(tmp_path / "run", replace=True) as temporary:
            (temporary / "new").touch()
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        half()
    assert names(tmp_path / "run") == ["old"]
    assert names(tmp_path) == ["run"]


def test_directory_swap_that_fails_restores_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "old").touch()
    rename = Path.rename

    def fail_on_new(self: Path, target: Path) -> Path:
        if ".tmp-" in self.name:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_on_new)
    with pytest.raises(QvggtError) as e, atomic_directory(tmp_path / "run", replace=True):
        pass
    one_line(e, "Permission denied")
    assert names(tmp_path / "run") == ["old"]
    assert names(tmp_path) == ["run"]


def test_directory_refuses_a_file(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    with pytest.raises(QvggtError) as e, atomic_directory(tmp_path / "f", replace=True):
        pass
    one_line(e, "is a file")


@pytest.fixture
def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def left_behind(target: Path, process: int, machine: str | None = None) -> Path:
    """The name a temporary file of that process has."""
    name = files.sibling(target, target.suffix).name
    name = name.replace(f"-{os.getpid()}-", f"-{process}-")
    return target.with_name(name if machine is None else name.replace(files._machine(), machine))


def test_write_clears_what_a_killed_process_left(tmp_path: Path, ended_process: int) -> None:
    target = tmp_path / "f.txt"
    left_behind(target, ended_process).write_text("half")
    with atomic_write(target) as temporary:
        assert [p.name for p in tmp_path.iterdir()] == [temporary.name]
        temporary.write_text("new")
    assert names(tmp_path) == ["f.txt"]


def test_directory_clears_what_a_killed_process_left(tmp_path: Path, ended_process: int) -> None:
    target = tmp_path / "d"
    left = left_behind(target, ended_process)
    left.mkdir()
    (left / "half").touch()
    with atomic_directory(target) as temporary:
        (temporary / "whole").touch()
    assert names(tmp_path) == ["d"]


def test_write_leaves_the_files_of_others_alone(tmp_path: Path, ended_process: int) -> None:
    target = tmp_path / "f.txt"
    kept = [
        left_behind(target, os.getppid()),  # runs
        left_behind(target, ended_process, machine="0" * 8),  # cannot be asked
        left_behind(tmp_path / "g.txt", ended_process),  # another file's
        tmp_path / ".f.txt.tmp-mine",
    ]
    for path in kept:
        path.touch()
    with atomic_write(target) as temporary:
        temporary.write_text("new")
    assert names(tmp_path) == sorted(["f.txt", *(p.name for p in kept)])
