"""VGGT-1B on this machine: calibration, export, parity and TensorRT-RTX build at full size, each step in a process of
its own.

    python tools/bench_scale.py                                   # everything, half an hour on a quiet machine
    python tools/bench_scale.py --only w4a4 --steps calibrate,export,build
    python tools/bench_scale.py --only fp8,nvfp4 --steps export,build --cc 8.9,12.0 --add -o docs/results/scale.json
    python tools/bench_scale.py --model vggt-1b                   # real weights instead of random ones

Seconds, CPU seconds and peak memory are those of the step's process (a builder's own process for `build`). Random
weights have the sizes and the number of values of real ones; parity with them compares a file with its own reference.
`CALIBRATED` forms have the structure of files that users get: the default recipe, rounded to nearest and on one small
random input, with the steps at run time (centers, online transforms, branches) that most blocks of the tiny model get,
because random weights see inputs that say nothing of trained ones. The others are rounded to nearest without any of it,
their constant ranges (fp8 static, nvfp4) those of one small image. Nothing is run on a GPU.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from cpu_candidates import load_float, peak_rss
from reporting import start, write_json

from qvggt.calib.rtn import quantize_rtn_
from qvggt.engines.compatibility import why_not
from qvggt.errors import QvggtError
from qvggt.export.exporter import ExportConfig, export_onnx
from qvggt.export.precision import Precision
from qvggt.jobs.gpus import scheme_types
from qvggt.quant.scheme import Scheme
from qvggt.target import Target
from qvggt.versions import versions

# form -> format of the large linears of the camera head, None for the form's own: its 216 M parameters are a third of a
# 4-bit file if they stay fp32, see docs/storage.md
FORMS = {"w8a8": None, "w4a4": "w4a16", "w4a16": "w4a16", "fp16": None, "fp8": None, "fp8-dynamic": None, "nvfp4": None}
CALIBRATED = ("w8a8", "w4a4", "w4a16")  # the others are rounded to nearest
GENERATIONS = "8.9"  # built where --cc does not say otherwise
OBSERVED = 70  # pixels of the image that constant ranges are taken from, and of a calibration's
SCENES = 4  # generated, by which the tiny model's steps are chosen
CAMERA = ("camera_head.trunk.*", "camera_head.poseLN_modulation.*")
PARTS = (
    "aggregator.patch_embed.blocks",
    "aggregator.patch_embed",
    "aggregator.frame_blocks",
    "aggregator.global_blocks",
    "camera_head",
    "depth_head",
    "point_head",
)
Size = tuple[int, int]


def scheme_of(form: str) -> Scheme:
    camera, mode = FORMS[form], "static" if form == "fp8" else "dynamic"
    bits = form.removesuffix("-dynamic")
    return Scheme(bits, mode, overrides=tuple((path, camera) for path in CAMERA if camera))  # type: ignore[arg-type]


def weights(form: str) -> str:
    """How its weights are found."""
    return "calibrated" if form in CALIBRATED else "half precision" if form == "fp16" else "rounded to nearest"


def calibrated_at(path: Path) -> Path:
    """The checkpoint beside a file."""
    return path.with_name(f"{path.stem}-calibrated")


def calibrate(model: str, form: str, path: Path, _size: Size) -> dict[str, Any]:
    """Write the checkpoint; what its linears spend at run time, and what its branches cost."""
    import torch
    from calibrated import calibrated_, given_steps, usual_steps
    from held_out import CALIBRATION_SEED, FRAMES, drawn, scene_config

    from qvggt.hub.loading import load_model
    from qvggt.quant.checkpoint import Provenance, save_calibrated
    from qvggt.rotation.cost import branch_cost

    scheme = scheme_of(form)
    scenes = [drawn(scene_config(OBSERVED), FRAMES, CALIBRATION_SEED + i)[0] for i in range(SCENES)]
    usual = usual_steps(load_model("tiny"), Scheme(scheme.bits, scheme.activation), scenes)
    network, generator = load_float(model), torch.Generator().manual_seed(0)
    with given_steps(usual):
        images = torch.rand(2, 3, OBSERVED, OBSERVED, generator=generator)
        scheme = calibrated_(network, scheme, [images], nearest=True)
    save_calibrated(calibrated_at(path), network, scheme, Provenance({"name": model, "sha256": ""}), replace=True)
    size = sum(file.stat().st_size for file in calibrated_at(path).iterdir())
    steps = {name: {k: v for k, v in asdict(each).items() if v} for name, each in usual.items()}
    return {"checkpoint_bytes": size, "steps": steps, "branches": str(branch_cost(network) or "")}


def quantized(model: str, form: str, path: Path) -> tuple[Any, Scheme]:
    """The network with its linears in the form's format, and the scheme: its checkpoint, or rounded to nearest."""
    import torch

    from qvggt.quant.checkpoint import load_calibrated

    if form in CALIBRATED:
        held = load_calibrated(calibrated_at(path))
        return held.model, held.scheme
    network, scheme = load_float(model), scheme_of(form)
    images = torch.rand(1, 3, OBSERVED, OBSERVED, generator=torch.Generator().manual_seed(0))
    quantize_rtn_(network, scheme, [images] if scheme.needs_ranges else None, progress=False)
    return network, scheme


