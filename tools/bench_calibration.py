"""Where the seconds of a calibration and of a budget search go, on the tiny model.

    python tools/bench_calibration.py                     # w4a4 dynamic, 32 scenes of 4 frames
    python tools/bench_calibration.py --no-search --threads 2

`before`: the same calibration with sequences one by one, clips tried on all rows at once, and every trial of the search
a calibration of its own. Processor seconds with one thread, else the clock's.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import torch
import typer
from held_out import CALIBRATION_SEED, images_of, scene_config, scenes_in
from reporting import start, write_json
from torch import Tensor

from qvggt.calib import learnable, reconstruct, sensitivity, stream
from qvggt.calib.calibrate import calibrate_
from qvggt.calib.recipe import find_recipe
from qvggt.hub.loading import load_model
from qvggt.models.network import Network
from qvggt.quant.scheme import Scheme, parse_scheme
from qvggt.versions import versions

PARTS = ("choose_steps", "_record", "_start", "_round", "_error", "_finish")
MEASURED = 8  # sequences of a search, as of `qvggt calibrate --budget`


def clock() -> float:
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


@contextmanager
def split_times(spent: dict[str, float]) -> Iterator[None]:
    """Seconds of each step of the blocks, added to `spent`."""

    def timed(name: str) -> Any:
        real = getattr(reconstruct, name)

        def run(*args: Any) -> Any:
            began = clock()
            try:
                return real(*args)
            finally:
                spent[name.strip("_")] = spent.get(name.strip("_"), 0.0) + clock() - began

        return run

    with patch.multiple(reconstruct, **{name: timed(name) for name in PARTS}):
        yield


@contextmanager
def as_before() -> Iterator[None]:
    with patch.object(learnable, "TRIED", 1 << 60), patch.object(stream, "SEEN_TOKENS", 1):
        yield


def calibrate(model: str, scheme: Scheme, images: Sequence[Tensor]) -> dict[str, float]:
    network, spent = load_model(model), dict[str, float]()
    with split_times(spent):
        began = clock()
        calibrate_(network, scheme, find_recipe("qvggt"), images, progress=False)
        return {"all": clock() - began, **spent}


def search(model: str, scheme: Scheme, images: Sequence[Tensor], by: str, forks: bool) -> tuple[float, Any]:
    """Seconds of the sensitivities, and the table; forks: from one stream, else each trial calibrates the model."""

    def anew(trunk: Any, tried: Scheme) -> Network:
        network = copy.deepcopy(float_model)
        calibrate_(network, tried, trial.recipe, trial.batches, trial.seed, progress=False)
        return network

    float_model = load_model(model)
    trial = sensitivity.Trial(sensitivity.quick(find_recipe("qvggt")), images[:MEASURED])
    units = sensitivity.find_units(float_model, scheme.parts, by)
    began = clock()
    with patch.object(sensitivity, "quantized_copy", sensitivity.quantized_copy if forks else anew):
        table = sensitivity.measure_units(
            float_model, units, scheme.base.ladder, scheme.activation, trial, progress=False
        )
    return clock() - began, table


def main(
    model: Annotated[str, typer.Option(help="Float checkpoint.")] = "tiny",
    scheme: Annotated[str, typer.Option(help="Bits and activation mode.")] = "w4a4-dynamic",
    scenes: Annotated[int, typer.Option(min=1)] = 32,
    by: Annotated[str, typer.Option(help="Units of the search: part or block.")] = "part",
    searches: Annotated[bool, typer.Option("--search/--no-search")] = True,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    out: Annotated[Path, typer.Option(help="Folder for scenes and results.")] = Path("outputs/bench_calibration"),
) -> None:
    """Print both, with the ratio to before."""
    torch.set_num_threads(threads)
    size = load_model(model).config.img_size
    split = scenes_in(out / f"scenes_{size}_{scenes}", CALIBRATION_SEED, scenes, scene_config(size))
    images = [images_of(split, i) for i in range(scenes)]
    bits, _, activation = scheme.partition("-")
    wanted = parse_scheme(bits, activation or "dynamic")
    ours = calibrate(model, wanted, images)
    with as_before():
        before = calibrate(model, wanted, images)
    for name, seconds in ours.items():
        print(
            f"{name:<16} {seconds:7.2f} s, before {before[name]:7.2f} s: {before[name] / max(seconds, 1e-9):.1f} times"
        )
    report: dict[str, Any] = {"scheme": scheme, "scenes": scenes, "threads": threads, "seconds": ours, "before": before}
    if searches:
        found = {name: search(model, wanted, images, by, forks) for name, forks in (("forks", True), ("anew", False))}
        (seconds, table), (anew, expected) = found["forks"], found["anew"]
        same = table == expected
        print(f"search by {by}: {seconds:.2f} s, before {anew:.2f} s: {anew / seconds:.1f} times; same table: {same}")
        report |= {"search": {"by": by, "seconds": seconds, "before": anew, "same": same}}
    write_json(out / "calibration.json", {**report, "versions": versions()})


if __name__ == "__main__":
    start(main)
