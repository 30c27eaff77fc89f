"""Which images go through the network together: overlapping passes that cover a long list in order."""

from __future__ import annotations

from dataclasses import dataclass

from qvggt.errors import QvggtError


@dataclass(frozen=True)
class Pass:
    """Images start..stop-1 in one network call; the first `shared` of them were in the pass before, too."""

    start: int
    stop: int
    shared: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def span(self) -> slice:
        return slice(self.start, self.stop)


def plan_passes(count: int, most: int, overlap: int, exactly: int | None = None, least: int = 1) -> list[Pass]:
    """Cover `count` images by passes of up to `most`, each sharing at least `overlap` with the one before.

    The passes have nearly equal length, so that none is left with a handful of images. exactly: the only frame count
    an engine takes; then every pass has it, and passes share more where needed. least: the fewest frames an engine
    takes. QvggtError when it cannot be done.
    """
    if count < least:
        raise QvggtError(f"images: this engine takes {least} or more at a time, got {count}; add images")
    if exactly is not None:
        if count < exactly:
            raise QvggtError(f"images: this engine takes exactly {exactly} at a time, got {count}; add images")
        if most < exactly:
            raise QvggtError(
                f"frames per pass: this engine takes exactly {exactly}, which is over the limit of {most}; "
                "raise --max-frames-per-pass"
            )
        most = exactly
    if count <= most:
        return [Pass(0, count, 0)]
    if not 1 <= overlap < most:
        raise QvggtError(
            f"overlap: expected 1 to {most - 1} (passes have up to {most} of the {count} images), got {overlap}; "
            "change --overlap, or --max-frames-per-pass and --memory-limit"
        )
    fresh = most - overlap
    number = 1 + -(-(count - most) // fresh)
    # starts spread evenly: every gap is at most most - overlap, every end is covered
    length = most if exactly is not None else max(least, -(-(count + (number - 1) * overlap) // number))
    starts = [round(i * (count - length) / (number - 1)) for i in range(number)]
    ends = [0, *(start + length for start in starts)]
    return [Pass(start, start + length, end - start) for start, end in zip(starts, ends, strict=False)]
