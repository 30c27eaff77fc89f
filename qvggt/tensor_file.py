"""Files of named tensors: safetensors (read and written) and torch zip archives (read only, never unpickled)."""

from __future__ import annotations

import json
import pickle
import re
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from qvggt.errors import QvggtError
from qvggt.files import atomic_write, check_file, line, reason, sniff
from qvggt.tensor_shards import is_index, read_index

FLOATS = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
WRAPPERS = ("model", "state_dict")  # keys under which trainers put the state dict
RELEASE_EVERY = 256 << 20  # bytes converted before the pages they were read from are given back


@dataclass(frozen=True)
class Entry:
    """Shape and dtype of one stored tensor; dtype is a safetensors name ("F32", "BF16", "I8", ...)."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class TensorFile:
    """An open file of tensors: what it holds (`entries`), its text `metadata`, and a way to read.

    `opener` maps the file and returns a getter; tensors it returns live in the mapping (no copy, paged in on use).
    """

    path: Path
    entries: Mapping[str, Entry]
    opener: Callable[[], Callable[[str], Tensor]]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def floats(self, keys: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """The named tensors in fp32, in no particular order.

        fp32 tensors stay mapped; others are converted one at a time, and the mapping they came from is dropped
        every 256 MiB, so that the peak stays at one fp32 copy. Raises QvggtError for integers and damaged data.
        """
        keys = list(keys)
        get, pending = self.opener(), 0
        # converted tensors first: a mapped fp32 tensor would keep the converted pages resident
        for key in sorted(keys, key=lambda k: self.entries[k].dtype == "F32"):
            dtype = self.entries[key].dtype
            if dtype not in FLOATS.values():
                kinds = ", ".join(FLOATS.values())
                raise QvggtError(f"{self.path}: {key} holds {dtype}, expected one of {kinds}; pass a float checkpoint")
            try:
                stored = get(key).detach()
            except Exception as error:
                raise QvggtError(f"{self.path}: {key} cannot be read ({line(error)}); get the file again") from error
            if stored.dtype == torch.float32:
                yield key, stored.contiguous()
                continue
            converted, pending = stored.to(torch.float32).contiguous(), pending + stored.nbytes
            del stored
            if pending > RELEASE_EVERY:
                get, pending = self.opener(), 0
            yield key, converted


def open_tensors(path: str | Path) -> TensorFile:
    """Open a .safetensors, .pt or .pth file, or the index of safetensors shards; nothing but its index is read.

    Raises QvggtError for a missing, empty, truncated or corrupt file, for a web page or Git LFS pointer in its place,
    for another suffix, and for a torch file that holds Python objects (it is refused, never unpickled).
    """
    path = Path(path)
    check_file(path, "a weights file")
    if is_index(path):
        return open_shards(path)
    readers = {".safetensors": open_safetensors, ".pt": open_torch, ".pth": open_torch}
    if path.suffix.lower() not in readers:
        raise QvggtError(
            f"{path}: unknown kind {path.suffix!r}, expected .safetensors, .pt or .pth; rename or convert it"
        )
    try:
        if (impostor := sniff(path)) is not None:
            raise QvggtError(f"{path}: {impostor}")
        return readers[path.suffix.lower()](path)
    except OSError as error:
        raise QvggtError(f"{path}: cannot be read ({reason(error)}); check it, or get it again") from error


def open_safetensors(path: Path) -> TensorFile:
    try:
        with safe_open(path, framework="pt") as handle:
            slices = {key: handle.get_slice(key) for key in handle.keys()}  # noqa: SIM118 (no mapping)
            entries = {key: Entry(tuple(s.get_shape()), s.get_dtype()) for key, s in slices.items()}
            metadata = dict(handle.metadata() or {})
    except SafetensorError as error:
        raise QvggtError(f"{path}: {shortfall(path) or f'corrupt ({line(error)})'}; get the file again") from error
    return TensorFile(path, entries, lambda: safe_open(path, framework="pt").get_tensor, metadata)


def open_shards(path: Path) -> TensorFile:
    """The tensors an index names, from the shards beside it; each shard is mapped when it is first read from."""
    where = read_index(path)
    files = {name: open_tensors(path.with_name(name)) for name in sorted(set(where.values()))}
    for key, name in where.items():
        if key not in files[name].entries:
            raise QvggtError(f"{path}: {name} holds no {key}, which the index says is there; get both again")
    entries = {key: files[name].entries[key] for key, name in where.items()}
    metadata = {key: value for file in files.values() for key, value in file.metadata.items()}

    def opener() -> Callable[[str], Tensor]:
        getters: dict[str, Callable[[str], Tensor]] = {}

        def get(key: str) -> Tensor:
            name = where[key]
            if name not in getters:
                getters[name] = files[name].opener()
            return getters[name](key)

        return get

    return TensorFile(path, entries, opener, metadata)


def open_torch(path: Path) -> TensorFile:
    entries = {key: Entry(tuple(t.shape), FLOATS.get(t.dtype, str(t.dtype))) for key, t in load_torch(path).items()}
    return TensorFile(path, entries, lambda: load_torch(path).__getitem__)


def unpickled(path: Path) -> Any:
    """What a torch file holds, its tensors mapped from the disk; raises what torch raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on odd pickles: what is wrong with a file comes as an exception
        # no fallback: a file that needs more than tensors would run its author's code
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True)


