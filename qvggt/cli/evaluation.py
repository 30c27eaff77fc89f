"""One evaluation from its requests to its files: what `qvggt-eval` calls."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from qvggt.cli.evaluation_data import DataRequest
from qvggt.errors import QvggtError

if TYPE_CHECKING:
    from qvggt.data.reading import Data
    from qvggt.engines.runner import Runner
    from qvggt.eval.ground_truth import ImagePlan
    from qvggt.eval.harness import Protocol
    from qvggt.eval.result import CandidateResult

IDENTITY = ("kind", "label", "scheme", "sha256", "float_type", "providers", "size")
"""Facts of a candidate that records depend on; where its file lies is not among them."""


@dataclass(frozen=True)
class Candidates:
    """What to evaluate, and where. Models come first, whatever the order of the call.

    engines: files, or RUNTIME:FILE as `split_runtime` takes it apart. device None: the CPU, but a GPU for engine
    files. providers: of ONNX Runtime.
    """

    models: tuple[str, ...]
    engines: tuple[str, ...]
    device: str | None
    providers: tuple[str, ...]
    threads: int | None
    revision: str | None
    offline: bool

    def sources(self) -> list[tuple[str, dict[str, Any]]]:
        """(source, options of `open_runner`, JSON-ready) of every candidate; QvggtError for options without a use."""
        from qvggt.engines.registry import kinds_of, split_runtime
        from qvggt.hub.names import hub_id

        if self.revision is not None and not any(hub_id(name) for name in self.models):
            raise QvggtError(f"--revision {self.revision}: no --model is a Hub id; leave it out")
        shared = {"device": self.device, "threads": self.threads, "offline": self.offline}
        sources: list[tuple[str, dict[str, Any]]] = [
            (name, {**shared, "revision": self.revision if hub_id(name) else None}) for name in self.models
        ]
        used = False
        for text in self.engines:
            runtime, path = split_runtime(text)
            kinds = [kind for kind in kinds_of(path) if runtime in (None, kind.name)]
            options: dict[str, Any] = {**shared, "runtime": runtime}
            if self.providers and kinds and "providers" in kinds[0].uses:
                options["providers"], used = list(self.providers), True
            sources.append((path, options))
        if self.providers and not used:
            raise QvggtError(f"--provider {self.providers[0]}: no --engine runs in ONNX Runtime; leave it out")
        return sources


@dataclass(frozen=True)
class Outputs:
    """json, records, html: files; store: folder of the predictions of the `worst` sequences; memory: measure it; show:
    open the HTML file in a browser."""

    json: Path | None = None
    records: Path | None = None
    shard: tuple[int, int] = (1, 1)
    store: Path | None = None
    worst: int = 6
    memory: bool = False
    html: Path | None = None
    show: bool = False


def run_evaluation(
    request: DataRequest, candidates: Candidates, protocol: Protocol, size: int | None, outputs: Outputs
) -> None:
    """Evaluate, print tables, write what `outputs` asks for. QvggtError before the work where it can be known."""
    import torch

    from qvggt.eval.ground_truth import plan_images
    from qvggt.eval.harness import check, evaluate_rows
    from qvggt.eval.merging import results_of, shard_of
    from qvggt.eval.records import RecordWriter
    from qvggt.eval.worst import rank_worst, store_worst

    if candidates.threads is not None:
        torch.set_num_threads(candidates.threads)
    with ExitStack() as stack:
        data = _opened(request, request.question.root) if request.scenes is None else None
        runners = _unique(_open(candidates, stack))
        plan = plan_images(runners, size, request.dataset.room)
        if data is None:
            data = _opened(request, _generate(request, plan, outputs.store, stack))
        part = [data.sequences[i] for i in shard_of(len(data.sequences), outputs.shard)]
        index, count = outputs.shard
        if not part:
            raise QvggtError(f"--shard {index}/{count}: has none of {len(data.sequences)} sequences; use fewer shards")
        check(runners, part, protocol)
        facts = [{**runner.describe(), "label": runner.label} for runner in runners]
        header = {**_header(request, data, plan, protocol, candidates, facts), "shard": list(outputs.shard)}
        writer = None if outputs.records is None else RecordWriter(outputs.records, header)
        done = {} if writer is None else writer.done
        if done:
            typer.echo(f"{outputs.records}: {len(done)} of {len(part)} sequences are done already")
        rows = evaluate_rows(runners, part, plan, protocol, done=done, save=None if writer is None else writer.append)
        if outputs.store is not None:
            header["worst"] = store_worst(outputs.store, runners, part, plan, rank_worst(rows, outputs.worst))
            if writer is not None:
                writer.append_extra("worst", _beside(header["worst"], writer.path))
        if outputs.memory:
            known = None if writer is None else writer.header.get("memory")
            header["memory"] = known or _memory(candidates, part, plan)
            if writer is not None and not known:
                writer.append_extra("memory", header["memory"])
    if count > 1:
        total = header["frame_list"]["sequences"]
        typer.echo(f"shard {index}/{count}: {len(rows)} of {total} sequences in {outputs.records}")
    else:
        _publish(header, results_of(header["candidates"], rows, header.get("memory")), outputs)


def _header(
    request: DataRequest,
    data: Data,
    plan: ImagePlan,
    protocol: Protocol,
    candidates: Candidates,
    facts: list[dict[str, Any]],
) -> dict[str, Any]:
    """What a record file starts with, and what a report needs beside the records."""
    from qvggt.data.sequence import list_config
    from qvggt.eval.harness import truth_notes
    from qvggt.eval.records import config_sha256
    from qvggt.versions import versions

    points = [f"points: ICP and normals by {protocol.points.backend}"] if "points" in protocol.metrics else []
    sequences = data.sequences
    frame_list = sequences.frame_list()
    identity = {
        "dataset": request.dataset.name,
        "data": list_config(sequences.config),
        "frames": frame_list.sha256,
        "images": plan.describe(),
        "protocol": asdict(protocol),
        "candidates": [{key: fact.get(key) for key in IDENTITY} for fact in facts],
        "versions": versions(),
    }
    return {
        "config_sha256": config_sha256(identity),
        "identity": identity,
        "config": {
            "dataset": request.dataset.name,
            **sequences.config,
            "images": plan.describe(),
            **asdict(protocol),
            "threads": candidates.threads,
            "device": candidates.device,
        },
        "frame_list": {
            "sha256": frame_list.sha256,
            "file": None if request.frame_list is None else str(request.frame_list),
            "file_sha256": data.stored_sha256,
            "sequences": len(sequences),
            "skipped": sequences.skip_counts(),
            "frames": frame_list.frames,
        },
        "notes": [*sequences.notes, *truth_notes(list(sequences), facts[0]["label"]), *points],
        "sequences": [
            {
                "key": s.key,
                "category": s.category,
                "frames": list(s.frame_indices),
                "images": [str(path) for path in s.image_paths],
            }
            for s in sequences
        ],
        "versions": versions(),
        "candidates": facts,
    }


def merge(files: Sequence[Path], outputs: Outputs) -> None:
    """Put record files together, print tables, write the report."""
    from qvggt.eval.merging import merge_records

    header, results = merge_records(files)
    typer.echo(f"{len(results[0].records)} sequences of {len(files)} record {'file' if len(files) == 1 else 'files'}")
    _publish(header, results, outputs)


def _publish(header: dict[str, Any], results: list[CandidateResult], outputs: Outputs) -> None:
    """The tables, and the JSON document, the page, or both of one computation."""
    from qvggt.eval.report import format_tables, make_report
    from qvggt.json_file import write_json

    header["notes"] += _without_data(header, results)
    typer.echo(format_tables(results))
    for note in header["notes"]:
        typer.echo(f"note: {note}")
    json, html = outputs.json, outputs.html
    if json is None and html is None:
        return
    report = make_report(results, header)
    worst = header.get("worst", [])
    if json is not None:
        write_json(json, {**report, "worst": _beside(worst, json)})
        typer.echo(f"report: {json}")
    if html is not None:
        from qvggt.eval.html.page import page_of_report

        page_of_report(html, {**report, "worst": _beside(worst, html)}, html.parent)
        shown(html, outputs.show)


def page(json: Path, html: Path, show: bool) -> None:
    """The page of a finished evaluation."""
    from qvggt.eval.html.page import page_of_file

    page_of_file(html, json)
    shown(html, show)


def shown(html: Path, show: bool) -> None:
    """Say where the page lies, and open it in a browser if asked; a machine without one is told so."""
    typer.echo(f"report: {html} ({html.stat().st_size / 1e6:.1f} MB)")
    if show:
        import webbrowser

        if not webbrowser.open(html.resolve().as_uri()):
            typer.echo(f"--open: no browser found on this machine; open {html} in one", err=True)


def _beside(entries: Sequence[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """The entries with "file" relative to the folder of `path`, so that both can be moved together."""
    folder = os.path.abspath(path.parent)
    return [{**entry, "file": os.path.relpath(os.path.abspath(entry["file"]), folder)} for entry in entries]


def _opened(request: DataRequest, root: Path) -> Data:
    from qvggt.data.reading import open_data

    data = open_data(request.dataset, replace(request.question, root=root), request.frame_list)
    typer.echo(data.summary())
    return data


def _generate(request: DataRequest, plan: ImagePlan, store: Path | None, stack: ExitStack) -> Path:
    """Scenes of the candidates' own image size, in the store or in a folder that goes away."""
    from qvggt.lazy import function

    assert request.dataset.generate is not None
    if store is None:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qvggt-scenes-")))
    else:
        root = store / "scenes"
    size = plan.exact or (plan.width, plan.width)
    function(request.dataset.generate)(root, request.question, size, request.scenes)
    return root


