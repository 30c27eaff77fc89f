"""Evaluate: geometry metrics of models and engines on the same frames."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import KW_ONLY, asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from qvggt.data.registry import DataSet, Question, dataset_names, find_dataset
from qvggt.errors import QvggtError
from qvggt.eval.groups import METRIC_GROUPS
from qvggt.jobs.candidates import Candidates
from qvggt.jobs.evaluation import Evaluation, Part, beside, evaluation_of, publish
from qvggt.jobs.job import Doc, Job, Place
from qvggt.jobs.options import (
    PATCH,
    Csv,
    Device,
    File,
    Fit,
    FrameSeed,
    Models,
    Offline,
    Precision,
    Revision,
    Show,
    Threads,
    WeightBudget,
)
from qvggt.jobs.places import check_file_place, check_new_file, check_new_tables, check_place
from qvggt.jobs.report import check_page
from qvggt.jobs.words import shard
from qvggt.lazy import function
from qvggt.mapping import at_least
from qvggt.progress import Console, bar

if TYPE_CHECKING:
    from qvggt.data.reading import Data
    from qvggt.eval.ground_truth import ImagePlan
    from qvggt.eval.harness import Protocol

__all__ = ["EvaluateJob", "Evaluation"]

IDENTITY = ("kind", "label", "scheme", "sha256", "float_type", "providers", "size")
"""Facts of a candidate that records depend on; where its file lies is not among them."""

WORST = 6  # sequences that --store keeps
ON_DISK = "save it and name its folder"


@dataclass(frozen=True)
class EvaluateJob(Job[Evaluation]):
    """Compare models and files by geometry metrics.

    All see the same frames: cameras, depth, points, SQNR of the outputs, time, memory and size.
    """

    name: ClassVar[str] = "eval"
    examples: ClassVar[tuple[str, ...]] = (
        "qvggt eval --model tiny --engine w4a4.onnx --dataset synthetic --scenes 32 --frames 4",
        "qvggt eval --model tiny --model outputs/tiny-w4a4 --root outputs/scenes --min-frames 8 --json r.json",
        "qvggt eval --model facebook/VGGT-1B --root /data/co3d --annotations /data/co3d_anno --frame-list frames.json",
        "qvggt eval --model vggt-1b --engine w4a4.engine --dataset 7scenes --root /data/7scenes --records r.jsonl",
        "qvggt eval --model tiny --dataset synthetic --shard 1/2 --records a.jsonl   # elsewhere: 2/2, b.jsonl",
        "qvggt eval merge a.jsonl b.jsonl --json r.json --html r.html",
        "qvggt eval report r.json --html r.html --open   # the page of a finished evaluation",
    )
    more: ClassVar[str] = (
        "The first row is the baseline of the deltas. Protocols and the format of the files: docs/evaluation.md"
    )

    models: Models = ()
    _: KW_ONLY
    engines: Annotated[
        Sequence[Place],
        Doc(
            "An .onnx file, openvino:FILE.onnx, an engine, or FILE,FILE,... at several image sizes; may be repeated.",
            ("--engine",),
            metavar="FILE",
        ),
    ] = ()
    dataset: Annotated[str, Doc(f"One of {', '.join(dataset_names())}.", words=dataset_names)] = "co3d"
    root: Annotated[Place | None, Doc("Folder that holds the categories or scenes. [synthetic: generated]")] = None
    annotations: Annotated[Place | None, Doc("Folder of the .jgz files. [ROOT/annotations]")] = None
    categories: Annotated[
        Sequence[str], Doc("Categories or scenes, comma-separated. [all that are there]", comma=True)
    ] = ()
    split: Annotated[str, Doc("Which annotation files: CATEGORY_SPLIT.jgz.")] = "test"
    frames: Annotated[
        int | None, Doc("Frames per sequence. [co3d, eth3d 10, synthetic 8; others all of the stride]"), at_least(2)
    ] = None
    min_frames: Annotated[
        int | None, Doc("Shorter sequences are skipped. [co3d 50, synthetic --frames]"), at_least(1)
    ] = None
    max_sequences: Annotated[int | None, Doc("Only the first N names of each category."), at_least(1)] = None
    scenes: Annotated[int | None, Doc("Generated scenes (synthetic without --root). [32]"), at_least(1)] = None
    stride: Annotated[int | None, Doc("Rooms, dtu: every n-th frame. [100, dtu 1]"), at_least(1)] = None
    depth: Annotated[
        Literal["auto", "proj", "raw"],
        Doc("7-Scenes depth maps: depth.proj.png, raw depth.png, or proj where it is there."),
    ] = "auto"
    fast: Annotated[bool, Doc("Fewer sequences; see docs/evaluation.md.")] = False
    seed: FrameSeed = 0
    frame_list: Annotated[
        Place | None, Doc("Frames to use again if the file exists; else they are drawn and stored there.")
    ] = None
    size: Annotated[
        int | None,
        Doc(f"Image width, multiple of {PATCH}. [the engine's, else the first model's own: 518 at 1B]"),
        at_least(PATCH),
    ] = None
    fit: Fit = "crop"
    metrics: Annotated[
        Sequence[str],
        Doc("Of pose, depth, points. [co3d pose,depth; others all]", comma=True, words=METRIC_GROUPS),
    ] = ()
    sim3: Annotated[bool, Doc("Points: fit a similarity before ICP.")] = False
    point_backend: Annotated[
        Literal["auto", "open3d", "scipy"],
        Doc("Points: what computes ICP and normals; auto: Open3D where it is installed."),
    ] = "auto"
    icp_points: Annotated[
        int,
        Doc("Points: fit ICP on so many of each prediction, several times quicker; 0: all, the protocol."),
        at_least(0),
    ] = 0
    warmup: Annotated[int, Doc("Untimed passes per candidate and image shape."), at_least(0)] = 1
    repeats: Annotated[int, Doc("Timed passes per sequence."), at_least(1)] = 1
    memory: Annotated[bool, Doc("Measure peak memory, each in its own process.")] = False
    html: Annotated[Place | None, Doc("Where to write the report as one HTML page; pictures need --store.")] = None
    csv: Csv = None
    show: Show = False
    records: Annotated[
        Place | None, Doc("Write every finished sequence there (.jsonl) and go on where it stopped.")
    ] = None
    shard: Annotated[
        tuple[int, int] | None,
        Doc("Only every N-th sequence; merge them later.", metavar="I/N", parse=shard),
    ] = None
    store: Annotated[Place | None, Doc("Folder for the predictions of the worst sequences.")] = None
    worst: Annotated[int | None, Doc("How many sequences --store keeps. [6]"), at_least(1)] = None
    device: Device = None
    precision: Precision = None
    providers: Annotated[
        Sequence[str],
        Doc("ONNX Runtime: cpu, cuda, tensorrt or a provider's name; may be repeated.", ("--provider",)),
    ] = ()
    weight_streaming_budget: WeightBudget = None
    revision: Revision = None
    file: File = None
    offline: Offline = False
    threads: Threads = None

    @property
    def candidates(self) -> Candidates:
        """What is compared."""
        return Candidates(
            self.models,
            self.engines,
            self.device,
            self.providers,
            self.revision,
            self.offline,
            self.precision,
            self.weight_streaming_budget,
        )

    @property
    def generated(self) -> bool:
        """Whether the scenes are made for this evaluation."""
        return self.root is None and find_dataset(self.dataset).generate is not None

    def check(self) -> None:
        self.candidates.check()
        _check_data(self, find_dataset(self.dataset))
        check_page(self.html, self.show)
        if self.worst is not None and self.store is None:
            raise QvggtError(f"--worst {self.worst}: needs --store FOLDER, which keeps them")
        if unknown := [name for name in self.metrics if name not in METRIC_GROUPS]:
            raise QvggtError(f"--metrics: expected some of {', '.join(METRIC_GROUPS)}, got {unknown[0]!r}")
        if self.size is not None and self.size % PATCH:
            raise QvggtError(
                f"--size: expected a multiple of {PATCH}, got {self.size}; {self.size // PATCH * PATCH} would do"
            )
        if (self.sim3 or self.point_backend != "auto" or self.icp_points) and "points" not in self._measured():
            raise QvggtError("--sim3, --point-backend, --icp-points: no points are measured; add points to --metrics")
        if self.icp_points and find_dataset(self.dataset).points.get("icp", 0) is None:
            raise QvggtError(f"--icp-points {self.icp_points}: --dataset {self.dataset} has no ICP; leave it out")
        if self.shard is not None:
            shard("{}/{}".format(*self.shard))
            if self.records is None or self.html is not None or self.csv is not None:
                raise QvggtError(
                    "--shard: give --records FILE, and --json, --csv and --html to 'qvggt eval merge' afterwards"
                )
        if self.candidates.in_memory and self.memory:
            raise QvggtError(f"memory: another process cannot open a model that is in memory; {ON_DISK}")
        if self.candidates.in_memory and self.records is not None:
            raise QvggtError(f"records: a model in memory cannot be told from another one later; {ON_DISK}")

    def prepare(self) -> None:
        if self.html is not None:
            check_new_file(Path(self.html), self.overwrite)
        check_new_tables(self.csv, self.overwrite)
        for place in (self.frame_list, self.records):
            if place is not None:
                check_file_place(Path(place))
        if self.store is not None:
            self._check_store(Path(self.store))
        self.candidates.prepare()
        if self.root is not None and not Path(self.root).is_dir():
            holds = find_dataset(self.dataset).holds
            raise QvggtError(f"{self.root}: root is not a folder; give the one of the {self.dataset} data ({holds})")

    def _measured(self) -> tuple[str, ...]:
        return tuple(self.metrics) or find_dataset(self.dataset).metrics

    def _check_store(self, store: Path) -> None:
        if store.exists() and not store.is_dir():
            raise QvggtError(f"{store}: is a file, expected a folder for --store")
        check_place(store / "file")
        resumed = self.records is not None and Path(self.records).exists()
        if next(store.glob("*.npz"), None) is not None and not (self.overwrite or resumed):
            raise QvggtError(
                f"{store}: holds sequences of an evaluation; choose another folder, or add --overwrite to replace them"
            )

    def unfinished(self) -> tuple[Path, ...]:
        return () if self.records is None else (Path(self.records),)

    def execute(self, console: Console) -> Evaluation:
        import torch

        from qvggt.eval.ground_truth import plan_images
        from qvggt.eval.harness import check, evaluate_rows
        from qvggt.eval.merging import shard_of
        from qvggt.eval.records import RecordWriter
        from qvggt.eval.seen import in_words, is_whole, seen_of
        from qvggt.eval.worst import rank_worst, store_worst

        dataset, threads, protocol = find_dataset(self.dataset), torch.get_num_threads(), self._protocol()
        index, count = self.shard or (1, 1)
        with ExitStack() as stack:
            data = None if self.root is None else self._read(dataset, Path(self.root), console)
            runners = self.candidates.open(stack, threads)
            plan = plan_images(runners, self.size, dataset.room, self.fit)
            if data is None:
                data = self._read(dataset, self._generate(dataset, plan, stack), console)
            mine = [data.sequences[i] for i in shard_of(len(data.sequences), (index, count))]
            if not mine:
                raise QvggtError(
                    f"--shard {index}/{count}: has none of {len(data.sequences)} sequences; use fewer shards"
                )
            check(runners, mine, protocol)
            seen = seen_of(plan, mine)
            (console.warn if plan.owner and not is_whole(seen) else console.say)(in_words(seen, plan.owner))
            facts = [{**runner.describe(), "label": runner.label} for runner in runners]
            header = {**header_of(self, data, plan, protocol, facts, threads), "shard": [index, count]}
            header["config"]["seen"] = seen
            writer = None if self.records is None else RecordWriter(Path(self.records), header)
            done = {} if writer is None else writer.done
            if done:
                console.say(f"{self.records}: {len(done)} of {len(mine)} sequences are done already")
            save = None if writer is None else writer.append
            rows = evaluate_rows(runners, mine, plan, protocol, done=done, save=save)
            if self.store is not None:
                header["worst"] = store_worst(self.store, runners, mine, plan, rank_worst(rows, self.worst or WORST))
                if writer is not None:
                    writer.append_extra("worst", beside(header["worst"], writer.path.parent))
            largest = self._largest(mine, plan) if self.memory else None
            known = writer.header.get("memory") if self.memory and writer is not None else None
        evaluation = self._outcome(header, rows, known)
        if isinstance(evaluation, Part):
            console.result(evaluation.summary)
        else:
            publish(evaluation, self.html, self.csv, self.show, console)
        if largest is None or known:
            return evaluation
        console.so_far(evaluation)  # a process that runs out of memory, or is killed, takes none of this with it
        known = self._memory(largest, threads, console)
        if writer is not None and all(known):
            writer.append_extra("memory", known)
        evaluation = self._outcome(header, rows, known)
        if not isinstance(evaluation, Part):
            publish(evaluation, self.html, self.csv, False, Console())
        return evaluation

    def _outcome(
        self, header: dict[str, Any], rows: Sequence[Any], memory: list[dict[str, Any] | None] | None
    ) -> Evaluation:
        """Of these rows; a part where others have the rest."""
        from qvggt.eval.merging import results_of

        header = {**header, "memory": memory} if memory else header
        results = results_of(header["candidates"], rows, memory)
        if self.records is not None and header["shard"][1] > 1:
            return Part(header, tuple(results), Path(self.records))
        return evaluation_of(header, results)

    def _protocol(self) -> Protocol:
        from qvggt.eval.clouds import default_backend
        from qvggt.eval.harness import Protocol
        from qvggt.eval.points import PointConfig

        asked = self._measured()
        given = {"sim3": self.sim3, "icp_points": self.icp_points}
        points = PointConfig(**{**given, **find_dataset(self.dataset).points})
        if "points" in asked:
            backend = default_backend() if self.point_backend == "auto" else self.point_backend
            points = replace(points, backend=backend)
        return Protocol(metrics=asked, warmup=self.warmup, repeats=self.repeats, points=points)

    def _question(self, dataset: DataSet, root: Path) -> Question:
        return Question(
            root,
            self.split,
            self.frames,
            self.min_frames,
            self.max_sequences or (dataset.fast if self.fast else None),
            self.seed,
            None if self.annotations is None else Path(self.annotations),
            tuple(self.categories),
            stride=self.stride,
            depth=self.depth,
        )

    def _read(self, dataset: DataSet, root: Path, console: Console) -> Data:
        from qvggt.data.reading import open_data

        frame_list = None if self.frame_list is None else Path(self.frame_list)
        data = open_data(dataset, self._question(dataset, root), frame_list)
        console.say(data.sequences.summary())
        return data

    def _generate(self, dataset: DataSet, plan: ImagePlan, stack: ExitStack) -> Path:
        """Scenes of the candidates' own image size, in the store or in a folder that goes away."""
        assert dataset.generate is not None
        if self.store is None:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qvggt-scenes-")))
        else:
            root = Path(self.store) / "scenes"
        size = plan.exact or (plan.width, plan.width)
        scenes = self.scenes or (dataset.fast if self.fast else None) or dataset.scenes
        function(dataset.generate)(root, self._question(dataset, root), size, scenes)
        return root

    def _largest(self, sequences: Sequence[Any], plan: ImagePlan) -> tuple[int, int, int]:
        """Frames, height and width of the largest sequence."""
        largest = max(sequences, key=lambda s: len(s.image_paths))
        frames, _, height, width = plan.load_frames(largest)[0].shape
        return frames, height, width

    def _memory(self, shape: tuple[int, int, int], threads: int, console: Console) -> list[dict[str, Any] | None]:
        """Of every candidate, each in a process of its own; None for one whose process failed, which is said."""
        from qvggt.eval.memory import measure_memory

        found: list[dict[str, Any] | None] = []
        for source, options in bar(self.candidates.sources(threads), desc="peak memory", unit="candidate"):
            try:
                found.append(memory := vars(measure_memory(str(source), options, *shape)))
                console.result(f"peak memory of {source}: {memory['peak_rss'] / 1e6:.0f} MB")
            except QvggtError as error:
                found.append(None)
                console.warn(f"warning: {error}")
        return found


