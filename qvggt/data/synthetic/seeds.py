"""Which seeds of generated scenes are whose."""

from __future__ import annotations

# below are the training (from 0) and held-out (from 10 million) scenes of the tiny model: none of them is seen again
TEST_SEEDS = 20_000_000
TRAIN_SEEDS = 30_000_000
GATE_SEEDS = 40_000_000
ROOM = 10_000_000  # seeds of each split
