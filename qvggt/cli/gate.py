"""The parity gate of qvggt-export: linear by linear, end to end, and in camera accuracy."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

from qvggt.cli.images import ANNOTATIONS, ImageSet, co3d_images
from qvggt.model import VGGT
from qvggt.quant.scheme import Scheme

AUC_TOLERANCE = 0.5  # points of AUC@30
AUC_FRAMES = 4
POOLED_SEQUENCES = 8  # of the end-to-end comparison, as far as there are so many
GATE_SEED = 40_000_000  # scenes of the gate: apart from training, held-out, calibration and demo scenes


@dataclass(frozen=True)
class Gate:
    """What to check and where to write the report. `data` None means generated scenes."""

    onnx: Path
    report: Path
    height: int
    width: int
    frames: tuple[int, ...]
    data: Path | None
    sequences: int
    seed: int


def run_gate(gate: Gate, reference: VGGT, scheme: Scheme) -> bool:
    """Run every check, print the figures, write the JSON report; False when one fails."""
    from qvggt.cli.versions import versions
    from qvggt.engines.onnx_runner import OnnxRunner
    from qvggt.engines.torch_runner import TorchRunner
    from qvggt.eval.harness import evaluate
    from qvggt.eval.report import write_report
    from qvggt.export.parity import ParityReport, check_linears, check_outputs

    longest = max(gate.frames, default=1)
    with gate_images(gate, longest) as images, OnnxRunner(gate.onnx) as runner:
        pooled = [batch for batch, _ in zip(images, range(POOLED_SEQUENCES), strict=False)]
        first = pooled[0]
        linears = check_linears(gate.onnx, reference, first[: min(4, longest)])
        batches = (batch[:n] for n in gate.frames for batch in pooled)
        outputs = check_outputs(runner.run_named, reference, batches, scheme)
        parity = ParityReport(linears, outputs)
        _print(parity)
        failures = parity.failures()
        auc: dict[str, float] | None = None
        if gate.sequences and "pose_enc" in runner.outputs:
            short = ImageSet(tuple(s.first(AUC_FRAMES) for s in images.sequences), gate.height, gate.width)
            results = evaluate([TorchRunner(reference, "fake quant"), runner], short.sequences, warmup=0)
            auc = {name: 100 * r.auc[30] for name, r in zip(("reference", "onnx"), results, strict=True)}
            auc["delta"] = auc["onnx"] - auc["reference"]
            typer.echo(
                f"AUC@30 on {len(short)} sequences of {AUC_FRAMES} frames: fake quant {auc['reference']:.2f}, "
                f"ONNX {auc['onnx']:.2f} ({auc['delta']:+.2f} points, tolerance {AUC_TOLERANCE})"
            )
            if abs(auc["delta"]) > AUC_TOLERANCE:
                failures.append(f"AUC@30 moves by {auc['delta']:+.2f} points > {AUC_TOLERANCE}")
        else:
            typer.echo("AUC@30: not measured (no pose output or --parity-sequences 0)")
    write_report(
        gate.report,
        {
            "passed": not failures,
            "failures": failures,
            "scheme": scheme.to_dict(),
            "linears": [asdict(p) for p in linears],
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
def gate_images(gate: Gate, frames: int) -> Iterator[ImageSet]:
    """Test sequences of the user's data, or scenes generated at the export size for as long as the gate runs."""
    count, frames = max(1, gate.sequences), max(frames, AUC_FRAMES)
    if gate.data is not None:
        yield co3d_images(
            gate.data, gate.height, gate.width, split="test", frames=frames, sequences=count, seed=gate.seed
        )
        return
    from qvggt.eval.co3d_writer import write_co3d
    from qvggt.eval.synthetic.scene import SceneConfig

    with tempfile.TemporaryDirectory(prefix="qvggt-gate-") as folder:
        root = Path(folder)
        config = SceneConfig(height=gate.height, width=gate.width, frames=frames)
        seeds = range(GATE_SEED, GATE_SEED + count)
        write_co3d(root, config, range(0), seeds, annotations=root / ANNOTATIONS, progress=False)
        yield co3d_images(root, gate.height, gate.width, split="test", frames=frames, seed=gate.seed)


def _print(parity: object) -> None:
    from qvggt.export.parity import LINEAR_TOLERANCE, ParityReport

    assert isinstance(parity, ParityReport)
    if parity.linears:
        worst = max(parity.linears, key=lambda p: p.error)
        tokens, ties = sum(p.tokens for p in parity.linears), sum(p.ties for p in parity.linears)
        typer.echo(
            f"{sum(map(bool, parity.linears))}/{len(parity.linears)} quantized linears agree "
            f"(worst {worst.error:.1e} at {worst.path}, tolerance {LINEAR_TOLERANCE:.0e}; "
            f"{ties} of {tokens} tokens differ on a rounding tie)"
        )
    for name in dict.fromkeys(p.name for p in parity.outputs):
        mine = [p for p in parity.outputs if p.name == name]
        figures = ", ".join(f"{p.frames}: {p.sqnr_db:.1f} ({p.self_db:.1f})" for p in mine)
        error = max(p.max_error for p in mine)
        typer.echo(f"{name}: SQNR dB by frames {figures}; floor {mine[0].floor_db:.0f}; max error {error:.2e}")
    typer.echo("in brackets: the reference against itself on an input changed by 1e-5, its own float noise")
