"""qvggt-calibrate --import-quantvggt: released QuantVGGT parameters + float checkpoint -> calibrated checkpoint."""

from __future__ import annotations

from pathlib import Path

import typer

from qvggt.cli.common import check_output
from qvggt.errors import QvggtError
from qvggt.formats.table import is_format

TAKEN = ("model", "output", "bits", "import_quantvggt", "revision", "offline", "force")


def import_released(
    folder: Path,
    model: str,
    output: Path,
    bits: str,
    given: tuple[str, ...],
    revision: str | None = None,
    offline: bool = False,
    force: bool = False,
) -> None:
    """Read the release in `folder`, quantize the float checkpoint `model` with it and write the directory `output`.

    given: the options the user wrote (`given_options`). The files do not tell their bits, so --bits must be one of
    them; an option a release leaves nothing to choose for must not. QvggtError for either, before any work.
    """
    from qvggt.calib.import_quantvggt import PART, check_scheme, import_quantvggt_, read_released
    from qvggt.calib.quantvggt_release import FILES
    from qvggt.cli.source import load_source
    from qvggt.files import file_sha256
    from qvggt.quant.checkpoint import DESCRIPTION, Provenance, save_calibrated
    from qvggt.quant.scheme import parse_scheme
    from qvggt.versions import versions

    others = [f"--{name.replace('_', '-')}" for name in given if name not in TAKEN]
    if others:
        raise QvggtError(f"{', '.join(others)}: not with --import-quantvggt, where the release decides; leave it out")
    if "bits" not in given:
        raise QvggtError("--import-quantvggt needs --bits: the released files do not tell theirs (e.g. --bits w4a4)")
    scheme = parse_scheme(bits, "dynamic", (PART,))
    check_scheme(scheme)
    check_output(output, force)
    named = [part for part in folder.resolve().parts if is_format(part)]
    if named and named[-1] != bits:
        typer.echo(f"note: {folder} lies in a folder {named[-1]}, imported as {bits}", err=True)
    source = load_source(model, revision, offline, calibrated=False)
    released = read_released(folder)
    if released.ignored:
        shown = ", ".join(released.ignored[:3]) + (", ..." if len(released.ignored) > 3 else "")
        typer.echo(f"note: {folder}: {len(released.ignored)} unknown tensors ignored ({shown})", err=True)
    layers = import_quantvggt_(source.network, released, scheme)
    files = {name: file_sha256(folder / name) for name in FILES.values()}
    calibration = {"import": "quantvggt", "files": files, "groups": list(released.groups)}
    provenance = Provenance({"name": source.name, "sha256": source.sha256}, calibration, versions(), layers)
    save_calibrated(output, source.network, scheme, provenance, replace=force)
    held = ", ".join(("rotation", *released.groups))
    typer.echo(f"{output}: {scheme.label}, {len(layers)} linears by the release in {folder} ({held}; {DESCRIPTION})")
