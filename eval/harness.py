"""Several candidates on the same frames: poses, depth, parity and latency, sequence by sequence."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterable
from collections.abc import Sequence as Several
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from qvggt.engines.runner import Predictions, Runner
from qvggt.errors import QvggtError
from qvggt.eval.co3d import Sequence, read_depth
from qvggt.eval.depth import DepthErrors, depth_errors
from qvggt.eval.pose import THRESHOLDS, PoseErrors, accuracy, pairwise_errors, pose_auc
from qvggt.geometry import decode_pose
from qvggt.images import Resize, load_images_exact, load_images_tracked

RRA_DEGREES = 5.0


@dataclass(frozen=True)
class SequenceResult:
    """One candidate on one sequence. sqnr_db compares each output with the first candidate's (None for it)."""

    key: str
    category: str
    errors: PoseErrors
    depth: DepthErrors | None
    seconds: float
    sqnr_db: dict[str, float] | None

    def record(self) -> dict[str, Any]:
        """JSON-serialisable form."""
        return {
            "sequence": self.key,
            "rotation_deg": [round(float(v), 6) for v in self.errors.rotation_deg],
            "translation_deg": [round(float(v), 6) for v in self.errors.translation_deg],
            "depth_abs_rel": None if self.depth is None else self.depth.abs_rel,
            "depth_delta1": None if self.depth is None else self.depth.delta1,
            "seconds": self.seconds,
            "sqnr_db": self.sqnr_db,
        }


@dataclass(frozen=True)
class CandidateResult:
    """All sequences of one candidate; figures follow spec/evaluation.md 4.2 (per category, then unweighted mean)."""

    label: str
    facts: dict[str, Any]
    sequences: tuple[SequenceResult, ...] = field(repr=False)

    def by_category(self) -> dict[str, list[SequenceResult]]:
        groups: dict[str, list[SequenceResult]] = defaultdict(list)
        for sequence in self.sequences:
            groups[sequence.category].append(sequence)
        return groups

    def auc(self) -> dict[int, float]:
        """AUC@30/15/5/3 in [0, 1]."""
        per_category = [pose_auc([s.errors for s in group]) for group in self.by_category().values()]
        return {t: float(np.mean([scores[t] for scores in per_category])) for t in THRESHOLDS}

    def summary(self) -> dict[str, float | None]:
        """Figures of the table: AUC and accuracies in points (0-100), depth errors, median seconds a sequence."""
        groups = self.by_category().values()

        def mean(values: Iterable[float]) -> float | None:
            kept = list(values)
            return float(np.mean(kept)) if kept else None

        def pairs(group: list[SequenceResult], kind: str) -> NDArray[np.float64]:
            return np.concatenate([getattr(s.errors, kind) for s in group])

        figures: dict[str, float | None] = {f"auc{t}": 100 * v for t, v in self.auc().items()}
        figures["rra5"] = mean(100 * accuracy(pairs(g, "rotation_deg"), RRA_DEGREES) for g in groups)
        figures["rta5"] = mean(100 * accuracy(pairs(g, "translation_deg"), RRA_DEGREES) for g in groups)
        figures["abs_rel"] = mean(s.depth.abs_rel for s in self.sequences if s.depth is not None)
        figures["delta1"] = mean(s.depth.delta1 for s in self.sequences if s.depth is not None)
        figures["seconds"] = float(np.median([s.seconds for s in self.sequences]))
        return figures


def common_size(runners: Several[Runner]) -> tuple[int, int] | None:
    """The fixed image size the runners share; None when all take any size. QvggtError when two differ."""
    fixed = {r.label: r.size for r in runners if r.size is not None}
    if len(set(fixed.values())) > 1:
        listed = ", ".join(f"{label} takes {height}x{width}" for label, (height, width) in fixed.items())
        raise QvggtError(f"candidates of different image sizes cannot be compared ({listed}): export with one --size")
    return next(iter(fixed.values()), None)


