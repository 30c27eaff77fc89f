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
FILES = (
    ROOT / "README.md",
    ROOT / "docs" / "performance.md",
    ROOT / "docs" / "method.md",
    ROOT / "qvggt" / "weights" / "tiny" / "README.md",
    ROOT / "docs" / "reconstruction.md",
    ROOT / "docs" / "tutorial.md",
)
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


def bench_processor(name: str) -> str:
    """Ratios of processor seconds of a tools/bench_cpu.py run on one thread."""
    rows = [
        [
            row["candidate"],
            f"{row['cpu_s']:.3f}",
            f"{row['cpu_speed_up']:.2f}x",
            f"{(row['cpu_max_s'] - row['cpu_min_s']) / row['cpu_s']:.0%}",
            f"{row['peak_rss'] / 1e6:.0f}",
            f"{min(row['sqnr_db'].values()):.1f}" if "sqnr_db" in row else "",
        ]
        for row in load(name)["rows"]
    ]
    return markdown(["candidate", "processor s", "ratio", "spread", "peak RSS MB", "dB"], rows)


def bench_slice_1b() -> str:
    return bench_processor("bench_cpu_slice_1b")


def bench_slice_1b_266() -> str:
    return bench_processor("bench_cpu_slice_1b_266")


def bench_head_1b() -> str:
    return bench_processor("bench_cpu_head_1b")


def bench_1b_1thread() -> str:
    return bench_processor("bench_cpu_1b_1thread")


def bench_1b_518() -> str:
    return bench_processor("bench_cpu_1b_518")


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
    return markdown(["goal", *runs], rows)


def profile_slice() -> str:
    """Shares of the kinds of work, one column a file and runtime."""
    names = {
        "ONNX Runtime fp32": "ort_fp32",
        "ONNX Runtime w8a8": "ort_w8a8",
        "ONNX Runtime w8a8/fused": "ort_w8a8_fused",
        "OpenVINO w8a8 bf16": "ov_w8a8",
    }
    shares = [
        {row["kind"]: row["share"] for row in load(f"profile_cpu_slice_{name}")["rows"]} for name in names.values()
    ]
    kinds = list(dict.fromkeys(kind for column in shares for kind in column))
    rows = [[kind, *(f"{column[kind]:.1%}" if kind in column else "-" for column in shares)] for kind in kinds]
    return markdown(["share of a pass", *names], rows)


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


def passes() -> str:
    """Camera errors of one pass and of several joined ones, by tools/bench_passes.py."""
    rows = []
    for r in load("passes")["rows"]:
        residual = r["join_residual_median"]
        rows.append(
            [
                r["name"],
                f"{r['auc30']:.2f}",
                f"{r['rotation_deg_median']:.2f}",
                f"{r['rotation_deg_p90']:.2f}",
                f"{r['translation_deg_median']:.2f}",
                "" if residual is None else f"{100 * residual:.2f}",
            ]
        )
    header = ["run", "AUC@30", "rotation median deg", "p90", "translation median deg", "join residual % of depth"]
    return markdown(header, rows)


RECIPES = ("rtn", "smoothquant", "quarot", "quantvggt", "qvggt")
MODELS = ("plain", "channels", "pca")
SCHEMES = ("w8a8-dynamic", "w8a8-static", "w4a8-dynamic", "w4a16-dynamic", "w4a4-dynamic", "w4a4-static")
CALIBRATION_SCENES = 32  # of every table but `calibration`


def accuracy_rows() -> list[dict[str, Any]]:
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
        if ours is None:
            change = ["-"] * 3
        else:
            low, high = ours["auc30_interval"]
            change = [
                f"{ours['auc30_change']:+.2f} [{low:+.2f}, {high:+.2f}]",
                f"{ours['auc30'] / base['auc30']:.1%}",
                f"{ours['auc5'] / base['auc5']:.1%}",
            ]
        rows.append([model, scheme, *cells, *change])
    header = ["model", "scheme", *RECIPES, "change of qvggt (95 %)", "of float @30", "of float @5"]
    return markdown(header, rows)


