"""A piece of work in a forked process: its exit code and output, whatever it does to itself; killed when told to.

Forking a process that has imported everything costs milliseconds where a fresh interpreter costs seconds, and the
kernel treats both alike: SIGKILL, limits and crashes of native code are real ones. The parent must stay
single-threaded, so it runs no network itself.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any

MEMORY = 24 << 30  # bytes of address space: a malformed size must not take the machine down
TIMEOUT = 400.0  # seconds
OVERRIDES = 0b1110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER: what lets root write anywhere

Work = Callable[[], None]


@dataclass(frozen=True)
class Outcome:
    """How a process ended: `code`, or the signal that ended it; timed_out: we ended it."""

    code: int | None
    signal: int | None
    out: str
    err: str
    seconds: float
    timed_out: bool = False


def command(name: str, args: Sequence[object], folder: Path | None = None) -> Work:
    """The work of running the command line `qvggt.cli.<name> args`, in `folder` if given."""

    def work() -> None:
        from qvggt.cli.common import run

        if folder is not None:
            os.chdir(folder)
        run(import_module(f"qvggt.cli.{name}").app, [str(arg) for arg in args])

    return work


def run_forked(
    work: Work, *, kill_after: float | None = None, before: Work | None = None, timeout: float = TIMEOUT
) -> Outcome:
    """Run `work` in a child; SIGKILL it and its children after `kill_after` seconds. `before`: set up in the child."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.monotonic()
        pid = os.fork()
        if pid == 0:
            child(work, before, out, err)
        status, killed = wait(pid, start + (timeout if kill_after is None else kill_after))
        seconds = time.monotonic() - start
        said, complained = (text_of(stream) for stream in (out, err))
    ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
    return Outcome(code, ended, said, complained, seconds, timed_out=killed and kill_after is None)


def text_of(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode(errors="replace")


def run_tasks(tasks: dict[str, Callable[[], Any]], folder: Path, at_once: int) -> Iterator[tuple[str, Any]]:
    """Run tasks that return JSON-ready values in forked processes, `at_once` at a time; yields (name, value)."""
    waiting, running = list(tasks), dict[int, str]()
    while waiting or running:
        while waiting and len(running) < at_once:
            name = waiting.pop(0)
            pid = os.fork()
            if pid == 0:
                task_child(tasks[name], folder / f"{name}.json")
            running[pid] = name
        pid, status = os.wait()
        name = running.pop(pid)
        if status:
            raise RuntimeError(f"{name} did not end well (status {status}); its traceback is above")
        yield name, json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def task_child(task: Callable[[], Any], path: Path) -> None:
    """Never returns."""
    code = 1
    try:
        path.write_text(json.dumps(task()), encoding="utf-8")
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def child(work: Work, before: Work | None, out: IO[bytes], err: IO[bytes]) -> None:
    """Never returns."""
    code = 0
    try:
        os.setpgid(0, 0)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        faulthandler.disable()  # pytest's would write a page about every crash
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        if before is not None:
            before()
        work()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(pid: int, deadline: float) -> tuple[int, bool]:
    """The wait status, and whether the deadline ended the process group."""
    with_group = False
    try:
        os.setpgid(pid, pid)  # both sides do it, so that neither has to wait for the other
        with_group = True
    except (PermissionError, ProcessLookupError):
        with_group = True  # the child was faster
    killed = False
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            if with_group:
                end_group(pid)
            return status, killed
        if not killed and time.monotonic() >= deadline:
            killed = True
            end_group(pid)
        time.sleep(0.002)


def end_group(pid: int) -> None:
    """SIGKILL a child and what it started."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def drop_override() -> None:
    """For root: give up the right to write where the permissions say no. Other users have no such right."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    data = (ctypes.c_uint32 * 6)()
    if libc.capget(header, data):
        raise OSError(ctypes.get_errno(), "capget")
    data[0] &= ~OVERRIDES
    data[1] &= ~OVERRIDES
    if libc.capset(header, data):
        raise OSError(ctypes.get_errno(), "capset")


def limit_files(size: int) -> Work:
    """No file may grow beyond `size` bytes: a write fails with EFBIG, as it would on a full disk with ENOSPC."""

    def before() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return before
