"""The parity gate of an export: layer by layer, in segments between them, end to end, and in camera accuracy."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from qvggt.data.image_set import ImageSet
from qvggt.data.reading import read_images
from qvggt.data.registry import Question
from qvggt.data.sequence import Sequence as Posed
from qvggt.device import device_of, label
from qvggt.export.half_range import WORRY, ModuleRange, half_ranges
from qvggt.export.parity import LayerParity, OutputParity, check_convs, check_linears, check_outputs, failures
from qvggt.export.precision import Precision
from qvggt.export.segments import SegmentReport, check_segments
from qvggt.export.twin import Twin, compare_twins
from qvggt.json_file import write_json
from qvggt.models.family import family_of
from qvggt.models.network import Network
from qvggt.numbers import filled, number
from qvggt.predictions import CAMERAS
from qvggt.progress import Console
from qvggt.quant.scheme import Scheme
from qvggt.versions import versions

if TYPE_CHECKING:
    from qvggt.engines.network_file import NetworkFile
    from qvggt.engines.onnx_runner import OnnxRunner
    from qvggt.engines.runner import Runner
    from qvggt.eval.result import CandidateResult

SHOWN = 10  # failures; the report has them all, and so has -v
SHOWN_RANGES = 20  # of the fp16 ranges, in the report
AUC_TOLERANCE = 0.5  # points of AUC@30
AUC_FRAMES = 4
SEGMENT_FRAMES = (1, 2, 6)  # as far as the comparison of outputs goes
POOLED_SEQUENCES = 8  # of the end-to-end comparison, as far as there are so many


@dataclass(frozen=True)
class Gate:
    """What to check and where to write the report. `data` None means generated scenes.

    precision: float type of the network in the file. twin: the same network at the size of the images, height x width,
    where that is not the file's; then end to end it is run in the file's place, and must be like it but for the size.
    The file's own segments are proven at one frame of its own size then.
    """

    onnx: Path
    report: Path
    height: int
    width: int
    frames: tuple[int, ...]
    data: Path | None
    sequences: int
    seed: int
    precision: Precision = Precision.FP32
    twin: Path | None = None


@dataclass(frozen=True)
class Parity:
    """What the file computes against what the reference computes.

    report: the JSON file. auc30: AUC@30 of "reference" and "onnx", "delta" in points, and the "low" and "high" end of
    its 99.9 % interval where it is larger than the tolerance; None when it was not measured. fp16_ranges: the largest
    activations of an fp16 network, largest first. threads: CPU threads of both sides. device: of the
    reference. size: (H, W) of the images. unlike: where the network that was run at that size is not the one in the
    file, and outputs that are missing, a line each.
    """

    report: Path
    scheme: Scheme = field(repr=False)
    precision: Precision
    linears: tuple[LayerParity, ...] = field(repr=False)
    convolutions: tuple[LayerParity, ...] = field(repr=False)
    outputs: tuple[OutputParity, ...] = field(repr=False)
    auc30: dict[str, float] | None
    fp16_ranges: tuple[ModuleRange, ...] = field(repr=False)
    threads: int
    device: str
    size: tuple[int, int]
    unlike: tuple[str, ...] = field(default=(), repr=False)
    segments: SegmentReport = field(default=SegmentReport(), repr=False)

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def failures(self) -> list[str]:
        """One line per failed check."""
        lines = [f"{r}: overflows fp16; export with --precision bf16" for r in self.fp16_ranges if r.headroom < 1]
        lines += self.unlike
        lines += self.segments.failures
        lines += failures(self.linears + self.convolutions, self.outputs)
        auc = self.auc30 or {}
        if "low" in auc and not auc["low"] <= 0 <= auc["high"]:
            lines.append(f"AUC@30 moves by {number(auc['delta'], 2, sign=True)} points > {AUC_TOLERANCE}")
        return lines

    def to_dict(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "failures": self.failures,
            "scheme": self.scheme.to_dict(),
            "precision": self.precision.value,
            "fp16_ranges": [{**asdict(r), "headroom": r.headroom} for r in self.fp16_ranges[:SHOWN_RANGES]],
            "linears": [asdict(p) for p in self.linears],
            "convolutions": [asdict(p) for p in self.convolutions],
            "segments": asdict(self.segments),
            "outputs": [{**asdict(p), "rule": p.rule} for p in self.outputs],
            "auc30": self.auc30,
            "auc30_rule": None if self.auc30 is None else _camera_rule(self.auc30),
            "threads": self.threads,
            "device": self.device,
            "size": list(self.size),
            "versions": versions(),
        }


def run_gate(gate: Gate, reference: Network, scheme: Scheme, console: Console) -> Parity:
    """Run every check, say the figures, write the JSON report. The reference runs where it is, the file on the CPU."""
    from qvggt.onnx_view.file import network_files

    longest, threads, precision = max(gate.frames, default=1), torch.get_num_threads(), gate.precision
    files, alike = network_files(gate.onnx), tuple[Twin, ...]()
    run = files if gate.twin is None else network_files(gate.twin)
    if gate.twin is not None:
        alike = tuple(starmap(compare_twins, zip(files, run, strict=True)))
        _say_twins(gate, alike, console)
    with gate_images(gate, longest, console) as images, gate_runner(run, threads) as runner:
        if precision is Precision.BF16:
            console.say(
                "bf16: ONNX Runtime has no CPU kernels; measured on an fp32 copy that rounds every tensor to bf16"
            )
        pooled = [batch for batch, _ in zip(images, range(POOLED_SEQUENCES), strict=False)]
        first = pooled[0]
        ranges = half_ranges(reference, pooled) if precision is Precision.FP16 else ()
        _say_ranges(ranges, console)
        few = first[: min(4, longest)]
        linears = tuple(p for file in files for p in check_linears(file, reference, few, precision=precision))
        convs = tuple(p for file in files for p in check_convs(file, reference, first))
        segments = _segments(gate, files, run, reference, first[:longest])
        batches = (batch[:n] for n in gate.frames for batch in pooled)
        lost = tuple(f"{name}: is no output of the file" for name in _promised(files[0], reference, runner.outputs))
        outputs = check_outputs(runner.run_named, reference, batches, scheme, precision=precision)
        _say_layers(linears, convs, console)
        _say_segments(segments, console)
        _say_outputs(outputs, precision, console)
        auc = None
        if gate.sequences and CAMERAS in runner.outputs:
            auc = _camera_accuracy(images, reference, runner, console)
        else:
            console.say("AUC@30: not measured (no pose output or --parity-sequences 0)")
    reached = threads, label(device_of(reference)), (gate.height, gate.width)
    unlike = tuple(line for each in alike for line in each.differences) + lost
    parity = Parity(gate.report, scheme, precision, linears, convs, outputs, auc, ranges, *reached, unlike, segments)
    write_json(gate.report, parity.to_dict())
    for index, line in enumerate(parity.failures):
        (console.warn if index < SHOWN else console.detail)(f"parity FAILED: {line}")
    console.result(f"parity {'passed' if parity.passed else 'FAILED'}, report in {gate.report}")
    return parity


def _promised(file: Path, reference: Network, given: Collection[str]) -> list[str]:
    """Outputs that a file says it computes, by its metadata, and that nobody gives."""
    from qvggt.onnx_view.file import open_onnx

    heads = family_of(reference).exportable
    words = (open_onnx(file).metadata.text("outputs") or "").split(",")
    return [name for word in words if word in heads for name in heads[word].outputs if name not in given]


def _segments(
    gate: Gate, files: tuple[Path, ...], run: tuple[Path, ...], reference: Network, images: torch.Tensor
) -> SegmentReport:
    """Of the files that are run end to end; where those are of another size, of the files themselves too."""
    from qvggt.engines.network_file import read_network

    reports = [check_segments(file, reference, images, SEGMENT_FRAMES, precision=gate.precision) for file in run]
    if gate.twin is not None:
        one = torch.nn.functional.interpolate(images[:1], read_network(files[0]).size)
        reports += [check_segments(file, reference, one, (1,), precision=gate.precision) for file in files]
    return sum(reports[1:], reports[0])


@contextmanager
def gate_images(gate: Gate, frames: int, console: Console) -> Iterator[ImageSet[Posed]]:
    """Test sequences of the user's data, or scenes generated at the export size for as long as the gate runs."""
    count, question = max(1, gate.sequences), Question(frames=max(frames, AUC_FRAMES), seed=gate.seed)
    if gate.data is not None:
        yield read_images(replace(question, root=gate.data, max_sequences=count), gate.height, gate.width, console.say)
        return
    from qvggt.data.synthetic.generator import write_scenes
    from qvggt.data.synthetic.seeds import GATE_SEEDS

    with tempfile.TemporaryDirectory(prefix="qvggt-gate-") as folder:
        seeds = range(GATE_SEEDS, GATE_SEEDS + count)
        write_scenes(Path(folder), (gate.height, gate.width), max(frames, AUC_FRAMES), seeds, progress=False)
        yield read_images(replace(question, root=Path(folder)), gate.height, gate.width)


