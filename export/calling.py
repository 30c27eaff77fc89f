"""`qvggt.export(model, path)`: the exporter and its parity check as one function.

A package and a function of the same name cannot both be attributes of `qvggt`, so the package runs it when called.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from qvggt.errors import QvggtError
from qvggt.quant.handle import Model
from qvggt.quant.scheme import Scheme, parse_scheme

if TYPE_CHECKING:
    from qvggt.export.exporter import Exported
    from qvggt.export.parity import ParityReport
    from qvggt.export.precision import Precision


def export(
    model: Model,
    path: str | Path,
    *,
    size: tuple[int, int] | None = None,
    frames: tuple[int, int, int] = (1, 8, 32),
    outputs: Sequence[str] | None = None,
    target: str = "cpu",
    precision: str | None = None,
    check: Tensor | None = None,
    progress: bool = True,
) -> Exported:
    """Write a model as ONNX with standard Q/DQ nodes; atomic, passes onnx.checker.

    size: (H, W) in pixels, multiples of the patch size; the model's own square by default. frames: (min, opt, max), a
    profile for engine builders; the file takes any count. outputs: any of pose, depth, points; all by default. target:
    "cpu" or "tensorrt". precision: "fp32", "fp16" or "bf16", the float type of what is not quantized; by default that
    of the scheme's bits where they name one, else fp16 for tensorrt and fp32 for cpu. Inputs and outputs of the file
    are fp32.

    check: images float32 [S, 3, H, W] in [0, 1], of the export size, on which ONNX Runtime runs the file against
    `model`: every quantized linear alone, then every output. The result's `parity` is true when all agree, and lists
    its `failures()`; without `check` it is None, not measured. `qvggt-export` checks camera accuracy too.
    QvggtError for a size, output, target or place that cannot be, and for images of another size.
    """
    from qvggt.export.exporter import ExportConfig, export_onnx
    from qvggt.export.precision import float_type
    from qvggt.models.family import family_of
    from qvggt.target import Target

    if target not in [t.value for t in Target]:
        raise QvggtError(f"target {target!r}: expected one of {', '.join(t.value for t in Target)}")
    height, width = size or (model.size, model.size)
    if check is not None and (check.ndim != 4 or tuple(check.shape[1:]) != (3, height, width)):
        raise QvggtError(f"check: expected images [S, 3, {height}, {width}], got {list(check.shape)}")
    if check is not None and not bool(check.isfinite().all()):
        raise QvggtError("check: the images hold NaN or infinity, expected values in [0, 1]")
    scheme = model.scheme or parse_scheme("fp32", family=model.network.config.family)
    real = float_type(precision, scheme, target)
    words = tuple(family_of(model.network).exportable) if outputs is None else tuple(outputs)
    config = ExportConfig(height, width, words, frames, Target(target), real)
    written = export_onnx(model.network, scheme, config, path, {"name": model.name, "sha256": model.sha256})
    parity = None if check is None else measure_parity(written.path, model, scheme, check, progress, real)
    return replace(written, parity=parity)


def measure_parity(
    path: Path, model: Model, scheme: Scheme, images: Tensor, progress: bool, precision: Precision
) -> ParityReport:
    """The two checks of `qvggt.export.parity` on one batch of images."""
    import onnxruntime as ort

    from qvggt.export.emulation import measurable, session_options
    from qvggt.export.parity import ParityReport, check_linears, check_outputs

    with measurable(path) as runnable:
        session = ort.InferenceSession(runnable, session_options(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(batch: Any) -> dict[str, Any]:
        return dict(zip(names, session.run(names, {session.get_inputs()[0].name: batch[None]}), strict=True))

    linears = check_linears(path, model.network, images, progress, precision)
    return ParityReport(linears, check_outputs(run, model.network, [images], scheme, precision=precision))
