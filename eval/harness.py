"""Runs candidates over sequences: the same pixels for all, in turn, sequence by sequence (DESIGN section 7)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from qvggt.data.images import Resize, inside_of
from qvggt.data.sequence import Frames
from qvggt.data.sequence import Sequence as EvalSequence
from qvggt.engines.runner import Runner
from qvggt.errors import QvggtError
from qvggt.eval.clouds import check_backend
from qvggt.eval.depth import depth_errors
from qvggt.eval.ground_truth import ImagePlan, network_intrinsics, plan_images, sequence_depth
from qvggt.eval.groups import METRIC_GROUPS
from qvggt.eval.noise import Noise, compare
from qvggt.eval.points import (
    PointConfig,
    PointErrors,
    TruePoints,
    point_errors,
    predicted_cameras,
    predicted_points,
    true_points,
)
from qvggt.eval.pose import pairwise_errors
from qvggt.eval.records import Row
from qvggt.eval.result import CandidateResult, SequenceRecord
from qvggt.eval.scan import TrueScan
from qvggt.predictions import CAMERAS, Predictions
from qvggt.progress import bar


@dataclass(frozen=True)
class Protocol:
    """What is measured. metrics: among METRIC_GROUPS, pose always. warmup: untimed passes of each runner for every new
    image shape. repeats: timed passes per sequence."""

    metrics: tuple[str, ...] = ("pose", "depth")
    warmup: int = 1
    repeats: int = 1
    points: PointConfig = field(default_factory=PointConfig)

    def __post_init__(self) -> None:
        if unknown := [name for name in self.metrics if name not in METRIC_GROUPS]:
            raise QvggtError(f"metrics: expected some of {', '.join(METRIC_GROUPS)}, got {unknown[0]!r}")
        if self.warmup < 0 or self.repeats < 1:
            raise QvggtError(f"timing: expected warmup >= 0 and repeats >= 1, got {self.warmup} and {self.repeats}")


@dataclass(frozen=True)
class Truth:
    """Of one sequence on the network's pixels. depth [S, H, W] (0 = unknown) or None; intrinsics [S, 3, 3] of pixels
    counted by whole coordinates; extrinsics [S, 3, 4] camera-from-world; scan: see `TruePoints`."""

    depth: NDArray[np.float32] | None
    intrinsics: NDArray[np.float64]
    extrinsics: NDArray[np.float64]
    scan: TrueScan | None = None

    @classmethod
    def of(
        cls, sequence: Frames, resizes: Sequence[Resize], height: int, width: int, first: Predictions | None = None
    ) -> Truth:
        """first: what the first candidate predicts, which stands for the truth of frames without cameras."""
        if not isinstance(sequence, EvalSequence):
            assert first is not None, f"{sequence.key} has no cameras"
            return cls.predicted(first, inside_of(resizes, height, width), sequence.key)
        return cls(
            sequence_depth(sequence, resizes, height, width),
            network_intrinsics(sequence, resizes),
            sequence.extrinsics,
            None if sequence.scan is None else TrueScan(sequence.scan, sequence.extrinsics[0]),
        )

    @classmethod
    def predicted(cls, first: Predictions, inside: NDArray[np.bool_], key: str) -> Truth:
        """inside [S, H, W]: pixels that are no padding. QvggtError when its cameras are not finite."""
        extrinsics, intrinsics = predicted_cameras(first, *inside.shape[1:])
        if not torch.isfinite(extrinsics).all():
            raise QvggtError(
                f"{key}: has no ground truth, and the first candidate, which stands for it, gives cameras that are not "
                "finite; put another one first"
            )
        depth = first.depth
        if depth is not None:
            depth = np.where(inside & np.isfinite(depth) & (depth > 0), depth, np.float32(0))
        return cls(depth if depth is not None and depth.any() else None, intrinsics.numpy(), extrinsics.numpy())

    @cached_property
    def points(self) -> NDArray[np.float64] | None:
        """[S, H, W, 3] in the frame of the first camera; meaningless where depth is 0. None without depth."""
        return None if self.depth is None else true_points(self.depth, self.extrinsics, self.intrinsics)

    def as_points(self, protocol: Protocol, key: str) -> TruePoints | None:
        """What point maps are measured by; None where they are not. QvggtError for a scan that cannot be read."""
        if "points" not in protocol.metrics or self.depth is None or self.points is None:
            return None
        if self.scan is not None:
            self.scan.arrays  # noqa: B018 - read now, before the work is done
        return TruePoints(self.points, self.depth > 0, protocol.points, key, self.scan)


def evaluate(
    runners: Sequence[Runner],
    sequences: Iterable[Frames],
    *,
    size: int | None = None,
    plan: ImagePlan | None = None,
    protocol: Protocol | None = None,
    warmup: int = 1,
    progress: bool = True,
) -> list[CandidateResult]:
    """One result per runner, in order; the first is the reference of the output SQNR, and the truth of sequences that
    have no cameras (`truth_notes` says so).

    size, plan: see `plan_images`. warmup: of a default protocol. QvggtError as `evaluate_rows` raises it.
    """
    listed = list(sequences)
    check(runners, listed)
    rows = evaluate_rows(
        runners, listed, plan or plan_images(runners, size), protocol or Protocol(warmup=warmup), progress=progress
    )
    return [
        CandidateResult(runner.label, runner.describe(), tuple(row[index] for row in rows))
        for index, runner in enumerate(runners)
    ]


def evaluate_rows(
    runners: Sequence[Runner],
    sequences: Sequence[Frames],
    plan: ImagePlan,
    protocol: Protocol,
    *,
    done: Mapping[str, Row] | None = None,
    save: Callable[[Row], None] | None = None,
    progress: bool = True,
) -> list[Row]:
    """A row per sequence, in order: those of `done` (by key) as they are, the others now, each passed to `save`.

    Candidates take turns on every sequence, so that a change of the machine's speed meets them alike; all stay open at
    once. Call `check` first. QvggtError for unreadable images or depth maps, and what a runner raises.
    """
    finished = dict(done or {})
    missing = [sequence for sequence in sequences if sequence.key not in finished]
    warmed: set[tuple[int, ...]] = set()
    with bar(total=len(missing) * len(runners), desc="evaluate", unit="run", shown=progress, even=False) as moved:
        for sequence in missing:
            images, resizes = plan.load_frames(sequence)
            truth, true, (height, width) = None, None, images.shape[2:]
            inside = inside_of(resizes, height, width)
            records: list[SequenceRecord] = []
            earlier: list[Predictions] = []
            for runner in runners:
                moved.set_postfix_str(f"{sequence.key} {runner.label}", refresh=False)
                for _ in range(protocol.warmup if images.shape not in warmed else 0):
                    runner(images.copy())
                # a copy each: nothing one candidate does to its input can reach the next
                timed = [_timed(runner, images.copy()) for _ in range(protocol.repeats)]
                predictions, timings = timed[0][0], tuple(seconds for _, seconds in timed)
                if truth is None:
                    truth = Truth.of(sequence, resizes, height, width, predictions)
                    true = truth.as_points(protocol, sequence.key)
                records.append(_record(sequence, predictions, earlier, truth, protocol, inside, timings))
                earlier.append(predictions)
                moved.update()
            warmed.add(images.shape)
            if true is not None:
                moved.set_postfix_str(f"{sequence.key} points")
                found = measure_points(earlier, true)
                records = [replace(record, points=errors) for record, errors in zip(records, found, strict=True)]
            row = tuple(records)
            finished[sequence.key] = row
            if save is not None:
                save(row)
    return [finished[sequence.key] for sequence in sequences]


def truth_notes(sequences: Sequence[Frames], first: str) -> list[str]:
    """What a reader must know of sequences without cameras; first: label of the first candidate."""
    if all(isinstance(sequence, EvalSequence) for sequence in sequences):
        return []
    return [
        f"no ground truth: cameras and depth of {first} are taken for the truth, so figures say agreement with it, "
        "not accuracy"
    ]


def check(runners: Sequence[Runner], sequences: Sequence[Frames], protocol: Protocol | None = None) -> None:
    """What can be known before any work. QvggtError: no runner or sequence, a runner without poses, a frame count it
    does not take, a missing image file, a sequence of one frame, points without Open3D."""
    if not runners:
        raise QvggtError("evaluation: expected at least one model or engine, got none")
    if not sequences:
        raise QvggtError("evaluation: expected at least one sequence, got none")
    for runner in runners:
        if CAMERAS not in runner.outputs:
            raise QvggtError(
                f"{runner.label}: computes no {CAMERAS}, only {', '.join(runner.outputs)}; export it with pose"
            )
    for sequence in sequences:
        count = len(sequence.image_paths)
        if count < 2:
            raise QvggtError(f"{sequence.key}: pose errors need 2 frames or more, got {count}")
        for runner in runners:
            only, (low, high) = runner.frames, runner.frame_range or (1, count)
            if only not in (None, count):
                problem, advice = f"takes only {only} frames", f"ask for {only} frames"
            elif not low <= count <= high:
                problem, advice = f"takes {low} to {high} frames", "ask for fewer, or build it for more"
            else:
                continue
            raise QvggtError(f"{runner.label}: {problem}, {sequence.key} has {count}; {advice}")
        for path in sequence.image_paths:
            if not path.is_file():
                raise QvggtError(f"{path}: no such image file, but {sequence.key} is annotated with it; restore it")
    if protocol is not None and "points" in protocol.metrics:
        check_backend(protocol.points.backend)


def _timed(runner: Runner, images: NDArray[np.float32]) -> tuple[Predictions, float]:
    start = time.perf_counter()
    predictions = runner(images)
    return predictions, time.perf_counter() - start


def _record(
    sequence: Frames,
    predictions: Predictions,
    earlier: Sequence[Predictions],
    truth: Truth,
    protocol: Protocol,
    inside: NDArray[np.bool_],
    timings: tuple[float, ...],
) -> SequenceRecord:
    extrinsics, _ = predicted_cameras(predictions, *inside.shape[1:])
    depth = None
    if "depth" in protocol.metrics and truth.depth is not None and predictions.depth is not None:
        depth = depth_errors(predictions.depth, truth.depth, "median")
    noise = [_noise(reference, predictions, inside) for reference in earlier]
    return SequenceRecord(
        key=sequence.key,
        category=sequence.category,
        pose=pairwise_errors(extrinsics, truth.extrinsics),
        depth=depth,
        noise=noise[0] if noise else {},
        seconds=float(np.median(timings)),
        timings=timings,
        parity=dict(enumerate(noise[1:], 1)),
    )


def measure_points(candidates: Sequence[Predictions], true: TruePoints) -> list[dict[str, PointErrors]]:
    """Per candidate: source -> errors, of all at once on as many threads as the machine has cores.

    The harness does that between the timed passes of two sequences, so that it takes no time from any of them.
    """
    maps = [predicted_points(predictions, *true.valid.shape[1:]) for predictions in candidates]
    if any(maps) and true.scan is None:
        true.cloud  # noqa: B018 - made before the threads share it
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        work = [{name: pool.submit(point_errors, points, true) for name, points in own.items()} for own in maps]
        return [{name: one.result() for name, one in own.items()} for own in work]


def _noise(reference: Predictions, other: Predictions, inside: NDArray[np.bool_]) -> dict[str, Noise]:
    """Per output that both have; of maps the pixels that are no padding, where nobody reads them."""
    mine, whole = other.named(), inside.all()

    def seen(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return values if whole or values.shape[:3] != inside.shape else values[inside]

    return {name: compare(seen(value), seen(mine[name])) for name, value in reference.named().items() if name in mine}