def export(model: str, form: str, path: Path, size: Size) -> dict[str, Any]:
    """Write the file; seconds of loading (or rounding to nearest) and of writing apart."""
    times = [time.perf_counter()]
    network, scheme = quantized(model, form, path)
    times.append(time.perf_counter())
    config = ExportConfig(*size, target=Target.TENSORRT, precision=Precision.FP16)
    written = export_onnx(network, scheme, config, path, {"name": model, "sha256": ""})
    times.append(time.perf_counter())
    phases = {name: round(b - a, 1) for name, a, b in zip(("load", "write"), times, times[1:], strict=False)}
    return {"file_bytes": written.bytes, "phases": phases, "bytes": census(path)}


def census(path: Path) -> dict[str, int]:
    """Stored bytes by part of the network."""
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    parts: dict[str, int] = {}
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        part = next((p for p in PARTS if tensor.name.startswith(p)), "other")
        external = uses_external_data(tensor)
        size = int(ExternalDataInfo(tensor).length or 0) if external else len(tensor.raw_data)
        parts[part] = parts.get(part, 0) + size
    return parts


def parity(model: str, form: str, path: Path, size: Size) -> dict[str, Any]:
    """Write the network at a reduced frame size and compare what ONNX Runtime computes with the reference."""
    import torch

    from qvggt.engines.onnx_runner import OnnxRunner
    from qvggt.export.parity import check_linears, check_outputs

    network, scheme = quantized(model, form, path)
    small = path.with_name(f"small-{path.name}")
    config = ExportConfig(*size, target=Target.TENSORRT, precision=Precision.FP16)
    export_onnx(network, scheme, config, small)
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    linears = check_linears(small, network, images, progress=False, precision=config.precision)
    with OnnxRunner(small, threads=1) as runner:
        outputs = check_outputs(runner.run_named, network, [images], scheme, precision=config.precision)
    for file in (small, small.with_name(small.name + ".data")):
        file.unlink(missing_ok=True)
    return {
        "size": list(size),
        "frames": len(images),
        "passed": all(linears) and all(outputs),
        "linears": f"{sum(map(bool, linears))}/{len(linears)}",
        "outputs_db": {o.name: [round(o.sqnr_db, 1), round(o.needed_db, 1)] for o in outputs},
    }


def build(_model: str, _form: str, path: Path, _size: Size, capability: str) -> dict[str, Any]:
    """TensorRT-RTX engine of the whole network for one GPU generation."""
    from qvggt.engines.build_config import BuildConfig
    from qvggt.engines.builder import build_engine, read_source

    engine = path.with_suffix(".engine")
    result = build_engine(read_source(path), engine, BuildConfig(compute_capabilities=(capability,)), shown=False)
    return {
        "capability": capability,
        "engine_bytes": engine.stat().st_size,
        "builder": {**result.manifest.build, "warnings": len(result.manifest.build["warnings"])},
        "passed": result.report.passed,
        "summary": result.report.summary,
        "profile": {name: [list(s) for s in shapes] for name, shapes in result.manifest.profile.items()},
    }


