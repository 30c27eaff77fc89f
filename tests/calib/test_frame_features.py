"""Features of one sequence: the definitions, all frames counted, invariance to the folds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_network import small_images, small_model

from qvggt.calib.frame_features import deep_layers, frame_similarity, sequence_features, token_statistics
from qvggt.errors import QvggtError
from qvggt.models.fold_config import FoldConfig
from qvggt.rotation.fold import fold_


def test_statistics_are_those_of_all_frames_and_tokens() -> None:
    tokens = torch.randn(4, 7, 16, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 5).view(4, 1, 1) + 2
    mean, std, lowest = token_statistics(tokens)
    assert mean == pytest.approx(float(tokens.double().mean()))
    assert std == pytest.approx(float(tokens.double().std(correction=0)))
    assert lowest == pytest.approx(float(tokens[0].double().std(correction=0)))


def test_similarity_is_the_mean_cosine_to_frame_0() -> None:
    tokens = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    tokens[2] = -3 * tokens[0]
    found = frame_similarity(tokens)
    cosines = [float(a @ b / (a.norm() * b.norm())) for a, b in zip(tokens[0], tokens[1], strict=True)]
    assert found == pytest.approx([np.mean(cosines), -1.0], abs=1e-6)


def test_layers_are_the_last_rounds_in_order() -> None:
    assert deep_layers(small_model(), 2) == (
        "aggregator.frame_blocks.2",
        "aggregator.global_blocks.2",
        "aggregator.frame_blocks.3",
        "aggregator.global_blocks.3",
    )
    for rounds in (0, 5):
        with pytest.raises(QvggtError, match=f"deep_rounds {rounds}, expected 1 to 4"):
            deep_layers(small_model(), rounds)


def test_statistics_are_of_what_the_blocks_read() -> None:
    """The last frame block reads the output of the global block before it."""
    model, pictures = small_model(), small_images(3)
    kept = model.aggregator(pictures[None])
    found = sequence_features(model, pictures, rounds=1)
    tokens = kept[2][0, :, :, 64:]
    assert found.layers == ("aggregator.frame_blocks.3", "aggregator.global_blocks.3")
    assert found.statistics[0] == pytest.approx(token_statistics(tokens))
    assert found.statistics[1] == pytest.approx(token_statistics(kept[3][0, :, :, :64]))
    assert found.similarity == pytest.approx(frame_similarity(kept[3][0]))
    assert not model.aggregator.frame_blocks[3].norm1._forward_pre_hooks  # type: ignore[union-attr]


def test_every_frame_counts() -> None:
    model, pictures = small_model(), small_images(3)
    before = sequence_features(model, pictures).statistics
    for frame in range(3):
        changed = pictures.clone()
        changed[frame] = 0
        moved = np.abs(sequence_features(model, changed).statistics - before).max(axis=1)
        assert moved[1:].min() > 1e-3  # the first block reads normalised patches: with few patches, always alike


def test_a_folded_model_has_the_same_features() -> None:
    model, pictures = small_model(), small_images(3)
    before = sequence_features(model, pictures)
    fold_(model, FoldConfig(seed=3))
    after = sequence_features(model, pictures)
    assert after.statistics == pytest.approx(before.statistics, rel=1e-4, abs=1e-4)
    assert after.similarity == pytest.approx(before.similarity, rel=1e-4)


def test_one_frame_has_nothing_to_be_similar_to() -> None:
    for wrong in (small_images(1), small_images(3)[0], small_images(3)[None]):
        with pytest.raises(QvggtError, match=r"selection: images \[.*expected \[S, 3, H, W\] with at least 2 frames"):
            sequence_features(small_model(), wrong)
