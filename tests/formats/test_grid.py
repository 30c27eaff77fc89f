from __future__ import annotations

import pytest
import torch

from qvggt.formats.float_grid import E2M1, E4M3
from qvggt.formats.grid import IntegerGrid


@pytest.mark.parametrize(("bits", "container"), [(3, 4), (4, 4), (5, 8), (6, 8), (8, 8)])
def test_the_smallest_container_that_holds_the_codes(bits: int, container: int) -> None:
    grid = IntegerGrid(bits)
    assert (grid.storage_bits, grid.container_bits, grid.container) == (bits, container, f"INT{container}")


def test_what_checkpoints_pack() -> None:
    assert [IntegerGrid(bits).packed for bits in (4, 6, 8)] == [True, True, False]
    assert E4M3.packed
    assert E2M1.packed


def test_codes_change_in_the_middle_of_two_and_nowhere_beyond_the_last() -> None:
    grid = IntegerGrid(4)
    x = torch.tensor([0.5, 0.50005, -2.5, 7.5, 3.0, 0.4, 11.5, -20.5, 11.0])
    assert grid.near_boundary(x, 1e-4).tolist() == [True, True, True, True, False, False, False, False, False]
