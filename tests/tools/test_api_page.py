"""docs/api.md names everything public, and everything public says what it is."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path

import pytest

import qvggt

PAGE = Path(__file__).resolve().parents[2] / "docs" / "api.md"
NAMES = sorted(qvggt.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_exists_and_is_described(name: str) -> None:
    found = getattr(qvggt, name)
    assert name in dir(qvggt)
    assert f"`qvggt.{name}" in PAGE.read_text(encoding="utf-8")
    if name != "__version__":
        assert callable(found)
        assert inspect.getdoc(found)


def test_the_page_names_the_right_modules() -> None:
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("| `qvggt."):
            name, module = (cell.strip().strip("`").split("(")[0] for cell in line.split("|")[1:3])
            assert hasattr(import_module(module), name.removeprefix("qvggt.")), line


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'nothing'"):
        qvggt.nothing  # noqa: B018
