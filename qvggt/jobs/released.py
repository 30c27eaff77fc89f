"""Released QuantVGGT parameters + float checkpoint -> calibrated checkpoint: a calibration that others have done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from qvggt.calib.quantvggt_scheme import PART, check_scheme
from qvggt.errors import QvggtError
from qvggt.formats.table import is_format
from qvggt.jobs.source import load_source
from qvggt.progress import Console
from qvggt.quant.scheme import DESCRIPTION, Scheme, parse_scheme

if TYPE_CHECKING:
    from qvggt.jobs.calibrate import Calibrated, CalibrateJob

TAKEN = ("format", "import_quantvggt", "revision", "offline", "threads", "overwrite")


def check_call(job: CalibrateJob) -> Scheme:
    """What is imported. The files do not tell their bits, so --bits must be given; an option a release leaves nothing
    to choose for must not. QvggtError for either."""
    others = [name for name in job.changed() if name not in TAKEN]
    if others:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in others).replace("--overrides", "--override")
        raise QvggtError(f"{names}: not with --import-quantvggt, where the release decides; leave it out")
    if job.format is None:
        raise QvggtError("--import-quantvggt needs --bits: the released files do not tell theirs (e.g. --bits w4a4)")
    scheme = parse_scheme(job.format, "dynamic", (PART,))
    check_scheme(scheme)
    return scheme


def import_released(job: CalibrateJob, folder: Path, console: Console) -> Calibrated:
    """Read the release in `folder`, quantize the float checkpoint with it and write the output. QvggtError for a
    release or a model that does not fit."""
    import torch

    from qvggt.calib.import_quantvggt import import_quantvggt_, read_released
    from qvggt.calib.quantvggt_release import FILES
    from qvggt.files import file_sha256
    from qvggt.quant.checkpoint import Provenance
    from qvggt.versions import versions

    scheme = check_call(job)
    named = [part for part in folder.resolve().parts if is_format(part)]
    if named and named[-1] != job.format:
        console.warn(f"note: {folder} lies in a folder {named[-1]}, imported as {job.format}")
    source = load_source(job.model, job.revision, job.offline, calibrated=False)
    released = read_released(folder)
    if released.ignored:
        shown = ", ".join(released.ignored[:3]) + (", ..." if len(released.ignored) > 3 else "")
        console.warn(f"note: {folder}: {len(released.ignored)} unknown tensors ignored ({shown})")
    source = job.own(source)
    layers = import_quantvggt_(source.network, released, scheme)
    calibration = {
        "import": "quantvggt",
        "files": {name: file_sha256(folder / name) for name in FILES.values()},
        "groups": list(released.groups),
        "threads": torch.get_num_threads(),
        "device": "cpu",
    }
    provenance = Provenance({"name": source.name, "sha256": source.sha256}, calibration, versions(), layers)
    result = job.saved(replace(source, scheme=scheme, provenance=provenance), "quantvggt")
    held = ", ".join(("rotation", *released.groups))
    console.result(
        f"{job.output}: {scheme.label}, {len(layers)} linears by the release in {folder} ({held}; {DESCRIPTION})"
    )
    return result
