"""Turning the linears and convolutions of a model into quantized ones, and finding them again."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import nn

from qvggt.errors import QvggtError
from qvggt.formats.attention import FLOAT, AttentionFormat
from qvggt.formats.linear_format import LinearFormat
from qvggt.models.block import Attention
from qvggt.models.family import LINEARS, family_of, find_family
from qvggt.models.network import Network
from qvggt.models.token_types import tell_token_types_
from qvggt.quant.attention import AttentionRange, QuantAttention, quantized_attentions
from qvggt.quant.conv import ConvRange, ConvShape, QuantConv2d
from qvggt.quant.linear import QuantLinear
from qvggt.quant.scheme import Scheme
from qvggt.quant.transform import TransformSpec

Conv = nn.Conv2d | nn.ConvTranspose2d


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


def scheme_convs(model: nn.Module, scheme: Scheme) -> Iterator[tuple[str, Conv, LinearFormat]]:
    """As `scheme_linears`, for the float convolutions of the dense heads."""
    present = {path for path, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)}
    for path in find_family(scheme.family).convs:
        format = scheme.format(path) if path in present else None
        if format is not None:
            conv = model.get_submodule(path)
            assert isinstance(conv, nn.Conv2d | nn.ConvTranspose2d)
            yield path, conv, format


def scheme_attentions(model: nn.Module, scheme: Scheme) -> Iterator[tuple[str, Attention, AttentionFormat]]:
    """As `scheme_linears`, for the floating-point attentions of the stages; heads see too few tokens."""
    for stage in family_of(model).stages(model.config) if isinstance(model, Network) else ():
        path = f"{stage.path}.attn"
        format, attention = scheme.attention_format(path), model.get_submodule(path)
        if format is not None and isinstance(attention, Attention) and not isinstance(attention, QuantAttention):
            yield path, attention, format


def check_overrides(model: nn.Module, scheme: Scheme) -> None:
    """QvggtError for an override that names no linear and no convolution of the model that can be quantized."""
    convs = find_family(scheme.family).convs
    linears = (nn.Linear, QuantLinear)
    paths = [path for path, module in model.named_modules() if isinstance(module, linears) or path in convs]
    for pattern, bits in scheme.overrides:
        if not fnmatch.filter(paths, pattern):
            raise QvggtError(
                f"scheme: override {pattern!r} ({bits}) matches no linear or dense-head convolution of this model; "
                f"expected a pattern of module paths such as {paths[0]}"
            )


def quantized_convs(model: nn.Module) -> Iterator[tuple[str, QuantConv2d]]:
    """(path, module) of every quantized convolution, in module order."""
    for path, module in model.named_modules():
        if isinstance(module, QuantConv2d):
            yield path, module


def quantized_linears(model: nn.Module) -> Iterator[tuple[str, QuantLinear]]:
    """(path, module) of every quantized linear, in module order."""
    for path, module in model.named_modules():
        if isinstance(module, QuantLinear):
            yield path, module


def settled(model: nn.Module, scheme: Scheme) -> Scheme:
    """The scheme with the constant ranges that the linears of a quantized model were given, and with the attentions it
    left floating point; without a format of attention where it left all."""
    constant = []
    for path, linear in quantized_linears(model):
        format = scheme.format(path)
        if format is not None and linear.format != format and linear.format == format.with_constant_range():
            constant.append(path)
    if scheme.attention != FLOAT and not any(quantized_attentions(model)):
        scheme = replace(scheme, attention=FLOAT, float_attentions=())
    short = (path for path, _, _ in scheme_attentions(model, scheme))
    return replace(
        scheme,
        constant_ranges=(*scheme.constant_ranges, *constant),
        float_attentions=(*scheme.float_attentions, *short),
    )


def short_attentions(model: Network, size: tuple[int, int], frames: int) -> list[str]:
    """Paths of quantized attentions whose sequences of images of this size (pixels), `frames` at least, are too short
    for a kernel."""
    family, config = family_of(model), model.config
    tokens = family.tokens(config, *size)
    shortest = {path: attention.format.shortest for path, attention in quantized_attentions(model)}
    lengths = {f"{s.path}.attn": tokens * (frames if s.view == "global" else 1) for s in family.stages(config)}
    return [path for path, length in lengths.items() if length < shortest.get(path, 0)]


def transform_specs(model: nn.Module) -> dict[str, TransformSpec]:
    """Path -> spec of every quantized linear that changes its input at run time."""
    return {path: m.transform.spec for path, m in quantized_linears(model) if m.transform is not None}


def quantize_(
    model: nn.Module,
    scheme: Scheme,
    ranges: Mapping[str, float] | None = None,
    conv_ranges: Mapping[str, ConvRange] | None = None,
    attention_ranges: Mapping[str, AttentionRange] | None = None,
    visit: Callable[[str, nn.Linear | Conv, QuantLinear | QuantConv2d], None] | None = None,
) -> None:
    """Replace the scheme's linears and convolutions in place, one at a time, by round-to-nearest quantized ones.

    `visit` gets the path, the float module and the quantized one of each, before the float one is let go.
    `ranges` maps a path to the observed max |x| of its input; static schemes need one for every linear; `conv_ranges`
    those of the convolutions, `attention_ranges` those of the attentions, of which short ones stay floating point:
    QvggtError names the first that lacks it, with the model untouched. QvggtError for an override that matches nothing.
    """
    ranges, conv_ranges, attention_ranges = ranges or {}, conv_ranges or {}, attention_ranges or {}
    visit = visit or (lambda *_: None)
    check_overrides(model, scheme)
    for path, _, format in scheme_linears(model, scheme):
        if format.observed and path not in ranges:
            raise QvggtError(f"{path}: static activations need an observed range; calibrate with data first")
    for path, _, format in scheme_convs(model, scheme):
        if format.activation is not None and path not in conv_ranges:
            raise QvggtError(f"{path}: a quantized convolution needs observed ranges; calibrate with data first")
    for path, _, _ in scheme_attentions(model, scheme):
        if path not in attention_ranges:
            raise QvggtError(f"{path}: quantized attention needs observed ranges; calibrate with data first")
    for path, linear, format in scheme_linears(model, scheme):
        quantized = QuantLinear.from_float(linear, format, ranges.get(path))
        visit(path, linear, quantized)
        model.set_submodule(path, quantized)
    for path, conv, format in scheme_convs(model, scheme):
        kernel = QuantConv2d.from_float(conv, format, conv_ranges.get(path))
        visit(path, conv, kernel)
        model.set_submodule(path, kernel)
    quantize_attentions_(model, scheme, attention_ranges)


def quantize_attentions_(model: nn.Module, scheme: Scheme, ranges: Mapping[str, AttentionRange]) -> None:
    """Give the scheme's attentions their formats where ranges of theirs are, whose sequences are long enough."""
    for path, attention, format in scheme_attentions(model, scheme):
        if path in ranges and ranges[path].tokens >= format.shortest:
            model.set_submodule(path, QuantAttention(attention, format, ranges[path]))