def _open(candidates: Candidates, stack: ExitStack) -> list[Runner]:
    from qvggt.engines.opening import open_runner

    sources = candidates.sources()
    models = len(candidates.models)
    # engines first: opening them is fast and finds most mistakes
    opened = [stack.enter_context(open_runner(source, **options)) for source, options in sources[models:]]
    loaded = [stack.enter_context(open_runner(source, **options)) for source, options in sources[:models]]
    return [*loaded, *opened]


def _without_data(header: dict[str, Any], results: list[CandidateResult]) -> list[str]:
    """Asked for, but no sequence has it."""
    records = [record for result in results for record in result.records]
    measured = {"depth": any(r.depth is not None for r in records), "points": any(r.points for r in records)}
    return [
        f"{name}: not measured, no sequence has ground-truth depth or no candidate an output for it"
        for name, there in measured.items()
        if name in header["config"].get("metrics", ()) and not there
    ]


def _unique(runners: list[Runner]) -> list[Runner]:
    """Number the labels that occur twice: reports name candidates by them."""
    seen: dict[str, int] = {}
    for runner in runners:
        seen[runner.label] = seen.get(runner.label, 0) + 1
        if seen[runner.label] > 1:
            runner.label = f"{runner.label} ({seen[runner.label]})"
    return runners


def _memory(candidates: Candidates, sequences: Sequence[Any], plan: ImagePlan) -> list[dict[str, Any]]:
    """Of every candidate on the largest sequence, each in a process of its own."""
    from qvggt.eval.memory import measure_memory
    from qvggt.progress import bar

    largest = max(sequences, key=lambda s: len(s.image_paths))
    frames, _, height, width = plan.load_frames(largest)[0].shape
    measured = bar(candidates.sources(), desc="peak memory", unit="candidate")
    return [vars(measure_memory(source, options, frames, height, width)) for source, options in measured]
