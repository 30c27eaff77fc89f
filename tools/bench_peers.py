"""Files of ours beside those that other quantization tools make of the same network.

    python tools/bench_peers.py --venv nncf=VENV --venv modelopt=VENV --venv quark=VENV    # resumes row by row
    python tools/bench_peers.py --peers onnxruntime --models plain --scenes 32 --no-speed --no-engines
    python tools/bench_peers.py --model tiny --no-speed

Every file is run by the runtime it was made for, on the same held-out scenes and frames; every tool calibrates on the
scenes that ours are calibrated on. `linears`: only the linears that our default parts quantize; `everything`: what the
tool does by default. A tool that is not installed is skipped by name; one that fails stays in the table with its
error. Speed is of three blocks of VGGT-1B's width (tools/block_slice.py), whose ratios are of float ONNX in the same
runtime; candidates take turns, one thread. Its files of ours are calibrated by the default recipe too.
"""

from __future__ import annotations

import site
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from bed import BED, Bed, Family, Model
from bench_accuracy import model_makers
from calibrated import calibrated_
from held_out import FRAMES, HELD_OUT_SEED, images_of, per_scene, predict
from peers.adapter import EVERYTHING, LINEARS, Peer, Request, Variant
from peers.running import (
    PEERS,
    File,
    file_bytes,
    find_peer,
    first_line,
    integer_kernels,
    interpreter,
    products,
    quantized,
)
from reporting import sqnr_db, start, write_json
from scene_split import SceneSplit
from torch import Tensor

from qvggt.errors import QvggtError
from qvggt.eval.bootstrap import Bootstrap
from qvggt.eval.metrics import Column
from qvggt.export.exporter import ExportConfig, export_onnx
from qvggt.journal import Journal
from qvggt.models.network import Network
from qvggt.progress import bar
from qvggt.quant.scheme import Scheme, parse_scheme
from qvggt.target import Target
from qvggt.versions import PACKAGES, versions

OURS, FLOAT = "ours", "float"
FORMATS = "w8a8-dynamic,w8a8-static,w4a16-dynamic"
CHANGES = ("auc30", "auc5")
RUNTIMES = ("onnxruntime", "openvino")

Row = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """A row to make: a file of `label` for one model; `variant` None for ours (`format`) and for float."""

    model: str
    tool: str
    label: str
    scope: str
    format: str
    peer: Peer | None = None
    variant: Variant | None = None

    @property
    def key(self) -> str:
        return " / ".join((self.model, self.tool, self.label, self.scope))

    @property
    def stem(self) -> str:
        return "".join(c if c.isalnum() else "_" for c in f"{self.tool} {self.label} {self.scope}")

    @property
    def runtimes(self) -> tuple[str, ...]:
        """Those its accuracy is measured in: ours in both, a peer's in the one it makes files for."""
        return RUNTIMES if self.variant is None else (self.variant.runtime,)


def parse_format(text: str) -> Scheme:
    """`w8a8-static`, `w4a16-dynamic`."""
    bits, _, activation = text.partition("-")
    return parse_scheme(bits, activation or "dynamic")


def entries(models: list[str], formats: list[str], scopes: list[str], peers: list[Peer]) -> Iterator[Entry]:
    """Float and ours of a model before the peers that are compared with them."""
    for model in models:
        yield Entry(model, FLOAT, "fp32", LINEARS, "fp32")
        for format in formats:
            yield Entry(model, OURS, format, LINEARS, format)
        for peer in peers:
            for variant in peer.variants:
                format = f"{variant.bits}-{'dynamic' if variant.dynamic or variant.bits == 'w4a16' else 'static'}"
                for scope in variant.scopes:
                    if scope in scopes:
                        yield Entry(model, peer.name, variant.name, scope, format, peer, variant)


class Workshop:
    """Makes files: the float network, its calibration images, the interpreters of the peers."""

    def __init__(self, folder: Path, network: Network, calibration: list[Tensor], pythons: dict[str, Path]) -> None:
        self.folder, self.network, self.calibration, self.pythons = folder, network, calibration, pythons
        self.size = calibration[0].shape[-1]
        folder.mkdir(parents=True, exist_ok=True)
        self.float_file = folder / "float.onnx"
        self.export(network, parse_scheme("fp32"), self.float_file)
        self.arrays, self.pickle = folder / "calibration.npz", folder / "network.pt"
        np.savez(self.arrays, **{f"{i:04}": images[None].numpy() for i, images in enumerate(calibration)})  # type: ignore[arg-type]
        torch.save(network, self.pickle)
        self.nodes, self.others = products(self.float_file)

    def export(self, network: Network, scheme: Scheme, path: Path, target: Target = Target.CPU) -> None:
        export_onnx(network, scheme, ExportConfig(self.size, self.size, frames=(1, FRAMES, 8), target=target), path)

    def make(self, entry: Entry, fresh: Network) -> tuple[Row, Path, Path]:
        """Facts (`seconds`, `error`, ...) and two files, for CPUs and for TensorRT, of which peers have only one."""
        if entry.tool == FLOAT:
            return {"seconds": 0.0}, self.float_file, self.float_file
        if entry.peer is None or entry.variant is None:
            paths = [self.folder / f"{entry.stem}.{target.value}.onnx" for target in (Target.CPU, Target.TENSORRT)]
            began = time.perf_counter()
            scheme = calibrated_(fresh, parse_format(entry.format), self.calibration)
            seconds = time.perf_counter() - began
            for path, target in zip(paths, (Target.CPU, Target.TENSORRT), strict=True):
                self.export(fresh, scheme, path, target)
            return {"seconds": seconds}, paths[0], paths[1]
        path = self.folder / f"{entry.stem}{entry.variant.suffix}"
        request = self.request(entry.scope, path)
        return quantized(self.pythons[entry.peer.name], entry.peer, entry.variant, request), path, path

    def request(self, scope: str, output: Path) -> Request:
        nodes = self.nodes if scope == LINEARS else None
        model, arrays, file = (str(p.resolve()) for p in (self.float_file, self.arrays, output))
        packages = tuple(site.getsitepackages())
        return Request(model, arrays, file, "images", nodes, self.others, str(self.pickle.resolve()), packages)


