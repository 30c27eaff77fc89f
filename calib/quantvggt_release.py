"""Reading the parameters released for QuantVGGT: safely, completely, and never filling in (spec/quantvggt.md 2.3, 2.7).

A release is two files of one dict {block number: {name: tensor}} each, for the frame and the global blocks. They hold
no weights: per linear a rotation R, a smoothing scale s and the logits of weight and activation clips. R is a sign per
input channel times Sylvester's Hadamard matrix, so that only the signs are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from qvggt.calib.quantvggt_scheme import PART
from qvggt.errors import QvggtError
from qvggt.models.family import LINEARS
from qvggt.quant.hadamard import power
from qvggt.quant.kronecker import KroneckerHadamard
from qvggt.tensor_file import FLOATS, load_objects

FILES = {
    "frame_blocks": "qs_frame_parameters_total.pth",
    "global_blocks": "qs_global_parameters_total.pth",
}
ROTATION = "rotation_matrix"
GROUPS = {  # what calibration can learn, and the tensors of a linear it leaves
    "smooth": ("channel_wise_scale",),
    "lwc": ("clip_factor_w_min", "clip_factor_w_max"),
    "lac": ("act_quantizer.clip_factor_a_min", "act_quantizer.clip_factor_a_max"),
}
TOLERANCE = 1e-5  # of the size of R's entries; fp32 rounding is a hundredth of it


@dataclass(frozen=True)
class LinearParameters:
    """One linear: signs [in] of its rotation; scale s [in], which divides the input and multiplies the weight;
    weight_clip [2, out, 1] and act_clip [2], ratios in (0, 1] of the least and the largest value. None: not released.
    """

    signs: Tensor
    scale: Tensor | None
    weight_clip: Tensor | None
    act_clip: Tensor | None


@dataclass(frozen=True)
class ReleasedParameters:
    """A complete release. linears: module path -> parameters; groups: those of GROUPS it has, the same everywhere;
    blocks: frame blocks, and as many global ones; ignored: names of tensors that mean nothing here."""

    folder: Path
    linears: Mapping[str, LinearParameters]
    groups: tuple[str, ...]
    blocks: int
    ignored: tuple[str, ...]


def read_released(folder: str | Path) -> ReleasedParameters:
    """Both files of a release, checked and complete; nothing is filled in.

    Raises QvggtError naming file, block and tensor: for a file that is missing, damaged or holds more than tensors (it
    is never unpickled); blocks that are not numbered 0, 1, ... alike in both files; a tensor that is missing,
    mis-shaped or not finite; a rotation that is no signed Hadamard matrix; s <= 0; a clip ratio of 0.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise QvggtError(f"{folder}: no folder, expected one that holds {' and '.join(FILES.values())}")
    linears: dict[str, LinearParameters] = {}
    ignored: dict[str, None] = {}
    groups: tuple[str, ...] | None = None
    count: int | None = None
    for view, name in FILES.items():
        path = folder / name
        blocks = check_blocks(path, load_objects(path, "a file of the release"), count)
        count = len(blocks)
        for number in range(count):
            entries = blocks.pop(number)
            if groups is None:
                groups = released_groups(entries)
            block = ReleasedBlock(f"{path}: block {number}", entries, groups)
            ignored |= dict.fromkeys(block.unknown())
            for linear in LINEARS:
                linears[f"{PART}.{view}.{number}.{linear}"] = block.linear(linear)
    assert groups is not None
    assert count is not None
    return ReleasedParameters(folder, linears, groups, count, tuple(ignored))


def check_blocks(path: Path, loaded: Any, count: int | None) -> dict[int, Mapping[str, Any]]:
    """{number: tensors by name}; `count` as in the file before, None in the first. QvggtError says what is missing."""
    if not isinstance(loaded, dict) or not loaded or not all(type(key) is int for key in loaded):
        got = f"keys {sorted(map(str, loaded))[:3]}" if isinstance(loaded, dict) else type(loaded).__name__
        raise QvggtError(f"{path}: expected a dict with block numbers 0, 1, ..., got {got}; it is no QuantVGGT release")
    wanted = range(len(loaded) if count is None else count)
    missing = [n for n in wanted if n not in loaded]
    if missing or len(loaded) != len(wanted):
        wrong = f"{missing[0]} missing" if missing else f"{max(loaded)} unexpected"
        raise QvggtError(
            f"{path}: block {wrong}, expected 0 to {len(wanted) - 1}, got {len(loaded)} blocks; "
            "both files must be of one complete release"
        )
    for number, entries in loaded.items():
        if not isinstance(entries, Mapping):
            raise QvggtError(
                f"{path}: block {number} expected a dict of tensors, got {type(entries).__name__}; "
                "it is no QuantVGGT release"
            )
    return loaded


def released_groups(entries: Mapping[str, Any]) -> tuple[str, ...]:
    """Groups of which a block holds any tensor: a calibration stores them for every linear or for none."""
    return tuple(
        group for group, names in GROUPS.items() if any(f"{linear}.{n}" in entries for linear in LINEARS for n in names)
    )


