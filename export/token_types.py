"""One row of a small table added to every token, by the type of the token (qvggt.models.token_types)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qvggt.export.forms.site import Site
from qvggt.export.graph import GraphBuilder
from qvggt.models.family import TokenLayout
from qvggt.models.token_types import frame_types
from qvggt.target import Target


class TokenTypes:
    """Types of the tokens of a stream [S, P, C], emitted when a table is first spread over them.

    tokens: P. images: the graph's input, which has the number of frames.
    """

    def __init__(self, builder: GraphBuilder, path: str, layout: TokenLayout, tokens: int, images: str) -> None:
        self.builder, self.path, self.images, self.special = builder, path, images, layout.special
        self.rows = frame_types(layout, tokens)
        self._frames: str | None = None
        self._which: str | None = None
        self._ids: str | None = None
        self._special: str | None = None

    def added(self, site: Site, x: str, name: str, table: NDArray[np.float32], copies: bool) -> str:
        """x fp32 [S, P, C] plus the row of a table [types, C] for every token, as the initializer `name`.

        For CPUs the last row, of nearly all tokens, is a vector (or nothing, where it is 0), and what special tokens
        have beside it is added to them alone. TensorRT fuses an indexed read of the table with what follows; or takes
        `copies` of the rows, which it needs where the result ends in an INT4 quantization (docs/tensorrt.md).
        """
        if site.target is not Target.CPU:
            return site.op("Add", [x, self._spread(site.path, f"{site.parameters}.{name}", table, copies)])
        patch = table[-1]
        if patch.any():
            x = site.op("Add", [x, site.constant(f"{name}.patch", patch)])
        beside = (table[:-1] - patch).reshape(len(self.rows), self.special, -1)
        rows = site.op("Gather", [site.constant(f"{name}.special", beside), self.which()], axis=0)
        return site.op("ScatterND", [x, self._places(), rows], reduction="add")

    def _spread(self, path: str, name: str, table: NDArray[np.float32], copies: bool) -> str:
        """fp32 [S, P, C] with the row of a table [types, C] for every token."""
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

    def which(self) -> str:
        """Row of `rows` that every frame has, int64 [S]."""
        if self._which is None:
            b, path = self.builder, self.path
            zero, one = (b.constant(f"int_{value}", np.array(value, np.int64)) for value in (0, 1))
            which = b.op("Range", [zero, b.op("Squeeze", [self.frames()], path), one], path)
            self._which = b.op("Min", [which, one if len(self.rows) > 1 else zero], path)
        return self._which

    def ids(self) -> str:
        """Type of every token, int64 [S, P].

        They follow the number of frames even where all frames are alike: a constant would be folded at load time into
        a full-size copy of every table it indexes.
        """
        if self._ids is None:
            b, path = self.builder, self.path
            self._ids = b.op("Gather", [b.constant(f"{path}.rows", self.rows.numpy()), self.which()], path, axis=0)
        return self._ids

    def _places(self) -> str:
        """Frame and place in it of every special token, int64 [S, special, 2]."""
        if self._special is None:
            b, path = self.builder, f"{self.path}.special"
            zero, one = (b.constant(f"int_{value}", np.array(value, np.int64)) for value in (0, 1))
            frame = b.op("Range", [zero, b.op("Squeeze", [self.frames()], path), one], path)
            shape = b.op("Concat", [self.frames(), b.ints(self.special, 1)], path, axis=0)
            frame = b.op("Expand", [b.reshape(frame, (-1, 1, 1), path), shape], path)
            place = b.constant(f"{path}.places", np.arange(self.special, dtype=np.int64)[None, :, None])
            self._special = b.op("Concat", [frame, b.op("Expand", [place, shape], path)], path, axis=-1)
        return self._special


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