def load(sequence: Sequence, size: tuple[int, int] | None, longest: int) -> tuple[Tensor, list[Resize]]:
    """Images of a sequence: exactly `size`, else VGGT's own crop preprocessing with `longest` as width."""
    if size is not None:
        return load_images_exact(sequence.image_paths, *size)
    return load_images_tracked(sequence.image_paths, mode="crop", size=longest)


def evaluate(
    runners: Several[Runner], sequences: Several[Sequence], longest: int = 518, progress: bool = True
) -> list[CandidateResult]:
    """Run every candidate on the same pixels of every sequence; the first is the one others are compared with.

    `longest` is the image width where no runner fixes a size. QvggtError when the runners' sizes differ, an image
    cannot be read, or a runner has no camera output.
    """
    size = common_size(runners)
    results: list[list[SequenceResult]] = [[] for _ in runners]
    for sequence in tqdm(sequences, desc="evaluate", unit="sequence", disable=not progress):
        images, resizes = load(sequence, size, longest)
        truth = resized_depth(sequence, resizes, images.shape[-2:])
        reference: Predictions | None = None
        for runner, collected in zip(runners, results, strict=True):
            start = time.perf_counter()
            predictions = runner(images)
            seconds = time.perf_counter() - start
            if predictions.pose_enc is None:
                raise QvggtError(f"{runner.label}: has no pose output; export with --outputs pose,...")
            collected.append(
                SequenceResult(
                    key=sequence.key,
                    category=sequence.category,
                    errors=pose_errors(predictions.pose_enc, sequence, images),
                    depth=None
                    if truth is None or predictions.depth is None
                    else depth_errors(predictions.depth, truth),
                    seconds=seconds,
                    sqnr_db=None if reference is None else output_sqnr(reference, predictions),
                )
            )
            reference = reference or predictions
    return [
        CandidateResult(runner.label, runner.describe(), tuple(collected))
        for runner, collected in zip(runners, results, strict=True)
    ]


def pose_errors(pose_enc: NDArray[np.float32], sequence: Sequence, images: Tensor) -> PoseErrors:
    encoding = torch.from_numpy(pose_enc).double()
    extrinsics, _ = decode_pose(encoding, images.shape[-2], images.shape[-1])
    return pairwise_errors(extrinsics, sequence.extrinsics)


def resized_depth(sequence: Sequence, resizes: list[Resize], shape: torch.Size) -> NDArray[np.float64] | None:
    """Ground-truth depth of every frame on the grid of the network's images, nearest sample; None without depth."""
    if not sequence.depth_paths or any(p is None for p in sequence.depth_paths):
        return None
    height, width = shape
    maps = np.zeros((len(resizes), height, width))
    for target, path, resize in zip(maps, sequence.depth_paths, resizes, strict=True):
        assert path is not None
        stored = read_depth(path)
        # output pixel centre -> source pixel that contains it
        columns = np.floor((np.arange(width) + 0.5 - resize.offset_x) / resize.scale_x).astype(int)
        rows = np.floor((np.arange(height) + 0.5 - resize.offset_y) / resize.scale_y).astype(int)
        inside = ((rows >= 0) & (rows < stored.shape[0]))[:, None] & ((columns >= 0) & (columns < stored.shape[1]))
        rows, columns = rows.clip(0, stored.shape[0] - 1), columns.clip(0, stored.shape[1] - 1)
        target[:] = np.where(inside, stored[rows[:, None], columns[None, :]], 0)
    return maps


def output_sqnr(reference: Predictions, other: Predictions) -> dict[str, float]:
    """SQNR in dB of each output both have; inf where they are equal."""
    values = {}
    theirs = other.items()
    for name, truth in reference.items().items():
        if name in theirs:
            difference = truth.astype(np.float64) - theirs[name]
            noise = float(np.square(difference).sum())
            signal = float(np.square(truth.astype(np.float64)).sum())
            values[name] = 10 * math.log10(signal / noise) if noise > 0 and signal > 0 else math.inf
    return values
