"""Calibrate: float checkpoint + images -> calibrated checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from qvggt.calib.budget import parse_budget
from qvggt.calib.machine import MACHINES, find_machine
from qvggt.calib.recipe import RECIPES, Recipe, find_recipe
from qvggt.data.class_modes import CLASS_MODES, check_mode
from qvggt.data.registry import Question
from qvggt.errors import QvggtError
from qvggt.files import read_object
from qvggt.formats.attention import FLOAT, SHORTEST
from qvggt.formats.linear_format import LinearFormat
from qvggt.formats.table import FORMATS
from qvggt.jobs.job import Doc, Job, Place, Result, Source
from qvggt.jobs.options import Attention, Block, File, Format, Offline, Overrides, Parts, Revision, Threads, TorchDevice
from qvggt.jobs.places import check_new_folder
from qvggt.jobs.source import check_source, image_size, load_source, scheme_of
from qvggt.jobs.words import sides
from qvggt.mapping import Check, at_least
from qvggt.models.family import family_of, find_family
from qvggt.progress import Console
from qvggt.quant.scheme import DESCRIPTION, Scheme

if TYPE_CHECKING:
    from qvggt.calib.plan import Plan
    from qvggt.data.sequence import Frames, SequenceSet
    from qvggt.jobs.pool import Training
    from qvggt.models.network import Network
    from qvggt.quant.handle import Model

CLUSTERS = 8


@dataclass(frozen=True)
class Calibrated(Result):
    """A calibrated checkpoint, or with --plan what one will cost.

    output: its folder. recipe: the name. quantized: the same model in memory, None of a plan. drop, limit: of a budget
    search. notes: name -> text of the records beside quant.json (the selection, the budget search).
    """

    output: Path
    scheme: Scheme = field(repr=False)
    recipe: str
    quantized: Model | None = field(default=None, repr=False)
    drop: float | None = None
    limit: float | None = None
    notes: Mapping[str, str] = field(default_factory=dict, repr=False)
    plan: Plan | None = None

    @property
    def model(self) -> Model:
        """The quantized model; QvggtError of a plan, for which nothing was calibrated."""
        if self.quantized is None:
            raise QvggtError(f"{self.output}: was planned and not calibrated; leave out plan to get a model")
        return self.quantized

    @property
    def passed(self) -> bool:
        """Whether the drop is in budget; True without one."""
        return self.drop is None or self.limit is None or self.drop <= self.limit

    def to_dict(self, folder: Path | None = None) -> dict[str, Any]:
        values = {"output": str(self.output), "passed": self.passed, "scheme": self.scheme.label, "recipe": self.recipe}
        if self.plan is not None:
            return {**values, "plan": {"total_seconds": self.plan.total_seconds, **asdict(self.plan)}}
        return {
            **values,
            "model": self.model.name,
            "threads": self.model.provenance.calibration["threads"],
            "device": self.model.provenance.calibration["device"],
            "drop": self.drop,
            "limit": self.limit,
            "notes": [str(self.output / name) for name in self.notes],
            "layers": [{"path": path, **figures} for path, figures in self.model.layers.items()],
        }


@dataclass(frozen=True)
class CalibrateJob(Job[Calibrated]):
    """Calibrate a checkpoint to a low-bit format.

    Rotations are folded into the weights, which are rounded block by block; where a grid is coarse, a few directions of
    the inputs pass it by in floating point.
    """

    name: ClassVar[str] = "calibrate"
    examples: ClassVar[tuple[str, ...]] = (
        "qvggt calibrate tiny --bits w4a4 --data outputs/scenes -o outputs/tiny-w4a4",
        "qvggt calibrate tiny --bits w8a8 --recipe rtn -o outputs/tiny-w8a8-rtn",
        "qvggt calibrate facebook/VGGT-1B --bits w4a4 --data /data/co3d --plan -o w4a4",
        "qvggt calibrate tiny --bits w4a4 --data outputs/scenes --budget 0.5% --budget-by block -o outputs/tiny-mixed",
        "qvggt calibrate facebook/VGGT-1B --bits w4a4 --data /data/co3d --select --sequences 20 --clusters 5 -o w4a4",
    )
    more: ClassVar[str] = "An interrupted run goes on where it was when the same command is given again."

    model: Annotated[
        Source, Doc("tiny, vggt-1b, a .safetensors/.pt file, a folder with one, or a Hub id.", argument=True)
    ]
    output: Annotated[Place, Doc("Checkpoint directory to write.", ("-o", "--output"))]
    _: KW_ONLY
    format: Format = None
    act: Annotated[
        Literal["dynamic", "static"] | None, Doc("dynamic: one scale per token. static: one per tensor. [dynamic]")
    ] = None
    data: Annotated[
        Place | None,
        Doc("Co3D-format folder (train split), photographs in one folder or in one per sequence, or calib_data.pt."),
    ] = None
    recipe: Annotated[
        str, Doc("qvggt (ours), or a baseline: rtn, smoothquant, quarot, quantvggt.", words=tuple(RECIPES))
    ] = "qvggt"
    annotations: Annotated[Place | None, Doc("Folder of the .jgz files. [DATA/annotations]")] = None
    sequences: Annotated[int, Doc("Training sequences to use."), at_least(1)] = 64
    frames: Annotated[
        int | None,
        Doc("Frames per sequence. [as in evaluations, 10 of Co3D; fewer where memory or sequences are short]"),
        at_least(1),
    ] = None
    select: Annotated[bool, Doc("Choose the sequences: no noise, diverse; needs a pass over the pool.")] = False
    clusters: Annotated[
        int | None, Doc(f"--select: clusters that the sequences are spread over. [{CLUSTERS}]"), at_least(1)
    ] = None
    class_mode: Annotated[str, Doc("Categories to draw from: apple, five, more or all.", words=tuple(CLASS_MODES))] = (
        "all"
    )
    pool: Annotated[int | None, Doc("--select: sequences of each category to look at. [all]"), at_least(1)] = None
    scheme: Annotated[Place | None, Doc("A saved scheme, or a checkpoint with one; instead of --bits and --parts.")] = (
        None
    )
    budget: Annotated[
        float | None,
        Doc("Largest drop, e.g. 0.5%: parts get more bits than --bits until it holds.", parse=parse_budget),
        Check("a share above 0, up to 1", lambda share: share is None or 0 < share <= 1),
    ] = None
    budget_by: Annotated[Literal["part", "block"] | None, Doc("--budget: bits per part or per block. [part]")] = None
    size: Annotated[
        tuple[int, int] | None, Doc("HxW of the images in pixels. [model's own]", parse=sides, metavar="HxW")
    ] = None
    parts: Parts = None
    overrides: Overrides = ()
    block: Block = None
    attention: Attention = "fp16"
    rounding: Annotated[Literal["rtn", "gptq"] | None, Doc("Of the weights. [the recipe's]")] = None
    propagation: Annotated[
        Literal["float", "quantized"] | None, Doc("Inputs a block is calibrated on. [the recipe's]")
    ] = None
    fc2: Annotated[Literal["none", "kronecker"] | None, Doc("Online rotation of fc2. [the recipe's]")] = None
    epochs: Annotated[
        int | None, Doc("Passes that learn scales, clips and weights. [the recipe's; ours: 0]"), at_least(0)
    ] = None
    adapt: Annotated[
        int | None,
        Doc("Steps in which the rounded weights adapt to each other; memory of a training step. [the recipe's, 0]"),
        at_least(0),
    ] = None
    device: TorchDevice = "cpu"
    bf16: Annotated[
        bool, Doc("bf16 in attention, and in the float blocks that are learned from; nothing that rounds changes.")
    ] = False
    memory: Annotated[float, Doc("GB of tokens kept in RAM before they spill to disk."), at_least(0.1)] = 2.0
    import_quantvggt: Annotated[
        Place | None, Doc("Folder of released QuantVGGT parameters to import instead (with --bits).")
    ] = None
    plan: Annotated[bool, Doc("Print how long it will take and what memory it needs, as ranges, and stop.")] = False
    plan_device: Annotated[
        str | None,
        Doc(
            f"--plan for a GPU by its data sheet: {', '.join(MACHINES)}. [this machine, measured]",
            words=tuple(MACHINES),
        ),
    ] = None
    seed: Annotated[int, Doc("Seed of frames, rotations and batches."), at_least(0)] = 0
    revision: Revision = None
    file: File = None
    offline: Offline = False
    threads: Threads = None

    def check(self) -> None:
        if self.import_quantvggt is not None:
            from qvggt.jobs.released import check_call

            check_call(self)
            return
        if self.scheme is not None:
            says = {"bits": self.format, "act": self.act, "parts": self.parts, "override": self.overrides or None}
            says |= {"attention": None if self.attention == FLOAT else self.attention}
            for option, value in (says | {"block": self.block, "budget": self.budget}).items():
                if value is not None:
                    raise QvggtError(f"--{option}: --scheme {self.scheme} says that already; give one of the two")
        if self.plan_device is not None:
            find_machine(self.plan_device)
            if not self.plan:
                raise QvggtError("--plan-device belongs to --plan; add that or leave it out")
        if self.budget_by is not None and self.budget is None:
            raise QvggtError("--budget-by belongs to --budget; add that or leave it out")
        if self.overrides and self.budget is not None:
            raise QvggtError("--override: --budget chooses the bits of every part itself; give one of the two")
        if self.bf16 and self.chosen().replace(bf16=False) == RECIPES["rtn"]:
            raise QvggtError(f"--bf16: --recipe {self.recipe} runs no blocks; leave it out")
        if self.chosen().adapt and self.chosen().replace(adapt=0) == RECIPES["rtn"]:
            raise QvggtError(f"--adapt: --recipe {self.recipe} calibrates no blocks; leave it out")
        check_mode(self.class_mode)
        for option in ("clusters", "pool"):
            if getattr(self, option) is not None and not self.select:
                raise QvggtError(f"--{option} belongs to --select; add that or leave --{option} out")
        if self.scheme is None:
            self.check_scheme(self.wanted())
        if self.select:
            self.per_cluster()

    def check_scheme(self, wanted: Scheme) -> None:
        """QvggtError where the scheme does not go with the other fields."""
        if self.budget is not None and not wanted.base.ladder:
            others = dict.fromkeys(format.bits for format in FORMATS.values() if format.ladder)
            raise QvggtError(
                f"--budget: --bits {wanted.bits} has nothing to choose; expected one of {', '.join(others)}"
            )
        if self.adapt and wanted.attention != FLOAT:
            raise QvggtError(f"--adapt: gradients do not pass --attention {wanted.attention}; leave one of the two out")
        fixed = [name for name in wanted.parts if find_family(wanted.family).part(name).single]
        if self.budget is not None and fixed:
            raise QvggtError(f"--budget: part {fixed[0]} has one format only and nothing to choose; leave it out")
        if self.needs_data(wanted) and self.data is None:
            act, parts = wanted.activation, ",".join(wanted.parts)
            raise QvggtError(
                f"--recipe {self.recipe} --act {act} --parts {parts} needs --data, a folder with training images "
                "(qvggt scenes makes one); only --recipe rtn --act dynamic without dpt and --attention does without"
            )
        if self.select and not self.needs_data(wanted):
            raise QvggtError("--select: --recipe rtn --act dynamic uses no images to choose; leave it out")

    def prepare(self) -> None:
        check_new_folder(Path(self.output), self.overwrite, "a checkpoint")
        check_source(self.model, self.revision)
        for folder, expected in (
            (self.data, "a folder in Co3D format, of photographs, or with one folder of images per sequence"),
            (self.annotations, "the folder of the annotation files"),
            (self.import_quantvggt, "a folder of released QuantVGGT parameters"),
        ):
            if folder is not None and not (Path(folder).is_dir() or (folder == self.data and Path(folder).is_file())):
                raise QvggtError(f"{folder}: is not a folder; expected {expected}")
        if self.scheme is not None:
            self.check_scheme(self.wanted())

    def unfinished(self) -> tuple[Path, ...]:
        """The finished blocks, the measured pool and the measured choices, beside the output."""
        output = Path(self.output)
        kinds = ("unfinished", "pool.jsonl", "budget.jsonl")
        return tuple(output.parent / f".{output.name}.{kind}" for kind in kinds)

    def wanted(self) -> Scheme:
        """What the parts are quantized to (with a budget: where the search begins); reads the file of --scheme."""
        if self.scheme is not None:
            return read_scheme(Path(self.scheme))
        scheme = scheme_of(self.format, self.act, self.parts, self.overrides, block=self.block)
        return replace(scheme, attention=self.attention)

    def chosen(self) -> Recipe:
        """The recipe with the steps given beside it; QvggtError for a name that is none."""
        online = None if self.fc2 is None else "fc2" if self.fc2 == "kronecker" else "none"
        given = {"rounding": self.rounding, "propagation": self.propagation, "online": online}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if self.bf16:
            changes["bf16"] = True
        if self.epochs is not None:
            changes["epochs"] = self.epochs
        if self.adapt is not None:
            changes["adapt"] = self.adapt
        return find_recipe(self.recipe).replace(**changes)

    def needs_data(self, wanted: Scheme) -> bool:
        """Whether calibration images are looked at."""
        return wanted.needs_ranges or self.chosen() != RECIPES["rtn"] or self.budget is not None

    def per_cluster(self) -> int:
        """Sequences of each cluster; QvggtError when they do not split so."""
        clusters = self.clusters or CLUSTERS
        if self.sequences % clusters:
            lower = self.sequences // clusters * clusters
            near = " or ".join(str(n) for n in (lower, lower + clusters) if n)
            raise QvggtError(
                f"--sequences {self.sequences}: does not split into {clusters} clusters; take {near}, "
                "or other --clusters"
            )
        return self.sequences // clusters

    @property
    def token_bytes(self) -> int:
        """Of `memory`."""
        return int(self.memory * 1e9)

    def execute(self, console: Console) -> Calibrated:
        from qvggt.device import placed
        from qvggt.engines.torch_runner import check_device
        from qvggt.quant.model import check_overrides

        device = check_device(self.device)
        if self.import_quantvggt is not None:
            from qvggt.jobs.released import import_released

            return import_released(self, Path(self.import_quantvggt), console)
        wanted = self.wanted()
        if self.act == "static" and isinstance(wanted.base, LinearFormat) and wanted.base.mode is None:
            why = "stay in floating point" if wanted.base.activation is None else "have one mode"
            console.warn(f"note: --act static does nothing with {wanted.bits}, whose activations {why}")
        before = self._resident() if self.plan else 0
        source = load_source(self.model, self.revision, self.offline, calibrated=False)
        check_overrides(source.network, wanted)
        size = image_size(self.size, source.network)
        if self.plan:
            return self._measure_plan(source, wanted, size, before, console)
        own = self.own(source)
        with placed(own.network, device):
            return self._calibrate(own, wanted, size, console)

    def own(self, source: Model) -> Model:
        """The model with a network that may be changed: a copy where the caller holds it."""
        return replace(source, network=copy.deepcopy(source.network)) if source is self.model else source

    def _resident(self) -> int:
        """Bytes of this process without a network."""
        from qvggt.calib.plan import resident, size_of

        held = 0 if isinstance(self.model, str | Path) else size_of(self.model.network)
        return max(0, resident() - held)

    def _measure_plan(
        self, source: Model, wanted: Scheme, size: tuple[int, int], before: int, console: Console
    ) -> Calibrated:
        from qvggt.calib.plan import Outline, make_plan
        from qvggt.rotation.cost import CostTable

        config, recipe, frames = source.network.config, self.chosen(), self._most_frames(source, size, console)
        sequences, pool = self.sequences, 0
        if self.data is not None and self.needs_data(wanted):
            found = self._found(Path(self.data), frames, console)
            frames = min(frames, max(len(sequence.frame_indices) for sequence in found.sequences))
            sequences, pool = min(sequences, len(found)), len(found) if self.select else 0
        outline = Outline(config, wanted, recipe, sequences, frames, *size, pool)
        plan = make_plan(outline, None if self.plan_device is None else find_machine(self.plan_device), before)
        height, width = size
        console.result(
            f"{sequences} sequences of {frames} frames, {height}x{width}, recipe {recipe.name}, {wanted.label}"
        )
        for line in plan.lines(self.token_bytes):
            console.result(line)
        console.say("multiply-adds of the calibrated network, per block:")
        if recipe.branch:
            console.say("(with a branch beside every linear; it gets one where that gains enough)")
        console.say(CostTable(config, recipe.online != "none", recipe.branch).to_markdown(height, width))
        return Calibrated(Path(self.output), wanted, recipe.name, plan=plan)

    def _calibrate(self, source: Model, wanted: Scheme, size: tuple[int, int], console: Console) -> Calibrated:
        import torch

        from qvggt.calib.block_journal import BlockJournal
        from qvggt.calib.calibrate import calibrate_, report_table
        from qvggt.calib.rtn import quantize_rtn_
        from qvggt.device import device_of, label
        from qvggt.jobs.budget import NOTE, BudgetSearch, search_budget
        from qvggt.quant.checkpoint import Provenance
        from qvggt.quant.model import scheme_attentions, settled
        from qvggt.rotation.cost import branch_cost
        from qvggt.versions import versions

        network, recipe = source.network, self.chosen()
        unfinished, measured, tried = self.unfinished()
        ran = {"threads": torch.get_num_threads(), "device": label(device_of(network))}
        job: dict[str, Any] = {"source": source.sha256, "versions": versions(), **ran}
        calibration: dict[str, Any] = {"recipe": recipe.to_dict(), "seed": self.seed, **ran}
        training, notes = None, dict[str, str]()
        if self.data is not None and self.needs_data(wanted):
            most = self._most_frames(source, size, console)
            training = self._training(Path(self.data), network, size, most, job, console)
            listing, notes = training.record()
            calibration |= listing
        images, searched, store = None if training is None else training.images, None, None
        if self.budget is not None:
            assert training is not None
            by, about = self.budget_by or "part", {**job, **calibration}
            search = BudgetSearch(
                self.budget, by, wanted, recipe.replace(adapt=0), self.seed, self.token_bytes, tried, about
            )
            searched = search_budget(search, network, training.images, training.pool, console)
            wanted = searched.scheme
        layers: Mapping[str, Mapping[str, float | None]]
        if recipe == RECIPES["rtn"]:
            layers = quantize_rtn_(network, wanted, images, None if images is None else len(images))
        else:
            assert images is not None
            store = BlockJournal(unfinished, {**job, "scheme": wanted.to_dict(), **calibration})
            if store.finished():
                console.say(f"going on after {store.finished()} finished blocks ({store.folder})")
            reports = calibrate_(network, wanted, recipe, images, self.seed, journal=store, memory=self.token_bytes)
            layers = report_table(reports, network)
        short = [path for path, _, _ in scheme_attentions(network, wanted)]
        wanted = settled(network, wanted)
        if short:
            console.warn(
                f"note: attention stays floating point in {len(short)} blocks (first {short[0]}): their sequences have "
                f"fewer than {SHORTEST} tokens, and TensorRT fuses no {self.attention} attention of these"
            )
        drop = None
        if searched is not None:
            drop = searched.metric.drop(network)
            calibration["budget"], notes[NOTE] = searched.note(drop)
        provenance = Provenance({"name": source.name, "sha256": source.sha256}, calibration, versions(), layers)
        result = self.saved(replace(source, scheme=wanted, provenance=provenance), self.recipe, notes, drop)
        for file in (measured, tried):
            file.unlink(missing_ok=True)
        if store is not None:
            store.remove()
        for path, figures in layers.items():
            console.detail(f"  {path}: {', '.join(f'{name} {value}' for name, value in figures.items())}")
        console.result(f"{self.output}: {wanted.label} by recipe {self.recipe} ({DESCRIPTION} has the per-layer table)")
        if branches := branch_cost(network):
            console.result(str(branches))
        if drop is not None:
            console.result(f"budget: drop {drop:.2%} of {self.budget:.2%}")
        if not result.passed:
            console.warn(f"budget MISSED: the calibrated checkpoint drops by {drop:.2%}")
        return result

    def _most_frames(self, source: Model, size: tuple[int, int], console: Console) -> int:
        """Frames of a sequence that were asked for, or as many as an evaluation of the data has and memory takes."""
        import torch

        from qvggt.jobs.frames import PROTOCOL, fitting_frames, protocol_frames

        if self.frames is not None:
            return self.frames
        annotations = None if self.annotations is None else Path(self.annotations)
        asked = None if self.data is None else Question(Path(self.data), annotations=annotations)
        most = PROTOCOL if asked is None else protocol_frames(asked)
        weights = sum(tensor.nbytes for tensor in source.network.state_dict().values())
        kept = 0 if self.budget is None else weights  # the search quantizes copies
        if self.device == "cpu":  # where the tokens are too; weights read from a file take memory once they are folded
            kept += weights + self.token_bytes
        return fitting_frames(source.network, size, torch.device(self.device), kept, most, console)

    def _found(self, data: Path, most: int, console: Console) -> SequenceSet[Frames]:
        """The sequences to take from, with up to `most` frames each."""
        from qvggt.data.reading import read_pool
        from qvggt.jobs.budget import SCORED
        from qvggt.jobs.frames import read_longest

        mode, seed = self.class_mode, self.seed
        count = self.pool if self.select else self.sequences + (SCORED if self.budget is not None else 0)
        annotations = None if self.annotations is None else Path(self.annotations)
        asked = Question(data, "train", most, None, count, seed=seed, annotations=annotations, class_mode=mode)
        return read_longest(asked, most, console) if self.frames is None else read_pool(asked)

    def _training(
        self, data: Path, network: Network, size: tuple[int, int], most: int, job: Mapping[str, Any], console: Console
    ) -> Training:
        """Images of the training split: never what an evaluation sees."""
        from qvggt.calib.selection import SelectionConfig
        from qvggt.jobs.pool import training_images

        mode, seed = self.class_mode, self.seed
        found = self._found(data, most, console)
        chooser = None
        if self.select:
            deep = min(4, len(family_of(network).rounds(network.config)))  # the last rounds are judged
            clusters = self.clusters or CLUSTERS
            chooser = SelectionConfig(clusters, self.per_cluster(), seed, deep_rounds=deep, class_mode=mode)
        measured = self.unfinished()[1]
        return training_images(found, size, self.sequences, network, chooser, measured, job, console)

    def saved(
        self, model: Model, recipe: str, notes: Mapping[str, str] | None = None, drop: float | None = None
    ) -> Calibrated:
        """Write the checkpoint."""
        from qvggt.quant.checkpoint import save_calibrated

        assert model.scheme is not None
        save_calibrated(
            Path(self.output), model.network, model.scheme, model.provenance, replace=self.overwrite, notes=notes
        )
        return Calibrated(Path(self.output), model.scheme, recipe, model, drop, self.budget, notes or {})


def read_scheme(path: Path) -> Scheme:
    """A scheme file, the quant.json or budget.json of a checkpoint, or its folder; QvggtError names the file."""
    file = path / DESCRIPTION if path.is_dir() else path
    values = read_object(file, f"a scheme or a checkpoint's {DESCRIPTION}", f"--scheme {file}")
    if isinstance(values.get("scheme"), dict):
        values = values["scheme"]
    try:
        return Scheme.from_dict(values)
    except QvggtError as error:
        raise QvggtError(f"--scheme {file}: {error}") from error
