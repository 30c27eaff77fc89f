"""Write the result tables of README.md, the docs and the tiny model's card from the JSON files commands wrote.

    python tools/results_tables.py            # rewrite the tables
    python tools/results_tables.py --check    # exit 1 if a table differs from its JSON

A table stands between `<!-- table NAME -->` and `<!-- end -->`. The JSON files are in docs/results/.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import gpu_proof
import typer
from reporting import Columns, Row, change_text, columns, markdown, shown, spread_text

from qvggt.eval.result import file_bytes

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
PAGES: tuple[str, ...] = (
    "README.md",
    "docs/performance.md",
    "docs/method.md",
    "qvggt/weights/tiny/README.md",
    "tools/beds/small/README.md",
    "docs/reconstruction.md",
)
PAGES += (
    "docs/tutorial.md",
    "docs/development.md",
    "docs/results.md",
    "docs/storage.md",
    "docs/attention.md",
    "docs/gate.md",
)
FILES = [ROOT / page for page in PAGES]
MARKER = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def load(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


AUC: Columns = {f"AUC@{t}": f"auc{t} {{:.2f}}" for t in (30, 15, 5, 3)}
NOISE: Columns = {"pose dB": "sqnr_db.pose_enc {:.1f} or "}
SCORES: Columns = {"AUC@30": AUC["AUC@30"], "AUC@5": AUC["AUC@5"], **NOISE, "depth dB": "sqnr_db.depth {:.1f} or "}
MEMORY: Columns = {"peak RSS MB": "peak_rss/1e6 {:.0f}"}
WALL: Columns = {"candidate": "candidate", "median s": "median_s {:.4f}", "speed-up": "speed_up {:.2f}x", **MEMORY}
WALL |= {"file MB": "file_bytes/1e6 {:.1f} or -"}
TRAINED: Columns = {"frames": "frames", **AUC, "depth abs-rel": "abs_rel {:.4f}", "delta<1.25": "delta125 {:.4f}"}
TRAINED |= {"scenes": "scenes"}
PASSES: Columns = {"run": "name", "AUC@30": AUC["AUC@30"], "rotation median deg": "rotation_deg_median {:.2f}"}
PASSES |= {"p90": "rotation_deg_p90 {:.2f}", "translation median deg": "translation_deg_median {:.2f}"}
PASSES |= {"join residual % of depth": "join_residual_median/0.01 {:.2f} or "}
PARTS: Columns = {"scheme": "label", "AUC@30": AUC["AUC@30"], "AUC@5": AUC["AUC@5"]}
PARTS |= {"depth abs-rel": "abs_rel {:.4f}", **NOISE, "MB": "bytes/1e6 {:.2f} or -"}
CALIBRATION_MEMORY: Columns = {"block": "block", "frames": "frames", "learning step GB": "split.learning/1e9 {:.2f}"}
CALIBRATION_MEMORY |= {"not split GB": "unsplit.learning/1e9 {:.2f}", "all of the block GB": "split.whole/1e9 {:.2f}"}
CALIBRATION_FRAMES: Columns = {"scheme": "scheme", "scenes": "scenes", "frames of each": "frames"}
for _frames in (4, 10):
    _at = f"judged.{_frames}"
    CALIBRATION_FRAMES |= {f"AUC@{t}, {_frames} frames": f"{_at}.auc{t} {{:.2f}}" for t in (30, 5)}
    CALIBRATION_FRAMES |= {f"pose dB, {_frames}": f"{_at}.sqnr_db.pose_enc {{:.1f}}"}
    CALIBRATION_FRAMES |= {f"depth dB, {_frames}": f"{_at}.sqnr_db.depth {{:.1f}}"}
LOADED: Columns = {
    "form": "form",
    "file MB": "file_bytes/1e6 {:.0f}",
    "from its path: GB": "onnxruntime.peak_rss/1e9 {:.1f}",
}
LOADED |= {"of that not files": "onnxruntime.peak_anonymous/1e9 {:.1f}", "our runner: GB": "qvggt.peak_rss/1e9 {:.1f}"}
LOADED |= {"not files": "qvggt.peak_anonymous/1e9 {:.1f}"}

MARGINS: Columns = {"part": "part", "network": "network", "comparisons": "compared", "largest error": "error {:.1e}"}
MARGINS |= {"of what is allowed": "share {:.2f}"}
FAULTS: Columns = {"fault": "fault", "found": lambda row: f"{row['found']} of {row['tried']}"}
FAULTS |= {"least": "least {:.3g}x or -"}
FAULTS |= {"where": lambda row: row["where"] or "missed: " + ", ".join(row["missed"])}


def between(name: str, unit: float) -> Callable[[Row], str]:
    """The range of a plan."""
    return lambda row: " to ".join(f"{value / unit:.2f}" for value in row["plan"][name])


PLAN_1B: Columns = {"on": "machine", "frames of each": "frames"}
PLAN_1B |= {"minutes": lambda row: " to ".join(f"{t:.0f}" for t in row["minutes"]), "memory": lambda row: row["memory"]}
PLANNED: Columns = {"model": "model", "format": "format", "frames": "frames", "sequences": "sequences"}
PLANNED |= {"plan: min": between("seconds", 60), "took": "real.seconds/60 {:.2f}", "plan: GB": between("bytes", 1e9)}
PLANNED |= {"took GB": "real.bytes.anonymous/1e9 {:.2f}", "with mapped files": "real.bytes.with_files/1e9 {:.2f}"}
MUTATION: Columns = {name: name for name in ("file", "places", "mutants", "killed", "equivalent", "survived")}
MUTATION |= {"score before": "score_first {:.1f}%", "score": "score {:.1f}%"}
ATTENTION_NOISE: Columns = {"logits' std": "spread {:.0f}", "keys": "keys", "mean of v": "mean {:.0f}"}
ATTENTION_NOISE |= {"largest p": "largest {:.4f}", "fp8 dB": "fp8_db {:.1f}"}
ATTENTION_NOISE |= {"int8 dB": "int8_db {:.1f}", "fp8, p at scale 1": "unit_scale_db {:.1f}"}
SIMPLE: dict[str, tuple[str, str, Columns]] = {  # table -> JSON file, name of its rows, columns; one line a row
    "bench_tiny": ("bench_cpu_tiny", "rows", WALL),
    "tiny": ("tiny_metrics", "held_out", TRAINED),
    "small": ("small_metrics", "held_out", TRAINED),
    "passes": ("passes", "rows", PASSES),
    "parts": ("parts", "rows", PARTS),
    "calibration_memory": ("calibration_memory", "rows", CALIBRATION_MEMORY),
    "calibration_frames": ("calibration_frames", "rows", CALIBRATION_FRAMES),
    "load_memory": ("load_memory", "rows", LOADED),
    "mutation": ("mutation", "files", MUTATION),
    "gate_margins": ("gate_margins", "rows", MARGINS),
    "plan": ("plan", "rows", PLANNED),
    "attention_noise": ("attention", "noise", ATTENTION_NOISE),
    "plan_1b": ("plan_1b", "rows", PLAN_1B),
}


def simple(name: str) -> str:
    file, key, spec = SIMPLE[name]
    return columns(load(file)[key], spec)


def demo() -> str:
    """Accuracy of every candidate of a qvggt eval report, and the size of its file beside that of the float file."""
    first, *others = load("demo")["candidates"]
    whole = next(size for one in others if one["scheme"] == "fp32" and (size := file_bytes(one)))
    spec: Columns = {"candidate": "label", **{f"AUC@{t}": f"auc.{t} {{:.2f}}" for t in (30, 5)}}
    spec |= {"change @30": "delta.auc.30 {:+.2f} or ", "depth abs-rel": "abs_rel {:.4f} or -", **NOISE}
    spec |= {"file MB": "file/1e6 {:.2f} or ", "of float": f"file/{whole} {{:.2f}}x or "}
    rows = [one | {"file": file_bytes(one)} for one in (first | {"delta": None}, *others)]
    return columns(rows, spec)


def claims() -> str:
    """What the README promises, in figures."""
    found = {(r["model"], r["scheme"], r["recipe"]): r for r in accuracy_rows()}
    call = load("accuracy")["call"]

    def lost(scheme: str, recipe: str = "qvggt", model: str = "plain") -> str:
        change = found[model, "fp32", "float"]["auc30"] - found[model, scheme, recipe]["auc30"]
        return f"{max(0.0, change):.1f}"

    hard = partial(lost, model="channels")
    blocks = {(r["tool"], r["label"], r["runtime"]): r for r in load("peers")["speed"]["rows"]}
    times = [f"{blocks['ours', 'w8a8-static', runtime]['speed_up']:.1f}" for runtime in RUNTIME_NAMES]
    files = {r["scheme"]: size for r in load("demo")["candidates"] if (size := file_bytes(r)) is not None}
    share = next(size for scheme, size in files.items() if scheme.startswith("w8a8")) / files["fp32"]
    scaled = {(r["form"], r["step"]): r for r in load("scale")["rows"]}
    small, half = (scaled[form, "export"]["file_bytes"] for form in ("w4a4", "fp16"))
    kernels = scaled["w4a4", "build"]["summary"].split(",")[0]
    said = (
        "**Accurate, with and without outliers.** Static `w8a8` loses",
        f"{lost('w8a8-static')} of {found['plain', 'fp32', 'float']['auc30']:.1f} points of AUC@30, and",
        f"{hard('w8a8-static')} with outlier channels, where rounding to nearest loses {hard('w8a8-static', 'rtn')};",
        f"`w4a4` loses {lost('w4a4-dynamic')} and {hard('w4a4-dynamic')} (nearest:",
        f"{lost('w4a4-dynamic', 'rtn')} and {hard('w4a4-dynamic', 'rtn')}).",
        f"Model {call['model']}, {call['scenes']} scenes.\n-",
        f"**Smaller and faster on a CPU.** Three blocks of VGGT-1B's width in static `w8a8` run {times[0]} times as",
        f"fast as the float file in ONNX Runtime and {times[1]} times in OpenVINO; the tiny model's file is",
        f"{share:.2f}x of the float one.\n-",
        f"**Accepted by TensorRT.** VGGT-1B with 4-bit weights is a file of {small / 1e6:.0f} MB",
        f"({small / half:.2f}x of fp16); in the plan TensorRT-RTX compiles of it, {kernels}.\n",
    )
    return "- " + " ".join(said)


KERNELS = {  # bits -> products in ONNX Runtime and OpenVINO on a CPU; tests/export/test_storage_forms.py saw them
    "w8a8": ("int8", "int8"),
    "w4a8": ("int8; weights expanded when loaded", "int8"),
    "w6a6": ("int8", "int8"),
    "w4a4": ("int8; weights expanded when loaded", "int8"),
    "w4a16": ("float", "float"),
    "fp32": ("float", "float"),
    "fp8": ("float", "float; rounds codes through fp16"),
    "w4afp8": ("float", "float; rounds codes through fp16"),
    "nvfp4": ("refused by export", "refused by export"),
    "fp16": ("float", "float"),
    "bf16": ("does not open it", "not tried"),
}


def formats() -> str:
    """What runs where: names from the table of formats, sizes and TensorRT's kernels from tools/bench_scale.py."""
    from qvggt.formats.table import choices

    found = {(r["form"], r["step"]): r for r in load("scale")["rows"]}
    rows = []
    for bits in (bits for bits in choices() if bits not in ("w6a6", "fp32")):  # README is one screen
        size, plan = found.get((bits, "export")), found.get((bits, "build"))
        said = [part.strip() for part in re.split("[;,]", plan["summary"])] if plan else []
        kernels = (
            "; ".join(part for part in said if re.search(r"linears (INT|FP)", part)) if plan else "not built at 1B"
        )
        cells = [f"`{bits}`", *KERNELS[bits], kernels or "products in that type"]
        rows.append([*cells, f"{size['file_bytes'] / 1e6:.0f}" if size else "-"])
    return markdown(["format", "ONNX Runtime CPU", "OpenVINO CPU", "TensorRT, VGGT-1B", "MB of that file"], rows)


