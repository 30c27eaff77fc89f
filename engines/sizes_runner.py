"""Files of one network, each exported at another image size, as one candidate: images go to the file of their size."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from qvggt.engines.runner import Array, NetworkSizes, Runner
from qvggt.errors import QvggtError


class SizesRunner(Runner):
    """All of them are open at once. QvggtError where one takes any size, two the same, or they differ in more."""

    held = ("runners",)

    def __init__(self, runners: Sequence[Runner]) -> None:
        first = runners[0]
        for index, runner in enumerate(runners):
            if not runner.sizes:
                raise QvggtError(f"{runner.label}: takes images of any size; give it alone")
            if again := [other for other in runners[:index] if set(other.sizes) & set(runner.sizes)]:
                size = "x".join(map(str, runner.sizes[0]))
                raise QvggtError(f"{runner.label}: takes {size} images as {again[0].label} does; leave one out")
            if what := _difference(first, runner):
                raise QvggtError(f"{runner.label}: differs from {first.label} in {what}; files of one network do not")
        more = len(runners) - 1
        self.runners: tuple[Runner, ...] | None = tuple(runners)
        self.label = f"{first.label} and {more} more size{'s' if more > 1 else ''}"
        self.device, self.scheme, self.outputs = first.device, first.scheme, first.outputs
        self.files = tuple(file for runner in runners for file in runner.files)
        self.notes = tuple(dict.fromkeys(note for runner in runners for note in runner.notes))
        self.frames = next((runner.frames for runner in runners if runner.frames is not None), None)
        ranges = [runner.frame_range for runner in runners if runner.frame_range is not None]
        self.frame_range = (max(low for low, _ in ranges), min(high for _, high in ranges)) if ranges else None
        self._sizes = tuple(size for runner in runners for size in runner.sizes)
        self._scheme_label, self._facts_of_each = first.scheme_label, [runner.describe() for runner in runners]

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        return self._sizes

    @property
    def scheme_label(self) -> str:
        return self._scheme_label

    def _run(self, images: Array) -> dict[str, Array]:
        assert self.runners is not None
        return next(runner for runner in self.runners if images.shape[2:] in runner.sizes).run_named(images)

    def network_sizes(self) -> NetworkSizes | None:
        return None if self.runners is None else self.runners[0].network_sizes()

    def describe(self) -> dict[str, Any]:
        """The first file's facts, but the sizes, the bytes and one hash of all."""
        each = self._facts_of_each
        hashes = "".join(str(facts.get("sha256")) for facts in each)
        return {
            **each[0],
            "label": self.label,
            "sha256": hashlib.sha256(hashes.encode()).hexdigest(),
            "bytes": sum(int(facts.get("bytes", 0)) for facts in each),
            "files": [vars(file) for file in self.files],
            "size": [list(size) for size in self._sizes],
        }

    def close(self) -> None:
        for runner in self.runners or ():
            runner.close()
        super().close()


def open_sizes(openers: Sequence[Callable[[], Runner]]) -> SizesRunner:
    """One runner of all; what was opened is closed again where another one cannot be."""
    with ExitStack() as stack:
        runner = SizesRunner([stack.enter_context(opener()) for opener in openers])
        stack.pop_all()
        return runner


def _difference(first: Runner, other: Runner) -> str | None:
    """What files of one network have in common and these do not."""
    pairs = {
        "format": (first.scheme_label, other.scheme_label),
        "outputs": (first.outputs, other.outputs),
        "runtime": (type(first), type(other)),
    }
    return next((name for name, (own, others) in pairs.items() if own != others), None)
