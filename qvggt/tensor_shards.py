"""Weights in several safetensors files: NAME.safetensors.index.json says which tensor is in which shard.

Index and shards come from anywhere, so a shard is a plain file name beside the index and nothing else.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from qvggt.errors import QvggtError
from qvggt.files import file_sha256, read_object

INDEX = ".safetensors.index.json"
SHARD = re.compile(r"(.+)-\d{5}-of-(\d{5})\.safetensors", re.IGNORECASE)
PLAIN = re.compile(r"\w[\w.-]*\.safetensors", re.ASCII)


def is_index(path: Path) -> bool:
    return path.name.lower().endswith(INDEX)


def read_index(path: Path) -> dict[str, str]:
    """Name of every tensor -> name of the file beside the index that holds it. QvggtError for anything else."""
    found = read_object(path, "an index of safetensors shards").get("weight_map")
    if not isinstance(found, dict) or not found:
        raise QvggtError(f"{path}: has no weight_map, expected an index of safetensors shards; get it again")
    for name in found.values():
        if not isinstance(name, str) or not PLAIN.fullmatch(name):
            raise QvggtError(f"{path}: names the shard {str(name)[:60]!r}, expected a .safetensors file beside it")
    return found


def whole_of(path: Path) -> Path:
    """The index beside a shard; any other path as it is. QvggtError for a shard without its index."""
    shard = SHARD.fullmatch(path.name)
    if shard is None:
        return path
    index = path.with_name(f"{shard[1]}{INDEX}")
    if not index.is_file():
        raise QvggtError(
            f"{path}: is one of {int(shard[2])} shards, and {index.name} is not beside it; "
            "put the index and all shards into one folder"
        )
    return index


def weight_files(path: Path) -> tuple[Path, ...]:
    """The files that hold these weights: an index with its shards, or the file itself."""
    if not is_index(path):
        return (path,)
    return (path, *(path.with_name(name) for name in sorted(set(read_index(path).values()))))


def weights_sha256(path: Path) -> str:
    """SHA-256 of a weights file; of an index with shards that of the list of their hashes."""
    files = weight_files(path)
    if len(files) == 1:
        return file_sha256(path)
    lines = "".join(f"{file.name} {file_sha256(file)}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()
