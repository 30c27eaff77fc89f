"""The parity gate for quantized convolutions: each alone, fed the map it sees in the reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from onnx import TensorProto
from torch import Tensor

from qvggt.export.parity import LINEAR_TOLERANCE, TIE_WIDTH, LinearParity, verdict
from qvggt.export.subgraph import run_cut
from qvggt.models.network import Network
from qvggt.onnx_view.cut import HALF, cut_linear, expected_in
from qvggt.onnx_view.file import open_onnx
from qvggt.onnx_view.graph import Model
from qvggt.progress import bar
from qvggt.quant.conv import QuantConv2d
from qvggt.quant.model import quantized_convs
from qvggt.watching import watching

HALF_OUTPUT = 0.07  # steps that fp16 may move the value of the largest code
HALF_TIE_WIDTH = 0.25  # of an output step: 2^-11 of a sum that fills its 8-bit grid, four times over


def check_convs(onnx_path: Path, reference: Network, images: Tensor, progress: bool = True) -> tuple[LinearParity, ...]:
    """Compare every quantized convolution of the file on the first frame of images [S, 3, H, W].

    `tokens` counts output values. Both sides end on an 8-bit grid, so a value differs by whole steps or not at all:
    `ties` are those that differ by one step where the reference's value before rounding lies on the boundary (within
    `TIE_WIDTH` steps, `HALF_TIE_WIDTH` in an fp16 network). One map is in memory at a time.
    """
    file = open_onnx(onnx_path)
    convs = {path: module for path, module in quantized_convs(reference) if expected_in(file, path)}
    results: list[LinearParity] = []
    with bar(total=len(convs), desc="parity of convolutions", unit="convolution", shown=progress) as moved:

        def check(path: str, module: QuantConv2d, x: Tensor) -> None:
            results.append(_compare(file, path, module, x[:1]))
            moved.update()

        watchers = [(module, lambda m, inputs, path=path: check(path, m, inputs[0])) for path, module in convs.items()]
        with torch.no_grad(), watching(watchers):
            if convs:
                reference(images[:1])
    return tuple(results)


def _compare(file: Model, path: str, module: QuantConv2d, x: Tensor) -> LinearParity:
    """x [1, C, H, W]."""
    cut = cut_linear(file, path, (1, None, None, None))
    if cut.type == TensorProto.FLOAT16:
        x = x.half().float()  # as it arrives in the network
    grid = module.maps.grid
    scale = grid.scale(module.out_amax)
    exact = module.product(x.float()).double() / scale.double()
    if module.shape.shuffle > 1:
        exact = F.pixel_shuffle(exact, module.shape.shuffle)
    expected = grid.round(exact, 1.0)[0].numpy()
    got = run_cut(cut, x[0].float().numpy()).astype(np.float64) / float(scale)
    if cut.type in HALF:
        got = np.where(np.abs(got - got.round()) < HALF_OUTPUT, got.round(), got)  # the code, which left in fp16
    errors = np.abs(got - expected) / max(np.abs(expected).max(), 1e-30)
    near = grid.near_boundary(exact, HALF_TIE_WIDTH if cut.type in HALF else TIE_WIDTH)[0].numpy()
    one_step = np.abs(got - expected) < 1.01
    return verdict(path, errors, near & one_step, LINEAR_TOLERANCE)
