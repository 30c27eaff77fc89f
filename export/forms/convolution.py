"""Q/DQ emission of a `QuantConv2d`: constant scales, zero point 0, of integers the output on its own grid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qvggt.export.forms.site import FP32, Site, array, exact_name, scalar
from qvggt.export.graph import GraphBuilder
from qvggt.export.precision import Precision
from qvggt.quant.conv import QuantConv2d
from qvggt.target import Target


def emit_stem(builder: GraphBuilder, path: str, module: QuantConv2d, x: str, target: Target) -> str:
    """A convolution of stored codes on a float x [N, C, H, W], in fp32: all of it in nodes `<path>/...`."""
    site, shape = Site(builder, path, path, target, FP32), module.shape
    scale = site.constant("weight_scale", array(module.weight_scale)[:, 0].astype(np.float32))
    stored = site.stored_codes(array(module.codes), module.format.weight.grid.container)
    inputs = [x, site.op("DequantizeLinear", [stored, scale], axis=0)]
    if module.bias is not None:
        inputs.append(site.constant("bias", array(module.bias)))
    return site.op("Conv", inputs, kernel_shape=[shape.kernel] * 2, strides=[shape.stride] * 2)


def emit_quant_conv(
    builder: GraphBuilder, path: str, module: QuantConv2d, x: str, target: Target, precision: Precision
) -> str:
    """Nodes `<path>/...` of one convolution on x [N, C, H, W] of any float type -> `precision`.

    cpu in fp32: Q, DQ, Conv with a scale per output row and the bias inside, Q, DQ: what ONNX Runtime turns into one
    QLinearConv of integers. Otherwise one weight scale inside and the row scales and the bias after the product in
    fp32, for the reason `Target` gives. The pixels of a transposed convolution are spread by DepthToSpace.
    """
    site, shape, maps = Site(builder, path, path, target, precision), module.shape, module.maps.grid
    inside = precision is FP32 and target is Target.CPU
    x, scale = site.cast(x, FP32), np.float32(maps.scale(module.act_amax))
    if maps.container == "FP8":
        # ONNX Runtime 1.32 drops a ReLU in front of an FP8 QuantizeLinear, as if its codes had no sign: keep them apart
        lowest = scalar(np.float32(maps.lowest) * scale)
        x = site.op("Max", [x, builder.constant(exact_name("bound", lowest), lowest)])
    x, gain = site.rounded(x, scale, maps, maps.container)
    scales = array(module.weight_scale)[:, 0].astype(np.float32)
    grid, codes = module.format.weight.grid, array(module.codes)
    # with a scale per row after the expansion ONNX Runtime 1.32 makes one with a mis-shaped zero point
    if grid.container == "INT4" and not inside:
        stored = site.expanded(codes.reshape(len(codes), -1), maps.container, codes.shape)
    else:
        stored = site.stored_codes(codes, maps.container)
    if inside:
        weight = site.op("DequantizeLinear", [stored, site.constant("weight_scale", scales)], axis=0)
    else:
        weight = site.op("DequantizeLinear", [stored, site.power(grid.fraction)])
    inputs = [x, weight]
    bias = None if module.bias is None else array(module.bias).astype(np.float32)
    if inside and bias is not None:
        inputs.append(site.constant("bias", bias))
    sizes = {"kernel_shape": [shape.kernel] * 2, "strides": [shape.stride] * 2, "pads": [shape.padding] * 4}
    y = site.op("Conv", inputs, **sizes)
    if not inside:
        rows = (scales.astype(np.float64) / grid.fraction * gain).astype(np.float32)
        y = site.op("Mul", [site.cast(y, FP32), site.constant("weight_scale", rows[:, None, None])])
        if bias is not None:
            y = site.op("Add", [y, site.constant("bias", bias[:, None, None])])
    if module.rounds_output:
        y, _ = replace(site, precision=FP32).rounded(y, np.float32(maps.scale(module.out_amax)), maps, maps.container)
    if shape.shuffle > 1:
        y = site.op("DepthToSpace", [y], blocksize=shape.shuffle, mode="CRD")
    return site.cast(y, precision)
