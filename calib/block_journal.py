"""Finished blocks on disk: what lets an interrupted calibration go on where it was."""

from __future__ import annotations

import copy
import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qvggt.calib.reconstruct import BlockReport
from qvggt.device import device_of
from qvggt.errors import QvggtError
from qvggt.files import line
from qvggt.formats.linear_format import LinearFormat
from qvggt.journal import Journal
from qvggt.mapping import from_mapping
from qvggt.models.block import Block
from qvggt.quant.linear import QuantLinear
from qvggt.quant.model import quantized_linears, transform_specs
from qvggt.quant.transform import TransformSpec
from qvggt.tensor_file import TensorFile, open_tensors, write_tensors

JOURNAL = "journal.jsonl"
LATENT = "latent"


class BlockJournal:
    """A folder of one calibration job: a journal with a line per finished block, and a safetensors file of each.

    `job` is everything the result depends on (source hash, scheme, recipe, image list, seed, versions). A folder of
    another job is refused with QvggtError: its blocks would not fit.
    """

    def __init__(self, folder: Path, job: dict[str, Any]) -> None:
        self.folder = folder
        path = folder / JOURNAL
        if not (path.exists() and path.stat().st_size) and folder.exists() and any(p != path for p in folder.iterdir()):
            raise QvggtError(f"{folder}: is not empty and no calibration; choose another output or delete it")
        self.journal = Journal(path, job, "calibration", folder)

    def _file(self, path: str) -> Path:
        digest = hashlib.sha256(path.encode()).hexdigest()[:8]
        return self.folder / f"{path}-{digest}.safetensors"

    def save(self, path: str, block: Block, report: BlockReport) -> None:
        """Store a finished block: its file, then the line that vouches for it."""
        file, tensors = self._file(path), block.state_dict()
        for name, linear in quantized_linears(block):
            if linear.latent is not None:
                tensors[f"{name}.{LATENT}"] = linear.latent
        write_tensors(file, tensors, {})
        specs = {name: asdict(spec) for name, spec in transform_specs(block).items()}
        entry = {"file": file.name, "sha256": digest(tensors), "report": asdict(report), "transforms": specs}
        self.journal.add(path, entry)

    def load(self, path: str, block: Block, formats: dict[str, LinearFormat]) -> tuple[Block, BlockReport] | None:
        """The finished form of a float block, or None when it is not there yet."""
        if path not in self.journal.values or not self._file(path).exists():
            return None
        file = open_tensors(self._file(path))
        try:
            return _read(file, self.journal.values[path], block, formats)
        except Exception as error:  # a damaged file fails in many ways: absent keys, wrong shapes
            raise QvggtError(
                f"{file.path}: is no finished block of this calibration ({line(error)}); delete it to compute it again"
            ) from error

    def keep(self, key: str, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Store how far some long work is, in place of what was stored before."""
        old = self.journal.values.get(key)
        file = self.folder / f"{key}-{step}.safetensors"
        write_tensors(file, tensors, {})
        self.journal.add(key, {"file": file.name, "sha256": digest(tensors), "step": step})
        if old is not None:
            (self.folder / old["file"]).unlink(missing_ok=True)

    def kept(self, key: str) -> tuple[int, dict[str, Tensor]] | None:
        """(step, tensors) stored last, or None; QvggtError for a damaged file."""
        entry = self.journal.values.get(key)
        if entry is None or not (self.folder / entry["file"]).exists():
            return None
        file = open_tensors(self.folder / entry["file"])
        read = file.opener()
        tensors = {name: read(name).clone() for name in file.entries}
        if entry["sha256"] != digest(tensors):
            raise QvggtError(f"{file.path}: its tensors do not match their sha256; delete it to begin that work again")
        return entry["step"], tensors

    def finished(self) -> int:
        """Number of blocks stored."""
        return sum(self._file(path).exists() for path in self.journal.values)

    def remove(self) -> None:
        """Delete the folder once the checkpoint that replaces it is written."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _read(
    file: TensorFile, entry: Mapping[str, Any], block: Block, formats: dict[str, LinearFormat]
) -> tuple[Block, BlockReport]:
    read = file.opener()
    tensors = {key: read(key).clone() for key in file.entries}
    if entry["sha256"] != digest(tensors):
        raise ValueError("its tensors do not match their sha256")
    specs, report = entry["transforms"], from_mapping(BlockReport, entry["report"], "report")
    final = copy.deepcopy(block)
    for name, format in formats.items():
        linear = block.get_submodule(name)
        spec = TransformSpec(**specs[name]) if name in specs else None
        bias = getattr(linear, "bias", None) is not None
        own = report.steps[name].format(format) if name in report.steps else format
        final.set_submodule(name, QuantLinear(linear.in_features, linear.out_features, own, bias, spec))  # type: ignore[arg-type]
    latent = {key: tensors.pop(key) for key in list(tensors) if key.endswith(f".{LATENT}")}
    final.load_state_dict(tensors, assign=True)
    for key, tensor in latent.items():
        setattr(final.get_submodule(key.removesuffix(f".{LATENT}")), LATENT, tensor)
    return final.requires_grad_(False).to(device_of(block)), report


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors with their names: a damaged number would go into every later block unseen."""
    hashed = hashlib.sha256()
    for name in sorted(tensors):
        hashed.update(name.encode())
        hashed.update(tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()