def ablation() -> str:
    """Ours with one step changed, by tools/bench_accuracy.py --ablate."""
    rows = [
        [
            "ours" if r["recipe"] == "qvggt" else r["recipe"],
            *(f"{r[k]:.2f}" for k in ("auc30", "auc5")),
            *(f"{r['sqnr_db'][k]:.1f}" for k in ("pose_enc", "depth")),
        ]
        for r in sorted(accuracy_rows(), key=lambda r: r["recipe"] != "qvggt")
        if r["model"] == "plain" and r["scheme"] == "w4a4-dynamic" and r["recipe"].startswith(("ours", "qvggt"))
    ]
    return markdown(["w4a4-dynamic, plain model", "AUC@30", "AUC@5", "pose dB", "depth dB"], rows)


def calibration() -> str:
    """Ours by the number of calibration scenes, by tools/bench_accuracy.py --calibration-scenes."""
    rows = sorted(load("accuracy")["rows"], key=lambda r: (r["scheme"], r.get("calibration_scenes", 0)))
    ours = [r for r in rows if r["model"] == "plain" and r["recipe"] == "qvggt" and r["scheme"].startswith("w4a4")]
    cells = [
        [
            r["scheme"],
            str(r["calibration_scenes"]),
            *(f"{r[k]:.2f}" for k in ("auc30", "auc5")),
            *(f"{r['sqnr_db'][k]:.1f}" for k in ("pose_enc", "depth")),
            f"{r['calibration_seconds']:.0f}",
        ]
        for r in ours
    ]
    return markdown(["scheme", "calibration scenes", "AUC@30", "AUC@5", "pose dB", "depth dB", "seconds"], cells)


def scale() -> str:
    """VGGT-1B whole: export, parity and the TensorRT-RTX plan of each form, by tools/bench_scale.py."""
    found = {(r["form"], r["step"]): r for r in load("scale")["rows"]}
    rows = []
    for form in dict.fromkeys(name for name, _ in found):
        export, parity, build = (found.get((form, step), {}) for step in ("export", "parity", "build"))
        cells = [form]
        if "file_bytes" in export:
            cells += [
                f"{export['file_bytes'] / 1e6:.0f}",
                f"{export['seconds']:.0f}",
                f"{export['peak_rss'] / 1e9:.1f}",
            ]
        else:
            cells += ["-"] * 3
        cells.append(f"{parity['linears']} linears" if parity.get("passed") else "failed" if parity else "-")
        if "engine_bytes" in build:
            cells += [f"{build['engine_bytes'] / 1e6:.0f}", f"{build['seconds']:.0f}"]
            cells += [f"{build['peak_rss_children'] / 1e9:.1f}", build["summary"]]
        else:
            cells += ["-"] * 4
        rows.append(cells)
    header = ["form", "ONNX MB", "export s", "export GB", "parity", "engine MB", "build s", "build GB", "layer report"]
    return markdown(header, rows)


def parts() -> str:
    """Accuracy and bytes by the parts of the network that are quantized, by tools/bench_parts.py."""
    rows = []
    for r in load("parts")["rows"]:
        pose = r["sqnr_db"].get("pose_enc")
        figures = [f"{r['auc30']:.2f}", f"{r['auc5']:.2f}", f"{r['abs_rel']:.4f}"]
        rows.append([r["label"], *figures, "" if pose is None else f"{pose:.1f}", f"{r['bytes'] / 1e6:.2f}"])
    return markdown(["scheme", "AUC@30", "AUC@5", "depth abs-rel", "pose dB", "MB"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "parts": parts,
    "accuracy": accuracy,
    "ablation": ablation,
    "calibration": calibration,
    "scale": scale,
    "demo": demo,
    "tiny": tiny,
    "bench_tiny": bench_tiny,
    "bench_1b": bench_1b,
    "bench_slice_1b": bench_slice_1b,
    "bench_slice_1b_266": bench_slice_1b_266,
    "bench_head_1b": bench_head_1b,
    "bench_1b_1thread": bench_1b_1thread,
    "bench_1b_518": bench_1b_518,
    "goals": goals,
    "profile_slice": profile_slice,
    "passes": passes,
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
