"""A network in two files: a trunk, which sees all frames at once, and its dense heads, which see a few at a time.

Dense heads look at each frame alone, so groups change no number; in one graph they would need memory for all frames.
"""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path

GROUP = 8  # frames that the heads work on at once
LEVEL = re.compile(r"tokens_\d+")


class Half(str, Enum):
    """Which of the two a file is."""

    TRUNK = "trunk"
    HEADS = "heads"


def level_name(layer: int) -> str:
    """The tensor that goes from one file to the other: tokens [1, S, P, C] after a layer of the trunk."""
    return f"tokens_{layer}"


def heads_path(trunk: str | Path) -> Path:
    """The heads beside a trunk, ONNX or engine: "a.onnx" -> "a.heads.onnx"."""
    trunk = Path(trunk)
    return trunk.with_name(f"{trunk.stem}.heads{trunk.suffix}")


def trunk_path(heads: str | Path) -> Path:
    """The trunk beside its heads: "a.heads.onnx" -> "a.onnx"."""
    heads = Path(heads)
    return heads.with_name(heads.stem.removesuffix(".heads") + heads.suffix)


def group_profile(frames: tuple[int, int, int]) -> tuple[int, int, int]:
    """(min, opt, max) frames of the heads under a trunk of these: any rest of a group may come, unless there is one
    frame count only."""
    low, opt, high = frames
    return (low if low == high <= GROUP else 1), min(opt, GROUP), min(high, GROUP)