PROFILES = {
    "ONNX Runtime fp32": "ort_fp32",
    "ONNX Runtime w8a8": "ort_w8a8",
    "ONNX Runtime w8a8/fused": "ort_w8a8_fused",
    "OpenVINO w8a8 bf16": "ov_w8a8",
}


def profile_slice() -> str:
    """Shares of the kinds of work, one column a file and runtime."""
    shares: dict[str, Row] = {}
    for run in PROFILES.values():
        for row in load(f"profile_cpu_slice_{run}")["rows"]:
            shares.setdefault(row["kind"], {"kind": row["kind"]})[run] = row["share"]
    spec = {name: f"{run} {{:.1%}} or -" for name, run in PROFILES.items()}
    return columns(shares.values(), {"share of a pass": "kind", **spec})


RECIPES = ("rtn", "smoothquant", "quarot", "quantvggt", "qvggt")
MODELS = ("plain", "channels", "pca", "massive")
SCHEMES = (
    *("w8a8-dynamic", "w8a8-static", "fp8-static", "fp8-dynamic", "w4a8-dynamic", "w4afp8-static", "w4a16-dynamic"),
    *("nvfp4", "w4a4-dynamic", "w4a4-dynamic-mixed", "w4a4-static"),
)
CALIBRATION_SCENES = 32  # of every table but `calibration`