def load_objects(path: Path, expected: str) -> Any:
    """What a torch file holds (dicts and lists of tensors, text and numbers), its tensors mapped from the disk.

    expected: what the file should be. QvggtError where there is none, and for one that is damaged or holds code.
    """
    again = "get the file again"
    if not path.is_file():
        raise QvggtError(f"{path}: not found, expected {expected}; {again}, or check the folder")
    try:
        if (impostor := sniff(path)) is not None:
            raise QvggtError(f"{path}: {impostor}")
        return unpickled(path)
    except QvggtError:
        raise
    except OSError as error:
        raise QvggtError(f"{path}: cannot be read ({reason(error)}); check it, or {again}") from error
    except Exception as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named is not None:
            raise QvggtError(f"{path}: refused, it holds {named[1]}, expected tensors only; {again}") from error
        raise QvggtError(f"{path}: no readable torch archive ({line(error)}); {again}") from error


def load_torch(path: Path) -> dict[str, Tensor]:
    """The mapped state dict of a torch file, unwrapped from {"model": ...}, {"state_dict": ...} and wrappers' names."""
    try:
        loaded = unpickled(path)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"it holds {named[1]}" if named else "its pickle is corrupt or holds more"
        raise QvggtError(
            f"{path}: refused, {what}, expected tensors only; where you trust it, save its state dict as .safetensors"
        ) from error
    except Exception as error:
        if "_use_new_zipfile_serialization" in str(error):
            what = "not a torch zip archive (corrupt, or saved by torch before 1.6)"
            raise QvggtError(f"{path}: {what}; get it again, or save its state dict as .safetensors") from error
        raise QvggtError(f"{path}: truncated or corrupt ({line(error)}); get the file again") from error
    for wrapper in WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
            break
    if not isinstance(loaded, Mapping):
        raise QvggtError(f"{path}: holds a {type(loaded).__name__}, expected a state dict; save model.state_dict()")
    for key, value in loaded.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized or value.is_meta:
            kind = type(value).__name__ if not isinstance(value, Tensor) else "special tensor"
            raise QvggtError(
                f"{path}: {key} is a {kind}, expected dense tensors by name, alone or under 'model' or 'state_dict'"
            )
    tensors = {str(key): value for key, value in loaded.items()}
    for wrapped in ("module.", "_orig_mod."):  # saved from DistributedDataParallel, from torch.compile
        if all(key.startswith(wrapped) for key in tensors):
            tensors = {key.removeprefix(wrapped): value for key, value in tensors.items()}
    return tensors


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file atomically; equal content gives equal bytes, so its hash identifies it.

    Raises QvggtError when `path` cannot be written.
    """
    with atomic_write(path) as temporary:
        dense = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        save_file(dense, temporary, metadata=dict(metadata or {}))
        sort_metadata(temporary)


def sort_metadata(path: Path) -> None:
    """Rewrite the header of a safetensors file with its metadata in name order (the writer's order is random)."""
    with open(path, "r+b") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
        if "__metadata__" not in header:
            return
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) > size:
            raise AssertionError("a reordered safetensors header cannot grow")
        file.seek(8)
        file.write(text.ljust(size))


def shortfall(path: Path) -> str | None:
    """For a safetensors file shorter than its header promises: by how much; None otherwise or when unreadable."""
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            (header_size,) = struct.unpack("<Q", file.read(8))
            if header_size > size - 8:
                return f"truncated or not safetensors ({size} bytes, the header alone should take {header_size + 8})"
            header = json.loads(file.read(header_size))
        ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
        promised = 8 + header_size + max(ends, default=0)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None
    return f"truncated (expected {promised} bytes, got {size})" if promised > size else None
