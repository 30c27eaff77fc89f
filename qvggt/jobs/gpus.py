"""For which GPUs a file is: what --cc refuses before anything is written or built."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from qvggt.engines.build_config import capability
from qvggt.engines.compatibility import format_types, least_capability, why_not
from qvggt.errors import QvggtError
from qvggt.formats.attention import find_attention
from qvggt.formats.table import find_format
from qvggt.jobs.job import Doc
from qvggt.quant.scheme import Scheme
from qvggt.target import Target

if TYPE_CHECKING:
    from qvggt.export.lint import Finding

RULE = "QV109"  # what lint calls it; not a rule of the graph alone
Capabilities = Annotated[
    tuple[str, ...],
    Doc(
        "GPU compute capabilities the file is for, comma-separated, such as 8.9,12.0: refused where the builder has no "
        "kernels for its types.",
        ("--cc",),
        comma=True,
        parse=capability,
    ),
]


def scheme_types(scheme: Scheme) -> set[str]:
    """The types of a scheme's formats, as `compatibility.SMALLEST` names them."""
    names = [scheme.bits, *(bits for _, bits in scheme.overrides)]
    types = {kind for name in names for kind in format_types(find_format(name, scheme.activation))}
    return types | attention_types(scheme.attention)


def attention_types(name: str) -> set[str]:
    """Likewise, of what --attention says."""
    format = find_attention(name)
    return set() if format is None else {format.grid.container.lower()}


def check_gpus(wanted: Sequence[str], scheme: Scheme, target: Target, integers: bool = False) -> None:
    """QvggtError where a GPU of --cc has no kernels for a format, for --cc of a file that is for CPUs, and for FP4
    where only TensorRT-RTX is known to take it. integers: 4-bit weights are stored as int8."""
    if wanted and target is Target.CPU:
        raise QvggtError("--cc: is for --target tensorrt; leave it out, or add --target tensorrt")
    types = scheme_types(scheme) - ({"int4"} if integers else set())
    if target is Target.CPU and "fp4" in types:
        raise QvggtError(
            f"{scheme.label}: no CPU runtime reads FP4; export it with --target tensorrt, or take --bits w4a8 for CPUs"
        )
    if target is Target.TENSORRT_10 and "fp4" in types:
        raise QvggtError(
            f"{scheme.label}: TensorRT documents FP4 inputs for an operator of its own alone; leave --backend out for "
            "TensorRT-RTX, or take --bits fp8"
        )
    for each in wanted:
        if reason := why_not(target.words[1], capability=each, types=types):
            raise QvggtError(f"--cc {each}: {scheme.label}: {reason}")


def emulated(scheme: Scheme, target: Target) -> str:
    """What a file for CPUs in FP8 is good for, "" for others."""
    if target is not Target.CPU or "fp8" not in scheme_types(scheme):
        return ""
    return (
        "no CPU runtime has FP8 kernels: ONNX Runtime computes the numbers of this file in floats, slower than fp32; "
        "--target tensorrt is for GPUs, w8a8 for CPUs"
    )


def runs_on(scheme: Scheme, target: Target) -> str:
    """Such as "compute capability 8.9 or newer", "" for a scheme that every GPU of the builder runs, and for CPUs."""
    if target is Target.CPU:
        return ""
    least = least_capability(target.words[1], scheme_types(scheme) - {"int4"})
    return f"compute capability {least} or newer" if least else ""


def unfit(file: Path, types: Iterable[str], wanted: Sequence[str], target: Target) -> Iterator[Finding]:
    """One finding for every GPU that has no kernels for the types in a file."""
    from qvggt.export.lint import Finding, Severity

    for each in wanted:
        if reason := why_not(target.words[1], capability=each, types=types):
            yield Finding(
                RULE, "compute-capability", Severity.ERROR, str(file), "file", reason, "choose another format, or GPU"
            )
