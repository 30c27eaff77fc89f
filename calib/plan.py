"""What a calibration will cost, before any work: operations and memory counted on shapes alone, time by a machine.

The calibration's own code runs on tensors without values (`qvggt.calib.work`), so that whatever it does is counted.
This machine's rates are measured, and checked on a small block that is calibrated in earnest; those of a named GPU are
its data sheet's. Both give a range.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qvggt.calib.adaptation import BATCH, BYTES
from qvggt.calib.calibrate import fold_config
from qvggt.calib.machine import Machine, measure_rates
from qvggt.calib.recipe import RECIPES, Recipe
from qvggt.calib.reconstruct import calibrate_block
from qvggt.calib.stream import Stream, TokenStore
from qvggt.calib.work import Counting, Seen, Work, counting
from qvggt.formats.linear_format import LinearFormat
from qvggt.models.block import Block
from qvggt.models.family import LINEARS, Family, ModelConfig, Stage, find_family
from qvggt.models.network import Network
from qvggt.progress import bar
from qvggt.quant.model import scheme_convs, scheme_linears
from qvggt.quant.scheme import Scheme
from qvggt.rotation.fold import fold_

TRIED = 400  # tokens of a frame in the runs that check this machine's rates
LEFT_OUT = (0.6, 1.4)  # of the time: what counting and two short runs leave open, as tools/bench_plan.py has it
FRAGMENTS = 1.0  # of the memory that comes and goes, which allocators and LAPACK hold beyond what is in use
CACHED = 0.35  # of it on a GPU, not measured
CONTEXT = 700_000_000  # bytes of CUDA's own on a GPU, not measured
LATE = 200_000_000  # bytes of libraries that are loaded on the way: readers of images, optimizers

Range = tuple[float, float]


@dataclass(frozen=True)
class Outline:
    """A calibration as far as its cost goes. pool: sequences that a selection looks at, 0 without one."""

    config: ModelConfig
    scheme: Scheme
    recipe: Recipe
    sequences: int
    frames: int
    height: int
    width: int
    pool: int = 0

    @property
    def family(self) -> Family:
        return find_family(self.config.family)

    @property
    def tokens(self) -> int:
        """Of a frame."""
        return self.family.tokens(self.config, self.height, self.width)

    @property
    def token_bytes(self) -> int:
        """Of all token streams."""
        return self.streams * self.sequences * self.frames * self.tokens * self.config.embed_dim * 4

    @property
    def learns_blocks(self) -> bool:
        """Whether blocks are calibrated one by one."""
        return self.recipe != RECIPES["rtn"]

    @property
    def streams(self) -> int:
        """Token streams that are kept: of the float network, and of the quantized one where blocks see its outputs."""
        return 0 if not self.learns_blocks else 1 if self.recipe.propagation == "float" else 2

    def formats(self, stage: Stage) -> dict[str, LinearFormat]:
        """Of the linears of a stage that are quantized."""
        return {n: f for n in LINEARS if (f := self.scheme.format(f"{stage.path}.{n}")) is not None}


@dataclass(frozen=True)
class BlockWork:
    """Of one stage, for all sequences: learning (all epochs), and everything else."""

    fixed: Work = field(default_factory=Work)
    learning: Work = field(default_factory=Work)

    @property
    def peak(self) -> int:
        return max(self.fixed.peak, self.learning.peak)


@dataclass(frozen=True)
class Plan:
    """Ranges, low and high, for a whole calibration.

    machine: what the time is of. blocks: stages in each group. seconds: per group, of one stage for all sequences and
    epochs. other_seconds: of the work around the stages. libraries, model, work, token_bytes: bytes of this process
    without a model, of the network with its heads, of what comes and goes at the worst time, of all token streams.
    folded: bytes of the network that folds write anew. note: how the time was found. device_memory: bytes a GPU has, 0
    on the CPU.
    """

    machine: str
    blocks: dict[str, int]
    seconds: dict[str, Range]
    other_seconds: dict[str, Range]
    libraries: int
    model: int
    work: int
    token_bytes: int
    folded: int
    note: str
    device_memory: int = 0

    @property
    def total_seconds(self) -> Range:
        parts = [(count, self.seconds[group]) for group, count in self.blocks.items()]
        parts += [(1, each) for each in self.other_seconds.values()]
        return sum(count * each[0] for count, each in parts), sum(count * each[1] for count, each in parts)

    def memory(self, tokens: int) -> Range:
        """Bytes of the process that the system cannot take back; `tokens`: bytes of them that may stay in RAM.

        low: of the network what folds have written anew, high: all of it, as where it does not lie in a file as it is.
        """
        common = self.libraries + min(self.token_bytes, tokens) + (0 if self.device_memory else self.work)
        high = common + self.model + LATE + (0 if self.device_memory else FRAGMENTS * self.work)
        return common + self.folded, high

    @property
    def on_device(self) -> Range:
        """Bytes of a GPU: the network, and what comes and goes; above them the context of its libraries."""
        low = self.model + self.work
        return low, low + CACHED * self.work + CONTEXT

    def lines(self, tokens: int) -> list[str]:
        """Text for a terminal; `tokens`: bytes of them that may stay in RAM."""
        groups = [f"{count} {g} blocks at {span(self.seconds[g])}" for g, count in self.blocks.items() if count]
        worth = self.total_seconds[1] / 100
        groups += [f"{name} {span(each)}" for name, each in self.other_seconds.items() if each[1] >= worth]
        kept, spilled = min(self.token_bytes, tokens), max(0, self.token_bytes - tokens)
        worked = f"a block at work {gigabytes(self.work)}"
        held = f"libraries {gigabytes(self.libraries)}, model {gigabytes(self.model)}"
        host = f"{held}, tokens in RAM up to {gigabytes(kept)}"
        low, high = map(gigabytes, self.memory(tokens))
        lines = [f"time on {self.machine}: {span(self.total_seconds)} ({', '.join(groups)}; {self.note})"]
        if self.device_memory:
            first, last = map(gigabytes, self.on_device)
            lines += [
                f"memory of the GPU: {first} to {last} of {gigabytes(self.device_memory)} GB "
                f"(model {gigabytes(self.model)}, {worked})",
                f"memory of the host: {low} to {high} GB ({host})",
            ]
        else:
            lines.append(f"memory: {low} to {high} GB ({host}, {worked}; pages of the weights file not counted)")
        return [*lines, f"disk: {spilled / 1e9:.2f} GB of spilled tokens, and the checkpoint"]


def span(seconds: Range) -> str:
    """A range of time in one unit: hours from three on, minutes from three on."""
    low, high = seconds
    unit, name = (3600, "h") if high >= 3 * 3600 else (60, "min") if high >= 180 else (1, "s")
    return f"{low / unit:.1f} to {high / unit:.1f} {name}"


def gigabytes(count: float) -> str:
    return f"{count / 1e9:.2f}"


def make_plan(outline: Outline, machine: Machine | None = None, libraries: int = 0, progress: bool = True) -> Plan:
    """Of a named machine, or of this one, for which a small block is calibrated; seconds to minutes at VGGT-1B.

    libraries: bytes that the process takes without the network (`resident` tells).
    """
    family, config = outline.family, outline.config
    stages = family.stages(config)
    firsts: dict[str, Stage] = {}
    for stage in stages:
        firsts.setdefault(stage.group, stage)
    # blocks with positions before those without, for whose cost they stand where shapes and formats are the same
    todo = [stage for stage in sorted(firsts.values(), key=lambda s: s.positions is None) if outline.formats(stage)]
    found, seen = dict[str, BlockWork](), Seen()
    for stage in bar(todo if outline.learns_blocks else [], desc="count", unit="block", shown=progress):
        same = [s for s in todo if s.group in found and s.view == stage.view]
        alike = [s for s in same if outline.formats(s) == outline.formats(stage)]
        found[stage.group] = found[alike[0].group] if alike else count_block(outline, stage, seen)
    around = count_around(outline)
    tried = [stage for stage in todo if stage.group in found]
    rates = _named(machine) if machine is not None else _measured(outline, tried[0] if tried else None)
    none = BlockWork()
    seconds = {group: rates.block(found.get(group, none)) for group in firsts}
    others = {name: rates.fixed(work) for name, work in around.items() if work.operations}
    with torch.device("meta"):
        network = family.build(config)
    others["reading, hashing, writing"] = _files(size_of(network))
    return Plan(
        machine=rates.machine.title,
        blocks={group: sum(stage.group == group for stage in stages) for group in firsts},
        seconds=seconds,
        other_seconds=others,
        libraries=libraries,
        model=size_of(network),
        work=max((*(work.peak for work in found.values()), *(work.peak for work in around.values())), default=0)
        + adapting(outline),
        token_bytes=outline.token_bytes,
        folded=0 if "folds" not in around else sum(size_of(network.get_submodule(s.path)) for s in stages),
        note=rates.note,
        device_memory=0 if machine is None else machine.memory,
    )


def count_block(outline: Outline, stage: Stage, seen: Seen | None = None) -> BlockWork:
    """One stage of the calibration, for all its sequences and epochs; `seen` of `counting`.

    Fixed work and that of a sequence follow from one and two sequences, learning from one and two epochs of a batch.
    """
    recipe, seen = outline.recipe, {} if seen is None else seen
    plain = recipe.replace(epochs=0)

    def run(sequences: int, steps: Recipe) -> Work:
        return _counted_block(outline, stage, sequences, steps, seen)

    one, two = run(1, plain), run(2, plain)
    each = two - one
    fixed = one + each * (outline.sequences - 1) + _advance(outline, stage) * (outline.streams * outline.sequences)
    if not recipe.epochs:
        return BlockWork(fixed)
    nearest = recipe.replace(rounding="rtn")
    batch = min(recipe.batch, outline.sequences)
    without, once, twice = (run(batch, nearest.replace(epochs=epochs)) for epochs in range(3))
    epochs = (once - without) + (twice - once) * (recipe.epochs - 1)
    return BlockWork(fixed, epochs * (outline.sequences / batch))


def count_around(outline: Outline) -> dict[str, Work]:
    """The work around the stages: selection, folds, the embedding of images, passes that observe ranges."""
    found: dict[str, Work] = {}
    folds = fold_config(outline.recipe, 0) if outline.learns_blocks else None
    family, frames = outline.family, (outline.frames, 3, outline.height, outline.width)

    def count(name: str, times: int, work: Callable[[Network, torch.Tensor], Any]) -> None:
        if times:
            with torch.no_grad(), counting() as counter:
                with torch.device("meta"):
                    network, images = family.build(outline.config).requires_grad_(False), torch.empty(frames)
                begin(counter)
                work(network, images)
                found[name] = _since(counter) * times

    with torch.device("meta"):
        network = family.build(outline.config)
    static = any(format.observed for _, _, format in scheme_linears(network, outline.scheme))
    maps = any(format.activation is not None for _, _, format in scheme_convs(network, outline.scheme))
    count("selection", outline.pool, family.last_tokens)
    count("folds", folds is not None, lambda network, _: fold_(network, folds))
    count("embedding", outline.sequences if outline.learns_blocks else 0, family.embed)
    # passes of a step: the teacher's, forward, forward again for gradients, twice that backward
    count("adaptation", 5 * BATCH * outline.recipe.adapt, lambda network, images: network(images))
    count("ranges", outline.sequences * (static + maps), lambda network, images: network(images))
    return found


def adapting(outline: Outline) -> int:
    """Bytes of an adaptation beside the network and a block at work: what learns, the float blocks, what stays of the
    tokens between the blocks for the gradients."""
    if not outline.recipe.adapt:
        return 0
    stages = outline.family.stages(outline.config)
    with torch.device("meta"):
        network = outline.family.build(outline.config)
    learning = sum(linear.weight.numel() for _, linear, _ in scheme_linears(network, outline.scheme))
    tokens = BATCH * outline.frames * outline.tokens * outline.config.embed_dim * 4 * len(stages)
    return BYTES * learning + sum(size_of(network.get_submodule(stage.path)) for stage in stages) + tokens


def begin(counter: Counting) -> None:
    """From here on: what was made before is there already."""
    counter.operations.clear()
    counter.peak = counter.before = counter.live


def _since(counter: Counting) -> Work:
    return Work(dict(counter.operations), counter.peak - counter.before)


def _counted_block(outline: Outline, stage: Stage, sequences: int, recipe: Recipe, seen: Seen | None = None) -> Work:
    with counting(seen) as counter:
        block, stream = _virtual_block(outline, stage), _nothing(outline, sequences)
        goals = stream.through(stage, block, recipe.frame_shapes)
        begin(counter)
        calibrate_block(block, stage, outline.formats(stage), goals, stream, recipe, 0)
        return _since(counter)


def _advance(outline: Outline, stage: Stage) -> Work:
    with counting() as counter:
        block, stream = _virtual_block(outline, stage), _nothing(outline, 1)
        begin(counter)
        stream.advance(stage, block, outline.recipe.frame_shapes)
        return _since(counter)


def _float_block(outline: Outline, stage: Stage) -> Block:
    """A block of random weights as the calibration meets it, its LayerScale folded or not."""
    block = outline.family.block(outline.config, stage)
    if fold_config(outline.recipe, 0) is not None:
        block.ls1, block.ls2 = torch.nn.Identity(), torch.nn.Identity()
    return block.requires_grad_(False)


def _virtual_block(outline: Outline, stage: Stage) -> Block:
    with torch.device("meta"):
        return _float_block(outline, stage)


def _nothing(outline: Outline, sequences: int) -> Stream:
    """Zeros in the place of the tokens [S, P, C] of some sequences, which take no memory; of each a calibration looks
    closely at as many as it does where all sequences are there."""
    zeros = torch.zeros(()).expand(outline.frames, outline.tokens, outline.config.embed_dim)
    stream = _stream(outline, [zeros] * sequences)
    stream.shapes.extend(stream.shapes[:1] * (outline.sequences - sequences))
    return stream


def _stream(outline: Outline, tokens: list[Tensor]) -> Stream:
    ropes = outline.family.positions(outline.config, outline.height, outline.width)
    stream = Stream(TokenStore(1 << 62), [], [])
    for each in tokens:
        stream.append(each, ropes)
    return stream


def size_of(module: torch.nn.Module) -> int:
    """Bytes of its parameters and buffers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())


