"""Deploy: from a checkpoint and images to verified files and a report, in one resumable call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from qvggt.engines.compatibility import capability_here, format_types, why_not
from qvggt.errors import QvggtError
from qvggt.files import read_object
from qvggt.formats.attention import find_attention
from qvggt.formats.table import DEFAULT, choices, choices_text, find_format
from qvggt.hub.names import hub_id
from qvggt.jobs.build import BuildJob
from qvggt.jobs.calibrate import CalibrateJob
from qvggt.jobs.chain import Done, Step, run_steps
from qvggt.jobs.evaluate import EvaluateJob
from qvggt.jobs.export import ExportJob
from qvggt.jobs.gpus import attention_types
from qvggt.jobs.job import Doc, Job, Place, Result, Source
from qvggt.jobs.options import DEVICES, Attention, File, Offline, Revision, Threads
from qvggt.jobs.places import check_place
from qvggt.jobs.scenes import ScenesJob
from qvggt.mapping import at_least
from qvggt.numbers import filled
from qvggt.predictions import CAMERAS, DEPTH
from qvggt.progress import Console
from qvggt.tensor_shards import weight_files

JOURNAL = "deploy.jsonl"
SCENE_FRAMES = 8  # of a generated scene; fewer are drawn from it
TRAIN_SCENES = 64
PHOTOS = "photos"
BUILDERS: dict[Literal["rtx", "tensorrt"], str] = {"rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}
"""Backend -> the package it needs, the first that is there is taken."""


@dataclass(frozen=True)
class Deployed(Result):
    """steps: name -> what came of it. rows: of the table, a candidate each; without one where a check failed before.
    proofs: a line a file, of what was proven about it. report, page: the evaluation as JSON and HTML."""

    folder: Path
    steps: Mapping[str, Done]
    rows: tuple[dict[str, Any], ...]
    proofs: tuple[str, ...]
    report: Path
    page: Path
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return all(done.passed for done in self.steps.values())

    @property
    def text(self) -> str:
        """The table, and where to read on."""
        from qvggt.eval.tables import aligned

        cells = [
            ["candidate", "AUC@30", "change", "95 %", "abs-rel", "pose dB", "depth dB", "s/seq", "file MB", "of float"]
        ]
        for row in self.rows:
            low, high = row["interval"] or (None, None)
            cells.append(
                [
                    row["candidate"],
                    _cell(row["auc30"], "{:.2f}"),
                    _cell(row["change"], "{:+.2f}"),
                    "-" if low is None else f"{_cell(low, '{:+.2f}')}..{_cell(high, '{:+.2f}')}",
                    _cell(row["abs_rel"], "{:.4f}"),
                    *(_cell(row[name], "{:.1f}") for name in ("pose_db", "depth_db")),
                    _cell(row["seconds"], "{:.3f}"),
                    "-" if row["bytes"] is None else f"{row['bytes'] / 1e6:.2f}",
                    _cell(row["size_ratio"], "{:.2f}x"),
                ]
            )
        lines = aligned(cells) if self.rows else []
        failed = [name for name, done in self.steps.items() if not done.passed]
        if failed:
            lines.append(f"FAILED: {failed[0]}; its result is in {self.folder / 'steps'}")
        lines += self.proofs
        return "\n".join([*lines, *([f"report: {self.page}, {self.report}"] if self.rows else [])])

    def __repr__(self) -> str:
        return f"Deployed({str(self.folder)!r}, {'passed' if self.passed else 'FAILED'})\n{self.text}"

    def to_dict(self, folder: Path | None = None) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "passed": self.passed,
            "report": str(self.report),
            "page": str(self.page),
            "notes": list(self.notes),
            "rows": list(self.rows),
            "proofs": list(self.proofs),
            "steps": [
                {"step": name, "passed": done.passed, "seconds": done.seconds, "outputs": list(done.outputs)}
                for name, done in self.steps.items()
            ],
        }


@dataclass(frozen=True)
class DeployJob(Job[Deployed]):
    """Checkpoint and images to proven files and a report.

    Calibrate a checkpoint, export it, prove the file, build an engine, evaluate all of them, and write a report.

    Everything goes to the folder OUT: calibrated checkpoints, .onnx files with their parity reports, engines,
    results.json and report.html. Each step is a command of its own and is skipped when nothing it depends on has
    changed, so the same call goes on where it was interrupted. Exit code 1 when a check fails.

    --data may be photographs (a folder of them, or one folder per sequence): they have no known cameras, so figures
    say how well a file agrees with the float model. With data of known cameras (Co3D) they say how right it is;
    calibration then sees the training split only. Without --data, scenes are generated.
    """

    name: ClassVar[str] = "deploy"
    examples: ClassVar[tuple[str, ...]] = (
        "qvggt deploy tiny --format w8a8 --data photos/ -o outputs/tiny",
        "qvggt deploy tiny --format w8a8,w4a4 -o outputs/demo",
        "qvggt deploy facebook/VGGT-1B --format w8a8 --data /data/co3d --to engine -o outputs/vggt",
    )

    model: Annotated[
        Source,
        Doc("tiny, vggt-1b, a .safetensors/.pt file, a folder with one, or a Hub id: float weights.", argument=True),
    ]
    output: Annotated[Place, Doc("Folder for everything that is written.", ("-o", "--output"), metavar="OUT")]
    _: KW_ONLY
    formats: Annotated[
        Sequence[str],
        Doc(
            f"Formats, comma-separated: {choices_text()}.",
            ("--format", "--bits"),
            comma=True,
            words=choices,
        ),
    ] = (DEFAULT,)
    data: Annotated[Place | None, Doc("Photographs, or a folder in Co3D format. [generated scenes]")] = None
    to: Annotated[
        Literal["onnx", "engine"],
        Doc("onnx: for CPUs. engine: for TensorRT as well, built where TensorRT-RTX or TensorRT is installed."),
    ] = "onnx"
    recipe: Annotated[str, Doc("Calibration: qvggt (ours), or a baseline: rtn, smoothquant, quarot, quantvggt.")] = (
        "qvggt"
    )
    baselines: Annotated[
        Sequence[str], Doc("Recipes to calibrate and evaluate beside it, comma-separated.", comma=True)
    ] = ()
    attention: Attention = "fp16"
    sequences: Annotated[int, Doc("Sequences to calibrate on."), at_least(1)] = TRAIN_SCENES
    test_sequences: Annotated[int, Doc("Sequences to evaluate on."), at_least(1)] = 48
    frames: Annotated[int, Doc("Frames per sequence."), at_least(2)] = 4
    float_file: Annotated[
        bool,
        Doc(
            "Export the float network too: what sizes and seconds of the other files are compared with.",
            ("--float-file/--no-float-file",),
        ),
    ] = True
    seed: Annotated[int, Doc("Seed of frames, rotations and batches."), at_least(0)] = 0
    device: Annotated[
        str, Doc("cpu, cuda or cuda:N: where PyTorch calibrates and checks exports.", words=("cpu", "cuda")), DEVICES
    ] = "cpu"
    triton: Annotated[Place | None, Doc("Folder for a Triton model repository of the files that passed.")] = None
    revision: Revision = None
    file: File = None
    offline: Offline = False
    threads: Threads = None

    def check(self) -> None:
        from qvggt.calib.recipe import find_recipe

        if not isinstance(self.model, str | Path):
            raise QvggtError("model: is one in memory, whose work cannot be resumed; save it and name its file")
        if not self.formats:
            raise QvggtError("--format: expected one format or more, e.g. w8a8")
        for name in self.formats:
            find_format(name, "dynamic")
        find_attention(self.attention)
        for recipe in (self.recipe, *self.baselines):
            find_recipe(recipe)
        if self.recipe in self.baselines:
            raise QvggtError(f"--baselines {self.recipe}: is the recipe itself; leave it out")

    def prepare(self) -> None:
        out = Path(self.output)
        check_place(out / "file")
        if out.exists() and not out.is_dir():
            raise QvggtError(f"{out}: is a file, expected a folder to write")
        if out.is_dir() and any(out.iterdir()) and not (out / JOURNAL).is_file():
            raise QvggtError(f"{out}: holds other files and no {JOURNAL}; choose another folder")
        if self.data is not None and not Path(self.data).is_dir():
            raise QvggtError(f"--data {self.data}: is no folder; give one with photographs, or in Co3D format")
        if self.triton is not None:
            check_triton(Path(self.triton), out)

    def unfinished(self) -> tuple[Path, ...]:
        out = Path(self.output)
        return (out / JOURNAL, *sorted(out.glob(".*.unfinished")))

    def execute(self, console: Console) -> Deployed:
        import torch

        from qvggt.engines.torch_runner import check_device
        from qvggt.hub.names import find_weights
        from qvggt.journal import Journal

        check_device(self.device)
        out = Path(self.output)
        weights = find_weights(str(self.model), revision=self.revision, offline=self.offline)
        identity = {key: value for key, value in self.to_dict().items() if key not in ("qvggt", "overwrite", "triton")}
        if self.overwrite:
            (out / JOURNAL).unlink(missing_ok=True)
        journal = Journal(out / JOURNAL, {**identity, "threads": torch.get_num_threads()}, "deployment")
        plan = Plan(self, weights)
        for note in plan.notes:
            console.say(f"note: {note}")
        done = run_steps(plan.steps(), journal, console)
        rows = table_rows(plan.report) if plan.evaluated in done else []
        proofs = [line for step in plan.steps() if step.name in done for line in proof(step)]
        if self.triton is not None and all(one.passed for one in done.values()):
            proofs += serve(Path(self.triton), plan)
        result = Deployed(out, done, tuple(rows), tuple(proofs), plan.report, plan.page, plan.notes)
        console.result(result.text)
        return result


class Plan:
    """The steps of a deployment: which files each reads and writes."""

    evaluated = "evaluate"

    def __init__(self, job: DeployJob, weights: Path) -> None:
        self.job = job
        self.weights = weights
        self.out = Path(job.output)
        self.model = str(job.model)
        self.stem = self.model.partition(":")[0].split("/")[-1] if hub_id(self.model) else Path(self.model).stem
        self.data = self.out / "scenes" if job.data is None else Path(job.data)
        self.report, self.page = self.out / "results.json", self.out / "report.html"
        self.dataset = "co3d" if job.data is None else _recognised(self.data)
        self.posed = self.dataset != PHOTOS
        installed = [name for name, package in BUILDERS.items() if find_spec(package) is not None]
        types = {kind for format in job.formats for kind in format_types(find_format(format))}
        types |= attention_types(job.attention)
        found = capability_here() if job.to == "engine" else ""
        unfit = {name: why_not(name, capability=found, types=types) for name in installed if job.to == "engine"}
        self.backend = next((name for name in installed if not unfit.get(name)), None)
        self.unfit = next((reason for reason in unfit.values() if reason), "")
        self.notes = tuple(self._notes())

    def _notes(self) -> Iterator[str]:
        if not self.posed:
            yield (
                "photographs have no known cameras: figures say how well files agree with the float model, on images "
                "they were calibrated on; they are no accuracy"
            )
        if self.job.to == "engine" and self.backend is None and self.unfit:
            yield f"no engine: {self.unfit}"
        elif self.job.to == "engine" and self.backend is None:
            yield "no engine: neither TensorRT-RTX nor TensorRT is installed; pip install '.[rtx]' in the clone, repeat"
        elif self.job.to == "engine" and not _has_gpu():
            yield "engines are built and not run: this machine has no GPU, so the .onnx files are evaluated on the CPU"

    def steps(self) -> list[Step]:
        """In order."""
        calibrated = [(f, r) for f in self.job.formats for r in (self.job.recipe, *self.job.baselines)]
        exports = [*map(self._export_float, self._floats()), *map(self._export, self.job.formats)]
        builds = [self._build(f) for f in self.job.formats] if self.job.to == "engine" and self.backend else []
        scenes = [self._scenes()] if self.job.data is None else []
        return [
            *scenes,
            *(self._calibrate(*each) for each in calibrated),
            *exports,
            *builds,
            self._evaluate(calibrated),
        ]

    def checkpoint(self, format: str, recipe: str) -> Path:
        """Folder of a calibrated checkpoint."""
        end = "" if recipe == self.job.recipe else f"-{recipe}"
        return self.out / f"{self.stem}-{format}{end}"

    def onnx(self, format: str) -> Path:
        """The exported file."""
        end = "-tensorrt" if self.job.to == "engine" else ""
        return self.out / f"{self.stem}-{format}{end}.onnx"

    def _step(self, name: str, job: Job[Any], inputs: Sequence[Path], outputs: Sequence[Path]) -> Step:
        result = self.report if name == self.evaluated else self.out / "steps" / f"{name.replace(' ', '-')}.json"
        return Step(name, job, tuple(inputs), tuple(outputs), result)

    def _scenes(self) -> Step:
        job = ScenesJob(
            self.data,
            train=self.job.sequences,
            test=self.job.test_sequences,
            frames=max(SCENE_FRAMES, self.job.frames),
            size=(native_size(self.weights),) * 2,
        )
        return self._step("scenes", job, [], [self.data])

    def _calibrate(self, format: str, recipe: str) -> Step:
        folder = self.checkpoint(format, recipe)
        job = CalibrateJob(
            self.model,
            folder,
            format=format,
            recipe=recipe,
            attention=self.job.attention,
            data=self.data,
            sequences=self.job.sequences,
            frames=self.job.frames,
            device=self.job.device,
            seed=self.job.seed,
            **self._shared(),
        )
        name = f"calibrate {format}" + ("" if recipe == self.job.recipe else f" {recipe}")
        return self._step(name, job, [*weight_files(self.weights), self.data], [folder])

    def _export(self, format: str) -> Step:
        folder, file = self.checkpoint(format, self.job.recipe), self.onnx(format)
        data = self.data if self.posed else None  # the gate's camera check needs known cameras: else generated scenes
        job = ExportJob(
            folder,
            file,
            target=self._target(),
            backend=self._backend(),
            data=data,
            device=self.job.device,
            seed=self.job.seed,
            threads=self.job.threads,
            overwrite=True,
        )
        return self._step(f"export {format}", job, [folder, *([] if data is None else [data])], [file])

    def _export_float(self, format: str) -> Step:
        """Its cameras are judged by the evaluation; the gate need not do it too."""
        file = self.onnx(format)
        job = ExportJob(
            self.model,
            file,
            format=format,
            target=self._target(),
            backend=self._backend(),
            parity_sequences=0,
            device=self.job.device,
            **self._shared(),
        )
        return self._step(f"export {format}", job, [self.weights], [file])

    def _floats(self) -> tuple[str, ...]:
        """The format of the float file: the numbers that stand around the integer products of the others."""
        return () if not self.job.float_file else ("fp16",) if self.job.to == "engine" else ("fp32",)

    def _target(self) -> Literal["cpu", "tensorrt"]:
        return "tensorrt" if self.job.to == "engine" else "cpu"

    def _backend(self) -> Literal["rtx", "tensorrt"]:
        """Which TensorRT the files are for."""
        if self.job.to != "engine":
            return "rtx"
        return self.backend or ("tensorrt" if self.unfit else "rtx")

    def _build(self, format: str) -> Step:
        assert self.backend is not None
        file = self.onnx(format)
        engine = file.with_suffix(".engine")
        job = BuildJob(file, engine, backend=self.backend, overwrite=True)
        return self._step(f"build {format}", job, [file], [engine])

    def _evaluate(self, calibrated: Sequence[tuple[str, str]]) -> Step:
        folders = [self.checkpoint(*each) for each in calibrated]
        files = [self.onnx(format) for format in (*self._floats(), *self.job.formats)]
        if self.job.to == "engine" and self.backend is not None and _has_gpu():
            files += [self.onnx(format).with_suffix(".engine") for format in self.job.formats]
        job = EvaluateJob(
            (self.model, *folders),
            engines=tuple(map(str, files)),
            dataset=self.dataset,
            root=self.data,
            frames=self.job.frames,
            min_frames=self.job.frames,
            max_sequences=self.job.test_sequences,
            seed=self.job.seed,
            html=self.page,
            store=self.out / "pictures",
            **self._shared(),
        )
        return self._step(
            self.evaluated,
            job,
            [*weight_files(self.weights), self.data, *folders, *files],
            [self.page, self.out / "pictures"],
        )

    def _shared(self) -> dict[str, Any]:
        """What the jobs that load the model have of this one; the folder is ours, so they replace what is there."""
        given = {name: getattr(self.job, name) for name in ("revision", "offline", "threads")}
        return {**given, "overwrite": True}


def check_triton(folder: Path, out: Path) -> None:
    """QvggtError unless a model repository can be written there."""
    from qvggt.engines.triton import MARKER

    check_place(folder / "file")
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / MARKER).is_file())):
        raise QvggtError(f"--triton {folder}: holds other files; choose another folder")
    if folder.resolve() in (out.resolve(), *out.resolve().parents):
        raise QvggtError(f"--triton {folder}: is replaced as a whole, and OUT lies in it; choose another folder")


def serve(folder: Path, plan: Plan) -> list[str]:
    """Write the model repository of a finished deployment; a line a model."""
    from qvggt.engines.triton import serve_engine, serve_onnx, write_repository

    gpu, notes = plan.job.to == "engine", []
    files = [plan.onnx(format) for format in plan.job.formats]
    models = [serve_onnx(file, gpu) for file in files]
    if gpu and plan.backend == "tensorrt":
        models += [serve_engine(file.with_suffix(".engine"), file) for file in files]
    elif gpu:
        notes.append(
            "No TensorRT model: Triton's backend runs engines of TensorRT, not of TensorRT-RTX. Build one where the "
            "server runs (`qvggt build FILE.onnx -o FILE.engine --backend tensorrt`), or run `qvggt deploy` there."
        )
    write_repository(folder, models, notes)
    return [f"{folder / model.name}: for Triton's {model.backend} backend" for model in models]


def proof(step: Step) -> Iterator[str]:
    """What an export or a build proved about its file."""
    if isinstance(step.job, ExportJob | BuildJob) and step.result.is_file():
        found = read_object(step.result, "the result of a step")
        if isinstance(step.job, ExportJob):
            lint, parity = found["lint"], found["parity"]
            checked = ", ".join(f"{len(parity[kind])} {kind}" for kind in ("linears", "convolutions") if parity[kind])
            cameras = "" if parity["auc30"] is None else filled(", AUC@30 {:+.2f}", parity["auc30"]["delta"])
            yield (
                f"{found['path']}: lint {lint['errors']} errors, parity {'passed' if parity['passed'] else 'FAILED'} "
                f"({checked or 'outputs'}{cameras})"
            )
        else:
            yield f"{found['engine']}: {found['summary']}; not run on a GPU here"


def table_rows(path: Path) -> list[dict[str, Any]]:
    """One row a candidate of an evaluation's report: how good, how close to the first, how fast, how large.

    bytes: of a file that a runtime opens, None for what PyTorch runs; size_ratio: over those of the float file."""
    from qvggt.eval.result import file_bytes

    candidates = read_object(path, "the report of an evaluation")["candidates"]
    sizes = [file_bytes(candidate) for candidate in candidates]
    whole = next((size for one, size in zip(candidates, sizes, strict=True) if size and _is_float(one)), None)
    rows = []
    for candidate, size in zip(candidates, sizes, strict=True):
        auc = candidate["summary"].get("auc30", {})
        rows.append(
            {
                "candidate": candidate["label"],
                "auc30": auc.get("value"),
                "change": auc.get("delta"),
                "interval": auc.get("delta_interval"),
                "abs_rel": candidate["summary"].get("abs_rel", {}).get("value"),
                "pose_db": candidate["sqnr_db"].get(CAMERAS),
                "depth_db": candidate["sqnr_db"].get(DEPTH),
                "seconds": candidate["seconds"],
                "bytes": size,
                "size_ratio": size / whole if size and whole else None,
            }
        )
    return rows


def _is_float(candidate: Mapping[str, Any]) -> bool:
    return candidate["scheme"] in ("fp32", "fp16")


def native_size(weights: Path) -> int:
    """Side in pixels of the square images a weights file was made for."""
    from qvggt.models.loading import config_of
    from qvggt.tensor_file import open_tensors

    return config_of(open_tensors(weights)).img_size


def _cell(value: Any, form: str) -> str:
    """A number, or one of JSON's words for those it has none for."""
    return "-" if value is None else value if isinstance(value, str) else filled(form, value)


def _recognised(folder: Path) -> str:
    """The data set a folder is in the format of."""
    from qvggt.data.registry import Question, recognise

    return recognise(Question(folder, "test"), PHOTOS).name


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
