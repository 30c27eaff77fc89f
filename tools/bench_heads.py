"""Scratch memory of TensorRT-RTX engines by frames: the network in one file, and its trunk and dense heads apart.

    python tools/bench_heads.py -o docs/results/heads.json                      # tiny, and VGGT-1B's widths
    python tools/bench_heads.py --models random-1b --formats w4a8 --frames 100  # the whole depth: half an hour a build

Figures are the builder's own, for SM89; no GPU is needed and nothing is run on one. `short-1b` is VGGT-1B with one
block of the patch encoder, four rounds of the aggregator and one block of the camera head, random weights: blocks use
the same memory one after the other, so scratch is that of the whole depth, at a sixth of the build time. `tensors` are
what goes in and comes out, which lies in buffers of the caller's: images and tokens, or maps of as many frames as the
file runs on at once.

`memory`: peak resident bytes of ONNX Runtime on this CPU, networks in fp32 with fused attention in one file and in two,
each run in a process of its own.
"""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from bench_scale import CAMERA
from cpu_candidates import load_float
from reporting import start, write_json

from qvggt.calib.rtn import quantize_rtn_
from qvggt.engines.build_config import BuildConfig
from qvggt.engines.builder import build_engine, read_source
from qvggt.export.exporter import ExportConfig, export_onnx
from qvggt.export.precision import Precision
from qvggt.models.network import Network
from qvggt.models.vggt.config import VGGT_1B
from qvggt.models.vggt.network import VGGT
from qvggt.onnx_view.file import network_files, open_onnx
from qvggt.onnx_view.graph import dims
from qvggt.onnx_view.halves import GROUP
from qvggt.quant.scheme import Scheme
from qvggt.target import Target
from qvggt.versions import versions

SHORT_1B = "short-1b"
CAPABILITY = "8.9"
MEMORY = (("tiny", 280), (SHORT_1B, 224))  # networks and sides of their images
BYTES = {1: 4, 10: 2}  # of TensorProto's FLOAT and FLOAT16


def load(name: str) -> Network:
    """A float network by name, with random weights where it is not tiny."""
    import torch

    if name != SHORT_1B:
        network: Network = load_float(name)
        return network
    torch.manual_seed(0)
    heads = ("camera", "point", "depth")
    sizes = VGGT_1B.replace(vit_depth=1, aa_depth=4, dpt_layers=(0, 1, 2, 3), camera_trunk_depth=1, heads=heads)
    return VGGT(sizes).requires_grad_(False).eval()


def write(model: str, bits: str, folder: Path) -> dict[str, Path]:
    """The network in one file and in two: {"one", "trunk", "heads"}."""
    import torch

    network = load(model)
    # the camera head in 4 bits too, as docs/storage.md has it for VGGT-1B
    overrides = tuple((path, "w4a16") for path in CAMERA) if bits == "w4a8" and model != "tiny" else ()
    scheme = Scheme(bits, overrides=overrides)
    with torch.no_grad():
        quantize_rtn_(network, scheme, progress=False)
    side = network.config.img_size
    for split in (False, True):
        config = ExportConfig(side, side, target=Target.TENSORRT, precision=Precision.FP16, split_heads=split)
        export_onnx(network, scheme, config, folder / ("trunk.onnx" if split else "one.onnx"))
    trunk, heads = network_files(folder / "trunk.onnx")
    return {"one": folder / "one.onnx", "trunk": trunk, "heads": heads}


def tensor_bytes(path: Path, frames: int) -> dict[str, int]:
    """Bytes of every input and output at a frame count."""
    opened = open_onnx(path)
    return {
        value.name: prod(frames if d is None else d for d in dims(value)) * BYTES[value.type.tensor_type.elem_type]
        for value in (*opened.inputs, *opened.proto.graph.output)
    }


