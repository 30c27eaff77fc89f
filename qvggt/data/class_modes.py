"""Which Co3D categories a calibration pool is drawn from."""

from __future__ import annotations

from collections.abc import Iterable

from qvggt.errors import QvggtError

_FIVE = ("apple", "bicycle", "bottle", "bowl", "handbag")
_SEEN = (  # the 41 categories of the published protocol
    "apple backpack banana baseballbat baseballglove bench bicycle bottle bowl broccoli cake car carrot cellphone "
    "chair cup donut hairdryer handbag hydrant keyboard laptop microwave motorcycle mouse orange parkingmeter pizza "
    "plant stopsign teddybear toaster toilet toybus toyplane toytrain toytruck tv umbrella vase wineglass"
)

CLASS_MODES: dict[str, tuple[str, ...]] = {
    "apple": ("apple",),
    "five": _FIVE,
    "more": (*_FIVE, "carrot", "cellphone", "motorcycle", "umbrella", "toaster"),
    "all": tuple(_SEEN.split()),
}


def check_mode(mode: str) -> None:
    """Raise QvggtError unless `mode` is one of `CLASS_MODES`."""
    if mode not in CLASS_MODES:
        raise QvggtError(f"class mode {mode!r}: expected one of {', '.join(CLASS_MODES)}")


def categories(mode: str, available: Iterable[str]) -> tuple[str, ...]:
    """Sorted names of the categories to read (spec/quantvggt.md section 3).

    "all": those of the 41 published ones that are available; data without any of them (generated scenes, one's own)
    brings its own categories, and all of these are taken. The other modes name their categories: QvggtError when one
    is missing, since a smaller pool under the same name could not be compared. An unknown mode is a QvggtError too.
    """
    check_mode(mode)
    present = set(available)
    if not present:
        raise QvggtError("class mode: the data has no category; give a folder with Co3D annotation files")
    wanted = set(CLASS_MODES[mode])
    if mode == "all":
        return tuple(sorted(wanted & present or present))
    missing = sorted(wanted - present)
    if missing:
        raise QvggtError(
            f"class mode {mode}: expected categories {', '.join(sorted(wanted))}, not in the data: "
            f"{', '.join(missing)}; add them or take class mode all"
        )
    return tuple(sorted(wanted))
