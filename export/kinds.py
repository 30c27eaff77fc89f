"""One row of a small table per token, by the kind of the token (qvggt.model.kinds)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from qvggt.export.graph import GraphBuilder


@dataclass(frozen=True)
class TokenKinds:
    """Kinds of the tokens of a stream [S, P, C]: names of tensors and counts.

    ids: int64 [S, P]. frames: int64 [1], S. special: special tokens of a frame. patches: the other ones. rows: 2 where
    the first frame has special tokens of its own, else 1.
    """

    ids: str
    frames: str
    special: int
    patches: int
    rows: int

    def spread(self, builder: GraphBuilder, path: str, name: str, table: NDArray[np.float32], copies: bool) -> str:
        """fp32 [S, P, C] with the row of a table [rows * special + 1, C] for every token.

        An indexed read, which runtimes fuse with what follows; or `copies` of the rows, which is slower, and what
        TensorRT needs where the result ends in an INT4 quantization (docs/tensorrt.md).
        """
        if not copies:
            return builder.op("Gather", [builder.constant(name, table), self.ids], path, axis=0)
        width = table.shape[1]
        groups = [table[i * self.special : (i + 1) * self.special][None] for i in range(self.rows)]
        special = self._per_frame(builder, path, name, groups, width)
        patch = builder.constant(f"{name}.patch", np.ascontiguousarray(table[-1][None, None]))
        shape = builder.op("Concat", [self.frames, builder.ints(self.patches, width)], path, axis=0)
        return builder.op("Concat", [special, builder.op("Expand", [patch, shape], path)], path, axis=1)

    def _per_frame(
        self, builder: GraphBuilder, path: str, name: str, groups: list[NDArray[np.float32]], width: int
    ) -> str:
        """Special rows of every frame, [S, special, C]."""
        constants = [builder.constant(f"{name}.{i}", np.ascontiguousarray(g)) for i, g in enumerate(groups)]
        shape = builder.op("Concat", [self.frames, builder.ints(self.special, width)], path, axis=0)
        rest = builder.op("Expand", [constants[-1], shape], path)
        if self.rows == 1:
            return rest
        # one row too many, so that no tensor is empty with a single frame
        joined = builder.op("Concat", [constants[0], rest], path, axis=0)
        return builder.op("Slice", [joined, builder.ints(0), self.frames, builder.ints(0)], path)


def emit_kinds(builder: GraphBuilder, path: str, rows: Tensor, images: str, special: int) -> TokenKinds:
    """Kinds for images [S, 3, H, W] from those of the first frames, int64 [1 or 2, P].

    They follow the number of frames even where all frames are alike: a constant would be folded at load time into a
    full-size copy of every table it indexes.
    """
    table = builder.constant(f"{path}.rows", rows.numpy())
    frames = builder.op("Shape", [images], path, start=0, end=1)
    scalar = {value: builder.constant(f"int_{value}", np.array(value, np.int64)) for value in (0, 1)}
    count = builder.op("Squeeze", [frames], path)
    which = builder.op("Min", [builder.op("Range", [scalar[0], count, scalar[1]], path), scalar[len(rows) - 1]], path)
    ids = builder.op("Gather", [table, which], path, axis=0)
    return TokenKinds(ids, frames, special, rows.shape[1] - special, len(rows))