def accuracy_rows(file: str = "accuracy") -> list[Row]:
    rows = load(file)["rows"]
    return [r for r in rows if r.get("calibration_scenes", CALIBRATION_SCENES) == CALIBRATION_SCENES]


def accuracy_text(table: str, rows: list[Row], file: str = "accuracy") -> str:
    """A table of such rows, and how they were made: the model, the scenes, the seeds, the threads."""
    call = load(file)["call"]
    size = f", {call['size']}x{call['size']} pixels" if "size" in call else ""
    threads = sorted({r["threads"] for r in rows if "threads" in r})
    told = f"threads: {', '.join(map(str, threads))}" if threads else "threads not recorded"
    seeds = max((r.get("seeds", 1) for r in rows), default=1)
    drawn = f"seed 0, or means over seeds 0 to {seeds - 1} where their spread is given" if seeds > 1 else "seed 0"
    scenes = f"{call['scenes']} scenes of {call['frames']} frames"
    return f"{table}\n*Model {call['model']}{size}; {scenes}; calibrations with {drawn}; {told}.*\n"


def spreads(rows: list[Row]) -> Columns:
    """Columns of the spread over calibration seeds, where any of the rows has one."""
    found: Columns = {f"@{t} over seeds": partial(spread_text, name=f"auc{t}") for t in (30, 5)}
    return found if any("spread" in row for row in rows) else {}


