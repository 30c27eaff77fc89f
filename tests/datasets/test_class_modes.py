"""Class modes: which categories a pool is drawn from."""

from __future__ import annotations

import pytest

from qvggt.data.class_modes import CLASS_MODES, categories
from qvggt.errors import QvggtError

CO3D = CLASS_MODES["all"]


def test_modes_nest_and_count() -> None:
    assert [len(CLASS_MODES[mode]) for mode in ("apple", "five", "more", "all")] == [1, 5, 10, 41]
    assert all(len(set(names)) == len(names) for names in CLASS_MODES.values())
    for small, large in (("apple", "five"), ("five", "more"), ("more", "all")):
        assert set(CLASS_MODES[small]) < set(CLASS_MODES[large])


def test_all_takes_the_published_ones_that_are_there() -> None:
    assert categories("all", ["tv", "couch", "apple"]) == ("apple", "tv")  # couch is none of the 41
    assert categories("all", CO3D) == tuple(sorted(CO3D))


def test_other_data_brings_its_own_categories() -> None:
    assert categories("all", ["synthetic"]) == ("synthetic",)
    assert categories("all", ["kitchen", "attic"]) == ("attic", "kitchen")


def test_named_modes_need_their_categories() -> None:
    assert categories("five", CO3D) == ("apple", "bicycle", "bottle", "bowl", "handbag")
    with pytest.raises(QvggtError, match=r"class mode five: .*not in the data: bottle, bowl, handbag; .*all"):
        categories("five", ["apple", "bicycle", "synthetic"])


def test_unknown_mode_and_empty_data() -> None:
    with pytest.raises(QvggtError, match=r"class mode 'fruit': expected one of apple, five, more, all"):
        categories("fruit", CO3D)
    with pytest.raises(QvggtError, match="no category"):
        categories("all", [])
