"""RoPE, the DPT position map and the tracker's embeddings against their closed forms, written out in numpy."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qvggt.models.dpt import add_position, position_map
from qvggt.models.rope import rope_tables, rotate
from qvggt.models.vggt.track_sampling import flow_embedding, place_embedding

quick = settings(deadline=None, max_examples=12)
sides = st.integers(1, 6)


def turned(x: np.ndarray, position: int) -> np.ndarray:
    """One axis of RoPE on [2m] channels: the pair (c_j, c_{j+m}) as a complex number times exp(i pos 100^(-j/m))."""
    m = len(x) // 2
    out = (x[:m] + 1j * x[m:]) * np.exp(1j * position * 100.0 ** (-np.arange(m) / m))
    return np.concatenate([out.real, out.imag])


@quick
@given(rows=sides, cols=sides, special=st.integers(0, 5), quarter=st.sampled_from([1, 4, 16]))
def test_rope_closed_form(rows: int, cols: int, special: int, quarter: int) -> None:
    dim = 4 * quarter
    x = torch.randn(special + rows * cols, dim, generator=torch.Generator().manual_seed(rows * 10 + cols))
    actual = rotate(x, *rope_tables(rows, cols, dim, special))
    places = [(0, 0)] * special + [(y + 1, x + 1) for y in range(rows) for x in range(cols)]
    halves = x.double().numpy().reshape(-1, 2, dim // 2)
    expected = np.stack(
        [np.concatenate([turned(h[0], y), turned(h[1], x)]) for h, (y, x) in zip(halves, places, strict=True)]
    )
    np.testing.assert_allclose(actual.numpy(), expected, atol=2e-6)
    assert torch.equal(actual[:special], x[:special])


def test_rope_scores_depend_on_the_offset_only() -> None:
    cos, sin = rope_tables(5, 5, 16, 0)
    q, k = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    scores = (rotate(q.expand(25, -1), cos, sin) @ rotate(k.expand(25, -1), cos, sin).T).view(5, 5, 5, 5)
    torch.testing.assert_close(scores[0, 0, 1, 2], scores[3, 2, 4, 4])
    assert abs(scores[0, 0, 1, 2] - scores[0, 0, 2, 1]) > 1e-3


def dpt_code(channels: int, rows: int, cols: int, aspect: float) -> np.ndarray:
    """[channels, rows, cols] by the formula of spec/vggt.md 1.8, one number at a time."""
    span = (aspect / math.hypot(aspect, 1), 1 / math.hypot(aspect, 1))
    quarter = channels // 4
    out = np.empty((channels, rows, cols))
    for y, x, axis, j in np.ndindex(rows, cols, 2, quarter):
        index, count = ((x, cols), (y, rows))[axis]
        angle = span[axis] * (2 * index - count + 1) / count * 100 ** (-j / quarter)
        out[axis * 2 * quarter + j, y, x] = math.sin(angle)
        out[axis * 2 * quarter + quarter + j, y, x] = math.cos(angle)
    return out


@quick
@given(rows=sides, cols=sides, quarter=st.integers(1, 5), aspect=st.floats(0.3, 3))
def test_dpt_position_closed_form(rows: int, cols: int, quarter: int, aspect: float) -> None:
    expected = dpt_code(4 * quarter, rows, cols, aspect)
    actual = position_map(4 * quarter, rows, cols, aspect)
    assert actual.dtype == torch.float32
    np.testing.assert_allclose(actual[0].numpy(), expected, atol=3e-7)
    zeros = torch.zeros(2, 4 * quarter, rows, cols)
    assert torch.equal(add_position(zeros, aspect), (0.1 * actual).expand(2, -1, -1, -1))
    np.testing.assert_allclose(add_position(zeros.double(), aspect)[1].numpy(), 0.1 * expected, atol=2e-8)


@quick
@given(x=st.floats(-40, 40, width=32), y=st.floats(-40, 40, width=32), half=st.integers(1, 6))
def test_flow_embedding_closed_form(x: float, y: float, half: int) -> None:
    channels = 2 * half
    actual = flow_embedding(torch.tensor([x, y], dtype=torch.float64), channels)
    expected = [f(v * 2 * k * 1000 / channels) for v in (x, y) for k in range(half) for f in (math.sin, math.cos)]
    np.testing.assert_allclose(actual.numpy(), expected, atol=1e-7)


def place_code(x: int, y: int, channels: int) -> np.ndarray:
    """The position map's column at an integer cell."""
    half = channels // 4
    angles = np.outer([x, y], 10000.0 ** (-np.arange(half) / half))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).ravel()


@quick
@given(x=st.floats(-4, 14, width=32), y=st.floats(-4, 14, width=32), rows=st.integers(2, 9), cols=st.integers(2, 11))
def test_place_embedding_interpolates_between_cells(x: float, y: float, rows: int, cols: int) -> None:
    channels = 20
    inside_x, inside_y = min(max(x, 0), cols - 1), min(max(y, 0), rows - 1)
    left, top = int(min(inside_x, cols - 2)), int(min(inside_y, rows - 2))
    right, down = inside_x - left, inside_y - top
    expected = sum(
        place_code(left + i, top + j, channels) * (right if i else 1 - right) * (down if j else 1 - down)
        for i in (0, 1)
        for j in (0, 1)
    )
    actual = place_embedding(torch.tensor([[[x, y]]]), rows, cols, channels)[0, 0]
    np.testing.assert_allclose(actual.numpy(), expected, atol=5e-6)