def accuracy() -> str:
    """AUC@30 of every recipe, one row a model and scheme, by tools/bench_accuracy.py."""
    found = {(r["model"], r["scheme"], r["recipe"]): r for r in accuracy_rows()}
    measured = {(model, scheme) for model, scheme, _ in found}
    drawn = spreads([*found.values()])
    rows = []
    for model, scheme in ((m, s) for m in MODELS for s in SCHEMES if (m, s) in measured):
        base, ours = found[model, "fp32", "float"], found.get((model, scheme, "qvggt"))
        cells = [shown(found.get((model, scheme, name), {}), "auc30 {:.2f} or -") for name in RECIPES]
        change = ["-"] * (3 + len(drawn))
        if ours is not None:
            change = [change_text(ours), *(f"{ours[name] / base[name]:.1%}" for name in ("auc30", "auc5"))]
            change += [text(ours) for text in drawn.values() if callable(text)]
        rows.append([model, scheme, *cells, *change])
    header = ["model", "scheme", *RECIPES, "change of qvggt (95 %)", "of float @30", "of float @5"]
    return accuracy_text(markdown([*header, *drawn], rows, aligned=True), [*found.values()])


def accuracy_tiny() -> str:
    """Ours on the tiny model: percent of float's AUC@30 / @5, one column a model."""
    found = {(r["model"], r["scheme"]): r for r in accuracy_rows("accuracy_tiny") if r["recipe"] in ("float", "qvggt")}

    def cell(model: str, scheme: str) -> str:
        if (row := found.get((model, scheme))) is None:
            return "-"
        return " / ".join(f"{100 * row[n] / found[model, 'fp32'][n]:.1f}" for n in ("auc30", "auc5"))

    rows = [[s, *(cell(m, s) for m in MODELS)] for s in SCHEMES if ("plain", s) in found]
    return accuracy_text(markdown(["scheme", *MODELS], rows, aligned=True), [*found.values()], "accuracy_tiny")


