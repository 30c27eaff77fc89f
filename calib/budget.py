"""Which part of the network gets which format so that a drop stays in budget: the cheapest mixture that fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from qvggt.errors import QvggtError
from qvggt.formats.linear_format import Activation
from qvggt.models.family import find_family
from qvggt.quant.scheme import Scheme


@dataclass(frozen=True)
class Unit:
    """A part of the network that gets one format. `patterns`: its module paths, for a scheme's overrides.
    `family`: of the network."""

    name: str
    patterns: tuple[str, ...]
    family: str = find_family().name


@dataclass(frozen=True)
class Choice:
    """One unit in one format (`bits`, as schemes write it): bytes of its weights and scales, bit operations per token
    (`Format.cost`), and the damage it does alone."""

    bits: str
    bytes: int
    cost: float
    damage: float


Table = Mapping[str, Sequence[Choice]]
Assignment = dict[str, Choice]


def frontier(table: Table) -> list[Assignment]:
    """Assignments from the cheapest to the most exact, each with the least summed damage for its cost.

    Squared errors of small, independent disturbances add up, so each unit contributes its own; between two neighbours
    one unit moves along the convex hull of its choices, the one that saves most damage per cost first (Lagrangian
    bit allocation, Shoham and Gersho 1988).
    """
    hulls = {name: _hull(choices) for name, choices in table.items()}
    steps: list[tuple[float, str, int, int]] = []
    for order, (name, hull) in enumerate(hulls.items()):
        for number, (a, b) in enumerate(pairwise(hull)):
            steps.append((-(a.damage - b.damage) / (b.cost - a.cost), name, order, number))
    steps.sort(key=lambda step: (step[0], step[2], step[3]))
    current = {name: hull[0] for name, hull in hulls.items()}
    assignments = [dict(current)]
    for _, name, _, number in steps:
        current[name] = hulls[name][number + 1]
        assignments.append(dict(current))
    return assignments


def cheapest_within(
    assignments: Sequence[Assignment], drop: Callable[[Assignment], float], limit: float
) -> tuple[Assignment, float]:
    """The first assignment whose drop is at most `limit`, and its drop, by bisection (drops fall along the list, up to
    noise: what is returned has been measured to fit). QvggtError when not even the last one fits."""
    low, high = -1, len(assignments) - 1
    fitting = drop(assignments[high])
    if fitting > limit:
        raise QvggtError(
            f"--budget: the most exact choice drops by {100 * fitting:.3g} %, more than {100 * limit:.3g} %; "
            "raise the budget or quantize fewer --parts"
        )
    while high - low > 1:
        middle = (low + high) // 2
        value = drop(assignments[middle])
        if value <= limit:
            high, fitting = middle, value
        else:
            low = middle
    return assignments[high], fitting


def mixed_scheme(
    units: Sequence[Unit], assignment: Assignment, bits: str, activation: Activation, parts: tuple[str, ...]
) -> Scheme:
    """The scheme of an assignment: one format for all, or `bits` and an override per unit that differs."""
    given = {assignment[unit.name].bits for unit in units}
    if len(given) == 1:
        return Scheme(given.pop(), activation, parts, family=units[0].family)
    overrides = [
        (pattern, assignment[unit.name].bits)
        for unit in units
        if assignment[unit.name].bits != bits
        for pattern in unit.patterns
    ]
    return Scheme(bits, activation, parts, tuple(overrides), family=units[0].family)


def parse_budget(text: str) -> float:
    """`0.5%` -> 0.005; QvggtError for anything but a positive percentage up to 100."""
    try:
        value = float(text.removesuffix("%")) / 100
    except ValueError:
        value = -1.0
    if not text.endswith("%") or not 0 < value <= 1:
        raise QvggtError(f"--budget {text!r}: expected a percentage such as 0.5%")
    return value


def _hull(choices: Sequence[Choice]) -> list[Choice]:
    """Lower convex hull of (cost, damage), from cheap to exact: what costs more and saves no damage is left out."""
    hull: list[Choice] = []
    for choice in sorted(choices, key=lambda c: (c.cost, c.damage)):
        if hull and (choice.damage >= hull[-1].damage or choice.cost == hull[-1].cost):
            continue
        while len(hull) > 1 and _slope(hull[-2], choice) <= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(choice)
    return hull


def _slope(a: Choice, b: Choice) -> float:
    return (b.damage - a.damage) / (b.cost - a.cost)
