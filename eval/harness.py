"""Runs candidates over sequences: the same pixels for all, in turn, sequence by sequence (DESIGN section 7)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from qvggt.engines.runner import Predictions, Runner
from qvggt.errors import QvggtError
from qvggt.eval.co3d import Sequence as Co3DSequence
from qvggt.eval.depth import depth_errors
from qvggt.eval.ground_truth import plan_images, sequence_depth
from qvggt.eval.noise import compare
from qvggt.eval.pose import pairwise_errors
from qvggt.eval.result import CandidateResult, SequenceRecord
from qvggt.geometry import decode_pose
from qvggt.progress import bar


def evaluate(
    runners: Sequence[Runner],
    sequences: Iterable[Co3DSequence],
    *,
    size: int | None = None,
    warmup: int = 1,
    progress: bool = True,
) -> list[CandidateResult]:
    """One result per runner, in order; the first is the reference of the output SQNR.

    size: see `plan_images`. warmup: untimed passes of each runner over the first sequence. Candidates take turns on
    every sequence, so that a change of the machine's speed meets them alike; all stay open at once.

    QvggtError before any work: no runner or sequence, a runner without poses, sizes that do not go together, a missing
    image file, a sequence of one frame. During it: unreadable images or depth maps, and what a runner raises.
    """
    chosen = list(sequences)
    _check(runners, chosen)
    plan = plan_images(runners, size)
    records: list[list[SequenceRecord]] = [[] for _ in runners]
    with bar(total=len(chosen) * len(runners), desc="evaluate", unit="run", shown=progress) as moved:
        for index, sequence in enumerate(chosen):
            images, resizes = plan.load(sequence.image_paths)
            truth = sequence_depth(sequence, resizes, *images.shape[2:])
            reference: Predictions | None = None
            for runner, kept in zip(runners, records, strict=True):
                moved.set_postfix_str(f"{sequence.key} {runner.label}", refresh=False)
                for _ in range(warmup if index == 0 else 0):
                    runner(images.copy())
                # a copy each: nothing one candidate does to its input can reach the next
                predictions, seconds = _timed(runner, images.copy())
                kept.append(_record(sequence, predictions, reference, truth, images.shape, seconds))
                reference = reference or predictions
                moved.update()
    return [
        CandidateResult(runner.label, runner.describe(), tuple(kept))
        for runner, kept in zip(runners, records, strict=True)
    ]


def _check(runners: Sequence[Runner], sequences: Sequence[Co3DSequence]) -> None:
    if not runners:
        raise QvggtError("evaluation: expected at least one model or engine, got none")
    if not sequences:
        raise QvggtError("evaluation: expected at least one sequence, got none")
    for runner in runners:
        if "pose_enc" not in runner.outputs:
            raise QvggtError(
                f"{runner.label}: computes no pose_enc, only {', '.join(runner.outputs)}; export it with pose"
            )
    for sequence in sequences:
        if len(sequence.image_paths) < 2:
            raise QvggtError(f"{sequence.key}: pose errors need 2 frames or more, got {len(sequence.image_paths)}")
        for runner in runners:
            if runner.frames not in (None, len(sequence.image_paths)):
                raise QvggtError(
                    f"{runner.label}: takes only {runner.frames} frames, {sequence.key} has "
                    f"{len(sequence.image_paths)}; ask for {runner.frames} frames"
                )
        for path in sequence.image_paths:
            if not path.is_file():
                raise QvggtError(f"{path}: no such image file, but {sequence.key} is annotated with it; restore it")


def _timed(runner: Runner, images: NDArray[np.float32]) -> tuple[Predictions, float]:
    start = time.perf_counter()
    predictions = runner(images)
    return predictions, time.perf_counter() - start


def _record(
    sequence: Co3DSequence,
    predictions: Predictions,
    reference: Predictions | None,
    truth: NDArray[np.float32] | None,
    shape: tuple[int, ...],
    seconds: float,
) -> SequenceRecord:
    encoding = torch.from_numpy(predictions.pose_enc).double()
    extrinsics, _ = decode_pose(encoding, shape[2], shape[3])
    depth = None
    if truth is not None and predictions.depth is not None:
        depth = depth_errors(predictions.depth, truth, "median")
    noise = {}
    if reference is not None:
        mine = predictions.named()
        noise = {name: compare(value, mine[name]) for name, value in reference.named().items() if name in mine}
    return SequenceRecord(
        key=sequence.key,
        category=sequence.category,
        pose=pairwise_errors(extrinsics, sequence.extrinsics),
        depth=depth,
        noise=noise,
        seconds=seconds,
    )
