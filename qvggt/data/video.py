"""Video -> upright frames with square pixels at a steady rate (PyAV)."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

from qvggt.data.photos import Photo, Say, save_image, silent
from qvggt.errors import QvggtError
from qvggt.files import line
from qvggt.lazy import optional
from qvggt.progress import bar

QUARTER_TURNS = {90: "ROTATE_90", 180: "ROTATE_180", 270: "ROTATE_270"}  # both count anticlockwise
EARLY = 1e-4  # seconds: time stamps are rounded to the container's ticks
SHORT = 0.5, 0.05  # seconds, and share of the stated duration: what may be missing at the end without a word
ASPECTS = Fraction(1, 4), Fraction(4)  # of a pixel; beyond, the number is taken for a mistake


def stage_video(path: Path, folder: Path, rate: float, limit: int | None = None, say: Say = silent) -> list[Photo]:
    """Write `rate` frames per second of a video to `folder` as JPEG (quality 95), turned upright by its metadata, and
    widened (or heightened) where its pixels are not square.

    A frame is due 1 / rate seconds after the one before was, and the first one shown then is kept; after a gap in the
    time stamps, counting starts anew. limit: stop after so many. say: hears when the video ends early, cannot be
    decoded to its end, or is shown as it cannot be made here. QvggtError for a file without a frame that can be
    decoded, and when PyAV is not installed.
    """
    av = import_av()
    if not path.is_file():
        raise QvggtError(f"{path}: no such video file")
    if not (math.isfinite(rate) and rate > 0):
        raise QvggtError(f"frame rate: expected a positive number of frames per second, got {rate}")
    photos: list[Photo] = []
    end = total = 0.0
    fault: Exception | None = None
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            aspect, total = _pixel_aspect(stream), _duration(av, container, stream)
            start: float | None = None
            due = 0.0
            for count, frame in enumerate(bar(container.decode(stream), desc="decode video", unit="frame")):
                shown = frame.time if frame.time is not None else count / float(stream.average_rate or 25)
                start = shown if start is None else start
                time = shown - start
                end = max(end, time + _length(frame, stream))
                if time < due - EARLY:
                    continue
                if limit is not None and len(photos) >= limit:
                    total = 0.0  # the rest was not asked for
                    break
                due = due + 1 / rate if time < due + 1 / rate else time + 1 / rate
                photos.append(_store(frame, aspect, folder, len(photos), time, path))
                if len(photos) == 1 and round(frame.rotation) % 90:
                    say(f"note: {path}: asks to be turned by {frame.rotation} degrees, which is not done")
    except (av.FFmpegError, IndexError, ValueError) as error:
        if not photos:
            raise QvggtError(
                f"{path}: cannot be decoded as a video ({line(error)}); convert it to H.264 MP4"
            ) from error
        fault = error
    if not photos:
        raise QvggtError(f"{path}: holds no video frame")
    if fault is not None or total - end > max(SHORT[0], SHORT[1] * total):
        why = f" ({line(fault)})" if fault is not None else ""
        of = f" of {total:.1f} s" if total else " s"
        say(
            f"note: {path}: ends at {end:.1f}{of}{why}: it is incomplete or damaged (an interrupted copy?), and only "
            "the part before is used"
        )
    return photos


def import_av() -> Any:
    return optional("av", "reading videos needs PyAV: pip install '.[reconstruct]' in the clone")


def _duration(av: Any, container: Any, stream: Any) -> float:
    """Seconds that the pictures should last; 0 where nobody says."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return 0.0 if container.duration is None else container.duration / float(av.time_base)


def _length(frame: Any, stream: Any) -> float:
    """Seconds a frame is shown: its own, or one of the average rate."""
    if (ticks := getattr(frame, "duration", None)) and frame.time_base is not None:
        return float(ticks * frame.time_base)
    return 1 / float(stream.average_rate or 25)


def _pixel_aspect(stream: Any) -> Fraction:
    """Width over height of a pixel, 1 where nothing plausible is stated."""
    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or Fraction(1)
    return Fraction(aspect) if ASPECTS[0] <= aspect <= ASPECTS[1] else Fraction(1)


def _store(frame: Any, aspect: Fraction, folder: Path, index: int, time: float, source: Path) -> Photo:
    from PIL.Image import Resampling, Transpose

    image = frame.to_image()
    if aspect != 1:  # the short side of a pixel grows: nothing is lost
        size = round(image.width * max(aspect, Fraction(1))), round(image.height / min(aspect, Fraction(1)))
        image = image.resize(size, Resampling.BICUBIC)
    turn = round(frame.rotation) % 360
    if turn in QUARTER_TURNS:
        image = image.transpose(Transpose[QUARTER_TURNS[turn]])
    target = folder / f"frame_{index + 1:06d}.jpg"
    save_image(image, target)
    return Photo(target.name, target, image.width, image.height, str(source), time=time)
