"""External data of ONNX models: every file name and byte range in a model is checked before anything follows it.

A model file is untrusted input: a tensor's `location` could point anywhere on the disk. Allowed are existing regular
files inside the folder of the model, named by a relative path without "..", that no symbolic and no hard link ties to
a place outside of it, and byte ranges that lie in the file, have the size of the tensor and do not cut each other.
Runtimes open the files themselves afterwards, so a folder that others may write to is not safe in any case.

Nothing here imports onnx: models and tensors are the protobuf messages of whoever parsed them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from qvggt.errors import QvggtError
from qvggt.files import reason

EXTERNAL = 1  # TensorProto.DataLocation
KEYS = ("location", "offset", "length")
# bits of an element by TensorProto.DataType; strings (8) have no fixed size
BITS = {
    **dict.fromkeys((2, 3, 9, 17, 18, 19, 20, 24), 8),
    **dict.fromkeys((4, 5, 10, 16), 16),
    **dict.fromkeys((1, 6, 12), 32),
    **dict.fromkeys((7, 11, 13, 14), 64),
    **dict.fromkeys((21, 22, 23), 4),
    **dict.fromkeys((25, 26), 2),
    **dict.fromkeys((27, 28), 6),  # four in three bytes
    15: 128,
}
NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)  # int() also reads "1_0" and "٣", other parsers do not
# ONNX Runtime takes the offset of this location as an address in memory
MEMORY = "_ORT_MEM_ADDR_"
DO_NOT_RUN = "do not run this file"
EXPORT_AGAIN = "get it again, or export again"


@dataclass(frozen=True)
class ExternalTensor:
    """What a model says of one tensor outside of it: untrusted text, and the bytes its type and shape need.

    nbytes is None for a type or shape without a size.
    """

    name: str
    entries: tuple[tuple[str, str], ...]
    nbytes: int | None

    def entry(self, key: str) -> str:
        return next((value for k, value in self.entries if k == key), "")


@dataclass(frozen=True)
class Span:
    """A checked byte range of a real file."""

    tensor: str
    file: Path
    offset: int
    length: int

    @property
    def end(self) -> int:
        return self.offset + self.length


Fault = tuple[str, QvggtError]
"""The name of a tensor whose bytes may not be read, and why."""


class DataFolder:
    """The files a model at `path` may use.

    Inside the model's folder means the folder of `path` or, when `path` is a symbolic link (the Hub's cache), of the
    file it leads to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.homes = {Path(os.path.realpath(path.parent)), Path(os.path.realpath(path)).parent}
        self._files: dict[str, tuple[Path, int]] = {}

    def span(self, tensor: ExternalTensor) -> Span:
        """Where the bytes of a tensor lie; QvggtError for what is not allowed."""
        what = f"{self.path}: tensor {tensor.name}"
        keys = [key for key, _ in tensor.entries]
        if repeated := [key for key in KEYS if keys.count(key) > 1]:
            raise QvggtError(
                f"{what}: {repeated[0]} is given twice, readers may differ in which they take; export again"
            )
        location = tensor.entry("location")
        if location not in self._files:
            self._files[location] = self._file(f"{what}: external data {location[:200]!r}", location)
        file, size = self._files[location]
        numbers = [tensor.entry(key) for key in ("offset", "length")]
        if not all(text == "" or NUMBER.fullmatch(text) for text in numbers):
            raise QvggtError(f"{what}: offset or length is no number; export again")
        offset = int(numbers[0] or 0)
        length = int(numbers[1]) if numbers[1] else (size - offset if tensor.nbytes is None else tensor.nbytes)
        if length < 0 or offset + length > size:
            raise QvggtError(
                f"{what}: expected bytes {offset} to {offset + length} of {file.name}, which has {size}: "
                f"truncated; {EXPORT_AGAIN}"
            )
        if tensor.nbytes is not None and length != tensor.nbytes:
            raise QvggtError(f"{what}: has a length of {length} bytes, its shape needs {tensor.nbytes}; {EXPORT_AGAIN}")
        return Span(tensor.name, file, offset, length)

    def _file(self, where: str, location: str) -> tuple[Path, int]:
        """The real path and the size of the file a location names."""
        parts = (PurePosixPath(location), PureWindowsPath(location))
        unsafe = any(p.is_absolute() or p.anchor or ".." in p.parts for p in parts)
        if not location.isprintable() or unsafe or not parts[0].name or MEMORY in location:
            raise QvggtError(f"{where}: expected a relative path inside the model's folder; {DO_NOT_RUN}")
        target = self.path.parent / location
        real = Path(os.path.realpath(target))
        if not any(real.is_relative_to(home) for home in self.homes):
            raise QvggtError(f"{where}: a symbolic link leads out of the model's folder ({real}); {DO_NOT_RUN}")
        try:
            if not real.is_file():
                found = "no regular file" if real.exists() else "missing"
                raise QvggtError(f"{where}: {found}; keep the data file beside the model, or export again")
            status = real.stat()
            outside = status.st_nlink - self._names_inside(real, status) if status.st_nlink > 1 else 0
        except OSError as error:  # a name too long, a folder that may not be read
            raise QvggtError(f"{where}: cannot be read ({reason(error)}); check it, or get it again") from error
        if outside > 0:
            raise QvggtError(
                f"{where}: is a hard link to a file that also lies outside the model's folder; "
                "where you trust it, replace it by a copy"
            )
        return real, status.st_size

    def _names_inside(self, file: Path, status: os.stat_result) -> int:
        """How many names of `file` lie in its own folder and in the model's."""
        names = set()
        for folder in {file.parent, *self.homes}:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.inode() == status.st_ino and os.path.samestat(os.lstat(entry.path), status):
                        names.add(entry.path)
        return len(names)


