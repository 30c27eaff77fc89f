"""A clean process that forks the cases, a workshop of valid inputs, and a count of how the cases ended."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from inputs import stock
from sandbox import import_everything, make_workshop

ENDINGS: dict[str, Counter[str]] = {}  # kind of input -> verdict -> cases


@pytest.fixture(scope="session")
def clean() -> Iterator[Callable[..., Any]]:
    """Calls a function in a single-threaded process that has imported everything: pytest's own may not fork."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=import_everything) as pool:
        yield lambda function, *args, **options: pool.submit(function, *args, **options).result()


@pytest.fixture(scope="session")
def shop(clean: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """With an engine and an unfinished calibration when long tests run."""
    slow = any(item.get_closest_marker("slow") for item in request.session.items)
    root = clean(make_workshop, tmp_path_factory.mktemp("stress") / "workshop", engine=slow)
    clean(stock, root, unfinished=slow)
    return root


@pytest.fixture(scope="session")
def endings() -> dict[str, Counter[str]]:
    return ENDINGS


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if ENDINGS:
        total = sum(ENDINGS.values(), Counter())
        counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(total.items()))
        terminalreporter.write_line(f"malformed inputs: {total.total()} cases of {len(ENDINGS)} kinds: {counts}")