def prepare_(model: nn.Module, scheme: Scheme, transforms: Mapping[str, TransformSpec] | None = None) -> None:
    """Replace the scheme's linears and convolutions by empty quantized ones on the same device, to be filled from a
    checkpoint.

    `transforms` names the linears that change their input at run time, and how.
    """
    specs = transforms or {}
    check_overrides(model, scheme)
    for path, linear, format in scheme_linears(model, scheme):
        spec, bias = specs.get(path), linear.bias is not None
        with torch.device(linear.weight.device):
            empty = QuantLinear(linear.in_features, linear.out_features, format, bias, spec)
        model.set_submodule(path, empty)
    for path, conv, format in scheme_convs(model, scheme):
        with torch.device(conv.weight.device):
            model.set_submodule(path, QuantConv2d(ConvShape.of(conv), format, conv.bias is not None))
    for path, attention, attended in scheme_attentions(model, scheme):
        model.set_submodule(path, QuantAttention(attention, attended))
    if isinstance(model, Network):
        tell_centers_(model)


def tell_centers_(model: Network) -> None:
    """Let the network say the types of its tokens to the blocks with linears that center their input.

    To be called once, when all those linears are there; costs nothing where there are none.
    """
    centering = {path for path, linear in quantized_linears(model) if linear.types}
    stages = family_of(model).stages(model.config)
    blocks = [stage for stage in stages if any(f"{stage.path}.{name}" in centering for name in LINEARS)]
    if blocks:
        tell_token_types_(model, blocks)
