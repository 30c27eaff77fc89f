"""Write the result tables of README.md and of the tiny model's card from the JSON files commands wrote.

    python tools/results_tables.py            # rewrite the tables
    python tools/results_tables.py --check    # exit 1 if a table differs from its JSON

A table stands between `<!-- table NAME -->` and `<!-- end -->`. The JSON files are in docs/results/.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from reporting import change_text, markdown

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
PAGES = ("README.md", "docs/performance.md", "docs/method.md", "qvggt/weights/tiny/README.md", "docs/reconstruction.md")
FILES = [ROOT / page for page in (*PAGES, "docs/tutorial.md")]
MARKER = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

Row = dict[str, Any]
Column = str | Callable[[Row], str]  # "key:format", or a function of the row


def load(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def columns(rows: Iterable[Row], spec: dict[str, Column]) -> str:
    """A table with one line a row; `spec`: heading -> column."""
    lines = [[shown(row, column) for column in spec.values()] for row in rows]
    return markdown(list(spec), lines, aligned=True)


def shown(row: Row, column: Column) -> str:
    if callable(column):
        return column(row)
    key, _, form = column.partition(":")
    return format(row[key], form)


def mega(key: str, digits: int, unit: float = 1e6) -> Callable[[Row], str]:
    """Of bytes; "-" where there are none."""
    return lambda row: "-" if row.get(key) is None else f"{row[key] / unit:.{digits}f}"


def decibel(name: str, none: str = "") -> Callable[[Row], str]:
    return lambda row: f"{row['sqnr_db'][name]:.1f}" if name in row["sqnr_db"] else none


def auc(threshold: int) -> Callable[[Row], str]:
    """Of a report of qvggt-eval."""
    return lambda row: f"{row['auc'][str(threshold)]:.2f}"


def demo() -> str:
    """Accuracy of every candidate of a qvggt-eval report."""
    first, *_ = rows = load("demo")["candidates"]

    def change(row: Row) -> str:
        delta = row["delta"]["auc"]["30"] if row is not first else None
        return "" if delta is None else f"{delta:+.2f}"

    aucs = {f"AUC@{t}": auc(t) for t in (30, 15, 5, 3)}
    rest = {
        "change @30": change,
        "depth abs-rel": lambda row: "-" if row["abs_rel"] is None else f"{row['abs_rel']:.4f}",
        "pose dB": decibel("pose_enc"),
        "MB": mega("bytes", 2),
    }
    return columns(rows, {"candidate": "label", **aucs, **rest})


def bench(name: str) -> str:
    """Latency ratios of a tools/bench_cpu.py run."""
    spec: dict[str, Column] = {
        "candidate": "candidate",
        "median s": "median_s:.4f",
        "speed-up": lambda row: f"{row['speed_up']:.2f}x",
        "peak RSS MB": mega("peak_rss", 0),
        "file MB": mega("file_bytes", 1),
    }
    return columns(load(name)["rows"], spec)


def bench_processor(name: str) -> str:
    """Ratios of processor seconds of a tools/bench_cpu.py run on one thread."""
    spec: dict[str, Column] = {
        "candidate": "candidate",
        "processor s": "cpu_s:.3f",
        "ratio": lambda row: f"{row['cpu_speed_up']:.2f}x",
        "spread": lambda row: f"{(row['cpu_max_s'] - row['cpu_min_s']) / row['cpu_s']:.0%}",
        "peak RSS MB": mega("peak_rss", 0),
        "dB": lambda row: f"{min(row['sqnr_db'].values()):.1f}" if "sqnr_db" in row else "",
    }
    return columns(load(name)["rows"], spec)


GOAL_RUNS = {
    "VGGT-1B, 1 x 266x266": "bench_cpu_1b_1thread",
    "VGGT-1B, 2 x 266x266": "bench_cpu_1b",
    "VGGT-1B, 1 x 518x518": "bench_cpu_1b_518",
    "two blocks, 1374 tokens": "bench_cpu_slice_1b",
    "two blocks, 2 x 366 tokens": "bench_cpu_slice_1b_266",
    "a DPT head, 266x266": "bench_cpu_head_1b",
}
GOALS = (  # text, candidates, what they are compared with
    ("ONNX Runtime w8a8 at least 2.5x ONNX Runtime fp32", "ONNX Runtime w8a8", "ONNX Runtime fp32"),
    ("OpenVINO w8a8 at least 4x PyTorch fp32", "OpenVINO w8a8", "PyTorch fp32"),
    ("OpenVINO w8a8 at least 1.5x PyTorch bf16", "OpenVINO w8a8", "PyTorch bf16"),
)


def goals() -> str:
    """Ratios of processor seconds: the fastest dynamic w8a8 row of a runtime against a float one."""
    runs = {name: {r["candidate"]: r["cpu_s"] for r in load(file)["rows"]} for name, file in GOAL_RUNS.items()}
    rows = []
    for text, ours, theirs in GOALS:
        cells = [text]
        for seconds in runs.values():
            mine = [s for name, s in seconds.items() if name.startswith(ours) and ":static" not in name]
            base = [s for name, s in seconds.items() if name.startswith(theirs)]
            cells.append(f"{min(base) / min(mine):.2f}x" if mine and base else "-")
        rows.append(cells)
    return markdown(["goal", *runs], rows, aligned=True)


def profile_slice() -> str:
    """Shares of the kinds of work, one column a file and runtime."""
    names = {
        "ONNX Runtime fp32": "ort_fp32",
        "ONNX Runtime w8a8": "ort_w8a8",
        "ONNX Runtime w8a8/fused": "ort_w8a8_fused",
        "OpenVINO w8a8 bf16": "ov_w8a8",
    }
    runs = [load(f"profile_cpu_slice_{name}")["rows"] for name in names.values()]
    shares = [{row["kind"]: row["share"] for row in rows} for rows in runs]
    kinds = list(dict.fromkeys(kind for column in shares for kind in column))
    cells = [[kind, *(f"{column[kind]:.1%}" if kind in column else "-" for column in shares)] for kind in kinds]
    return markdown(["share of a pass", *names], cells, aligned=True)


def tiny() -> str:
    """Held-out scores of the shipped model by number of frames."""
    aucs = {f"AUC@{t}": f"auc{t}:.2f" for t in (30, 15, 5, 3)}
    depth = {"depth abs-rel": "abs_rel:.4f", "delta<1.25": "delta125:.4f", "scenes": "scenes"}
    return columns(load("tiny_metrics")["held_out"], {"frames": "frames", **aucs, **depth})


def passes() -> str:
    """Camera errors of one pass and of several joined ones, by tools/bench_passes.py."""

    def residual(row: Row) -> str:
        value = row["join_residual_median"]
        return "" if value is None else f"{100 * value:.2f}"

    spec: dict[str, Column] = {
        "run": "name",
        "AUC@30": "auc30:.2f",
        "rotation median deg": "rotation_deg_median:.2f",
        "p90": "rotation_deg_p90:.2f",
        "translation median deg": "translation_deg_median:.2f",
        "join residual % of depth": residual,
    }
    return columns(load("passes")["rows"], spec)


RECIPES = ("rtn", "smoothquant", "quarot", "quantvggt", "qvggt")
MODELS = ("plain", "channels", "pca")
SCHEMES = ("w8a8-dynamic", "w8a8-static", "w4a8-dynamic", "w4a16-dynamic", "w4a4-dynamic", "w4a4-static")
CALIBRATION_SCENES = 32  # of every table but `calibration`
SCORES: dict[str, Column] = {
    "AUC@30": "auc30:.2f",
    "AUC@5": "auc5:.2f",
    "pose dB": decibel("pose_enc"),
    "depth dB": decibel("depth"),
}


def accuracy_rows() -> list[Row]:
    rows = load("accuracy")["rows"]
    return [r for r in rows if r.get("calibration_scenes", CALIBRATION_SCENES) == CALIBRATION_SCENES]


def accuracy() -> str:
    """AUC@30 of every recipe, one row a model and scheme, by tools/bench_accuracy.py."""
    found = {(r["model"], r["scheme"], r["recipe"]): r for r in accuracy_rows()}
    measured = {(model, scheme) for model, scheme, _ in found}
    rows = []
    for model, scheme in ((m, s) for m in MODELS for s in SCHEMES if (m, s) in measured):
        base, ours = found[model, "fp32", "float"], found.get((model, scheme, "qvggt"))
        cells = [f"{r['auc30']:.2f}" if (r := found.get((model, scheme, name))) else "-" for name in RECIPES]
        change = ["-"] * 3
        if ours is not None:
            change = [change_text(ours), *(f"{ours[name] / base[name]:.1%}" for name in ("auc30", "auc5"))]
        rows.append([model, scheme, *cells, *change])
    header = ["model", "scheme", *RECIPES, "change of qvggt (95 %)", "of float @30", "of float @5"]
    return markdown(header, rows, aligned=True)


def ablation() -> str:
    """Ours with one step changed, by tools/bench_accuracy.py --ablate."""
    rows = [r for r in accuracy_rows() if r["model"] == "plain" and r["scheme"] == "w4a4-dynamic"]
    ours = [r for r in rows if r["recipe"].startswith(("ours", "qvggt"))]
    ours.sort(key=lambda r: r["recipe"] != "qvggt")
    name = {"w4a4-dynamic, plain model": lambda r: "ours" if r["recipe"] == "qvggt" else r["recipe"]}
    return columns(ours, {**name, **SCORES})


def calibration() -> str:
    """Ours by the number of calibration scenes, by tools/bench_accuracy.py --calibration-scenes."""
    rows = sorted(load("accuracy")["rows"], key=lambda r: (r["scheme"], r.get("calibration_scenes", 0)))
    ours = [r for r in rows if r["model"] == "plain" and r["recipe"] == "qvggt" and r["scheme"].startswith("w4a4")]
    first: dict[str, Column] = {"scheme": "scheme", "calibration scenes": "calibration_scenes"}
    return columns(ours, {**first, **SCORES, "seconds": "calibration_seconds:.0f"})


def scale() -> str:
    """VGGT-1B whole: export, parity and the TensorRT-RTX plan of each form, by tools/bench_scale.py."""
    found = {(r["form"], r["step"]): r for r in load("scale")["rows"]}

    def of(step: str, key: str, form: str = "", unit: float = 1) -> Callable[[Row], str]:
        """A figure of a step that was done."""

        def cell(row: Row) -> str:
            value = found.get((row["form"], step), {}).get(key)
            return "-" if value is None else format(value if unit == 1 else value / unit, form)

        return cell

    def parity(row: Row) -> str:
        facts = found.get((row["form"], "parity"), {})
        return f"{facts['linears']} linears" if facts.get("passed") else "failed" if facts else "-"

    spec: dict[str, Column] = {
        "form": "form",
        "ONNX MB": of("export", "file_bytes", ".0f", 1e6),
        "export s": of("export", "seconds", ".0f"),
        "export GB": of("export", "peak_rss", ".1f", 1e9),
        "parity": parity,
        "engine MB": of("build", "engine_bytes", ".0f", 1e6),
        "build s": of("build", "seconds", ".0f"),
        "build GB": of("build", "peak_rss_children", ".1f", 1e9),
        "layer report": of("build", "summary"),
    }
    return columns([{"form": form} for form in dict.fromkeys(form for form, _ in found)], spec)


def parts() -> str:
    """Accuracy and bytes by the parts of the network that are quantized, by tools/bench_parts.py."""
    spec: dict[str, Column] = {
        "scheme": "label",
        "AUC@30": "auc30:.2f",
        "AUC@5": "auc5:.2f",
        "depth abs-rel": "abs_rel:.4f",
        "pose dB": decibel("pose_enc"),
        "MB": mega("bytes", 2),
    }
    return columns(load("parts")["rows"], spec)


PROCESSOR = ("slice_1b", "slice_1b_266", "head_1b", "1b_1thread", "1b_518")
TABLES: dict[str, Callable[[], str]] = {
    **{f"bench_{name}": partial(bench, f"bench_cpu_{name}") for name in ("tiny", "1b")},
    **{f"bench_{name}": partial(bench_processor, f"bench_cpu_{name}") for name in PROCESSOR},
    **{
        table.__name__: table
        for table in (parts, accuracy, ablation, calibration, scale, demo, tiny, goals, profile_slice, passes)
    },
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
