"""Under which licence a quantized model may be published: that of the weights it was made from."""

from __future__ import annotations

import re
from dataclasses import dataclass

from qvggt.errors import QvggtError

ID = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")


@dataclass(frozen=True)
class Licence:
    """id: of the Hub. name, link: of a licence of its own, whose id is "other"."""

    id: str
    name: str | None = None
    link: str | None = None


_COMMERCIAL = "facebook/VGGT-1B-Commercial"
KNOWN = {
    "tiny": (Licence("apache-2.0"), ID),
    "facebook/VGGT-1B": (Licence("cc-by-nc-4.0"), re.compile(r"cc-by-nc(-sa)?-4\.0")),
    _COMMERCIAL: (
        Licence("other", "vggt-aup-license", f"https://huggingface.co/{_COMMERCIAL}"),
        re.compile("other"),
    ),
}
"""Source -> its licence, and the ids that what is made from it may have."""


def check_licence(licence: str) -> None:
    """QvggtError unless it looks like a licence id of the Hub."""
    if not ID.fullmatch(licence):
        raise QvggtError(f"licence {licence!r}: expected a Hub licence id such as apache-2.0, cc-by-nc-4.0 or other")


def licence_for(source: str, given: str | None) -> Licence:
    """Of what is made from `source`: `given`, else the source's own. QvggtError for one that the source's licence does
    not allow, and where nobody says one."""
    if source not in KNOWN:
        if given is None:
            raise QvggtError(
                f"the licence of {source} is not known here; say it with --licence, such as cc-by-nc-4.0 of what is "
                "made from VGGT-1B"
            )
        return Licence(given)
    own, fitting = KNOWN[source]
    if given is None or given == own.id:
        return own
    if not fitting.fullmatch(given):
        raise QvggtError(f"licence {given}: does not fit {source}, which is under {own.name or own.id}; leave it out")
    return Licence(given)