@contextmanager
def gate_runner(files: tuple[Path, ...], threads: int) -> Iterator[Runner]:
    """ONNX Runtime on the CPU with the numbers of a file, or of a trunk and its heads."""
    from qvggt.engines.network_file import read_heads, read_network
    from qvggt.engines.onnx_runner import OnnxRunner
    from qvggt.engines.pair_runner import PairRunner
    from qvggt.export.emulation import measurable

    def opened(network: NetworkFile) -> OnnxRunner:
        return OnnxRunner(network, threads=threads)

    with ExitStack() as stack:
        runnable = [stack.enter_context(measurable(file)) for file in files]
        network = read_network(runnable[0])
        heads = read_heads(network, runnable[1]) if network.levels else None
        yield stack.enter_context(opened(network) if heads is None else PairRunner(opened, network, heads))


def _camera_accuracy(images: ImageSet[Posed], reference: Network, runner: Runner, console: Console) -> dict[str, float]:
    """`Parity.auc30`."""
    from qvggt.engines.torch_runner import TorchRunner
    from qvggt.eval.harness import evaluate

    short = ImageSet(tuple(s.first(AUC_FRAMES) for s in images.sequences), images.height, images.width)
    results = evaluate(
        [TorchRunner(reference, "fake quant", device=str(device_of(reference))), runner], short.sequences, warmup=0
    )
    auc = {name: r.auc()[30] for name, r in zip(("reference", "onnx"), results, strict=True)}
    auc["delta"] = auc["onnx"] - auc["reference"]
    console.say(
        f"AUC@30 on {len(short)} sequences of {AUC_FRAMES} frames: fake quant {auc['reference']:.2f}, "
        f"ONNX {auc['onnx']:.2f} ({number(auc['delta'], 2, sign=True)} points, tolerance {AUC_TOLERANCE})"
    )
    if abs(auc["delta"]) > AUC_TOLERANCE:  # a flipped rounding moves poses at random: by chance or by fault?
        auc["low"], auc["high"] = _delta_interval(*results) or (auc["delta"], auc["delta"])
        console.say(filled("99.9 % interval of the change: {:+.2f} to {:+.2f} points", auc["low"], auc["high"]))
    console.say(f"AUC@30: {_camera_rule(auc)}")
    return auc