@dataclass(frozen=True)
class ReleasedBlock:
    """The stored tensors of one block; `label` names file and block in errors."""

    label: str
    entries: Mapping[str, Any]
    groups: tuple[str, ...]

    def fail(self, key: str, expected: str, got: object, advice: str = "get the release again") -> NoReturn:
        raise QvggtError(f"{self.label}, {key}: expected {expected}, got {got}; {advice}")

    def unknown(self) -> list[str]:
        """Names that mean nothing here. QvggtError for tensors of a group the first block lacks."""
        known = {f"{linear}.{ROTATION}" for linear in LINEARS}
        for group, names in GROUPS.items():
            full = [f"{linear}.{name}" for linear in LINEARS for name in names]
            known |= set(full)
            if group not in self.groups and (stray := [n for n in full if n in self.entries]):
                raise QvggtError(
                    f"{self.label}, {stray[0]}: unexpected, expected none as in block 0 of the frame blocks; "
                    "both files must be of one release"
                )
        return [str(key) for key in self.entries if key not in known]

    def linear(self, name: str) -> LinearParameters:
        signs = self.signs(f"{name}.{ROTATION}")
        scale = weight_clip = act_clip = None
        if "smooth" in self.groups:
            scale = self.scale(f"{name}.{GROUPS['smooth'][0]}", len(signs))
        if "lwc" in self.groups:
            low, high = (self.ratio(f"{name}.{key}", (None, 1)) for key in GROUPS["lwc"])
            if low.shape != high.shape:
                key = f"{name}.{GROUPS['lwc'][1]}"
                self.fail(key, f"shape {list(low.shape)} as of its pair", list(high.shape))
            weight_clip = torch.stack([low, high])
        if "lac" in self.groups:
            act_clip = torch.cat([self.ratio(f"{name}.{key}", (1,)) for key in GROUPS["lac"]])
        return LinearParameters(signs, scale, weight_clip, act_clip)

    def tensor(self, key: str, shape: tuple[int | None, ...]) -> Tensor:
        """The named tensor in fp32, finite and of this shape, in which None stands for any size but 0."""
        if key not in self.entries:
            raise QvggtError(f"{self.label}, {key}: missing, expected a tensor; get a complete release")
        value = self.entries[key]
        sizes = ["n" if size is None else size for size in shape]
        if not isinstance(value, Tensor) or value.dtype not in FLOATS or value.layout != torch.strided or value.is_meta:
            got = str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
            self.fail(key, "a dense float tensor", got)
        fits = value.dim() == len(shape) and all(w in (None, n) for w, n in zip(shape, value.shape, strict=True))
        if not fits or value.numel() == 0:
            self.fail(key, f"shape {str(sizes).replace(chr(39), '')}", list(value.shape))
        value = value.detach().float()
        if not bool(value.isfinite().all()):
            self.fail(key, "finite values", f"{int((~value.isfinite()).sum())} NaN or infinite")
        return value

    def signs(self, key: str) -> Tensor:
        """Signs d [n] of the rotation R [n, n] = diag(d) H / sqrt(n)."""
        matrix = self.tensor(key, (None, None))
        width = len(matrix)
        if matrix.shape != (width, width) or power(width, 2) is None:
            wanted = "a square matrix whose width is a power of two"
            self.fail(key, wanted, list(matrix.shape), "other rotations are not supported")
        signs = matrix[:, 0].sign()
        error = hadamard_error(matrix, signs)
        if error > TOLERANCE:
            wanted = f"signs times the Sylvester Hadamard matrix over sqrt({width})"
            got = f"entries that differ by {error:.1e} of their size"
            self.fail(key, wanted, got, "dense rotations are not supported")
        return signs

    def scale(self, key: str, width: int) -> Tensor:
        scale = self.tensor(key, (1, width))[0]
        least = float(scale.min())
        if least < torch.finfo(torch.float32).tiny:  # below it 1 / s overflows
            self.fail(key, "scales > 0", f"{least:g}")
        return scale.clone()

    def ratio(self, key: str, shape: tuple[int | None, ...]) -> Tensor:
        """sigmoid(logits); QvggtError where one is so low that it would clip everything to 0."""
        logits = self.tensor(key, shape)
        ratio = logits.sigmoid()
        if bool((ratio == 0).any()):
            self.fail(key, "logits of clip ratios > 0", f"{float(logits.min()):g}")
        return ratio


def hadamard_error(matrix: Tensor, signs: Tensor) -> float:
    """Largest |R sqrt(n) - diag(signs) H_n| [n, n], a few rows of H at a time (4096 x 4096 takes 64 MB)."""
    width = len(matrix)
    rotation = KroneckerHadamard(width)
    columns = rotation.factors[1]
    worst = 0.0
    for row, left in enumerate(rotation.left):
        part = slice(row * columns, (row + 1) * columns)
        expected = torch.kron(left[None], rotation.right) * signs[part, None]
        worst = max(worst, float((matrix[part] - expected).abs().max()))
    return worst * width**0.5
