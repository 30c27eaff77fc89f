"""Small integers packed without gaps: the lowest bits of a byte come first, which at 4 bits is ONNX's INT4."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def pack(codes: NDArray[np.int8], bits: int) -> NDArray[np.uint8]:
    """Signed codes of up to 8 bits, any shape, row-major -> uint8 [ceil(count * bits / 8)], padded with zeros.

    Raises ValueError for a code that does not fit.
    """
    flat = np.ascontiguousarray(codes, np.int8).reshape(-1)
    least, most = -(1 << bits - 1), (1 << bits - 1) - 1
    if flat.size and (flat.min() < least or flat.max() > most):
        raise ValueError(f"INT{bits} holds {least}..{most}, got {flat.min()}..{flat.max()}")
    unpacked = np.unpackbits(flat.view(np.uint8)[:, None], axis=1, count=bits, bitorder="little")
    return np.packbits(unpacked, bitorder="little")


def pack_halves(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bit patterns in the lower halves of bytes, any shape -> two in each byte, the first in the lower half."""
    flat = codes.reshape(-1) & 15
    flat = np.append(flat, np.zeros(flat.size % 2, np.uint8))
    return flat[::2] | flat[1::2] << np.uint8(4)


def unpack(data: NDArray[np.uint8], shape: tuple[int, ...], bits: int) -> NDArray[np.int8]:
    """Inverse of `pack` for a known shape."""
    count = math.prod(shape)
    if data.size != -(-count * bits // 8):
        raise ValueError(f"INT{bits} data of {data.size} bytes cannot hold shape {shape}")
    unpacked = np.unpackbits(data, count=count * bits, bitorder="little").reshape(count, bits)
    sign = np.repeat(unpacked[:, -1:], 8 - bits, axis=1)
    whole = np.packbits(np.concatenate([unpacked, sign], axis=1), axis=1, bitorder="little")
    return whole.view(np.int8).reshape(shape)
