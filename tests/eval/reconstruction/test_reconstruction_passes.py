from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvggt.errors import QvggtError
from qvggt.eval.reconstruction.passes import Pass, plan_passes


@given(st.integers(1, 300), st.integers(2, 40), st.data())
def test_passes_cover_everything(count: int, most: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(1, most - 1))
    exactly = data.draw(st.sampled_from([None, most])) if count >= most else None
    passes = plan_passes(count, most, overlap, exactly)
    assert passes[0].start == 0
    assert passes[-1].stop == count
    assert all(len(p) <= most for p in passes)
    assert exactly is None or all(len(p) == exactly for p in passes)
    if count >= 2 <= most:
        assert min(map(len, plan_passes(count, most, overlap, least=2))) >= 2
    for before, after in pairwise(passes):
        assert after.shared == before.stop - after.start >= overlap
        assert after.start > before.start
        assert after.stop > before.stop


def test_examples() -> None:
    assert plan_passes(5, 5, 2) == [Pass(0, 5, 0)]
    assert plan_passes(6, 5, 2) == [Pass(0, 4, 0), Pass(2, 6, 2)]
    assert plan_passes(6, 9, 2, exactly=4) == [Pass(0, 4, 0), Pass(2, 6, 2)]


def test_mistakes() -> None:
    with pytest.raises(QvggtError, match="1 to 3"):
        plan_passes(10, 4, 4)
    with pytest.raises(QvggtError, match="exactly 4 at a time, got 3"):
        plan_passes(3, 4, 2, exactly=4)
    with pytest.raises(QvggtError, match="4 or more at a time, got 3"):
        plan_passes(3, 9, 2, least=4)
    with pytest.raises(QvggtError, match="over the limit of 2"):
        plan_passes(9, 2, 1, exactly=4)