class Judge:
    """Accuracy of files on held-out scenes."""

    def __init__(self, network: Network, split: SceneSplit) -> None:
        self.split = split
        self.truth = predict(network, split)

    def row(self, path: Path, runtime: str) -> Row:
        """Scores of every scene, SQNR against the float network in PyTorch, and seconds a scene."""
        opened = File(path, runtime)
        parts: dict[str, list[Tensor]] = {name: [] for name in self.truth}
        for index in range(len(self.split)):
            found = opened({"images": images_of(self.split, index)[None].numpy()})
            for name, kept in parts.items():
                kept.append(torch.from_numpy(found[name]))
        outputs = {name: torch.cat(kept) for name, kept in parts.items()}
        scores = per_scene(outputs, self.split)
        return {
            "scores": {name: [round(v, 4) for v in scores[name]] for name in CHANGES},
            "sqnr_db": {name: round(sqnr_db(t, outputs[name]), 2) for name, t in self.truth.items()},
        }


def engine_facts(path: Path, folder: Path) -> Row:
    """Whether TensorRT-RTX plans the file, and what its layer report says; and what lint says of the file."""
    from qvggt.engines.build_config import BuildConfig
    from qvggt.engines.builder import build_engine, read_source
    from qvggt.jobs.lint import lint_file

    facts: Row = {}
    try:
        lint = lint_file(path, Target.TENSORRT)
        facts["lint"] = {"errors": lint.count("error"), "warnings": lint.count("warning")}
    except QvggtError as error:
        facts["lint"] = {"error": first_line(error)}
    try:
        report = build_engine(
            read_source(path), folder / f"{path.stem}.engine", BuildConfig(frames=(1, FRAMES, 8)), shown=False
        ).report
        facts["engine"] = {"summary": report.summary, "products": report.products}
    except Exception as error:  # of the builder, beside ours
        facts["engine"] = {"error": first_line(error)}
    return facts


def compared(row: Row, base: Row | None, name: str) -> Row:
    """Changes of a row's scores against another's, with paired intervals, as `<score>_<name>`."""
    facts: Row = {}
    if base is None or "scores" not in base or "scores" not in row:
        return facts
    for score in CHANGES:
        old, new = base["scores"][score], row["scores"][score]
        change = round(float(np.mean(new) - np.mean(old)), 3)
        interval = Bootstrap().paired(Column.of(old), Column.of(new))
        facts[f"{score}_{name}"] = [change, *(round(v, 3) for v in interval or (change, change))]
    return facts


def finished(rows: dict[str, Row]) -> list[Row]:
    """Rows with their means and comparisons, without the scores of single scenes."""
    done = []
    for row in rows.values():
        same = [r for r in rows.values() if r["model"] == row["model"] and r.get("runtime") == row.get("runtime")]
        base = next((r for r in same if r["tool"] == FLOAT), None)
        ours = next((r for r in same if r["tool"] == OURS and r["format"] == row["format"]), None)
        full = {k: v for k, v in row.items() if k != "scores"}
        full |= {score: round(float(np.mean(values)), 3) for score, values in row.get("scores", {}).items()}
        done.append(full | compared(row, base, "change") | (compared(row, ours, "ours") if ours is not row else {}))
    return done


def measure(entry: Entry, workshop: Workshop, fresh: Network, judge: Judge, engines: bool) -> list[Row]:
    """One row a runtime; one with `error` where the tool failed."""
    row: Row = {name: getattr(entry, name) for name in ("model", "tool", "label", "scope", "format")}
    made, cpu, tensorrt = workshop.make(entry, fresh)
    row |= made
    if row.get("error"):
        return [row | {"runtime": entry.runtimes[0]}]
    row["bytes"] = file_bytes(cpu)
    if entry.variant is None or entry.variant.runtime == "onnxruntime":
        row["kernels"] = {runtime: integer_kernels(cpu, runtime) for runtime in RUNTIMES}
        if engines:
            row |= engine_facts(tensorrt, workshop.folder)
    else:
        row["kernels"] = {"openvino": integer_kernels(cpu, "openvino")}
    rows = []
    for runtime in entry.runtimes:
        try:
            rows.append(row | {"runtime": runtime} | judge.row(cpu, runtime))
        except QvggtError as error:
            rows.append(row | {"runtime": runtime, "error": first_line(error)})
    return rows


