"""Stored predictions of the sequences where a candidate loses most, small enough for a report to show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qvggt.data.images import inside_of
from qvggt.data.sequence import Frames
from qvggt.data.sequence import Sequence as EvalSequence
from qvggt.engines.runner import Runner
from qvggt.eval.depth import depth_errors
from qvggt.eval.ground_truth import ImagePlan
from qvggt.eval.harness import Truth
from qvggt.eval.metrics import METRICS
from qvggt.eval.points import in_first_camera, predicted_cameras, predicted_points
from qvggt.eval.records import Row
from qvggt.files import atomic_write
from qvggt.predictions import DEPTH, DEPTH_CONFIDENCE, Predictions
from qvggt.progress import bar

METRIC = "auc30"
SIDE = 128  # most pixels of a stored map's side
POINTS = 20_000  # most stored points of a cloud

Arrays = dict[str, NDArray[Any]]


def rank_worst(rows: Sequence[Row], count: int) -> list[dict[str, Any]]:
    """The `count` sequences whose pose AUC@30 falls most from the first candidate to any other (of one candidate: whose
    AUC is lowest), worst first: {"sequence", "metric", "values" (per candidate)}."""
    metric = next(m for m in METRICS if m.name == METRIC)
    entries = []
    for row in rows:
        values = [metric.value(record) or 0.0 for record in row]
        entries.append((-loss(values), min(values), row[0].key, values))
    return [
        {"sequence": key, "metric": METRIC, "values": values} for _, _, key, values in sorted(entries)[: max(count, 0)]
    ]


def loss(values: Sequence[float]) -> float:
    """How bad a sequence is: the largest fall from the first candidate to another; of one alone, minus its value."""
    return max((values[0] - value for value in values[1:]), default=-values[0])


def store_worst(
    folder: str | Path,
    runners: Sequence[Runner],
    sequences: Sequence[Frames],
    plan: ImagePlan,
    ranked: Sequence[dict[str, Any]],
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Run the ranked sequences once more and write one .npz each; the entries of `ranked` with its "file".

    QvggtError when the folder refuses, or as the runners raise it.
    """
    by_key = {sequence.key: sequence for sequence in sequences}
    stored = []
    for entry in bar(ranked, desc="store worst", unit="sequence", shown=progress):
        sequence = by_key[entry["sequence"]]
        path = Path(folder) / f"{entry['sequence'].replace('/', '__')}.npz"
        images, resizes = plan.load_frames(sequence)
        predictions = [runner(images.copy()) for runner in runners]
        truth = Truth.of(sequence, resizes, images.shape[2], images.shape[3], predictions[0])
        inside = inside_of(resizes, *images.shape[2:])
        arrays = thinned(images, sequence, truth, [blanked(one, inside) for one in predictions])
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        stored.append({**entry, "file": str(path)})
    return stored


def blanked(predictions: Predictions, inside: NDArray[np.bool_]) -> Predictions:
    """With NaN for the depth and the points of padding (where `inside` [S, H, W] is false)."""
    if inside.all():
        return predictions

    def hidden(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.where(inside.reshape(inside.shape + (1,) * (values.ndim - 3)), values, np.float32(np.nan))

    depth, points = predictions.depth, predictions.world_points
    return replace(
        predictions,
        depth=None if depth is None else hidden(depth),
        world_points=None if points is None else hidden(points),
    )


def thinned(images: NDArray[np.float32], sequence: Frames, truth: Truth, predictions: Sequence[Predictions]) -> Arrays:
    """The arrays of a stored file (docs/evaluation.md names them) from images [S, 3, H, W] and every candidate's
    predictions."""
    height, width = images.shape[2:]
    step = -(-max(height, width) // SIDE)
    colours = np.rint(255 * images.transpose(0, 2, 3, 1)).astype(np.uint8)
    arrays: Arrays = {
        "images": colours[:, ::step, ::step],
        "frames": np.array(sequence.frame_indices, np.int64),
    }
    if isinstance(sequence, EvalSequence):  # else the first candidate stands for the truth
        arrays["gt_extrinsics"] = in_first_camera(torch.from_numpy(truth.extrinsics)).numpy()
        arrays["gt_intrinsics"] = _thin_intrinsics(truth.intrinsics, step)
        if truth.depth is not None and truth.points is not None:
            arrays["gt_depth"] = truth.depth[:, ::step, ::step]
            arrays |= _cloud("gt", truth.points, colours, truth.depth > 0, None)
    for index, predicted in enumerate(predictions):
        name = f"c{index}"
        extrinsics, intrinsics = predicted_cameras(predicted, height, width)
        arrays[f"{name}_extrinsics"] = in_first_camera(extrinsics).numpy()
        arrays[f"{name}_intrinsics"] = _thin_intrinsics(intrinsics.numpy(), step)
        for output in (DEPTH, DEPTH_CONFIDENCE):
            if (values := getattr(predicted, output)) is not None:
                arrays[f"{name}_{output}"] = values[:, ::step, ::step]
        maps = predicted_points(predicted, height, width)
        if maps:
            source, points = next(iter(maps.items()))
            confidence = predicted.world_points_conf if source == "head" else predicted.depth_conf
            arrays |= _cloud(name, points, colours, np.isfinite(points).all(-1), confidence)
        arrays[f"{name}_scale"] = np.array(_scale(predicted, predictions[0], truth), np.float64)
    return arrays


def _scale(predicted: Predictions, first: Predictions, truth: Truth) -> float:
    """Ratio of median depths: of the ground truth, or of the first candidate without one; 1 without depth."""
    if predicted.depth is None:
        return 1.0
    reference = truth.depth if truth.depth is not None else first.depth
    if reference is None or not (reference > 0).any():
        return 1.0
    scale = depth_errors(predicted.depth, reference).scale
    return scale if np.isfinite(scale) else 1.0


def _cloud(
    name: str,
    points: NDArray[np.floating],
    colours: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    confidence: NDArray[np.float32] | None,
) -> Arrays:
    """At most POINTS of the masked pixels, evenly spaced in reading order."""
    pixels = np.flatnonzero(mask)
    pixels = pixels[:: max(1, -(-len(pixels) // POINTS))]
    arrays: Arrays = {
        f"{name}_points": points.reshape(-1, 3)[pixels].astype(np.float32),
        f"{name}_colors": colours.reshape(-1, 3)[pixels],
    }
    if confidence is not None:
        arrays[f"{name}_confidence"] = confidence.reshape(-1)[pixels]
    return arrays


def _thin_intrinsics(intrinsics: NDArray[np.float64], step: int) -> NDArray[np.float64]:
    """Of the pixels [::step, ::step], whose whole coordinates are those of the full map divided by step."""
    return np.asarray(np.diag([1 / step, 1 / step, 1]) @ intrinsics)
