"""How far good files are from failing the gate's exact part, and what it finds in files broken on purpose.

    python tools/gate_margins.py                       # good files of every kind, size and seed: gate_margins.json
    python tools/gate_margins.py --faults              # each fault of tests/export/faults.py in one: gate_faults.json
    python tools/gate_margins.py --faults --thorough   # in every kind of file that it applies to; an hour
    python tools/gate_margins.py --quick [--faults]    # one size and seed, or each fault at one place

The files are exports of the smallest network that has two of everything (tests/export/good_files.py), random weights.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from reporting import Row, start, write_json

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "export"))
from faults import FAULTS
from gate_trial import Examined, examine, examine_broken, remembered, times, trials
from good_files import KINDS, write_good

from qvggt.progress import bar
from qvggt.versions import versions

ROOT = Path(__file__).resolve().parent.parent
SIZES = ((70, 70), (140, 140))
MOST = 1e6  # times what is allowed: stands for a piece that is missing or cannot be run, too
PARTS = {
    r"aggregator\.patch_embed\.blocks\b": "blocks of the encoder",
    r"aggregator\.frame_blocks\b": "frame blocks",
    r"aggregator\.global_blocks\b": "global blocks",
    r"camera_head\b|pose_enc\b": "camera head",
    r"depth|point_head\b|world_points": "dense heads",
    r"": "embeddings and what joins blocks",
}


def part_of(path: str) -> str:
    return next(name for pattern, name in PARTS.items() if re.match(pattern, path))


def compared(found: Examined, precision: str) -> Iterable[tuple[tuple[str, str], float, float, str]]:
    """((part, float type), error, times what is allowed, where) of each comparison."""
    for s in found.segments.segments:
        yield (part_of(s.path), precision), s.error, s.error / s.tolerance, s.target
    for p in found.layers:
        kind = "quantized convolutions" if re.match(r"(depth|point)_head|.*\.proj$(?<!attn\.proj)", p.path) else ""
        yield (kind or "quantized linears", precision), p.error, times(p), p.path


def margins(sizes: Sequence[tuple[int, int]], seeds: int) -> dict[str, Any]:
    """The largest error of good files by part and float type; which of them fail."""
    rows: dict[tuple[str, str], Row] = {}
    failed, cases = list[str](), [(n, size, seed) for n in KINDS for size in sizes for seed in range(seeds)]
    with tempfile.TemporaryDirectory() as folder:
        for name, size, seed in bar(cases, desc="good files", unit="file"):
            good = write_good(name, Path(folder), size, seed)
            found = examine(good, seed=seed)
            failed += [f"{name} {size[0]}x{size[1]} {seed}: {f.path} {f.times:.3g}x" for f in found.findings]
            for key, error, share, where in compared(found, good.kind.precision.value):
                row = rows.setdefault(key, {"compared": 0, "error": 0.0, "share": 0.0, "where": ""})
                row["compared"] += 1
                row["error"] = max(row["error"], error)
                if share > row["share"]:
                    row |= {"share": share, "where": f"{where} in {name}"}
    order = [*PARTS.values(), "quantized linears", "quantized convolutions"]
    listed = [
        {"part": part, "network": network, **rows[part, network]}
        for part in order
        for network in ("fp32", "fp16", "bf16")
        if (part, network) in rows
    ]
    return {"files": len(cases), "sizes": sizes, "seeds": seeds, "failed": failed, "rows": listed}


def faults(thorough: bool, quick: bool) -> dict[str, Any]:
    """Of every fault, at all its places or `quick` at one: how many were tried and found at their place, and the least
    finding."""
    rows: dict[str, Row] = {}
    chosen = {fault.title: fault for fault in FAULTS.values()} if quick else FAULTS
    with tempfile.TemporaryDirectory() as folder, remembered():
        goods = {name: write_good(name, Path(folder)) for name in KINDS}
        total = None if thorough else len(chosen)
        cases = trials(goods, chosen.values(), thorough)
        for name, fault, broken in bar(cases, desc="broken files", unit="file", total=total):
            there = [f for f in examine_broken(goods[name], broken) if broken.at(f.path)]
            row = rows.setdefault(
                fault.title,
                {"tried": 0, "found": 0, "least": None, "where": fault.unseen, "frames": fault.frames, "missed": []},
            )
            row["tried"] += 1
            if not there:
                row["missed"].append(f"{fault.at or 'the file'} in {name}")
                continue
            row["found"] += 1
            exceeds = min(there[0].times, MOST)
            if row["least"] is None or exceeds < row["least"]:
                row |= {"least": exceeds, "where": f"{there[0].path} in {name}"}
    listed = [{"fault": title, **row} for title, row in rows.items()]
    return {"tried": sum(r["tried"] for r in listed), "found": sum(r["found"] for r in listed), "rows": listed}


def main(
    broken: Annotated[bool, typer.Option("--faults", help="Break files instead of measuring good ones.")] = False,
    thorough: Annotated[bool, typer.Option(help="Each fault in every kind of file it applies to.")] = False,
    quick: Annotated[bool, typer.Option(help="One size and seed; of each fault one place.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Good files: networks and images of each.")] = 2,
    output: Annotated[Path | None, typer.Option("-o", help="JSON to write. [docs/results/gate_*.json]")] = None,
) -> None:
    """Measure and write JSON."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    if broken:
        found = faults(thorough, quick)
    else:
        found = margins(SIZES[:1], 1) if quick else margins(SIZES, seeds)
    place = output or ROOT / "docs" / "results" / f"gate_{'faults' if broken else 'margins'}.json"
    write_json(place, {**found, "versions": versions()})


if __name__ == "__main__":
    start(main)
