"""Where the nodes of one layer go, and the pieces all forms are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qvggt.export.graph import GraphBuilder
from qvggt.export.precision import Precision
from qvggt.formats.grid import Grid
from qvggt.onnx_view.documented import int4_block
from qvggt.target import Target

FP32 = Precision.FP32
DTYPES: dict[str, np.dtype[Any]] = {
    "INT4": np.dtype(ml_dtypes.int4),
    "INT8": np.dtype(np.int8),
    "FP8": np.dtype(ml_dtypes.float8_e4m3fn),
    "FP4": np.dtype(ml_dtypes.float4_e2m1fn),
}

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Site:
    """Nodes `<path>/...`, initializers `<parameters>.*` (shared by the call sites of one module) of one layer; the
    file's target, and the float type of what is not quantized."""

    builder: GraphBuilder
    path: str
    parameters: str
    target: Target
    precision: Precision

    def op(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        return self.builder.op(op_type, inputs, self.path, **attributes)

    def cast(self, x: str, precision: Precision) -> str:
        return self.builder.cast(x, precision, self.path)

    def at(self, path: str) -> Site:
        """The same for nodes under another path."""
        return replace(self, path=path)

    def real(self, name: str, values: Array, precision: Precision | None = None) -> str:
        """The float initializer `<parameters>.<name>`, in `precision` or the site's."""
        return self.builder.real(f"{self.parameters}.{name}", values, precision or self.precision)

    def constant(self, name: str, values: Array) -> str:
        """The initializer `<parameters>.<name>`."""
        return self.builder.constant(f"{self.parameters}.{name}", values)

    def power(self, value: float, size: int | None = None) -> str:
        """A power of two below 1, or a vector of it, as a shared constant in the site's float type."""
        name = f"power_{1 - round(math.log2(value))}"
        if size is None:
            return self.builder.real(name, scalar(value), self.precision)
        return self.builder.real(f"{name}_{size}", np.full(size, value, np.float32), self.precision)

    def zero(self, container: str) -> str:
        """Zero point 0 of a container."""
        return self.builder.constant(f"zero_{container.lower()}", np.zeros((), DTYPES[container]))

    def stored_codes(self, codes: Array, container: str) -> str:
        """Weight codes as the initializer `<parameters>.weight_codes`; ValueError for codes it does not hold."""
        stored = codes.astype(DTYPES[container], copy=False)
        if stored is not codes and (stored.astype(codes.dtype) != codes).any():
            raise ValueError(f"{self.parameters}: {container} does not hold all of its codes")
        return self.constant("weight_codes", stored)

    def rounded(self, x: str, scale: np.float32, grid: Grid, container: str) -> tuple[str, float]:
        """Clip (when the container is wider than the grid; QuantizeLinear saturates at the container's own ends, also
        of FP8), QuantizeLinear, DequantizeLinear with constant scales.

        x fp32 -> (codes times an inner scale, in the site's float type; `scale` over the inner one, to be multiplied
        back). The inner scale is `scale` itself in fp32; in a half type `grid.fraction`, so that no product of
        K < 65504 terms overflows.
        """
        if container != grid.container or grid.storage_bits < grid.container_bits:
            # the same products as the reference's range has, so both sides saturate at the same float
            bounds = [scalar(np.float32(end) * scale) for end in (grid.lowest, grid.highest)]
            x = self.op("Clip", [x, *(self.builder.constant(exact_name("bound", b), b) for b in bounds)])
        values = scalar(scale)
        outer, zero = self.builder.constant(exact_name("step", values), values), self.zero(container)
        codes = self.op("QuantizeLinear", [x, outer, zero])
        if self.precision is FP32:
            return self.op("DequantizeLinear", [codes, outer, zero]), 1.0
        return self.op("DequantizeLinear", [codes, self.power(grid.fraction), zero]), float(scale) / grid.fraction

    def expanded(self, codes: Array, container: str, shape: tuple[int, ...] | None = None) -> str:
        """Codes [N, K] stored as INT4, in a wider container [K, N], or of `shape` where one is given; stored in that
        container where the builder is told to, or where TensorRT has no blocks of K.

        The scales, all of them 1, and the operator between the two are both needed: TensorRT-RTX refuses a single scale
        here, TensorRT documents blocks, and ONNX Runtime folds constant DQ -> Q pairs only with an operator between
        them. ONNX Runtime and OpenVINO fold all of it when they load the file, TensorRT-RTX keeps INT4 and expands at
        run time; docs/storage.md has what was tried.
        """
        site, builder = self.at(f"{self.parameters}.weight"), self.builder
        if (known := f"{site.path}/QuantizeLinear") in builder.types:  # the unrolled camera iterations share it
            return known
        rows, inner = codes.shape
        size = int4_block(inner, inner) if self.target is Target.TENSORRT_10 else inner
        if builder.int8_storage or size is None:
            return self.stored_codes(codes.T if shape is None else codes.reshape(shape), container)
        stored = self.stored_codes(codes, "INT4")
        if self.target is Target.TENSORRT_10:
            ones = builder.constant(f"ones_{rows}x{inner // size}", np.ones((rows, inner // size), np.float32))
            values = site.op("DequantizeLinear", [stored, ones], axis=1, block_size=size)
        else:
            ones = builder.constant(f"ones_{rows}", np.ones(rows, np.float32))
            values = site.op("DequantizeLinear", [stored, ones], axis=0)
        if shape is None:
            values = site.op("Transpose", [values], perm=[1, 0])
        else:
            values = builder.reshape(values, shape, site.path)
        return site.op("QuantizeLinear", [values, builder.constant("one", scalar(1)), self.zero(container)])

    def biased(self, y: str, bias: Tensor | None, negative: bool = False) -> str:
        """y plus the initializer `<parameters>.bias`, in y's float type.

        negative: for CPUs y minus the negative of it. ONNX Runtime makes one operator of a sum and the GELU after it,
        which takes longer than the two.
        """
        if bias is None:
            return y
        if negative and self.target is Target.CPU:
            return self.op("Sub", [y, self.real("bias_negative", array(-bias), self.builder.precision_of(y))])
        return self.op("Add", [y, self.real("bias", array(bias), self.builder.precision_of(y))])


def exact_name(kind: str, value: NDArray[np.float32]) -> str:
    """A name made of the exact bits, so that equal constants are stored once and distinct ones never collide."""
    return f"{kind}_{value.view(np.uint32).item():08x}"


def scalar(value: float | np.float32) -> NDArray[np.float32]:
    return np.array(value, np.float32)


def array(tensor: Tensor) -> Array:
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.float8_e4m3fn:  # torch itself has no array of these
        return tensor.view(torch.uint8).numpy().view(DTYPES["FP8"])
    return tensor.numpy()
