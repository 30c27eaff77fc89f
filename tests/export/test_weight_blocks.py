"""Block scales of weight-only linears as they are stored: whole blocks, at least two, the same numbers."""

from __future__ import annotations

import numpy as np
import pytest

from qvggt.export.forms.weight_only import whole_blocks


@pytest.mark.parametrize(
    ("length", "block", "stored"),
    [(1024, 128, 128), (256, 128, 128), (128, 128, 64), (64, 128, 32), (320, 128, 64), (200, 128, 8), (65, 128, 65)],
)
def test_every_input_keeps_its_scale(length: int, block: int, stored: int) -> None:
    scales = np.random.default_rng(0).random((-(-length // block), 3)).astype(np.float32)
    repeated, size = whole_blocks(scales, block, length)
    assert size == stored
    assert repeated.shape == (length // size, 3)
    assert np.array_equal(np.repeat(repeated, size, 0), np.repeat(scales, block, 0)[:length])


@pytest.mark.parametrize(
    ("length", "block", "stored"),
    [(1024, 128, 128), (128, 128, 64), (64, 128, 64), (320, 128, 64), (256, 64, 64), (96, 128, None), (256, 32, None)],
)
def test_blocks_that_tensorrt_documents(length: int, block: int, stored: int | None) -> None:
    scales = np.random.default_rng(0).random((-(-length // block), 3)).astype(np.float32)
    repeated, size = whole_blocks(scales, block, length, documented=True)
    assert size == stored
    if size is not None:
        assert np.array_equal(np.repeat(repeated, size, 0), np.repeat(scales, block, 0)[:length])