def branches() -> str:
    """What branches of a rank cost and are worth, by tools/bench_accuracy.py --ablate."""
    found = {r["recipe"]: r for r in accuracy_rows() if r["model"] == "plain" and r["scheme"] == "w4a4-dynamic"}
    base = next(r for r in accuracy_rows() if r["model"] == "plain" and r["recipe"] == "float")
    names = ("ours without branches", "ours with branches of 8", "ours with branches of 16", "qvggt")
    rows = [r | {f"of{t}": r[f"auc{t}"] / base[f"auc{t}"] for t in (30, 5)} for n in names if (r := found.get(n))]
    spec: Columns = {"directions": lambda r: " or ".join(map(str, r.get("branches", {}).get("ranks", ["none"])))}
    spec |= {"linears with a branch": "branches.with_one or 0", "more multiply-adds": "branches.macs {:.1%} or 0"}
    spec |= {"more bytes": "branches.bytes {:.1%} or 0"} | {f"of float @{t}": f"of{t} {{:.1%}}" for t in (30, 5)}
    return accuracy_text(columns(rows, spec | NOISE | {"depth dB": SCORES["depth dB"]}), rows)


def ablation() -> str:
    """Ours with one step changed, by tools/bench_accuracy.py --ablate."""
    rows = [r for r in accuracy_rows() if r["model"] == "plain" and r["scheme"] == "w4a4-dynamic"]
    ours = [r for r in rows if r["recipe"].startswith(("ours", "qvggt")) and "branches of" not in r["recipe"]]
    ours.sort(key=lambda r: r["recipe"] != "qvggt")
    name: Columns = {"w4a4-dynamic, plain model": lambda r: "ours" if r["recipe"] == "qvggt" else r["recipe"]}
    return accuracy_text(columns(ours, name | SCORES | {"against float @30": change_text} | spreads(ours)), ours)


def calibration() -> str:
    """Ours on the tiny model by the number of calibration scenes, by tools/bench_accuracy.py --calibration-scenes."""
    rows = sorted(load("accuracy_tiny")["rows"], key=lambda r: (r["scheme"], r.get("calibration_scenes", 0)))
    ours = [r for r in rows if r["model"] == "plain" and r["recipe"] == "qvggt" and r["scheme"].startswith("w4a4")]
    first: Columns = {"scheme": "scheme", "calibration scenes": "calibration_scenes"}
    spec = {**first, **SCORES, **spreads(ours), "seconds": "calibration_seconds {:.0f}"}
    return accuracy_text(columns(ours, spec), ours, "accuracy_tiny")


def parity(row: Row) -> str:
    facts = row.get("parity", {})
    return f"{facts['linears']} linears" if facts.get("passed") else "failed" if facts else "-"


def structure(row: Row) -> str:
    """Of a file at full size: how its weights were found, and how many linears have a branch."""
    found = re.match(r"\d+", row.get("calibrate", {}).get("branches", ""))
    return row["export"]["weights"] + (f", {found[0]} branches" if found else "")


