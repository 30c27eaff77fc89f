"""Fields that several jobs have, word for word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from qvggt.formats.table import BLOCKED, DEFAULT, blocks, choices, choices_text
from qvggt.jobs.job import Doc, Place, Source
from qvggt.jobs.words import override
from qvggt.mapping import Check, at_least
from qvggt.models.family import find_family

FAMILY = find_family()  # whose words help texts name
PATCH = FAMILY.patch_size

Format = Annotated[
    str | None,
    Doc(f"{choices_text()}. [{DEFAULT}]", ("--bits", "--format"), words=lambda: tuple(choices())),
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
Models = Annotated[
    Sequence[Source],
    Doc(
        "tiny, vggt-1b, a weights file, a Hub id or a calibrated checkpoint; may be repeated.",
        ("--model",),
        metavar="NAME",
    ),
]
Threads = Annotated[int | None, Doc("CPU threads; results are recorded with their count. [all cores]"), at_least(1)]
Device = Annotated[
    str | None,
    Doc("cpu or cuda. [cpu; of engine files cuda]", words=("cpu", "cuda")),
    Check("cpu, cuda or cuda:N", lambda text: text is None or re.fullmatch(r"cpu|cuda(:\d+)?", text) is not None),
]
Precision = Annotated[
    Literal["fp32", "fp16", "bf16"] | None,
    Doc(
        "Of float models: fp32; bf16 or fp16 run the aggregator in it and the heads in fp32, as VGGT's users do. "
        "[fp32; on a GPU bf16]"
    ),
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
Offline = Annotated[bool, Doc("Never use the network.")]
Csv = Annotated[
    Place | None,
    Doc("Where to write a row per candidate as CSV; rows of sequences go to FILE-sequences.csv.", metavar="FILE"),
]
Show = Annotated[bool, Doc("Open the page in a browser.", ("--open",))]
