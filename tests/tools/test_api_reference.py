"""docs/api.md is what the docstrings say, and everything public has one."""

from __future__ import annotations

import ast

import api_reference
import pytest

from qvggt import PUBLIC


def test_the_page_is_up_to_date() -> None:
    written = api_reference.PAGE.read_text(encoding="utf-8")
    assert written == api_reference.page(), "docs/api.md is out of date; run: python tools/api_reference.py"


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_exists_and_is_described(name: str) -> None:
    import qvggt

    home = "qvggt.export.calling" if name == "export" else PUBLIC[name]
    assert ast.get_docstring(api_reference.definition(home, name)), name
    assert callable(getattr(qvggt, name))
    assert name in dir(qvggt)


def test_an_unknown_name_is_an_attribute_error() -> None:
    import qvggt

    with pytest.raises(AttributeError, match="'nothing'"):
        qvggt.nothing  # noqa: B018