def check_spans(path: Path, tensors: Iterable[ExternalTensor]) -> tuple[list[Span], list[Fault]]:
    """Every tensor's span, and the names of those that have none with the reason.

    Two tensors may share a range (tied weights); ranges that cut each other are a fault of the later one.
    """
    folder, spans, faults = DataFolder(path), list[Span](), list[Fault]()
    for tensor in tensors:
        try:
            spans.append(folder.span(tensor))
        except QvggtError as error:
            faults.append((tensor.name, error))
    kept, last = list[Span](), None
    for span in sorted(spans, key=lambda span: (span.file, span.offset, span.length)):
        cuts = last is not None and span.length > 0 and span.file == last.file and span.offset < last.end
        if last is not None and cuts and (span.offset, span.length) != (last.offset, last.length):
            text = (
                f"{path}: tensor {span.tensor}: bytes {span.offset} to {span.end} of {span.file.name} cut those of "
                f"tensor {last.tensor} ({last.offset} to {last.end}); {EXPORT_AGAIN}"
            )
            faults.append((span.tensor, QvggtError(text)))
        else:
            kept.append(span)
            last = span if span.length > 0 else last
    return kept, faults


def external_tensors(message: Any) -> Iterator[Any]:
    """Every TensorProto in a ModelProto, wherever it stands, whose bytes lie in another file."""
    for field, value in message.ListFields():  # messages nest 100 deep at most: protobuf parses no more
        for part in () if field.message_type is None else [value] if hasattr(value, "DESCRIPTOR") else value:
            if field.message_type.name != "TensorProto":
                yield from external_tensors(part)
            elif part.data_location == EXTERNAL:
                yield part


def described(tensor: Any) -> ExternalTensor:
    """An external TensorProto as plain values."""
    entries = tuple((_text(entry.key), _text(entry.value)) for entry in tensor.external_data)
    bits = BITS.get(tensor.data_type)
    known = bits is not None and all(dim >= 0 for dim in tensor.dims)
    return ExternalTensor(tensor.name, entries, -(-prod(tensor.dims) * (bits or 0) // 8) if known else None)


def _text(value: Any) -> str:
    """protobuf hands out text that is no UTF-8 as bytes; it becomes what no location, key or number may be."""
    return value if isinstance(value, str) else f"\0{value!r}"
