"""A structured-light scan that point maps are measured by: its points, what of space it saw, and the table below."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvggt.errors import QvggtError
from qvggt.files import line, reason

_TYPES = {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"}
_TYPES |= {"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"}
_TYPES |= {"float": "f4", "double": "f8", "float32": "f4", "float64": "f8"}
AGAIN = "get the file again"


@dataclass(frozen=True, eq=False)
class ScanArrays:
    """points float64 [N, 3]; seen bool [X, Y, Z]: cells of side `cell`, the first centred on `low`, that the scanner
    saw in a box from `low` to `high` [3]; plane [4]: of the table, positive above it. All in the cameras' world."""

    points: NDArray[np.float64]
    seen: NDArray[np.bool_]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    cell: float
    plane: NDArray[np.float64]


@dataclass(frozen=True)
class Scan:
    """Where it lies. points: .ply. seen: MATLAB's .mat with ObsMask, BB and Res. plane: .mat with P."""

    points: Path
    seen: Path
    plane: Path

    def read(self) -> ScanArrays:
        """QvggtError names the file at fault."""
        seen = read_mat(self.seen, {"ObsMask": 3, "BB": (2, 3), "Res": 1})
        low, high = seen["BB"].astype(np.float64)
        (plane,) = read_mat(self.plane, {"P": 4}).values()
        return ScanArrays(
            read_ply(self.points), seen["ObsMask"] > 0, low, high, float(seen["Res"].item()), plane.ravel()
        )


def read_mat(path: Path, wanted: dict[str, int | tuple[int, ...]]) -> dict[str, NDArray[Any]]:
    """Arrays of a MATLAB file. wanted: name -> its shape, or 3: a volume, or how many numbers. QvggtError else."""
    from scipy.io import loadmat

    try:
        held = loadmat(path)
    except OSError as error:
        raise QvggtError(f"{path}: cannot be read ({reason(error)}); {AGAIN}") from error
    except Exception as error:  # damaged files: whatever its parser meets
        raise QvggtError(f"{path}: no readable MATLAB file ({line(error)}); {AGAIN}") from error
    for name, shape in wanted.items():
        values = held.get(name)
        good = isinstance(values, np.ndarray) and values.dtype.kind in "biuf"
        if good and isinstance(shape, tuple):
            good = values.shape == shape
        elif good:
            good = values.ndim == 3 if shape == 3 else values.size == shape
        if not good:
            raise QvggtError(f"{path}: {name}: expected {shape}, got {getattr(values, 'shape', None)}; {AGAIN}")
    return {name: held[name] for name in wanted}


def read_ply(path: Path) -> NDArray[np.float64]:
    """Vertices float64 [N, 3] of a PLY file, binary or text. QvggtError for anything else."""
    try:
        with path.open("rb") as file:
            count, fields, order = _ply_header(file)
            if order == "ascii":
                rows = np.loadtxt(file, max_rows=count, ndmin=2, usecols=range(len(fields)))
                columns = [rows[:, [name for name, _ in fields].index(axis)] for axis in "xyz"]
            else:
                held = np.fromfile(file, [(name, order + kind) for name, kind in fields], count)
                columns = [held[axis] for axis in "xyz"]
    except OSError as error:
        raise QvggtError(f"{path}: cannot be read ({reason(error)}); {AGAIN}") from error
    except (ValueError, KeyError, IndexError) as error:
        raise QvggtError(f"{path}: no PLY file with vertices x y z ({line(error)}); {AGAIN}") from error
    points = np.stack(columns, 1).astype(np.float64)
    if len(points) != count or not np.isfinite(points).all():
        raise QvggtError(f"{path}: expected {count} finite vertices, got {len(points)} or some that are none; {AGAIN}")
    return points


def _ply_header(file: Any) -> tuple[int, list[tuple[str, str]], str]:
    """(vertices, (name, type) of their properties, "ascii", "<" or ">"); ValueError for another file."""
    if file.readline().strip() != b"ply":
        raise ValueError("does not begin with ply")
    order, count, fields, elements = "", 0, list[tuple[str, str]](), 0
    while (words := file.readline(1000).decode("ascii").split()) != ["end_header"]:
        match words:
            case ["format", kind, "1.0"]:
                order = {"ascii": "ascii", "binary_little_endian": "<", "binary_big_endian": ">"}[kind]
            case ["element", name, number]:
                elements += 1
                if elements == 1:
                    count = int(number)
                    if name != "vertex":
                        raise ValueError(f"its first element is {name}")
            case ["property", kind, name] if elements == 1:
                fields.append((name, _TYPES[kind]))
            case [] | ["property", "list", _, _, _] if not words or elements == 1:
                raise ValueError("its header does not end, or its vertices hold lists")
    return count, fields, order
