"""The parameters released for QuantVGGT put on a float checkpoint (spec/quantvggt.md section 2.2).

What comes out is an ordinary fake-quant model: its online rotations are sign flips and Kronecker Hadamards, two small
products where the released code multiplies by a dense matrix, at the same integer weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qvggt.calib.quantvggt_release import LinearParameters, ReleasedParameters, read_released
from qvggt.calib.quantvggt_scheme import check_scheme
from qvggt.calib.rtn import weight_sqnr
from qvggt.errors import QvggtError
from qvggt.formats.linear_format import LinearFormat
from qvggt.models.folded import applied_fold
from qvggt.models.network import Network
from qvggt.models.vggt.network import VGGT
from qvggt.progress import bar
from qvggt.quant.linear import QuantLinear
from qvggt.quant.scheme import Scheme
from qvggt.quant.transform import InputTransform, TransformSpec

__all__ = ["LinearParameters", "ReleasedParameters", "import_quantvggt_", "read_released"]


def import_quantvggt_(
    model: Network, released: ReleasedParameters, scheme: Scheme, progress: bool = True
) -> dict[str, dict[str, float]]:
    """Quantize the linears of the frame and global blocks in place as the release says; returns path -> figures.

    model: the float checkpoint the release was calibrated for (the files do not say which, nor the bits: only shapes
    can be checked). scheme: dynamic activations per token, weights per row, the part "aggregator" alone, no overrides.
    Per linear (section 2.2): W R, times s, clipped per row, rounded to its grid; input: x R, times 1/s, ranges clipped
    per side. Integer weights equal the released code's but for values on a rounding tie, since that adds W R up in
    fp32 and this in fp64. Figures: "weight_sqnr_db", of the weight with s taken out again. Raises QvggtError, with
    the model untouched, when scheme or model does not fit.
    """
    check_scheme(scheme)
    linears = matching_linears(model, released)
    table: dict[str, dict[str, float]] = {}
    for path, linear in bar(linears.items(), desc="import QuantVGGT", unit="linear", shown=progress):
        format = scheme.format(path)
        assert format is not None
        quantized, sqnr = import_linear(linear, released.linears[path], format)
        model.set_submodule(path, quantized)
        table[path] = {"weight_sqnr_db": round(sqnr, 3)}
    return table


def matching_linears(model: Network, released: ReleasedParameters) -> dict[str, nn.Linear]:
    """path -> float linear for every linear of the release; QvggtError for a model it was not made for."""
    other = "give the float checkpoint the release was calibrated for"
    if not isinstance(model, VGGT):
        raise QvggtError(f"model: it is of the family {model.config.family}, expected a VGGT; {other}")
    if applied_fold(model) is not None:
        raise QvggtError(f"model: its rotations are folded, expected it as published; {other}")
    depth = model.config.aa_depth
    if released.blocks != depth:
        raise QvggtError(
            f"{released.folder}: parameters of {released.blocks} frame and global blocks, "
            f"the model has {depth}; {other}"
        )
    linears: dict[str, nn.Linear] = {}
    for path, parameters in released.linears.items():
        linear = model.get_submodule(path)
        if not isinstance(linear, nn.Linear):
            raise QvggtError(f"model: {path} is a {type(linear).__name__}, expected a Linear; {other}")
        inputs = len(parameters.signs)
        outputs = linear.out_features if parameters.weight_clip is None else parameters.weight_clip.shape[1]
        if (linear.out_features, linear.in_features) != (outputs, inputs):
            raise QvggtError(
                f"{released.folder}: parameters of {path} are for a weight {[outputs, inputs]}, "
                f"the model's is {list(linear.weight.shape)}; {other}"
            )
        linears[path] = linear
    return linears


def clip_weight(weight: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Clamp each row to [low * rowmin, high * rowmax]; low and high in (0, 1], [out, 1] (learned clip ratios)."""
    floor = weight.amin(dim=1, keepdim=True) * low
    ceiling = weight.amax(dim=1, keepdim=True) * high
    return torch.maximum(torch.minimum(weight, ceiling), floor)


def import_linear(linear: nn.Linear, parameters: LinearParameters, format: LinearFormat) -> tuple[QuantLinear, float]:
    """The quantized linear, and the SQNR of its weight in dB."""
    spec = TransformSpec(rotation=True, scale=parameters.scale is not None)
    transform = InputTransform(linear.in_features, spec)
    assert transform.rotation is not None
    transform.rotation.signs = parameters.signs.clone()
    rotated = transform.rotation.rotate_weight(linear.weight.detach().float())
    weight = rotated
    if parameters.scale is not None:
        transform.scale = 1 / parameters.scale
        weight = rotated * parameters.scale
    if parameters.weight_clip is not None:
        weight = clip_weight(weight, *parameters.weight_clip)
    scale = format.weight.scale(weight)
    module = QuantLinear.from_codes(format.weight.codes(weight, scale), scale, linear.bias, format, transform)
    if parameters.act_clip is not None:
        module.act_clip = parameters.act_clip
    approximation = module.weight_dequantized()
    if parameters.scale is not None:
        approximation = approximation / parameters.scale
    return module, weight_sqnr(rotated, approximation)
