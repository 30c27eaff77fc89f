"""The one exception type a command turns into a single line and exit code 2."""

from __future__ import annotations


class QvggtError(Exception):
    """A mistake the user can mend: the message names the file or key, what was expected, what was got."""
