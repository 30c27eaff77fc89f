"""Video -> upright frames at a steady rate (PyAV)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from qvggt.data.photos import Photo, save_image
from qvggt.errors import QvggtError
from qvggt.files import line
from qvggt.lazy import optional
from qvggt.progress import bar

QUARTER_TURNS = {90: "ROTATE_90", 180: "ROTATE_180", 270: "ROTATE_270"}  # both count anticlockwise


def stage_video(path: Path, folder: Path, rate: float, limit: int | None = None) -> list[Photo]:
    """Write `rate` frames per second of a video to `folder` as JPEG (quality 95), turned upright by its metadata.

    The frame kept for second t is the first one shown at or after t. limit: stop after so many. QvggtError for a file
    that cannot be decoded or holds no frame, and when PyAV is not installed.
    """
    av = import_av()
    if not path.is_file():
        raise QvggtError(f"{path}: no such video file")
    if not (math.isfinite(rate) and rate > 0):
        raise QvggtError(f"frame rate: expected a positive number of frames per second, got {rate}")
    photos: list[Photo] = []
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            start: float | None = None
            for count, frame in enumerate(bar(container.decode(stream), desc="decode video", unit="frame")):
                shown = frame.time if frame.time is not None else count / float(stream.average_rate or 25)
                start = shown if start is None else start
                # a hair early: time stamps are rounded to the container's ticks
                if shown - start < len(photos) / rate - 1e-4:
                    continue
                if limit is not None and len(photos) >= limit:
                    break
                photos.append(_store(frame, folder, len(photos), shown - start, path))
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise QvggtError(f"{path}: cannot be decoded as a video ({line(error)}); convert it to H.264 MP4") from error
    if not photos:
        raise QvggtError(f"{path}: holds no video frame")
    return photos


def import_av() -> Any:
    return optional("av", "reading videos needs PyAV: pip install '.[reconstruct]' in the clone")


def _store(frame: Any, folder: Path, index: int, time: float, source: Path) -> Photo:
    from PIL.Image import Transpose

    image = frame.to_image()
    turn = round(frame.rotation) % 360
    if turn in QUARTER_TURNS:
        image = image.transpose(Transpose[QUARTER_TURNS[turn]])
    target = folder / f"frame_{index + 1:06d}.jpg"
    save_image(image, target)
    return Photo(target.name, target, image.width, image.height, str(source), time=time)
