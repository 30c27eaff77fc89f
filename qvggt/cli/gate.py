"""The parity gate of qvggt-export: linear by linear, end to end, and in camera accuracy."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from qvggt.data.image_set import ImageSet
from qvggt.data.reading import read_images
from qvggt.data.registry import Question
from qvggt.data.sequence import Sequence as Posed
from qvggt.export.precision import Precision
from qvggt.models.network import Network
from qvggt.predictions import CAMERAS
from qvggt.quant.scheme import Scheme

if TYPE_CHECKING:
    from torch import Tensor

    from qvggt.eval.result import CandidateResult
    from qvggt.export.half_range import ModuleRange
    from qvggt.export.parity import LayerParity, OutputParity

SHOWN_RANGES = 20  # of the fp16 ranges, in the report
AUC_TOLERANCE = 0.5  # points of AUC@30
AUC_FRAMES = 4
POOLED_SEQUENCES = 8  # of the end-to-end comparison, as far as there are so many


@dataclass(frozen=True)
class Gate:
    """What to check and where to write the report. `data` None means generated scenes.

    precision: float type of the network in the file.
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


def run_gate(gate: Gate, reference: Network, scheme: Scheme) -> bool:
    """Run every check, print the figures, write the JSON report; False when one fails."""
    from qvggt.engines.onnx_runner import OnnxRunner
    from qvggt.engines.torch_runner import TorchRunner
    from qvggt.eval.harness import evaluate
    from qvggt.export.emulation import measurable
    from qvggt.export.parity import ParityReport, check_convs, check_linears, check_outputs
    from qvggt.json_file import write_json
    from qvggt.versions import versions

    longest = max(gate.frames, default=1)
    with gate_images(gate, longest) as images, measurable(gate.onnx) as runnable, OnnxRunner(runnable) as runner:
        if runnable != gate.onnx:
            typer.echo(
                "bf16: ONNX Runtime has no CPU kernels; measured on an fp32 copy that rounds every tensor to bf16"
            )
        pooled = [batch for batch, _ in zip(images, range(POOLED_SEQUENCES), strict=False)]
        first = pooled[0]
        ranges = _check_range(reference, pooled) if gate.precision is Precision.FP16 else ()
        linears = check_linears(gate.onnx, reference, first[: min(4, longest)], precision=gate.precision)
        convs = check_convs(gate.onnx, reference, first)
        batches = (batch[:n] for n in gate.frames for batch in pooled)
        outputs = check_outputs(runner.run_named, reference, batches, scheme, precision=gate.precision)
        _print(linears, outputs, gate.precision)
        if convs:
            values, ties = sum(p.tokens for p in convs), sum(p.ties for p in convs)
            typer.echo(
                f"{sum(map(bool, convs))}/{len(convs)} quantized convolutions agree ({ties} of {values} values differ "
                "by a step on a rounding tie)"
            )
        failures = [f"{r}: overflows fp16; export with --precision bf16" for r in ranges if r.headroom < 1]
        failures += ParityReport(linears + convs, outputs).failures()
        auc: dict[str, float] | None = None
        if gate.sequences and CAMERAS in runner.outputs:
            short = ImageSet(tuple(s.first(AUC_FRAMES) for s in images.sequences), gate.height, gate.width)
            results = evaluate([TorchRunner(reference, "fake quant"), runner], short.sequences, warmup=0)
            auc = {name: r.auc()[30] for name, r in zip(("reference", "onnx"), results, strict=True)}
            auc["delta"] = auc["onnx"] - auc["reference"]
            typer.echo(
                f"AUC@30 on {len(short)} sequences of {AUC_FRAMES} frames: fake quant {auc['reference']:.2f}, "
                f"ONNX {auc['onnx']:.2f} ({auc['delta']:+.2f} points, tolerance {AUC_TOLERANCE})"
            )
            moved = abs(auc["delta"]) > AUC_TOLERANCE
            if moved:  # a flipped rounding moves poses at random: by chance or by fault?
                auc["low"], auc["high"] = _delta_interval(*results) or (auc["delta"], auc["delta"])
                moved = not auc["low"] <= 0 <= auc["high"]
                typer.echo(f"95 % interval of the change: {auc['low']:+.2f} to {auc['high']:+.2f} points")
            if moved:
                failures.append(f"AUC@30 moves by {auc['delta']:+.2f} points > {AUC_TOLERANCE}")
        else:
            typer.echo("AUC@30: not measured (no pose output or --parity-sequences 0)")
    write_json(
        gate.report,
        {
            "passed": not failures,
            "failures": failures,
            "scheme": scheme.to_dict(),
            "precision": gate.precision.value,
            "fp16_ranges": [{**asdict(r), "headroom": r.headroom} for r in ranges[:SHOWN_RANGES]],
            "linears": [asdict(p) for p in linears],
            "convolutions": [asdict(p) for p in convs],
            "outputs": [asdict(p) for p in outputs],
            "auc30": auc,
            "versions": versions(),
        },
    )
    for line in failures[:10]:
        typer.echo(f"parity FAILED: {line}", err=True)
    typer.echo(f"parity {'FAILED' if failures else 'passed'}, report in {gate.report}")
    return not failures


