"""One row of a small table per token, by the type of the token (qvggt.models.token_types)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvggt.export.graph import GraphBuilder
from qvggt.models.family import TokenLayout
from qvggt.models.token_types import frame_types


class TokenTypes:
    """Types of the tokens of a stream [S, P, C], emitted when a table is first spread over them.

    tokens: P. images: the graph's input, which has the number of frames.
    """

    def __init__(self, builder: GraphBuilder, path: str, layout: TokenLayout, tokens: int, images: str) -> None:
        self.builder, self.path, self.images, self.special = builder, path, images, layout.special
        self.rows = frame_types(layout, tokens)
        self._frames: str | None = None
        self._ids: str | None = None

    def spread(self, path: str, name: str, table: NDArray[Any], copies: bool) -> str:
        """fp32 [S, P, C] with the row of a table [types, C] for every token.

        An indexed read, which runtimes fuse with what follows; or `copies` of the rows, which is slower, and what
        TensorRT needs where the result ends in an INT4 quantization (docs/tensorrt.md).
        """
        b = self.builder
        if not copies:
            return b.op("Gather", [b.constant(name, table), self.ids()], path, axis=0)
        width = table.shape[1]
        groups = [table[i * self.special : (i + 1) * self.special] for i in range(len(self.rows))]
        rows = [b.constant(f"{name}.{i}", np.ascontiguousarray(g[None])) for i, g in enumerate(groups)]
        special = frame_rows(b, path, rows, self.frames(), (self.special, width))
        patch = b.constant(f"{name}.patch", np.ascontiguousarray(table[-1][None, None]))
        patches = b.ints(self.rows.shape[1] - self.special, width)
        shape = b.op("Concat", [self.frames(), patches], path, axis=0)
        return b.op("Concat", [special, b.op("Expand", [patch, shape], path)], path, axis=1)

    def frames(self) -> str:
        """Number of frames, int64 [1]."""
        if self._frames is None:
            self._frames = self.builder.op("Shape", [self.images], self.path, start=0, end=1)
        return self._frames

    def ids(self) -> str:
        """Type of every token, int64 [S, P].

        They follow the number of frames even where all frames are alike: a constant would be folded at load time into
        a full-size copy of every table it indexes.
        """
        if self._ids is None:
            b, path = self.builder, self.path
            zero, one = (b.constant(f"int_{value}", np.array(value, np.int64)) for value in (0, 1))
            which = b.op("Range", [zero, b.op("Squeeze", [self.frames()], path), one], path)
            which = b.op("Min", [which, one if len(self.rows) > 1 else zero], path)
            self._ids = b.op("Gather", [b.constant(f"{path}.rows", self.rows.numpy()), which], path, axis=0)
        return self._ids


def frame_rows(b: GraphBuilder, path: str, rows: list[str], frames: str, shape: tuple[int, int]) -> str:
    """Special tokens [S, T, C] of S = `frames` frames: rows[0] [1, T, C] for frame 0, the last for all others.

    By copies: TensorRT fails to build an indexed table that is fused with an INT4 quantization (docs/tensorrt.md).
    """
    rest = b.op("Expand", [rows[-1], b.op("Concat", [frames, b.ints(*shape)], path, axis=0)], path)
    if len(rows) == 1:
        return rest
    # one row too many, so that no tensor is empty with a single frame
    joined = b.op("Concat", [rows[0], rest], path, axis=0)
    return b.op("Slice", [joined, b.ints(0), frames, b.ints(0)], path)
