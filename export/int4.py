"""ONNX INT4 packing: two codes a byte, low nibble first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def pack_int4(codes: NDArray[np.int8]) -> bytes:
    """Codes in [-8, 7], any shape, row-major; an odd count is padded with one zero nibble.

    Raises ValueError for a code that does not fit.
    """
    flat = np.ascontiguousarray(codes, np.int8).reshape(-1)
    if flat.size and (flat.min() < -8 or flat.max() > 7):
        raise ValueError(f"INT4 holds -8..7, got {flat.min()}..{flat.max()}")
    nibbles = flat.view(np.uint8) & 0x0F
    if nibbles.size % 2:
        nibbles = np.append(nibbles, np.uint8(0))
    return (nibbles[0::2] | (nibbles[1::2] << 4)).tobytes()


def unpack_int4(data: bytes, shape: tuple[int, ...]) -> NDArray[np.int8]:
    """Inverse of `pack_int4` for a known shape."""
    count = int(np.prod(shape, dtype=np.int64))
    packed = np.frombuffer(data, np.uint8)
    if packed.size != (count + 1) // 2:
        raise ValueError(f"INT4 data of {packed.size} bytes cannot hold shape {shape}")
    nibbles = np.stack([packed & 0x0F, packed >> 4], axis=-1).reshape(-1)[:count]
    signed = ((nibbles ^ 8).astype(np.int16) - 8).astype(np.int8)
    return signed.reshape(shape)
