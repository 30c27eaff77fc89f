"""Write the result tables of README.md and of the tiny model's card from the JSON files commands wrote.

    python tools/results_tables.py            # rewrite the tables
    python tools/results_tables.py --check    # exit 1 if a table differs from its JSON

A table stands between `<!-- table NAME -->` and `<!-- end -->`. The JSON files are in docs/results/.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
FILES = (ROOT / "README.md", ROOT / "qvggt" / "weights" / "tiny" / "README.md")
MARKER = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def load(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"


def evaluation(name: str) -> str:
    """Accuracy of every candidate of a qvggt-eval report."""
    report = load(name)
    rows = []
    for index, c in enumerate(report["candidates"]):
        auc, delta = c["auc"], c["delta"]["auc"]
        change = "" if index == 0 else signed(delta["30"])
        pose = c["sqnr_db"].get("pose_enc")
        rows.append(
            [
                c["label"],
                *(f"{auc[t]:.2f}" for t in ("30", "15", "5", "3")),
                change,
                f"{c['abs_rel']:.4f}" if c["abs_rel"] is not None else "-",
                "" if pose is None else f"{pose:.1f}",
                f"{c['bytes'] / 1e6:.2f}",
            ]
        )
    header = ["candidate", "AUC@30", "AUC@15", "AUC@5", "AUC@3", "change @30", "depth abs-rel", "pose dB", "MB"]
    return markdown(header, rows)


def demo() -> str:
    return evaluation("demo")


def bench(name: str) -> str:
    """Latency ratios of a tools/bench_cpu.py run."""
    report = load(name)
    rows = [
        [
            row["candidate"],
            f"{row['median_s']:.4f}",
            f"{row['speed_up']:.2f}x",
            f"{row['peak_rss'] / 1e6:.0f}",
            "-" if row["file_bytes"] is None else f"{row['file_bytes'] / 1e6:.1f}",
        ]
        for row in report["rows"]
    ]
    return markdown(["candidate", "median s", "speed-up", "peak RSS MB", "file MB"], rows)


def bench_tiny() -> str:
    return bench("bench_cpu_tiny")


def bench_1b() -> str:
    return bench("bench_cpu_1b")


def tiny() -> str:
    """Held-out scores of the shipped model by number of frames."""
    rows = [
        [
            str(r["frames"]),
            *(f"{r[f'auc{t}']:.2f}" for t in (30, 15, 5, 3)),
            f"{r['abs_rel']:.4f}",
            f"{r['delta125']:.4f}",
            str(r["scenes"]),
        ]
        for r in load("tiny_metrics")["held_out"]
    ]
    return markdown(["frames", "AUC@30", "AUC@15", "AUC@5", "AUC@3", "depth abs-rel", "delta<1.25", "scenes"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "demo": demo,
    "tiny": tiny,
    "bench_tiny": bench_tiny,
    "bench_1b": bench_1b,
}


def filled(text: str) -> str:
    """The text with every table made anew."""
    return MARKER.sub(lambda m: f"{m[1]}{TABLES[m[2]]()}{m[3]}", text)


def main(
    check: Annotated[bool, typer.Option(help="Change nothing; exit 1 if a table is out of date.")] = False,
) -> None:
    """Rewrite or check the tables."""
    stale = []
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        new = filled(text)
        if new != text:
            stale.append(str(path.relative_to(ROOT)))
            if not check:
                path.write_text(new, encoding="utf-8")
    if stale:
        print(("out of date: " if check else "rewritten: ") + ", ".join(stale))
    if check and stale:
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
