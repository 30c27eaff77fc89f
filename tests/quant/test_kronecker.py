"""The online rotation before fc2."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from qvggt.errors import QvggtError
from qvggt.quant.hadamard import sylvester_hadamard
from qvggt.quant.kronecker import kronecker_factors
from qvggt.rotation import KroneckerHadamard
from qvggt.rotation.cost import kronecker_macs


@pytest.mark.parametrize(
    ("width", "factors"),
    [(512, (16, 32)), (4096, (64, 64)), (256, (16, 16)), (2, (1, 2)), (1, (1, 1)), (384, (16, 24)), (13, (1, 13))],
)
def test_factors(width: int, factors: tuple[int, int]) -> None:
    assert kronecker_factors(width) == factors


@pytest.mark.parametrize("width", [1, 2, 64, 512])
def test_equals_the_dense_hadamard(width: int) -> None:
    """Kronecker products of Sylvester matrices are Sylvester matrices."""
    rotation = KroneckerHadamard(width, seed=5, dtype=torch.float64)
    assert set(rotation.signs.tolist()) <= {-1.0, 1.0}
    x = torch.randn(2, 3, width, generator=torch.Generator().manual_seed(0)).double()
    dense = rotation.signs[:, None] * sylvester_hadamard(width)
    torch.testing.assert_close(rotation(x), x @ dense, atol=1e-13, rtol=0)


@settings(deadline=None, max_examples=20)
@given(width=st.integers(1, 60), seed=st.integers(0, 1000))
def test_folds_into_the_next_linear(width: int, seed: int) -> None:
    rotation = KroneckerHadamard(width, seed, dtype=torch.float64)
    k = rotation.matrix()
    torch.testing.assert_close(k @ k.T, torch.eye(width).double(), atol=1e-12, rtol=0)
    generator = torch.Generator().manual_seed(seed)
    x, weight = torch.randn(4, width, generator=generator).double(), torch.randn(5, width, generator=generator).double()
    torch.testing.assert_close(rotation(x), x @ k, atol=1e-12, rtol=0)
    torch.testing.assert_close(F.linear(rotation(x), rotation.rotate_weight(weight)), F.linear(x, weight))


def test_single_precision_and_state() -> None:
    rotation, other = KroneckerHadamard(96, seed=1), KroneckerHadamard(96, seed=2)
    x, weight = torch.randn(3, 96, generator=torch.Generator().manual_seed(0)), torch.ones(2, 96)
    assert rotation.rotate_weight(weight).dtype == rotation(x).dtype == torch.float32
    torch.testing.assert_close(F.linear(rotation(x), rotation.rotate_weight(weight)), F.linear(x, weight))
    assert not torch.equal(rotation(x), other(x))
    other.load_state_dict(rotation.state_dict())
    assert torch.equal(rotation(x), other(x))


def test_macs() -> None:
    assert kronecker_macs(4096) == 524_288


def test_width_must_be_positive() -> None:
    with pytest.raises(QvggtError, match="width 0"):
        KroneckerHadamard(0)
