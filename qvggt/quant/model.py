"""Turning the linears of a model into quantized ones, and finding them again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from qvggt.errors import QvggtError
from qvggt.quant.linear import QuantLinear
from qvggt.quant.scheme import LinearFormat, Scheme
from qvggt.quant.transform import TransformSpec


def scheme_linears(model: nn.Module, scheme: Scheme) -> Iterator[tuple[str, nn.Linear, LinearFormat]]:
    """(path, linear, format) of every float linear the scheme quantizes, in module order.

    Each may be replaced before the next is asked for; only one is held, so that replaced ones free their memory.
    """
    for path in [path for path, module in model.named_modules() if isinstance(module, nn.Linear)]:
        format = scheme.format(path)
        if format is not None:
            linear = model.get_submodule(path)
            assert isinstance(linear, nn.Linear)
            yield path, linear, format


def quantized_linears(model: nn.Module) -> Iterator[tuple[str, QuantLinear]]:
    """(path, module) of every quantized linear, in module order."""
    for path, module in model.named_modules():
        if isinstance(module, QuantLinear):
            yield path, module


def transform_specs(model: nn.Module) -> dict[str, TransformSpec]:
    """Path -> spec of every quantized linear that changes its input at run time."""
    return {path: m.transform.spec for path, m in quantized_linears(model) if m.transform is not None}


def quantize_(model: nn.Module, scheme: Scheme, ranges: Mapping[str, float] | None = None) -> None:
    """Replace the scheme's linears in place, one at a time, by round-to-nearest `QuantLinear`s.

    `ranges` maps a path to the observed max |x| of its input; static schemes need one for every linear: QvggtError
    names the first that lacks it, with the model untouched.
    """
    ranges = ranges or {}
    for path, _, format in scheme_linears(model, scheme):
        if format.activation == "static" and path not in ranges:
            raise QvggtError(f"{path}: static activations need an observed range; calibrate with data first")
    for path, linear, format in scheme_linears(model, scheme):
        model.set_submodule(path, QuantLinear.from_float(linear, format, ranges.get(path)))


def prepare_(model: nn.Module, scheme: Scheme, transforms: Mapping[str, TransformSpec] | None = None) -> None:
    """Replace the scheme's linears by empty `QuantLinear`s on the same device, to be filled from a checkpoint.

    `transforms` names the linears that change their input at run time, and how.
    """
    specs = transforms or {}
    for path, linear, format in scheme_linears(model, scheme):
        spec, bias = specs.get(path), linear.bias is not None
        with torch.device(linear.weight.device):
            empty = QuantLinear(linear.in_features, linear.out_features, format, bias, spec)
        model.set_submodule(path, empty)