SCALE: Columns = {
    "form": "form",
    "weights": structure,
    "ONNX MB": "export.file_bytes/1e6 {:.0f} or -",
    "export s": "export.cpu_seconds {:.0f} or -",
    "export GB": "export.peak_rss/1e9 {:.1f} or -",
    "parity": parity,
    "GPU": "build.capability",
    "engine MB": "build.engine_bytes/1e6 {:.0f} or -",
    "build s": "build.cpu_seconds {:.0f} or -",
    "build GB": "build.peak_rss_children/1e9 {:.1f} or -",
    "layer report": "build.summary or -",
}


def scale() -> str:
    """VGGT-1B whole: export, parity and the TensorRT-RTX plan of each form, by tools/bench_scale.py."""
    rows = load("scale")["rows"]
    shared: dict[str, Row] = {}
    for row in rows:
        shared.setdefault(row["form"], {"form": row["form"]})[row["step"]] = row
    built = [row for row in rows if row["step"] == "build"]
    return columns([{**shared[row["form"]], "build": {"capability": "8.9", **row}} for row in built], SCALE)


def heads() -> str:
    """Scratch memory of engines in one file and in two, by tools/bench_heads.py."""
    found = load("heads")
    rows: dict[tuple[str, str, int], Row] = {}
    for row in found["rows"]:
        rows.setdefault((row["model"], row["format"], row["frames"]), {})[row["file"]] = row
    lines = []
    for (model, form, frames), row in rows.items():
        if "trunk" in row:
            row["heads"] = row.get("heads") or rows[model, form, found["group"]]["heads"]
            row["pair"] = {"bytes": max(row[half]["scratch_bytes"] for half in ("trunk", "heads"))}
            tensors = row["trunk"]["tensors"]
            row["tokens"] = {"bytes": sum(size for name, size in tensors.items() if name.startswith("tokens"))}
            lines.append({"network": model, "format": form, "frames": frames, **row})
    spec: Columns = {name: name for name in ("network", "format", "frames")}
    spec |= {"one file": "one.scratch_bytes/1e6 {:.0f} or -", "trunk": "trunk.scratch_bytes/1e6 {:.0f} or -"}
    spec |= {"heads": "heads.scratch_bytes/1e6 {:.0f} or -", "the two, one block": "pair.bytes/1e6 {:.0f} or -"}
    return columns(lines, spec | {"tokens between them": "tokens.bytes/1e6 {:.0f} or -"})


def heads_memory() -> str:
    """ONNX Runtime's peak memory with one file and with two, by tools/bench_heads.py."""
    spec: Columns = {"network": "model", "size": "size", "frames": "frames", "one file MB": "one_bytes/1e6 {:.0f}"}
    return columns(load("heads")["memory"], spec | {"two files MB": "pair_bytes/1e6 {:.0f}"})


def attention_forms() -> str:
    """What the builder makes of small graphs, by tools/bench_attention.py."""
    spec: Columns = {"form": "form", "lint": lambda row: ", ".join(row["lint"]) or "silent"}
    spec["TensorRT-RTX"] = lambda row: "one kernel" if row["fused"] else "two products, all scores stored"
    return columns(load("attention")["forms"], spec, aligned=False)


def attention_builds() -> str:
    """One line a frame count and GPU generation, attention in fp16 beside FP8, by tools/bench_attention.py."""
    rows: dict[tuple[int, str], Row] = {}
    for row in load("attention")["builds"]:
        rows.setdefault((row["frames"], row["capability"]), {})[row["attention"]] = row
    spec: Columns = {"frames": "fp8.frames", "SM": lambda row: row["fp8"]["capability"].replace(".", "")}
    for name in ("fp16", "fp8"):
        spec |= {f"{name}: scratch MB": f"{name}.scratch_bytes/1e6 {{:.0f}}"}
        spec |= {f"{name}: engine MB": f"{name}.engine_bytes/1e6 {{:.1f}}"}
        spec |= {f"{name}: build s": f"{name}.build_seconds {{:.0f}}"}
    spec["attention"] = lambda row: row["fp8"]["summary"].partition("attention: ")[2]
    return columns(rows.values(), spec)


