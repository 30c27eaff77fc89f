"""Flat orthogonal matrices: what makes a rotation invisible to LayerNorm."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from qvggt.quant.hadamard import (
    check_residual_rotation,
    check_rotation,
    complement_of_ones,
    flat_rotation,
    head_rotation,
    named_seed,
    random_orthogonal,
    regular_hadamard,
    residual_rotation,
    sylvester_hadamard,
)

quick = settings(deadline=None, max_examples=25)
seeds = st.integers(0, 2**32 - 1)
EPS = 1e-12


@pytest.mark.parametrize("width", [1, 4, 16, 64, 256, 1024])
def test_regular_hadamard(width: int) -> None:
    q = regular_hadamard(width)
    assert torch.equal(q.abs(), torch.full_like(q, width**-0.5))
    assert torch.equal(q.sum(0), torch.ones(width).double())
    assert torch.equal(q.sum(1), torch.ones(width).double())
    assert torch.equal(q @ q.T, torch.eye(width).double())


@pytest.mark.parametrize("width", [2, 8, 12, 128])
def test_regular_hadamard_needs_a_power_of_four(width: int) -> None:
    with pytest.raises(ValueError, match=f"width {width} is no power of four"):
        regular_hadamard(width)


@quick
@given(width=st.integers(1, 100), seed=seeds)
def test_residual_rotation_of_any_width(width: int, seed: int) -> None:
    q = residual_rotation(width, seed)
    assert q.dtype == torch.float64
    torch.testing.assert_close(q.T @ q, torch.eye(width).double(), atol=EPS, rtol=0)
    torch.testing.assert_close(q.sum(1), torch.ones(width).double(), atol=EPS, rtol=0)
    torch.testing.assert_close(q.sum(0), torch.ones(width).double(), atol=EPS, rtol=0)
    if width > 2:  # an outlier of one channel keeps at most this much of its height
        assert q.abs().max() < 1.6 * width**-0.5


@quick
@given(width=st.sampled_from([4, 6, 16, 20]), seed=seeds, eps=st.sampled_from([1e-6, 1e-5]))
def test_layer_norm_commutes(width: int, seed: int, eps: float) -> None:
    q = residual_rotation(width, seed)
    x = torch.randn(7, width, generator=torch.Generator().manual_seed(seed)).double() * 3 + 1
    torch.testing.assert_close(
        F.layer_norm(x @ q, (width,), eps=eps), F.layer_norm(x, (width,), eps=eps) @ q, atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("width", [4, 16, 64, 256])
def test_powers_of_four_are_perfectly_flat(width: int) -> None:
    q = residual_rotation(width, 3)
    assert torch.equal(q.abs(), torch.full_like(q, width**-0.5))


@pytest.mark.parametrize("width", [16, 24])
def test_seeds(width: int) -> None:
    assert torch.equal(residual_rotation(width, 1), residual_rotation(width, 1))
    assert not torch.equal(residual_rotation(width, 1), residual_rotation(width, 2))
    assert not torch.equal(head_rotation(width, 1), head_rotation(width, 2))
    assert named_seed(1, "a") != named_seed(1, "b") != named_seed(2, "b")


@pytest.mark.parametrize("width", [1, 2, 16, 32, 64])
def test_sylvester(width: int) -> None:
    h = sylvester_hadamard(width)
    assert torch.equal(h, h.T)
    parity = torch.tensor([[(i & j).bit_count() % 2 for j in range(width)] for i in range(width)])
    torch.testing.assert_close(h, (1 - 2 * parity).double() / width**0.5, atol=1e-16, rtol=0)


@quick
@given(width=st.integers(1, 70), seed=seeds)
def test_head_rotation_of_any_width(width: int, seed: int) -> None:
    q = head_rotation(width, seed)
    assert q.dtype == torch.float64
    torch.testing.assert_close(q @ q.T, torch.eye(width).double(), atol=EPS, rtol=0)
    if width & (width - 1) == 0:
        torch.testing.assert_close(q.abs(), torch.full_like(q, width**-0.5), atol=EPS, rtol=0)


def test_the_check_sees_a_skewed_matrix() -> None:
    q = residual_rotation(16, 0)
    q[0, 0] += 1e-9
    with pytest.raises(AssertionError, match="not orthogonal"):
        check_rotation(q)


def test_all_are_found_on_the_cpu_in_float64_whatever_the_default_device() -> None:
    """Where models are made, the default device is often another: `meta` holds no numbers at all."""
    rng = np.random.default_rng(0)
    with torch.device("meta"):
        made = [regular_hadamard(16), sylvester_hadamard(8), complement_of_ones(5), flat_rotation(3, rng)]
        made += [flat_rotation(1, rng), random_orthogonal(4, rng), residual_rotation(12, 0)]
        made += [head_rotation(12, 0), head_rotation(8, 0)]
    assert {(q.device.type, q.dtype) for q in made} == {("cpu", torch.float64)}


def test_a_rotation_that_moves_the_ones_is_refused() -> None:
    check_residual_rotation(regular_hadamard(16))
    with pytest.raises(AssertionError, match="width 16: Q 1 is not 1"):
        check_residual_rotation(sylvester_hadamard(16))
    with pytest.raises(AssertionError, match="width 4 is not orthogonal"):
        check_residual_rotation(torch.eye(4).double() * 1.001)