@dataclass(frozen=True)
class Rating:
    """A machine, and by how much time is longer or shorter than its rates say: of learning, of all else."""

    machine: Machine
    note: str
    learning_factor: Range
    fixed_factor: Range

    def fixed(self, work: Work) -> Range:
        seconds = self.machine.seconds(work)
        return seconds * self.fixed_factor[0], seconds * self.fixed_factor[1]

    def block(self, work: BlockWork) -> Range:
        low, high = self.fixed(work.fixed)
        seconds = self.machine.seconds(work.learning)
        return low + seconds * self.learning_factor[0], high + seconds * self.learning_factor[1]


def _named(machine: Machine) -> Rating:
    low, high = machine.efficiency
    factor = 1 / high, 1 / low
    note = (
        f"an estimate from its data sheet, {machine.fp32 / 1e12:g} TFLOPS fp32, {machine.fp64 / 1e12:g} fp64, "
        f"{machine.bandwidth / 1e9:g} GB/s, of which {low:.0%} to {high:.0%} are assumed to be reached; not run there"
    )
    return Rating(machine, note, factor, factor)


def _measured(outline: Outline, stage: Stage | None, runs: int = 2) -> Rating:
    """This machine: rates of single kernels, and how a small block in earnest compares with them."""
    machine = measure_rates().machine
    note = "this machine as it is now, by short runs of a small block with random weights"
    if stage is None:
        return Rating(machine, note, LEFT_OUT, LEFT_OUT)
    rows, columns = outline.height // outline.config.patch_size, outline.width // outline.config.patch_size
    while rows * columns > TRIED:
        rows, columns = max(1, rows // 2), max(1, columns // 2)
    side = outline.config.patch_size
    changes: dict[str, Any] = {"height": rows * side, "width": columns * side, "frames": 1, "sequences": 1}
    small = Outline(**{**vars(outline), **changes})
    formats, factors, generator = outline.formats(stage), dict[str, Range](), torch.Generator().manual_seed(0)
    plain = outline.recipe.replace(epochs=0)
    learned = outline.recipe.replace(rounding="rtn", search_clips=False, epochs=3, batch=1)
    for name, recipe in {"fixed": plain, **({"learning": learned} if outline.recipe.epochs else {})}.items():
        seconds = []
        for _ in range(runs):
            block = _float_block(small, stage)
            stream = _stream(small, [torch.randn(1, small.tokens, small.config.embed_dim, generator=generator)])
            goals = stream.through(stage, block, recipe.frame_shapes)
            start = time.perf_counter()
            calibrate_block(block, stage, formats, goals, stream, recipe, 0)
            seconds.append(time.perf_counter() - start)
        expected = machine.seconds(_counted_block(small, stage, 1, recipe))
        factors[name] = LEFT_OUT[0] * min(seconds) / expected, LEFT_OUT[1] * max(seconds) / expected
    return Rating(machine, note, factors.get("learning", LEFT_OUT), factors["fixed"])


def _files(size: int) -> Range:
    """Seconds to read a network of so many bytes, hash it, and write it: one part at most twice as slow as hashing."""
    import hashlib

    piece = bytes(1 << 24)
    start = time.perf_counter()
    hashlib.sha256(piece).digest()
    rate = len(piece) / (time.perf_counter() - start)
    return size / rate, 4 * size / rate


def resident() -> int:
    """Bytes of this process in memory, but for pages of files; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