def attention_accuracy() -> str:
    """Cameras of the tiny model and of its copy with outlier channels, by tools/bench_attention.py."""
    spec: Columns = {"model": "model", "linears": "linears", "attention": "attention", "AUC@30": AUC["AUC@30"]}
    spec |= {"AUC@5": AUC["AUC@5"], "change @30 (95 %)": change_text}
    spec["@5"] = lambda row: (
        f"{row['auc5_change']:+.2f} [{row['auc5_interval'][0]:+.2f}, {row['auc5_interval'][1]:+.2f}]"
    )
    spec |= NOISE
    order = ["plain", "channels"]
    rows = [row for row in load("attention")["accuracy"] if row["linears"] != "fp32"]
    return columns(sorted(rows, key=lambda row: order.index(row["model"])), spec)


def photos() -> str:
    """SQNR of cameras and of depth on generated scenes and on photographs, by tools/bench_photos.py."""
    found = load("photos")
    spec: Columns = {"scheme": "scheme", "calibrated on": "calibrated"}
    spec |= {kind: partial(two_noises, kind=kind) for kind in ("generated", *found["call"]["sequences"])}
    spec["photographs less scenes"] = lambda row: behind(row, found["rows"])
    call = found["call"]
    told = f"Model {call['model']}, {call['size']}x{call['size']} pixels; {call['scenes']} generated scenes;"
    told += f" up to {call['calibration_sequences']} calibration sequences; threads: {call['threads']}."
    return f"{columns(found['rows'], spec)}\n*{told}*\n"


def two_noises(row: Row, kind: str) -> str:
    noise = row["sqnr_db"].get(kind, {})
    return " / ".join(shown(noise, f"{name} {{:.0f}} or -") for name in ("pose_enc", "depth"))


def behind(row: Row, rows: list[Row]) -> str:
    """Mean over the photographs of cameras' and depth's SQNR, less the same scheme's on generated scenes."""
    base = next(r["sqnr_db"]["generated"] for r in rows if r["scheme"] == row["scheme"] and "generated" in r["sqnr_db"])
    said = [noise for kind, noise in row["sqnr_db"].items() if kind != "generated"]
    return " / ".join(f"{sum(n[name] for n in said) / len(said) - base[name]:+.1f}" for name in ("pose_enc", "depth"))


def threads() -> str:
    """What idle threads cost, by tools/bench_threads.py."""
    spec: Columns = {
        "machine": "machine",
        "threads": "threads",
        "idle threads": "waiting",
        "s a pass": "seconds {:.4f}",
    }
    return columns(load("threads")["rows"], spec | {"of one thread alone": "slower {:.2f}x"})


def gate_faults() -> str:
    """What the gate found in files broken on purpose."""
    if not (RESULTS / "gate_faults.json").exists():
        return "*Not run yet.*\n"
    return columns(load("gate_faults")["rows"], FAULTS)


def interval(row: Row, name: str) -> str:
    """`auc30_change`: a change and its interval."""
    if name not in row:
        return "-"
    change, low, high = row[name]
    return f"{change:+.2f} [{low:+.2f}, {high:+.2f}]"


def kernels(row: Row) -> str:
    """How many products are integer in each CPU runtime."""
    told = []
    for runtime, found in row.get("kernels", {}).items():
        count = "refused" if isinstance(found, str) else str(sum(found.values()))
        told.append(f"{RUNTIME_NAMES[runtime]} {count}")
    return ", ".join(told) or "-"


def verdict(row: Row) -> str:
    engine, lint = row.get("engine"), row.get("lint") or {}
    plan = "-" if engine is None else "refused" if "error" in engine else engine["summary"].split(";")[0]
    return plan + ("" if "errors" not in lint else f"; lint {lint['errors']} errors, {lint['warnings']} warnings")