def _camera_rule(auc: Mapping[str, float]) -> str:
    """By which rule the change of `Parity.auc30` passed, or what it missed."""
    if "low" not in auc:
        return f"changes by no more than {AUC_TOLERANCE} points"
    chance = "holds 0: it may be chance" if auc["low"] <= 0 <= auc["high"] else "excludes 0"
    return f"changes by more than {AUC_TOLERANCE} points, and the interval of the change {chance}"


def _delta_interval(first: CandidateResult, second: CandidateResult) -> tuple[float, float] | None:
    """Paired-bootstrap interval of the change in AUC@30 over the sequences, points; None for one sequence. Of 99.9 %:
    a good file fails by chance in one export of a thousand."""
    from qvggt.eval.bootstrap import Bootstrap
    from qvggt.eval.metrics import BY_NAME, column

    return Bootstrap(level=0.999, draws=40_000).paired(
        *(column(BY_NAME["auc30"], result.records) for result in (first, second))
    )


def _say_twins(gate: Gate, alike: Sequence[Twin], console: Console) -> None:
    nodes, weights, tables = (
        sum(counts) for counts in zip(*((t.nodes, t.weights, len(t.tables)) for t in alike), strict=True)
    )
    verdict = "the same network as the file" if not any(t.differences for t in alike) else "NOT the same network"
    console.say(
        f"end to end at {gate.height}x{gate.width}: {verdict}, {nodes} nodes and {weights} stored tensors alike, "
        f"{tables} tables of the image size apart; every linear is checked in the file itself"
    )