@contextmanager
def gate_images(gate: Gate, frames: int) -> Iterator[ImageSet[Posed]]:
    """Test sequences of the user's data, or scenes generated at the export size for as long as the gate runs."""
    count, question = max(1, gate.sequences), Question(frames=max(frames, AUC_FRAMES), seed=gate.seed)
    if gate.data is not None:
        yield read_images(replace(question, root=gate.data, max_sequences=count), gate.height, gate.width)
        return
    from qvggt.data.synthetic.generator import write_scenes
    from qvggt.data.synthetic.seeds import GATE_SEEDS

    with tempfile.TemporaryDirectory(prefix="qvggt-gate-") as folder:
        seeds = range(GATE_SEEDS, GATE_SEEDS + count)
        write_scenes(Path(folder), (gate.height, gate.width), max(frames, AUC_FRAMES), seeds, progress=False)
        yield read_images(replace(question, root=Path(folder)), gate.height, gate.width)


def _delta_interval(first: CandidateResult, second: CandidateResult) -> tuple[float, float] | None:
    """Paired-bootstrap 95 % interval of the change in AUC@30, in points; None for one sequence."""
    from qvggt.eval.bootstrap import Bootstrap
    from qvggt.eval.metrics import BY_NAME, column

    return Bootstrap().paired(*(column(BY_NAME["auc30"], result.records) for result in (first, second)))


def _check_range(reference: Network, batches: list[Tensor]) -> tuple[ModuleRange, ...]:
    """Activations near the end of fp16 in the fp32 reference: printed, largest first."""
    from qvggt.export.half_range import WORRY, half_ranges

    ranges = half_ranges(reference, batches)
    if ranges:
        near = sum(r.headroom < WORRY for r in ranges)
        typer.echo(f"fp16 range: {ranges[0]}; {near} of {len(ranges)} tensors have less than {WORRY:.0f}x")
    return ranges


def _print(linears: Sequence[LayerParity], outputs: Sequence[OutputParity], precision: Precision) -> None:
    if linears:
        worst = max(linears, key=lambda p: p.error / p.tolerance)
        tokens, ties = sum(p.tokens for p in linears), sum(p.ties for p in linears)
        typer.echo(
            f"{sum(map(bool, linears))}/{len(linears)} quantized linears agree "
            f"(worst {worst.error:.1e} at {worst.path}, tolerance {worst.tolerance:.0e}; "
            f"{ties} of {tokens} tokens differ on a rounding tie)"
        )
    for name in dict.fromkeys(p.name for p in outputs):
        mine = [p for p in outputs if p.name == name]
        figures = ", ".join(f"{p.frames}: {p.sqnr_db:.1f} ({p.self_db:.1f})" for p in mine)
        error = max(p.max_error for p in mine)
        typer.echo(f"{name}: SQNR dB by frames {figures}; floor {mine[0].floor_db:.0f}; max error {error:.2e}")
    noise = (
        "on an input changed by 1e-5, its own float noise"
        if precision is Precision.FP32
        else f"with weights and module outputs rounded to {precision.value}"
    )
    typer.echo(f"in brackets: the reference against itself {noise}")