WORK: dict[str, Callable[..., dict[str, Any]]] = {
    "calibrate": calibrate, "export": export, "parity": parity, "build": build,
}  # fmt: skip


def run_step(step: str, model: str, form: str, path: Path, size: Size, capability: str) -> dict[str, Any]:
    """What the child process does: the step, its time and its memory. capability: of the GPU that is built for."""
    import torch

    work = partial(build, capability=capability) if step == "build" else WORK[step]

    torch.set_num_threads(1)
    start = time.perf_counter()
    with torch.no_grad():
        facts = work(model, form, path, size)
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "step": step,
        "form": form,
        "weights": weights(form),
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(sum(u.ru_utime + u.ru_stime for u in usage), 1),
        "peak_rss": peak_rss(),
        "peak_rss_children": usage[1].ru_maxrss * 1024,
        "load_average": os.getloadavg()[0],
        **facts,
    }


def main(
    model: Annotated[str, typer.Option(help="random-1b, or a float checkpoint.")] = "random-1b",
    only: Annotated[str | None, typer.Option(help=f"Of {', '.join(FORMS)}. [all]")] = None,
    steps: Annotated[str, typer.Option(help="Of calibrate, export, parity, build.")] = ",".join(WORK),
    size: Annotated[str, typer.Option(help="HxW of the exported network.")] = "518x518",
    cc: Annotated[str, typer.Option(help="Compute capabilities, an engine for each that has kernels.")] = GENERATIONS,
    parity_size: Annotated[str, typer.Option(help="HxW of the network that is compared.")] = "56x56",
    folder: Annotated[Path, typer.Option(help="For the files, up to 6 GB.")] = Path("outputs/scale"),
    keep: Annotated[bool, typer.Option(help="Keep the files.")] = False,
    add: Annotated[bool, typer.Option(help="Keep what OUTPUT has of other formats.")] = False,
    output: Annotated[Path, typer.Option("-o", "--output", help="JSON to write.")] = Path("outputs/scale.json"),
) -> None:
    """Run the steps one after the other and write their figures."""
    names, chosen = (only or ",".join(FORMS)).split(","), steps.split(",")
    for word, known in [*((n, tuple(FORMS)) for n in names), *((s, tuple(WORK)) for s in chosen)]:
        if word not in known:
            raise QvggtError(f"{word!r}: expected some of {', '.join(known)}")
    folder.mkdir(parents=True, exist_ok=True)
    held = json.loads(output.read_text())["rows"] if add and output.is_file() else []
    rows = [row for row in held if row["form"] not in names or row["step"] not in chosen]
    for name in names:
        types = scheme_types(scheme_of(name))
        able = [each for each in cc.split(",") if not why_not("rtx", capability=each, types=types)]
        mine = [s for s in chosen if s != "calibrate" or name in CALIBRATED]
        for step, capability in [(s, c) for s in mine for c in (able if s == "build" else [""])]:
            height, width = (int(n) for n in (parity_size if step == "parity" else size).split("x"))
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                try:
                    call = (step, model, name, folder / f"{name}.onnx", (height, width), capability)
                    row: dict[str, Any] = pool.submit(run_step, *call).result()
                except Exception as error:  # a killed process too: the other steps go on
                    row = {"step": step, "form": name, "failed": [f"error: {error}".splitlines()[0]]}
            rows.append(row)
            print(json.dumps(row), flush=True)
            report = {"model": model, "size": size, "versions": versions(), "rows": rows}
            write_json(output, report, told=False)
        if not keep:
            for file in folder.glob(f"{name}.*"):
                file.unlink()
            shutil.rmtree(calibrated_at(folder / f"{name}.onnx"), ignore_errors=True)


if __name__ == "__main__":
    start(main)