def _say_ranges(ranges: Sequence[ModuleRange], console: Console) -> None:
    """Activations near the end of fp16 in the fp32 reference, largest first."""
    if ranges:
        near = sum(r.headroom < WORRY for r in ranges)
        console.say(f"fp16 range: {ranges[0]}; {near} of {len(ranges)} tensors have less than {WORRY:.0f}x")


def _say_layers(linears: Sequence[LayerParity], convs: Sequence[LayerParity], console: Console) -> None:
    for p in (*linears, *convs):
        console.detail(f"{p.path}: relative error {p.error:.1e}, {p.ties} of {p.tokens} on a rounding tie")
    if linears:
        worst = max(linears, key=lambda p: p.error / p.tolerance)
        tokens, ties = sum(p.tokens for p in linears), sum(p.ties for p in linears)
        console.say(
            f"{sum(map(bool, linears))}/{len(linears)} quantized linears agree "
            f"(worst {worst.error:.1e} at {worst.path}, tolerance {worst.tolerance:.0e}; "
            f"{ties} of {tokens} tokens differ on a rounding tie)"
        )
    if convs:
        values, ties = sum(p.tokens for p in convs), sum(p.ties for p in convs)
        console.say(
            f"{sum(map(bool, convs))}/{len(convs)} quantized convolutions agree ({ties} of {values} values differ "
            "by a step on a rounding tie)"
        )


def _say_segments(report: SegmentReport, console: Console) -> None:
    for p in report.segments:
        console.detail(f"segment {p.path} up to {p.target}: relative error {p.error:.1e}, tolerance {p.tolerance:.0e}")
    if (worst := report.worst) is not None:
        console.say(
            f"{sum(map(bool, report.segments))}/{len(report.segments)} segments between them agree (worst "
            f"{worst.error:.1e} at {worst.path}, tolerance {worst.tolerance:.0e}), at "
            f"{', '.join(map(str, report.frames))} frames and on small tokens; "
            f"{report.nodes - len(report.left)} of {report.nodes} nodes are proven"
        )


def _say_outputs(outputs: Sequence[OutputParity], precision: Precision, console: Console) -> None:
    for name in dict.fromkeys(p.name for p in outputs):
        mine = [p for p in outputs if p.name == name]
        figures = ", ".join(f"{p.frames}: {p.sqnr_db:.1f} ({p.self_db:.1f})" for p in mine)
        error = max(p.max_error for p in mine)
        rules = {rule: [str(p.frames) for p in mine if p.rule == rule] for rule in dict.fromkeys(p.rule for p in mine)}
        said = "; ".join(rule if len(rules) == 1 else f"{rule} at {', '.join(at)}" for rule, at in rules.items())
        console.say(f"{name}: SQNR dB by frames {figures}; {said}; max error {error:.2e}")
    noise = (
        "on an input changed by 1e-5, its own float noise"
        if precision is Precision.FP32
        else f"with weights and module outputs rounded to {precision.value}"
    )
    console.say(f"in brackets: the reference against itself {noise}")
