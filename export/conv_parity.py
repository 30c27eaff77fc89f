"""The parity gate for quantized convolutions: each alone, fed the map it sees in the reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from onnx import TensorProto
from torch import Tensor

from qvggt.export.emulation import HALF
from qvggt.export.parity import LINEAR_TOLERANCE, TIE_WIDTH, LinearParity
from qvggt.export.subgraph import extract_linear
from qvggt.formats.rounding import qmax, tensor_step
from qvggt.models.network import Network
from qvggt.progress import bar
from qvggt.quant.conv import QuantConv2d
from qvggt.quant.model import quantized_convs
from qvggt.quant.scheme import CONV_BITS
from qvggt.watching import watching

HALF_OUTPUT = 0.07  # steps that fp16 may move the value of the largest code
HALF_TIE_WIDTH = 0.25  # of an output step: 2^-11 of a sum that fills its 8-bit grid, four times over


def check_convs(onnx_path: Path, reference: Network, images: Tensor, progress: bool = True) -> tuple[LinearParity, ...]:
    """Compare every quantized convolution of the file on the first frame of images [S, 3, H, W].

    `tokens` counts output values. Both sides end on an 8-bit grid, so a value differs by whole steps or not at all:
    `ties` are those that differ by one step where the reference's value before rounding lies on the boundary (within
    `TIE_WIDTH` steps, `HALF_TIE_WIDTH` in an fp16 network). One map is in memory at a time.
    """
    convs = dict(quantized_convs(reference))
    results: list[LinearParity] = []
    with bar(total=len(convs), desc="parity of convolutions", unit="convolution", shown=progress) as moved:

        def check(path: str, module: QuantConv2d, x: Tensor) -> None:
            results.append(_compare(onnx_path, path, module, x[:1]))
            moved.update()

        watchers = [(module, lambda m, inputs, path=path: check(path, m, inputs[0])) for path, module in convs.items()]
        with torch.no_grad(), watching(watchers):
            if convs:
                reference(images[:1])
    return tuple(results)


def _compare(onnx_path: Path, path: str, module: QuantConv2d, x: Tensor) -> LinearParity:
    """x [1, C, H, W]."""
    model = extract_linear(onnx_path, path, (1, None, None, None))
    if model.kind == TensorProto.FLOAT16:
        x = x.half().float()  # as it arrives in the network
    spacing = tensor_step(module.out_amax, CONV_BITS)
    exact = module.product(x.float()).double() / spacing.double()
    if module.shape.shuffle > 1:
        exact = F.pixel_shuffle(exact, module.shape.shuffle)
    q = qmax(CONV_BITS)
    expected = exact.round().clamp(-q - 1, q)[0].numpy()
    got = model.run(x[0].float().numpy()).astype(np.float64) / float(spacing)
    if model.kind in HALF:
        got = np.where(np.abs(got - got.round()) < HALF_OUTPUT, got.round(), got)  # the code, which left in fp16
    errors = np.abs(got - expected) / max(np.abs(expected).max(), 1e-30)
    errors[~np.isfinite(errors)] = np.inf
    fraction = (exact - exact.floor() - 0.5).abs()[0].numpy()
    width = HALF_TIE_WIDTH if model.kind in HALF else TIE_WIDTH
    one_step = np.abs(got - expected) < 1.01
    ties = (errors > LINEAR_TOLERANCE) & (fraction < width) & one_step
    return LinearParity(path, float(errors[~ties].max(initial=0.0)), errors.size, int(ties.sum()))