RUNTIME_NAMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
PEER: Columns = {"model": "model", "tool": "tool", "way": "label", "scope": "scope"}
PEER |= {
    "runtime": lambda r: RUNTIME_NAMES[r["runtime"]],
    "AUC@30": "auc30 {:.2f} or failed",
    "AUC@5": "auc5 {:.2f} or -",
}
PEER |= {"against float @30": lambda r: interval(r, "auc30_change"), "@5": lambda r: interval(r, "auc5_change")}
PEER |= {"against ours @30": lambda r: interval(r, "auc30_ours"), "pose dB": "sqnr_db.pose_enc {:.1f} or -"}
PEER |= {"MB": "bytes/1e6 {:.2f} or -", "integer products": kernels, "TensorRT-RTX": verdict}
PEER |= {"s to make": "seconds {:.0f} or -", "error": "error or "}
FASTER: Columns = {"tool": "tool", "way": "label", "scope": "scope"}
FASTER |= {"runtime": PEER["runtime"], "processor s": "cpu_s {:.3f} or -", "ratio": "speed_up {:.2f}x or failed"}
FASTER |= {"of the least": "speed_up_of_least {:.2f}x or -", "wall": "wall_speed_up {:.2f}x or -"}
FASTER |= {"MB": "bytes/1e6 {:.1f} or -", "dB": "sqnr_db {:.1f} or -"}


def peers() -> str:
    """Every file of every tool, by tools/bench_peers.py."""
    return columns(load("peers")["rows"], PEER)


def peers_speed() -> str:
    """Three blocks of VGGT-1B's width, by tools/bench_peers.py."""
    return columns(load("peers")["speed"]["rows"], FASTER)


def peers_short() -> str:
    """One line a tool and 8-bit format: of its ways the one that keeps most on the worse of the two models."""
    report = load("peers")
    ratios = {(r["tool"], r["label"], r["scope"], r["runtime"]): r for r in report["speed"]["rows"]}
    files: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in report["rows"]:
        if row["format"].startswith("w8a8") and "auc30_change" in row:
            models = files.setdefault((row["tool"], row["label"], row["scope"]), {})
            models.setdefault(row["model"], row)  # ours: its first runtime
    best: dict[tuple[str, str], tuple[float, tuple[str, str, str]]] = {}
    for name, models in files.items():
        worst = min(row["auc30_change"][0] for row in models.values())
        group = (name[0], next(iter(models.values()))["format"])
        best[group] = max(best.get(group, (worst, name)), (worst, name), key=lambda pair: pair[0])
    rows = []
    for (_, format), (_, name) in best.items():
        models, cells = (
            files[name],
            [" ".join((*name[:2], "" if name[2] == "linears" else "(everything)")).strip(), format],
        )
        cells += [interval(models[m], "auc30_change") if m in models else "-" for m in ("plain", "channels")]
        cells += [shown(ratios.get((*name, runtime), {}), "speed_up {:.2f}x or -") for runtime in RUNTIME_NAMES]
        plan = verdict(next(iter(models.values()))).split(";")[0].split(",")[0]
        cells += [shown(next(iter(models.values())), "bytes/1e6 {:.1f} or -"), plan]
        rows.append(cells)
    header = ["file", "format", "change of AUC@30, plain", "with outlier channels", "ONNX Runtime", "OpenVINO", "MB"]
    return markdown([*header, "TensorRT-RTX"], rows, aligned=True)


def gpu() -> str:
    """By tools/gpu_proof.py, once a machine with a GPU ran it."""
    return gpu_proof.table(load("gpu") if (RESULTS / "gpu.json").exists() else None)


TABLES: dict[str, Callable[[], str]] = {name: partial(simple, name) for name in SIMPLE}
TABLES |= {
    made.__name__: made
    for made in (
        accuracy,
        accuracy_tiny,
        ablation,
        branches,
        attention_accuracy,
        attention_builds,
        attention_forms,
        calibration,
        scale,
        heads,
        heads_memory,
        demo,
        claims,
        formats,
        gpu,
        photos,
        profile_slice,
        threads,
        gate_faults,
        peers,
        peers_short,
        peers_speed,
    )
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
