"""qvggt-export: checkpoint -> verified ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from qvggt.cli.common import DEFAULT_PARTS, PATCH, WORDS, application, check_writable
from qvggt.cli.options import FrameSeed, Offline, Overrides, Parts, Revision
from qvggt.errors import QvggtError
from qvggt.formats.table import DEFAULT, choices_text

app, main = application()

LARGE = 100_000_000  # parameters: above, 4 frames take minutes a sequence on a CPU
GATE_SEQUENCES = 48


@app.command(epilog="Example: qvggt-export tiny --bits w4a4 --frames 1:8:32 -o outputs/tiny-w4a4.onnx")
def export(
    model: Annotated[
        str,
        Argument(
            help="tiny, vggt-1b, a .safetensors/.pt file, a folder with one, a Hub id, or a calibrated checkpoint."
        ),
    ],
    output: Annotated[Path, Option("-o", "--output", help="File to write, ending in .onnx.")],
    bits: Annotated[
        str | None,
        Option(help=f"{choices_text()}. [that of a calibrated checkpoint, else {DEFAULT}]"),
    ] = None,
    act: Annotated[
        str | None, Option(help="dynamic (one scale per token) or static (per tensor; needs --calib). [dynamic]")
    ] = None,
    frames: Annotated[str, Option(help="min:opt:max frame counts for engine builders.")] = "1:8:32",
    size: Annotated[str | None, Option(help=f"HxW in pixels, multiples of {PATCH}. [model's own square]")] = None,
    outputs: Annotated[str, Option(help=f"Any of {WORDS.replace(',', ', ')}.")] = WORDS,
    target: Annotated[
        str,
        Option(help="cpu: row scales inside the products. tensorrt: overflow-safe products, fp16 (docs/storage.md)."),
    ] = "cpu",
    precision: Annotated[
        str | None,
        Option(
            help="Float type of what is not quantized: fp32, fp16 or bf16; inputs and outputs stay fp32. "
            "[that of --bits if it is one, else fp32 for cpu and fp16 for tensorrt]"
        ),
    ] = None,
    parts: Parts = DEFAULT_PARTS,
    override: Overrides = None,
    calib: Annotated[
        Path | None, Option(help="Co3D-format folder whose train split gives --act static its ranges.")
    ] = None,
    data: Annotated[
        Path | None, Option(help="Co3D-format folder for the accuracy gate (test split). [generated scenes]")
    ] = None,
    fused_attention: Annotated[
        bool,
        Option(
            "--fused-attention", help="ONNX Runtime's and OpenVINO's attention operator: less memory, cpu target, fp32."
        ),
    ] = False,
    parity_sequences: Annotated[
        int | None,
        Option(min=0, help="Sequences of the accuracy gate; 0 skips it. [48, or 0 above 100 M parameters]"),
    ] = None,
    parity_frames: Annotated[
        str, Option(help="Frame counts of the end-to-end comparison, comma-separated.")
    ] = "1,2,5,8",
    check: Annotated[bool, Option("--check/--no-check", help="Run the parity gate after writing.")] = True,
    report: Annotated[Path | None, Option(help="Where to write the parity report. [OUTPUT.parity.json]")] = None,
    seed: FrameSeed = 0,
    revision: Revision = None,
    offline: Offline = False,
) -> None:
    """Write a checkpoint as ONNX with Q/DQ and prove that it computes what the PyTorch fake-quant reference computes.

    The file is linted (qvggt-lint). The gate runs ONNX Runtime on the CPU: every quantized linear against the
    reference on the same input, every output end to end, and camera AUC@30 on a set of scenes. Exit code 1 when one of
    them fails, 2 for a mistake in the call.
    """
    from qvggt.calib.rtn import quantize_rtn_
    from qvggt.cli.gate import Gate, run_gate
    from qvggt.cli.lint import lint_file
    from qvggt.cli.source import load_source, parse_frames, parse_size, scheme_of
    from qvggt.data.reading import read_images
    from qvggt.data.registry import Question
    from qvggt.export.exporter import ExportConfig, export_onnx
    from qvggt.export.precision import float_type
    from qvggt.target import Target

    if output.suffix != ".onnx":
        raise QvggtError(f"{output}: expected a file name ending in .onnx")
    check_writable(output)
    report = report or output.with_name(output.name + ".parity.json")
    check_writable(report)
    if target not in [t.value for t in Target]:
        raise QvggtError(f"--target {target!r}: expected one of {', '.join(t.value for t in Target)}")
    profile = parse_frames(frames)
    counts = _counts(parity_frames)
    chosen = tuple(dict.fromkeys(p for p in outputs.split(",") if p))
    scheme = scheme_of(bits or DEFAULT, act or "dynamic", parts, override or [])
    source = load_source(model, revision, offline)
    network = source.network
    height, width = parse_size(size, network)
    if source.scheme is not None:
        scheme = source.scheme
        if bits not in (None, scheme.bits) or act not in (None, scheme.activation) or override:
            raise QvggtError(
                f"{model}: is calibrated as {scheme.label}; leave out --bits, --act and --override, or calibrate anew"
            )
    else:
        images = None
        if scheme.needs_ranges:
            if calib is None:
                raise QvggtError(
                    "--act static and the part dpt need --calib: a Co3D-format folder to observe activation ranges on"
                )
            images = read_images(Question(calib, "train", frames=4, max_sequences=16, seed=seed), height, width)
        quantize_rtn_(network, scheme, images, None if images is None else len(images))
    floats = float_type(precision, scheme, target)
    config = ExportConfig(height, width, chosen, profile, Target(target), floats, fused_attention)
    written = export_onnx(network, scheme, config, output, {"name": source.name, "sha256": source.sha256})
    typer.echo(
        f"{output}: {scheme.label}, target {target}, {config.precision.value}, {height}x{width}, "
        f"{written.bytes / 1e6:.2f} MB"
    )
    legal = lint_file(output, config.target)
    if not check:
        typer.echo("parity: not measured (--no-check)")
        if not legal:
            raise typer.Exit(1)
        return
    if parity_sequences is None:
        large = sum(p.numel() for p in network.state_dict().values()) > LARGE
        parity_sequences = 0 if large else GATE_SEQUENCES
    gate = Gate(output, report, height, width, counts, data, parity_sequences, seed, config.precision)
    if not run_gate(gate, network, scheme) or not legal:
        raise typer.Exit(1)


def _counts(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(p.isdigit() and int(p) > 0 for p in parts):
        raise QvggtError(f"--parity-frames {text!r}: expected positive frame counts such as 1,2,5,8")
    return tuple(int(p) for p in parts)