def _check_data(job: EvaluateJob, dataset: DataSet) -> None:
    """QvggtError for options that do not go together with the data set."""
    if job.root is None and not job.generated:
        raise QvggtError(f"Missing option '--root': the folder of the {job.dataset} data ({dataset.holds})")
    if job.scenes is not None and not job.generated:
        able = " and ".join(dataset_names("scenes"))
        raise QvggtError(f"--scenes: only for --dataset {able} without --root; limit others by --max-sequences")
    for option, value in (("stride", job.stride), ("depth", None if job.depth == "auto" else job.depth)):
        if value is not None and option not in dataset.options:
            raise QvggtError(f"--{option} {value}: only for --dataset {' and '.join(dataset_names(option))}")


def header_of(
    job: EvaluateJob,
    data: Data,
    plan: ImagePlan,
    protocol: Protocol,
    facts: list[dict[str, Any]],
    threads: int,
) -> dict[str, Any]:
    """What a record file starts with, and what a report needs beside the records."""
    from qvggt.data.sequence import list_config
    from qvggt.eval.harness import truth_notes
    from qvggt.eval.records import config_sha256
    from qvggt.versions import versions

    opened = [f"{fact['label']}: {note}" for fact in facts for note in fact.get("notes", ())]
    points = [f"points: ICP and normals by {protocol.points.backend}"] if "points" in protocol.metrics else []
    sequences = data.sequences
    frame_list = sequences.frame_list()
    identity = {
        "dataset": job.dataset,
        "data": list_config(sequences.config),
        "frames": frame_list.sha256,
        "images": plan.describe(),
        "protocol": asdict(protocol),
        "candidates": [{key: fact.get(key) for key in IDENTITY} for fact in facts],
        "versions": versions(),
        "threads": threads,
    }
    return {
        "config_sha256": config_sha256(identity),
        "identity": identity,
        "config": {
            "dataset": job.dataset,
            **sequences.config,
            "images": plan.describe(),
            **asdict(protocol),
            "threads": threads,
            "device": job.device,
        },
        "frame_list": {
            "sha256": frame_list.sha256,
            "file": None if job.frame_list is None else str(job.frame_list),
            "file_sha256": data.stored_sha256,
            "sequences": len(sequences),
            "skipped": sequences.skip_counts(),
            "frames": frame_list.frames,
        },
        "notes": [*sequences.notes, *truth_notes(list(sequences), facts[0]["label"]), *points, *opened],
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