def build(path: Path, frames: int) -> dict[str, Any]:
    """The builder's figures for engines of 1 to `frames` frames."""
    config = BuildConfig(frames=(1, min(GROUP, frames), frames), compute_capabilities=(CAPABILITY,))
    engine = path.with_suffix(".engine")
    built = build_engine(read_source(path), engine, config, shown=False)
    size = engine.stat().st_size
    engine.unlink()
    facts = built.manifest.build
    return {
        "scratch_bytes": facts["activation_bytes"],
        "weight_bytes": facts["weight_bytes"],
        "engine_bytes": size,
        "build_seconds": facts["seconds"],
        "builder": built.manifest.backend_version,
        "summary": built.report.summary,
    }


def peak_bytes(path: Path, frames: int) -> int:
    """Of a process that runs a file, with its heads where there are some, once on noise."""
    from cpu_candidates import make_input, peak_rss

    from qvggt.engines.opening import open_runner

    with open_runner(path, threads=1) as runner:
        height, width = runner.size or (0, 0)
        runner(make_input("noise", frames, height, width))
    return peak_rss()


def memory_rows(model: str, side: int, counts: list[int]) -> list[dict[str, Any]]:
    """One row a frame count."""
    rows = []
    with TemporaryDirectory() as folder:
        paths = {split: Path(folder) / f"{'pair' if split else 'one'}.onnx" for split in (False, True)}
        for split, path in paths.items():
            config = ExportConfig(side, side, fused_attention=True, split_heads=split)
            export_onnx(load(model), Scheme("fp32"), config, path)
        for frames in counts:
            peaks = {}
            for split, path in paths.items():
                with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                    peaks["pair_bytes" if split else "one_bytes"] = pool.submit(peak_bytes, path, frames).result()
            rows.append({"model": model, "size": side, "frames": frames, **peaks})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def main(
    models: Annotated[str, typer.Option(help="Of tiny, short-1b, random-1b.")] = f"tiny,{SHORT_1B}",
    formats: Annotated[str, typer.Option(help="Of fp16 and the names of --bits.")] = "fp16,w4a8",
    frames: Annotated[str, typer.Option(help="Most frames of an engine.")] = "1,8,32,100",
    files: Annotated[str, typer.Option(help="Of one, trunk, heads.")] = "one,trunk,heads",
    memory: Annotated[str, typer.Option(help="Frames for ONNX Runtime; none skips it.")] = "16,32",
    output: Annotated[Path, typer.Option("-o", "--output", help="JSON to write.")] = Path("outputs/heads.json"),
) -> None:
    """Export, build, and write what the builder says; engines that are in the file already are not built again."""
    report: dict[str, Any] = json.loads(output.read_text()) if output.is_file() else {"rows": [], "memory": []}
    report |= {"capability": CAPABILITY, "group": GROUP, "versions": versions()}
    rows = report["rows"]
    if memory != "none":
        counts = [int(count) for count in memory.split(",")]
        report["memory"] = [row for model, side in MEMORY for row in memory_rows(model, side, counts)]
        write_json(output, report, told=False)
    known = {(row["model"], row["format"], row["file"], row["frames"]) for row in rows}
    for model in filter(None, models.split(",")):
        for bits in formats.split(","):
            counts = [int(count) for count in frames.split(",")]
            # heads never see more than a group, so larger counts are the same engine
            asked = [(file, n) for n in counts for file in files.split(",") if file != "heads" or n <= GROUP]
            asked = [(file, n) for file, n in asked if (model, bits, file, n) not in known]
            if not asked:
                continue
            with TemporaryDirectory(dir=output.parent) as folder:
                paths = write(model, bits, Path(folder))
                for file, n in asked:
                    row = {"model": model, "format": bits, "file": file, "frames": n}
                    row |= {**build(paths[file], n), "tensors": tensor_bytes(paths[file], n)}
                    rows.append(row)
                    print(json.dumps(row), flush=True)
                    write_json(output, report, told=False)


if __name__ == "__main__":
    start(main)
