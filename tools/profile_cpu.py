"""Where the time of one forward pass goes on this CPU, by kind of work, in ONNX Runtime or OpenVINO.

    python tools/profile_cpu.py outputs/tiny-w8a8.onnx --frames 4
    python tools/profile_cpu.py m.onnx --runtime openvino --precision bf16 -o outputs/profile.json

Each runtime's own profiler on one thread; of `--rounds` passes the smallest time of every operator counts, since a
profiler reads the wall clock and others may use the machine. Operators that a runtime fused count where their name
says.
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from reporting import start, write_json

KINDS = (
    "linears", "around linears", "attention", "norms", "GELU", "DPT convolutions", "DPT rest", "camera head", "moves",
    "rest",
)  # fmt: skip
LINEAR = r"\.(attn\.(qkv|proj)|mlp\.fc[12])$"
RULES = (  # what is found in the module path and in the operator, kind; the first that fits
    (r"^camera_head", "", "camera head"),
    (r"_head\.", r"Conv(?!ert)", "DPT convolutions"),
    ("", r"Conv(?!ert)", "rest"),
    (r"^(depth|point)_head", "", "DPT rest"),
    ("", r"Gelu", "GELU"),
    (LINEAR, r"MatMul|Gemm|FullyConnected", "linears"),
    (LINEAR, "", "around linears"),
    ("", r"LayerNorm|^MVN$", "norms"),
    (r"\.([qk]_)?norm\d?$", "", "norms"),
    ("", r"Transpose|Reshape|Concat|Split|Slice|Reorder|Squeeze|Gather|Expand|Shape|Identity|Convert", "moves"),
    (r"\.attn(\.(scores|context))?$", "", "attention"),
    ("", "", "rest"),
)


def kind_of(name: str, op: str) -> str:
    """One of KINDS, from a node's name `<module path>/<operator>` and the operator the runtime ran."""
    path = name.split("/")[0]
    return next(kind for in_path, in_op, kind in RULES if re.search(in_path, path) and re.search(in_op, op))


def profile_onnxruntime(path: Path, feeds: dict[str, Any], rounds: int) -> dict[tuple[str, str], float]:
    """(node, operator) -> least milliseconds."""
    from qvggt.engines.onnx_runner import import_onnxruntime
    from qvggt.onnxruntime_config import session_options

    ort = import_onnxruntime()
    options = session_options(ort, 1)
    with tempfile.TemporaryDirectory(prefix="qvggt-profile-") as folder:
        options.enable_profiling, options.profile_file_prefix = True, f"{folder}/p"
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for _ in range(rounds + 1):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
    found: dict[tuple[str, str], list[float]] = {}
    for event in sorted(events, key=lambda e: e["ts"]):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            key = (event["name"].removesuffix("_kernel_time"), event["args"]["op_name"])
            found.setdefault(key, []).append(event["dur"] / 1e3)
    return {key: min(times[1:] or times) for key, times in found.items()}


def profile_openvino(path: Path, feeds: dict[str, Any], rounds: int, precision: str) -> dict[tuple[str, str], float]:
    """(node, operator) -> least milliseconds."""
    from qvggt.engines.openvino_runner import compile_cpu, import_openvino

    compiled = compile_cpu(import_openvino(), path, precision, 1, {"PERF_COUNT": "YES"})
    found: dict[tuple[str, str], float] = {}
    for turn in range(rounds + 1):
        request = compiled.create_infer_request()  # its counters are averages over its calls
        request.infer(feeds)
        for entry in request.get_profiling_info():
            if entry.status == entry.Status.EXECUTED and turn > 0:
                key, ms = (entry.node_name, entry.node_type), entry.real_time.total_seconds() * 1e3
                found[key] = min(ms, found.get(key, ms))
    return found


def summary(times: dict[tuple[str, str], float]) -> list[dict[str, Any]]:
    """A row a kind: milliseconds, share, and its largest operators."""
    operators: dict[str, dict[str, float]] = {kind: {} for kind in KINDS}
    for (name, op), ms in times.items():
        found = operators[kind_of(name, op)]
        found[op] = found.get(op, 0.0) + ms
    rows = []
    for kind, found in operators.items():
        if (total := sum(found.values())) > 0:
            largest = dict(sorted(found.items(), key=lambda item: -item[1])[:4])
            rows.append({"kind": kind, "ms": total, "share": total / sum(times.values()), "operators": largest})
    return rows


def main(
    file: Annotated[Path, typer.Argument(help="An ONNX file of qvggt export, or of tools/bench_cpu.py --folder.")],
    runtime: Annotated[str, typer.Option(help="onnxruntime or openvino.")] = "onnxruntime",
    precision: Annotated[str, typer.Option(help="OpenVINO: f32 or bf16.")] = "f32",
    frames: Annotated[int, typer.Option(min=1)] = 1,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="JSON to write.")] = None,
) -> None:
    """Print a table by kind of work, and write it."""
    import onnx

    from qvggt.versions import PACKAGES, versions

    value = onnx.load(file, load_external_data=False).graph.input[0]
    dims = [int(d.dim_value) for d in value.type.tensor_type.shape.dim]
    shape = [1, frames, *dims[2:]] if len(dims) == 5 else [1, frames * 1374, dims[2]]  # images, or the block slice
    feeds = {value.name: np.random.default_rng(0).random(shape, np.float32)}
    times = (
        profile_openvino(file, feeds, rounds, precision)
        if runtime == "openvino"
        else profile_onnxruntime(file, feeds, rounds)
    )
    rows = summary(times)
    print(f"{file.name}, {runtime}, {frames} frames, 1 thread: {sum(row['ms'] for row in rows):.1f} ms")
    for row in rows:
        largest = ", ".join(f"{op} {ms:.1f}" for op, ms in row["operators"].items())
        print(f"{row['kind']:18} {row['ms']:10.1f} ms {row['share']:6.1%}   {largest}")
    if output is not None:
        call = {"file": file.name, "runtime": runtime, "precision": precision, "frames": frames, "rounds": rounds}
        report = {"call": call, "input": shape, "versions": versions((*PACKAGES, "openvino")), "rows": rows}
        write_json(output, report)


if __name__ == "__main__":
    start(main)
