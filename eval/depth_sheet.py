"""Rows of a contact sheet: two candidates' depth on the same frames, beside the ground truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qvggt.data.co3d import Sequence as Co3DSequence
from qvggt.engines.runner import Array, Runner
from qvggt.errors import QvggtError
from qvggt.eval.contact_sheet import Row
from qvggt.eval.depth import depth_errors
from qvggt.eval.ground_truth import plan_images, sequence_depth


def depth_rows(
    reference: Runner, other: Runner, sequences: Sequence[Co3DSequence], shown: int, size: int | None = None
) -> tuple[Row, ...]:
    """Rows with the depth maps (ground truth, reference, other) of the first `shown` frames of each sequence.

    Both run on all frames of the sequence; `size` as in `plan_images`. Ground truth [S, H, W] is divided by the median
    ratio that `depth_errors` finds for the reference, so that all maps of a row have its unit; NaN where there is none.
    QvggtError when a candidate has no depth output, or as `plan_images` and the runners raise it.
    """
    for runner in (reference, other):
        if "depth" not in runner.outputs:
            raise QvggtError(
                f"{runner.label}: computes no depth, only {', '.join(runner.outputs)}; export it with depth"
            )
    plan = plan_images((reference, other), size)
    rows: list[Row] = []
    for sequence in sequences:
        images, resizes = plan.load(sequence.image_paths)
        first, second = reference(images).depth, other(images).depth
        assert first is not None
        assert second is not None
        truth = _in_units_of(first, sequence_depth(sequence, resizes, *images.shape[2:]))
        rows += [
            Row(
                label=f"{sequence.name}\nframe {sequence.frame_indices[index]}",
                image=images[index].transpose(1, 2, 0),
                depths=(truth[index], first[index], second[index]),
            )
            for index in range(min(shown, len(images)))
        ]
    return tuple(rows)


def _in_units_of(predicted: Array, truth: Array | None) -> Array:
    """Ground truth scaled to the prediction, NaN where there is none."""
    if truth is None or not (truth > 0).any():
        return np.full_like(predicted, np.nan)
    scale = depth_errors(predicted, truth).scale  # NaN for a prediction without a positive median
    return np.where(truth > 0, truth / scale, np.nan).astype(np.float32)


def heading(runner: Runner) -> str:
    """Two short lines for a column: the scheme, and what runs it (labels hold file names, which are too wide)."""
    facts = runner.describe()
    kind = {"pytorch": "PyTorch", "onnxruntime": "ONNX Runtime"}.get(str(facts["kind"]), str(facts["kind"]))
    return f"{facts['scheme']}\n{kind}"