def pairs(texts: list[str]) -> dict[str, Path]:
    """`name=path` options."""
    found = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or name not in PEERS:
            raise QvggtError(f"--venv {text}: expected NAME=PATH with a name of {', '.join(PEERS)}")
        found[name] = Path(path).absolute()
    return found


def installed(names: list[str], environments: dict[str, Path]) -> tuple[list[Peer], dict[str, Path]]:
    """Peers that are there and their interpreters; the others are named on the terminal."""
    peers, pythons = [], {}
    for name in names:
        peer = find_peer(name)
        python = interpreter(peer, environments)
        if python is None:
            print(
                f"skipped {name}: no module {peer.module}; pip install {peer.package} into a virtual environment "
                f"and give --venv {name}=PATH"
            )
            continue
        peers.append(peer)
        pythons[name] = python
    return peers, pythons


def main(
    model: Model = BED,
    family: Family = None,
    models: Annotated[str, typer.Option(help="plain, channels (outlier channels x30), ...")] = "plain,channels",
    formats: Annotated[str, typer.Option(help="Of ours.")] = FORMATS,
    peers: Annotated[str, typer.Option()] = ",".join(PEERS),
    venv: Annotated[list[str] | None, typer.Option(help="NAME=PATH, for each peer that is not beside qvggt.")] = None,
    scopes: Annotated[str, typer.Option(help="linears (those ours quantize), everything.")] = f"{LINEARS},{EVERYTHING}",
    scenes: Annotated[int, typer.Option(min=2)] = 256,
    calibration_scenes: Annotated[int, typer.Option(min=1)] = 32,
    seed: Annotated[int, typer.Option(help="Of the first held-out scene.")] = HELD_OUT_SEED,
    engines: Annotated[bool, typer.Option(help="Build TensorRT-RTX plans.")] = True,
    speed: Annotated[bool, typer.Option(help="Time three blocks of VGGT-1B's width.")] = True,
    size: Annotated[str, typer.Option(help="HxW of the images behind those blocks.")] = "266x266",
    rounds: Annotated[int, typer.Option(min=1, help="Timed calls per candidate.")] = 7,
    resume: Annotated[bool, typer.Option(help="Keep the rows that are there.")] = True,
    again: Annotated[str, typer.Option(help="Tools whose rows are made anew, comma-separated; such as ours.")] = "",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder. [outputs/bench_peers/MODEL]")] = None,
) -> None:
    """Make and measure what the journal has not, print the table and write OUTPUT/peers.json."""
    torch.set_num_threads(1)
    found, pythons = installed([name for name in peers.split(",") if name], pairs(venv or []))
    bed = Bed.of(model, family)
    output = output or bed.folder("bench_peers")
    split = bed.held_out(output / "held_out", scenes, seed)
    calibration = bed.calibration(output / "calibration", calibration_scenes)
    makers = model_makers(str(bed.path), calibration)
    names = models.split(",")
    todo = list(entries(names, formats.split(","), scopes.split(","), found))
    identity = {"weights": bed.weights, "scenes": scenes, "seed": seed}
    journal_file = output / "rows.jsonl"
    if not resume:
        journal_file.unlink(missing_ok=True)
    journal = Journal(journal_file, identity | {"calibration": calibration_scenes}, "peers")
    current, workshop, judge = "", None, None
    for entry in bar(todo, desc="rows", unit="row"):
        if entry.key in journal.values and entry.tool not in again.split(","):
            continue
        if entry.model != current or workshop is None or judge is None:
            current, network = entry.model, makers[entry.model]()
            judge = Judge(network, split)
            workshop = Workshop(output / entry.model, network, calibration, pythons)
        rows = measure(entry, workshop, makers[entry.model](), judge, engines and entry.model == names[0])
        journal.add(entry.key, rows)
        said = rows[0].get("error") or ", ".join(
            f"{r['runtime']} {np.mean(r['scores']['auc30']):.2f}" for r in rows if "scores" in r
        )
        print(f"{entry.key}: {said}", flush=True)
    wanted = [entry.key for entry in todo]
    measured = {f"{key} {row['runtime']}": row for key in wanted for row in journal.values[key]}
    report: Row = {"call": identity | {"calibration_scenes": calibration_scenes, "model": model, "models": names}}
    report |= {"versions": versions((*PACKAGES, "openvino")), "rows": finished(measured)}
    if speed:
        from peers.speed import time_files

        report["speed"] = time_files(output / "speed", todo, pythons, size, rounds)
    write_json(output / "peers.json", report)


if __name__ == "__main__":
    start(main)
