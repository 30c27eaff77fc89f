"""Device memory of a block's calibration at VGGT-1B's sizes, counted on torch's meta device: no GPU, no numbers.

    python tools/bench_calibration_memory.py        # docs/results/calibration_memory.json; some minutes

Largest sum of the bytes of all tensors on the device, the float block's and the optimizer's included, with fused
attention (tools/meta_device.py says what is not counted): of the learning steps, as they are and with steps that are
not split within a sequence, and of everything that is done with the block.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import torch
import typer
from meta_device import META, MetaDevice
from reporting import columns, start, write_json
from results_tables import CALIBRATION_MEMORY

from qvggt.calib import gptq, reconstruct, stream
from qvggt.calib.recipe import Recipe, find_recipe
from qvggt.calib.stream import Stream, TokenStore
from qvggt.formats.linear_format import LinearFormat
from qvggt.formats.table import find_format
from qvggt.models.block import Block
from qvggt.models.family import LINEARS, Stage, find_family
from qvggt.models.vggt.config import VGGT_1B
from qvggt.versions import versions

ROOT = Path(__file__).resolve().parent.parent
VIEWS = ("frame", "global")


def block_1b(view: str) -> tuple[Block, Stage]:
    """A block of VGGT-1B's aggregator on the meta device, its LayerScales folded."""
    family = find_family()
    stage = next(s for s in family.stages(VGGT_1B) if s.group == view)
    with torch.device(META):
        block = family.block(VGGT_1B, stage)
    block.ls1, block.ls2 = torch.nn.Identity(), torch.nn.Identity()
    return block.requires_grad_(False), stage


def peaks(view: str, frames: int, format: str, recipe: Recipe, side: int = 518) -> dict[str, int]:
    """Bytes of {"learning", "whole"} for one sequence of `frames` square images."""
    family, (block, stage) = find_family(), block_1b(view)
    numbers = find_format(format)
    assert isinstance(numbers, LinearFormat)
    tokens = Stream(TokenStore(1 << 60), [], [])
    tokens.append(
        torch.zeros(frames, family.tokens(VGGT_1B, side, side), VGGT_1B.embed_dim),
        family.positions(VGGT_1B, side, side),
    )
    found: dict[str, int] = {"learning": 0}
    real = reconstruct._learn

    def learn(*args: Any) -> None:
        before, device.peak = device.peak, device.held
        real(*args)
        found["learning"], device.peak = device.peak, max(before, device.peak)

    # of GPTQ's blocks of columns the first, which needs as much as all
    first = patch.object(gptq, "range", lambda start, _stop, step: range(start, step, step), create=True)
    with MetaDevice(block) as device, patch.object(reconstruct, "_learn", learn), first:
        reconstruct.calibrate_block(block, stage, dict.fromkeys(LINEARS, numbers), tokens, tokens, recipe, 0)
    return found | {"whole": device.peak}


@contextmanager
def unsplit() -> Iterator[None]:
    """Inside, a step holds all that a sequence needs at once."""
    with patch.object(stream, "STEP_TOKENS", 1 << 40):
        yield


def main(
    frames: Annotated[str, typer.Option(help="Frames of a sequence, comma-separated.")] = "4,10,20",
    bits: Annotated[str, typer.Option(help="Format of the linears.")] = "w4a4-dynamic",
    report: Annotated[Path, typer.Option("-o", help="JSON file.")] = ROOT / "docs/results/calibration_memory.json",
) -> None:
    """Count, print and write the table."""
    recipe = find_recipe("qvggt").replace(epochs=1)
    rows = []
    for view in VIEWS:
        for count in map(int, frames.split(",")):
            row: dict[str, Any] = {"block": view, "frames": count, "split": peaks(view, count, bits, recipe)}
            with unsplit():
                row["unsplit"] = peaks(view, count, bits, recipe.replace(rounding="rtn"))
            rows.append(row)
            print(f"{view} {count}: {row['split']['learning'] / 1e9:.2f} GB", flush=True)
    print(columns(rows, CALIBRATION_MEMORY))
    how = {"device": "meta", "size": [518, 518], "format": bits, "recipe": recipe.to_dict()}
    write_json(report, {"how": how, "versions": versions(("qvggt", "torch")), "rows": rows})


if __name__ == "__main__":
    start(main)
