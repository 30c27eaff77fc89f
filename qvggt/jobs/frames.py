"""How many frames of a sequence a calibration sees where nobody said: as many as an evaluation of such data."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from qvggt.data.reading import read_pool
from qvggt.data.registry import Question, recognise
from qvggt.data.sequence import Frames, SequenceSet
from qvggt.errors import QvggtError
from qvggt.models.family import family_of
from qvggt.progress import Console

if TYPE_CHECKING:
    import torch

    from qvggt.models.network import Network

PROTOCOL = 10  # frames of a sequence in the evaluations of the paper
# fp32 maps of a token's width that a learning step keeps (tools/bench_calibration_memory.py)
TOKEN_MAPS = 64  # of the tokens it works on
STREAM_MAPS = 10  # of all tokens of a sequence
BLOCK_COPIES = 8  # of a block's weights: learnable, gradients, moments of AdamW, grids


def step_bytes(network: Network, frames: int, height: int, width: int) -> int:
    """Estimate for the step of a block: bytes on its device."""
    from qvggt.calib.stream import STEP_TOKENS

    config, family = network.config, family_of(network)
    tokens, dim = frames * family.tokens(config, height, width), config.embed_dim
    block = (4 + 2 * config.mlp_ratio) * dim**2
    return 4 * (BLOCK_COPIES * block + dim * (TOKEN_MAPS * min(tokens, STEP_TOKENS) + STREAM_MAPS * tokens))


def fitting_frames(
    network: Network, size: tuple[int, int], device: torch.device, kept: int, most: int, console: Console
) -> int:
    """Up to `most` frames of images of size (H, W) whose step fits into the free memory of the device, beside `kept`
    bytes of other things; two at least. Fewer than `most` are told."""
    from qvggt.eval.reconstruction.memory import free_memory, shown

    free = free_memory(str(device))
    frames = most
    while free is not None and frames > 2 and kept + step_bytes(network, frames, *size) > free:
        frames -= 1
    if frames < most:
        need = shown(kept + step_bytes(network, most, *size))
        console.say(
            f"frames: {frames} of every sequence, as {most} need about {need} and {shown(free or 0)} of {device} are "
            "free; --frames fixes them"
        )
    return frames


def protocol_frames(question: Question) -> int:
    """Of an evaluation of the data at the question's root."""
    dataset = recognise(question, "photos" if question.annotations is None else "co3d")
    return dataset.filled(question).frames or PROTOCOL


def read_longest(question: Question, most: int, console: Console) -> SequenceSet[Frames]:
    """The pool with up to `most` frames of a sequence: with the number that half of the sequences have, told where it
    is lower. QvggtError as `read_pool` raises it where not even single frames can be used."""
    for frames in range(most, 0, -1):
        try:
            found = read_pool(replace(question, frames=frames))
        except QvggtError:
            if frames == 1:
                raise
            continue
        if frames == 1 or found.skip_counts().get("too few frames", 0) <= len(found):
            break
    if frames < most:
        console.say(f"frames: {frames} of every sequence, as few have {most}; --frames fixes them")
    return found
