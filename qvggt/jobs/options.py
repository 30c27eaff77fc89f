"""Fields that several jobs have, word for word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from qvggt.engines.compatibility import format_types, least_capability
from qvggt.formats.linear_format import LinearFormat
from qvggt.formats.table import BLOCKED, DEFAULT, FORMATS, blocks, choices, choices_text
from qvggt.jobs.job import Doc, Place, Source
from qvggt.jobs.words import override
from qvggt.mapping import Check, at_least
from qvggt.models.family import find_family

FAMILY = find_family()  # whose words help texts name
PATCH = FAMILY.patch_size


def on_newer_gpus() -> str:
    """Which formats TensorRT has kernels for on some GPUs only, for help texts."""
    needs: dict[str, list[str]] = {}
    for format in FORMATS.values():
        if isinstance(format, LinearFormat) and format.activation is not None:
            types = format_types(format) - {"int4"}
            rtx, own = (least_capability(name, types) for name in ("rtx", "tensorrt"))
            if types:
                but = "" if own == rtx else f" ({own} with TensorRT itself)"
                needs.setdefault(f"compute capability {rtx} or newer{but}", []).append(format.bits)
    return "; ".join(f"{', '.join(dict.fromkeys(names))}: {what}" for what, names in needs.items()) + "."


Format = Annotated[
    str | None,
    Doc(f"{choices_text()}. {on_newer_gpus()} [{DEFAULT}]", ("--bits", "--format"), words=lambda: tuple(choices())),
]
Parts = Annotated[
    tuple[str, ...] | None,
    Doc(
        f"Parts to quantize: {', '.join(FAMILY.part_names)}. [{','.join(FAMILY.default_parts)}]",
        comma=True,
        words=lambda: FAMILY.part_names,
    ),
]
Overrides = Annotated[
    tuple[tuple[str, str], ...],
    Doc(
        f"PATTERN=FORMAT for modules whose path matches, e.g. '{FAMILY.override_example}=w4a16'; repeatable.",
        ("--override",),
        parse=override,
    ),
]
Block = Annotated[
    int | None,
    Doc(f"Input channels of a row that share a scale, with --bits {BLOCKED}: {', '.join(map(str, blocks()))}. [128]"),
]
Attention = Annotated[
    Literal["fp16", "fp8", "int8"],
    Doc("Of attention's products: fp16 (the network's float type) or fp8, for Ada and later GPUs (docs/attention.md)."),
]
Models = Annotated[
    Sequence[Source],
    Doc(
        "tiny, vggt-1b, a weights file, a Hub id or a calibrated checkpoint; may be repeated.",
        ("--model",),
        metavar="NAME",
    ),
]
Backend = Annotated[
    Literal["rtx", "tensorrt", "trtexec"],
    Doc("Which TensorRT, as for qvggt build: rtx (TensorRT-RTX); tensorrt or trtexec (TensorRT 10.12 and newer)."),
]
Threads = Annotated[int | None, Doc("CPU threads; results are recorded with their count. [all cores]"), at_least(1)]
DEVICES = Check("cpu, cuda or cuda:N", lambda text: text is None or re.fullmatch(r"cpu|cuda(:\d+)?", text) is not None)
Device = Annotated[str | None, Doc("cpu or cuda. [cpu; of engine files cuda]", words=("cpu", "cuda")), DEVICES]
TorchDevice = Annotated[
    str,
    Doc("cpu, cuda or cuda:N: where PyTorch computes; results are recorded with it.", words=("cpu", "cuda")),
    DEVICES,
]
Precision = Annotated[
    Literal["fp32", "fp16", "bf16"] | None,
    Doc(
        f"Of float models: fp32; bf16 or fp16 run the {FAMILY.trunk} in it and the heads in fp32, as its users do. "
        "[fp32; on a GPU bf16]"
    ),
]
WeightBudget = Annotated[
    float | None,
    Doc("GB of weights that stay on the GPU, of engines built with --weight-streaming. [all]"),
    at_least(0),
]
Fit = Annotated[
    Literal["crop", "pad"],
    Doc(
        "Of images of another shape than a file of fixed size takes (without one: of images taller than wide): crop "
        "them, or pad with white so that all of each is seen."
    ),
]
FrameSeed = Annotated[int, Doc("Seed of the frames drawn.")]
Revision = Annotated[str | None, Doc("Hub revision (commit, tag or branch) to pin.")]
File = Annotated[str | None, Doc("Weights file of the Hub id, where it holds several; ID:FILE says it, too.")]
Offline = Annotated[bool, Doc("Never use the network.")]
Csv = Annotated[
    Place | None,
    Doc("Where to write a row per candidate as CSV; rows of sequences go to FILE-sequences.csv.", metavar="FILE"),
]
Show = Annotated[bool, Doc("Open the page in a browser.", ("--open",))]
