from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qvggt.data.video import stage_video
from qvggt.errors import QvggtError

av = pytest.importorskip("av", reason="the extra reconstruct is not installed")

RATE, COUNT = 10, 30


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds at ten frames; the grey value of frame i is 8 i, and its left upper quarter is white."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(RATE))
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 48, "yuv420p", 2_000_000
        for index in range(COUNT):
            pixels = np.full((48, 64, 3), 8 * index, np.uint8)
            pixels[:24, :32] = 255
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


@pytest.mark.parametrize(("rate", "expected"), [(2, [0, 5, 10, 15, 20, 25]), (10, list(range(30))), (0.5, [0, 20])])
def test_frames_by_rate(clip: Path, tmp_path: Path, rate: float, expected: list[int]) -> None:
    photos = stage_video(clip, tmp_path, rate)
    found = []
    for photo in photos:
        with Image.open(photo.path) as image:
            pixels = np.asarray(image.convert("L"), np.float64)
        assert image.size == (photo.width, photo.height) == (64, 48)
        assert pixels[4:20, 4:28].mean() > 240
        found.append(round(pixels[30:, 40:].mean() / 8))
    assert found == expected
    assert [photo.time for photo in photos] == pytest.approx([i / RATE for i in expected], abs=0.02)
    assert [photo.name for photo in photos][:2] == ["frame_000001.jpg", "frame_000002.jpg"]


def test_more_frames_asked_for_than_there_are(clip: Path, tmp_path: Path) -> None:
    assert len(stage_video(clip, tmp_path, 60)) == COUNT


def test_limit(clip: Path, tmp_path: Path) -> None:
    assert len(stage_video(clip, tmp_path, 10, limit=4)) == 4
    assert len(list(tmp_path.iterdir())) == 4


def test_rotated_recordings_come_out_upright(clip: Path, tmp_path: Path) -> None:
    """A phone stores a sideways picture and a display matrix."""
    turned = tmp_path / "turned.mp4"
    with av.open(str(clip)) as source, av.open(str(turned), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        if not hasattr(stream, "set_display_rotation"):
            pytest.skip("this PyAV cannot write a display matrix")
        stream.set_display_rotation(90)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    (photo, *_) = stage_video(turned, tmp_path, 1)
    with Image.open(photo.path) as image:
        grey = np.asarray(image.convert("L"), np.float64)
    assert (photo.width, photo.height) == (48, 64)
    corners = {(y, x): grey[y : y + 8, x : x + 8].mean() > 200 for y in (8, 48) for x in (8, 32)}
    assert corners == {(8, 8): False, (8, 32): False, (48, 8): True, (48, 32): False}


def write(path: Path, times: list[int], aspect: Fraction = Fraction(1), rate: int = 30) -> Path:
    """A video whose frames are shown at these ticks of 1 / rate seconds."""
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("mpeg4", rate=Fraction(rate))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, rate)
        stream.sample_aspect_ratio = stream.codec_context.sample_aspect_ratio = aspect
        noise = np.random.default_rng(0)
        for tick in times:
            frame = av.VideoFrame.from_ndarray(noise.integers(0, 255, (48, 64, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, rate)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def test_no_burst_after_a_gap(tmp_path: Path) -> None:
    """Variable frame rate: 1 s, nothing for 5.2 s, 1 s."""
    path = write(tmp_path / "gap.mp4", [*range(30), *range(186, 216)])
    said: list[str] = []
    times = [photo.time for photo in stage_video(path, tmp_path, 2, say=said.append)]
    assert times == pytest.approx([0, 0.5, 6.2, 6.7], abs=0.02)
    assert said == []


@pytest.mark.parametrize(("aspect", "size"), [(Fraction(4, 3), (85, 48)), (Fraction(3, 4), (64, 64))])
def test_pixels_become_square(tmp_path: Path, aspect: Fraction, size: tuple[int, int]) -> None:
    (photo,) = stage_video(write(tmp_path / "a.mp4", [0], aspect), tmp_path, 2)
    with Image.open(photo.path) as image:
        assert image.size == (photo.width, photo.height) == size


def test_a_video_that_ends_early_is_said_to(tmp_path: Path) -> None:
    """The header of an MP4 that was moved to its front promises what an interrupted copy does not hold."""
    whole = write(tmp_path / "whole.mp4", list(range(60)))
    said: list[str] = []
    assert len(stage_video(whole, tmp_path, 2, say=said.append)) == 4
    assert said == []
    data = whole.read_bytes()
    (tmp_path / "part.mp4").write_bytes(data[: len(data) // 2])
    kept = len(stage_video(tmp_path / "part.mp4", tmp_path, 2, say=said.append))
    assert kept == 2
    assert f"{tmp_path / 'part.mp4'}: ends at " in said[0]
    assert " of 2.0 s: it is incomplete or damaged" in said[0]
    assert len(stage_video(tmp_path / "part.mp4", tmp_path, 2, limit=1, say=said.append)) == len(said) == 1


@pytest.mark.parametrize("content", [b"", b"no video at all" * 50])
def test_damaged_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "v.mp4").write_bytes(content)
    with pytest.raises(QvggtError, match=r"v\.mp4.*decoded"):
        stage_video(tmp_path / "v.mp4", tmp_path, 2)


def test_mistakes(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(QvggtError, match="no such video"):
        stage_video(tmp_path / "gone.mp4", tmp_path, 2)
    with pytest.raises(QvggtError, match="positive"):
        stage_video(clip, tmp_path, 0)
