"""The search for bits: the frontier against exhaustive search, the cheapest that fits, the scheme of a mixture."""

from __future__ import annotations

import itertools

import pytest

from qvggt.calib.budget import Assignment, Choice, Unit, cheapest_within, frontier, mixed_scheme, parse_budget
from qvggt.errors import QvggtError

TABLE = {
    "a": [
        Choice("w4a4", 1, 16, 9.0),
        Choice("w4a8", 1, 32, 4.0),
        Choice("w8a8", 2, 64, 0.5),
        Choice("fp32", 8, 1024, 0),
    ],
    "b": [
        Choice("w4a4", 1, 16, 1.0),
        Choice("w4a8", 1, 32, 0.9),
        Choice("w8a8", 2, 64, 0.1),
        Choice("fp32", 8, 1024, 0),
    ],
    "c": [
        Choice("w4a4", 4, 64, 2.0),
        Choice("w4a8", 4, 128, 2.5),
        Choice("w8a8", 8, 256, 0.2),
        Choice("fp32", 32, 4096, 0),
    ],
}


def cost(assignment: Assignment) -> float:
    return sum(c.cost for c in assignment.values())


def damage(assignment: Assignment) -> float:
    return sum(c.damage for c in assignment.values())


def test_no_assignment_is_cheaper_and_better_than_one_of_the_frontier() -> None:
    found = frontier(TABLE)
    everything = [dict(zip(TABLE, choices, strict=True)) for choices in itertools.product(*TABLE.values())]
    for assignment in found:
        assert not [
            other
            for other in everything
            if cost(other) <= cost(assignment) and damage(other) < damage(assignment) - 1e-12
        ]
    assert all(cost(a) < cost(b) and damage(a) > damage(b) for a, b in itertools.pairwise(found))
    assert {c.bits for c in found[0].values()} == {"w4a4"}
    assert {c.bits for c in found[-1].values()} == {"fp32"}
    assert [sum(a[u] != b[u] for u in TABLE) for a, b in itertools.pairwise(found)] == [1] * (len(found) - 1)


def test_what_costs_more_and_saves_nothing_is_never_chosen() -> None:
    assert all(assignment["c"].bits != "w4a8" for assignment in frontier(TABLE))


@pytest.mark.parametrize("limit", [0.0, 0.05, 0.3, 1.0, 5.0, 100.0])
def test_the_first_that_fits(limit: float) -> None:
    found, asked = frontier(TABLE), []

    def drop(assignment: Assignment) -> float:
        asked.append(assignment)
        return damage(assignment)

    chosen, value = cheapest_within(found, drop, limit)
    assert chosen == next(a for a in found if damage(a) <= limit)
    assert value == damage(chosen) <= limit
    assert len(asked) <= 5


def test_nothing_fits() -> None:
    with pytest.raises(QvggtError, match="the most exact choice drops by 3 %, more than 1 %"):
        cheapest_within(frontier(TABLE), lambda _: 0.03, 0.01)


def test_the_scheme_of_a_mixture() -> None:
    units = [Unit("dino", ("aggregator.patch_embed.blocks.*",)), Unit("dpt", ("depth_head.*", "point_head.*"))]
    low, high = (Choice(bits, 1, 1, 0) for bits in ("w4a4", "w8a8"))
    scheme = mixed_scheme(units, {"dino": low, "dpt": high}, "w4a4", "dynamic", ("dino", "dpt"))
    assert scheme.overrides == (("depth_head.*", "w8a8"), ("point_head.*", "w8a8"))
    assert scheme.label == "w4a4-dynamic@dino+dpt-mixed"
    assert scheme.format("aggregator.patch_embed.blocks.0.attn.qkv").weight.grid.storage_bits == 4  # type: ignore[union-attr]
    assert scheme.format("point_head.projects.1").weight.grid.storage_bits == 8  # type: ignore[union-attr]
    same = mixed_scheme(units, {"dino": high, "dpt": high}, "w4a4", "dynamic", ("dino", "dpt"))
    assert (same.bits, same.overrides) == ("w8a8", ())


@pytest.mark.parametrize("text", ["0.5", "%", "0%", "-1%", "101%", "half", ""])
def test_budgets_are_percentages(text: str) -> None:
    with pytest.raises(QvggtError, match=r"0\.5%"):
        parse_budget(text)
    assert parse_budget("0.5%") == pytest.approx(0.005)
