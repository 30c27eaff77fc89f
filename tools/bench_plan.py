"""What `qvggt calibrate --plan` says beside what the calibration then takes, each in a process of its own.

    python tools/bench_plan.py                                     # tiny and three blocks of VGGT-1B, some minutes
    python tools/bench_plan.py --models slice-1b --size 266x266 --frames 2
    python tools/bench_plan.py --at-1b -o docs/results/plan_1b.json   # what --plan says of VGGT-1B here and on GPUs

`slice-1b` has one block of each sort of VGGT-1B's width, random weights and a narrow head. Memory: the most that the
process had that cannot be taken from it (anonymous), and with the pages of mapped files. With one thread, seconds are
processor time, which does not count the time in which others ran.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from bench_load import Watch, alone, status
from reporting import start, write_json

from qvggt.versions import versions

SLICE = "slice-1b"


def slice_file(folder: Path) -> Path:
    """Weights of one block of each sort."""
    import torch
    from block_slice import CONFIG

    from qvggt.models.loading import save_model
    from qvggt.models.vggt.network import VGGT

    path = folder / f"{SLICE}.safetensors"
    torch.manual_seed(0)
    save_model(VGGT(CONFIG.replace(aa_depth=1)), path)
    return path


def run(model: str, scenes: Path, output: Path, options: dict[str, Any], plan: bool) -> dict[str, Any]:
    """The job in this process, of processor time on one thread: ranges of a plan, or seconds and bytes of a
    calibration."""
    import qvggt.calib.calibrate  # noqa: F401  # what a program has loaded already
    from qvggt.jobs.calibrate import CalibrateJob

    if options["threads"] == 1:
        time.perf_counter = time.process_time
    job = CalibrateJob(model, output, data=scenes, plan=plan, **options)
    begin = time.perf_counter()
    with Watch() as watch:
        result = job.run()
    seconds = time.perf_counter() - begin
    if result.plan is not None:
        return {
            "seconds": result.plan.total_seconds,
            "bytes": result.plan.memory(job.token_bytes),
            "took": round(seconds, 1),
            "lines": result.plan.lines(job.token_bytes),
        }
    held = {"anonymous": watch.figures["peak_anonymous"], "with_files": status()["VmHWM"]}
    return {"seconds": round(seconds, 1), "cpu_seconds": watch.figures["cpu_seconds"], "bytes": held}


def at_1b(output: Path) -> None:
    """Plans of VGGT-1B in w4a8 (20 sequences of 518x518), for which no weights are needed; this machine's time is
    processor time on one thread."""
    from dataclasses import asdict
    from functools import cache
    from unittest.mock import patch

    import torch

    from qvggt.calib import plan as planning
    from qvggt.calib.machine import find_machine
    from qvggt.calib.plan import Outline, make_plan
    from qvggt.calib.recipe import find_recipe
    from qvggt.jobs.calibrate import CalibrateJob
    from qvggt.models.vggt.config import VGGT_1B
    from qvggt.quant.scheme import parse_scheme

    scheme = parse_scheme("w4a8")
    recipe = find_recipe("qvggt")
    allowance, rows = CalibrateJob("tiny", output, data=output.parent).token_bytes, []
    torch.set_num_threads(1)
    time.perf_counter = time.process_time
    counted = cache(planning.count_block)  # the same on every machine
    patch.object(planning, "count_block", lambda outline, stage, _=None: counted(outline, stage)).start()
    for device, frames in ((None, 10), ("rtx4090", 10), ("rtx4090", 4), ("a100", 10), ("h100", 10), ("orin", 10)):
        plan = make_plan(
            Outline(VGGT_1B, scheme, recipe, 20, frames, 518, 518, 0),
            None if device is None else find_machine(device),
            status()["RssAnon"],
        )
        lines, minutes = plan.lines(allowance), [seconds / 60 for seconds in plan.total_seconds]
        facts = {"device": device or "this machine", "frames": frames, "minutes": minutes, "lines": lines}
        rows.append({**facts, "memory": lines[1].partition(": ")[2].partition(" (")[0], **asdict(plan)})
        print(f"{rows[-1]['device']}, {frames} frames", *rows[-1]["lines"], sep="\n", flush=True)
    write_json(output, {"threads": 1, "versions": versions(), "rows": rows})


def main(
    models: Annotated[
        str, typer.Option(help=f"Models, comma-separated; {SLICE} has random weights.")
    ] = f"tiny,{SLICE}",
    formats: Annotated[str, typer.Option(help="Formats, comma-separated.")] = "w8a8,w4a4",
    size: Annotated[str, typer.Option(help=f"HxW of {SLICE}'s images.")] = "266x266",
    frames: Annotated[int, typer.Option(min=2)] = 4,
    sequences: Annotated[int, typer.Option(min=1)] = 4,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    large: Annotated[bool, typer.Option("--at-1b", help="Only what a plan says of VGGT-1B, here and on GPUs.")] = False,
    output: Annotated[Path, typer.Option("-o", "--output", help="JSON to write.")] = Path("outputs/plan.json"),
) -> None:
    """Print both, and whether the range held."""
    if large:
        return at_1b(output)
    rows = []
    with tempfile.TemporaryDirectory(prefix="qvggt-plan-") as temporary:
        folder = Path(temporary)
        for name in models.split(","):
            sides = (70, 70) if name == "tiny" else tuple(int(side) for side in size.split("x"))
            scenes = folder / f"scenes-{name}"
            alone(render, scenes, sides, frames, sequences)
            model = str(slice_file(folder)) if name == SLICE else name
            for format in formats.split(","):
                options = {"format": format, "size": sides, "frames": frames, "sequences": sequences}
                options |= {"threads": threads}
                plan = alone(run, model, scenes, folder / "out", options, True)
                real = alone(run, model, scenes, folder / f"{name}-{format}", options, False)
                low, high = plan["seconds"]
                least, most = plan["bytes"]
                row = {
                    "model": name, "format": format, "size": list(sides), "frames": frames, "sequences": sequences,
                    "plan": plan, "real": real, "time_held": low <= real["seconds"] <= high,
                    "memory_held": least <= real["bytes"]["anonymous"] <= most, "load_average": os.getloadavg()[0],
                }  # fmt: skip
                rows.append(row)
                print(
                    f"{name} {format}: time {low:.0f} to {high:.0f} s, took {real['seconds']:.0f}; memory "
                    f"{least / 1e9:.2f} to {most / 1e9:.2f} GB, took {real['bytes']['anonymous'] / 1e9:.2f} "
                    f"({real['bytes']['with_files'] / 1e9:.2f} with files)",
                    flush=True,
                )
                write_json(output, {"threads": threads, "versions": versions(), "rows": rows}, told=False)
    print(f"wrote {output}")


def render(folder: Path, sides: tuple[int, int], frames: int, sequences: int) -> None:
    from qvggt.data.co3d_writer import write_co3d
    from qvggt.data.synthetic.scene import SceneConfig

    config = SceneConfig(height=sides[0], width=sides[1], frames=frames)
    write_co3d(folder, config, range(sequences), range(900, 901), progress=False)


if __name__ == "__main__":
    start(main)
