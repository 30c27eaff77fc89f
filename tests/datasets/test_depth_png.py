import struct

import numpy as np
import pytest
from PIL import Image

from qvggt import QvggtError
from qvggt.data.depth_png import read_depth, write_depth


def test_integers_are_half_float_bits(tmp_path):
    bits = np.array([[0x3C00, 0x4000, 0x0000], [0x3555, 0x7BFF, 0x0001]], np.uint16)
    Image.fromarray(bits).save(tmp_path / "d.png")
    expected = [[1.0, 2.0, 0.0], [struct.unpack("<e", b"\x55\x35")[0], 65504.0, 2.0**-24]]
    depth = read_depth(tmp_path / "d.png")
    assert depth.dtype == np.float32
    np.testing.assert_array_equal(depth, np.array(expected, np.float32))


def test_invalid_becomes_zero(tmp_path):
    write_depth(tmp_path / "d.png", np.array([[np.nan, np.inf, -1.0, 3.0]]))
    np.testing.assert_array_equal(read_depth(tmp_path / "d.png"), [[0, 0, 0, 3]])


def test_round_trip_keeps_half_precision(tmp_path):
    depth = np.random.default_rng(0).uniform(0.3, 40, (13, 17))
    write_depth(tmp_path / "d.png", depth)
    np.testing.assert_allclose(read_depth(tmp_path / "d.png"), depth, rtol=2**-11)


def test_bad_files_are_named(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "rgb.png")
    (tmp_path / "text.png").write_text("no")
    Image.fromarray(np.zeros((64, 64), np.uint16) + 7).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:60])
    for name in ("rgb.png", "text.png", "cut.png", "none.png"):
        with pytest.raises(QvggtError, match=name):
            read_depth(tmp_path / name)
