"""The short texts of command lines, as values: sizes, frame counts, overrides, shards."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qvggt.errors import QvggtError
from qvggt.models.family import find_family


def sides(text: str) -> tuple[int, int]:
    """`HxW` in pixels, or one number for both."""
    parts = text.lower().split("x")
    if len(parts) not in (1, 2) or not all(p.isdigit() and int(p) > 0 for p in parts):
        raise QvggtError(f"--size {text!r}: expected HxW in pixels, e.g. 392x518, or one side of a square")
    return int(parts[0]), int(parts[-1])


def named_profile(option: str) -> Callable[[str], tuple[int, int, int]]:
    """A reader of `min:opt:max` frame counts, or one number for all three."""

    def read(text: str) -> tuple[int, int, int]:
        parts = text.split(":")
        if len(parts) not in (1, 3) or not all(p.isdigit() and int(p) > 0 for p in parts):
            raise QvggtError(f"{option} {text!r}: expected min:opt:max, e.g. 1:8:32")
        low, best, high = (int(p) for p in (parts if len(parts) == 3 else parts * 3))
        if not low <= best <= high:
            raise QvggtError(f"{option} {text!r}: expected min <= opt <= max")
        return low, best, high

    return read


frame_profile = named_profile("--frames")


def override(text: str) -> tuple[str, str]:
    """`PATTERN=FORMAT` -> (pattern, format)."""
    pattern, equals, name = text.rpartition("=")
    if not (pattern and equals and name):
        raise QvggtError(f"--override {text!r}: expected PATTERN=BITS, e.g. {find_family().override_example}=w4a16")
    return pattern, name


def one_of(option: str, words: Sequence[str]) -> Callable[[str], str]:
    """A reader of words from a closed set."""

    def read(text: str) -> str:
        if text not in words:
            raise QvggtError(f"{option} {text!r}: expected one of {', '.join(words)}")
        return text

    return read


def frame_count(text: str) -> int:
    """A positive number of frames."""
    if not (text.isdigit() and int(text) > 0):
        raise QvggtError(f"--parity-frames {text!r}: expected positive frame counts such as 1,2,5,8")
    return int(text)


def shard(text: str) -> tuple[int, int]:
    """ "2/4" -> (2, 4): part i of n."""
    parts = text.split("/")
    if len(parts) == 2 and all(part.isdecimal() for part in parts):
        index, count = int(parts[0]), int(parts[1])
        if 1 <= index <= count:
            return index, count
    raise QvggtError(f"--shard {text!r}: expected i/n with 1 <= i <= n, e.g. 2/4")
