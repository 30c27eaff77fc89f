"""qvggt-build: ONNX -> TensorRT engine, with its manifest and layer report."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from qvggt.cli.common import application, check_writable
from qvggt.errors import QvggtError

app, main = application()

EPILOG = """
\b
Examples:
  qvggt-export tiny --bits w4a4 --target tensorrt -o outputs/tiny-w4a4.onnx
  qvggt-build outputs/tiny-w4a4.onnx -o outputs/tiny-w4a4.engine --frames 1:4:8 --cc 8.6,8.9,12.0
  qvggt-build model.onnx -o model.engine --backend trtexec     # prints and saves the command; runs it if it can
"""


@app.command(epilog=EPILOG)
def build(
    model: Annotated[Path, Argument(metavar="ONNX", help="The file to build, from qvggt-export or elsewhere.")],
    output: Annotated[Path, Option("-o", "--output", help="Engine to write, ending in .engine or .plan.")],
    backend: Annotated[
        str, Option(help="rtx (TensorRT-RTX, needs no GPU), tensorrt or trtexec (both build where they run).")
    ] = "rtx",
    precision: Annotated[
        str | None, Option(help="fp32, fp16 or bf16: fail unless the network has this float type. [any]")
    ] = None,
    frames: Annotated[str | None, Option(help="min:opt:max frame counts. [those of the file, else 1:8:32]")] = None,
    cc: Annotated[
        str | None,
        Option("--cc", help="GPU compute capabilities, comma-separated; rtx only. [the builder's portable set]"),
    ] = None,
) -> None:
    """Build an engine and show which kernel every quantized linear became.

    Writes OUTPUT, OUTPUT.manifest.json (hashes, origin; runners refuse an engine without it) and OUTPUT.layers.json,
    read from the builder's own layer table. Nothing is run on a GPU: the report says what is planned and stored.
    Exit code 1 when a linear that should be low-bit is not, 2 for a mistake in the call or a graph that is refused.
    """
    from qvggt.cli.source import parse_frames
    from qvggt.engines.build_config import BuildConfig, parse_capabilities
    from qvggt.engines.builder import build_engine, check_output, check_precision, plan_trtexec, read_source
    from qvggt.engines.manifest import manifest_path
    from qvggt.engines.trtexec import find_trtexec

    profile = None if frames is None else parse_frames(frames)
    config = BuildConfig(backend, precision, profile, parse_capabilities(cc))
    check_output(output)
    check_writable(output)
    source = read_source(model)
    check_precision(source, precision)
    if backend == "trtexec":
        command, saved = plan_trtexec(source, output, config)
        typer.echo(shlex.join(command))
        typer.echo(f"command: {saved}")
        if find_trtexec() is None:
            raise QvggtError(f"trtexec: not on PATH, so nothing was built; run {saved} where TensorRT is installed")
    result = build_engine(source, output, config)
    manifest, report = result.manifest, result.report
    seconds, peak = manifest.build["seconds"], manifest.build["peak_bytes"]
    typer.echo(
        f"{output}: {manifest.backend} {manifest.backend_version}, {manifest.precision} network, "
        f"{manifest.engine.bytes / 1e6:.2f} MB, {seconds:.1f} s"
        + ("" if peak is None else f", peak {peak / 1e9:.2f} GB")
    )
    if report.linears:
        typer.echo(report.table())
    typer.echo(report.summary)
    typer.echo("nothing was run on a GPU: speed and numbers of the engine are not measured")
    typer.echo(f"manifest: {manifest_path(output)}, report: {result.report_path}")
    for verdict in report.failed[:10]:
        typer.echo(
            f"not as wanted: {verdict.path}: {verdict.wanted} expected, {verdict.found}: {verdict.note}", err=True
        )
    if report.failed:
        raise typer.Exit(1)
