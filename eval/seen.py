"""What networks got to see of the images, in words: a size that somebody fixed must not change pixels unnoticed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from qvggt.data.image_file import image_size, read_rgb
from qvggt.data.sequence import Frames
from qvggt.data.sequence import Sequence as EvalSequence
from qvggt.errors import QvggtError
from qvggt.eval.ground_truth import ImagePlan

Size = tuple[int, int]

WHOLE = "whole"
SHOWN = 3  # different sizes in a line


def view(placed: Size, canvas: Size) -> str:
    """Of an image that was scaled to `placed` (width, height) and of which the network got `canvas` (width, height),
    such as "518x294 padded to 518x518 (57 % of the pixels are image)"."""
    scaled, final = (f"{width}x{height}" for width, height in (placed, canvas))
    common = min(placed[0], canvas[0]) * min(placed[1], canvas[1])
    if placed == canvas:
        return f"{final}, {WHOLE}"
    if common == placed[0] * placed[1]:
        return f"{scaled} padded to {final} ({_percent(common, canvas)} of the pixels are image)"
    return f"{scaled} cropped to {final} ({_percent(common, placed)} of the image is seen)"


def seen_of(plan: ImagePlan, sequences: Iterable[Frames]) -> dict[str, int]:
    """View -> number of images of which it is, from the headers of image files; of sequences with cameras, which one
    camera has filmed, the first image stands for all. What cannot be read is left to whoever reads it."""
    counts: Counter[str] = Counter()
    for sequence in sequences:
        filmed = isinstance(sequence, EvalSequence)
        for path in sequence.image_paths[:1] if filmed else sequence.image_paths:
            try:
                source = image_size(path, sequence.image_reader is not read_rgb)
            except QvggtError:
                continue
            counts[view(*plan.placed(source))] += len(sequence.image_paths) if filmed else 1
    return dict(counts.most_common())


def is_whole(seen: Mapping[str, int]) -> bool:
    """Whether images are seen as they are by themselves: nothing cropped, nothing padded."""
    return all(words.endswith(WHOLE) for words in seen)


def in_words(seen: Mapping[str, int], owner: str | None = None) -> str:
    """A line of all views, the most frequent first. owner: see `ImagePlan`."""
    parts: Sequence[tuple[str, int]] = list(seen.items())
    shown = [words if len(parts) == 1 else f"{count} are {words}" for words, count in parts[:SHOWN]]
    if rest := sum(count for _, count in parts[SHOWN:]):
        shown.append(f"{rest} are of other sizes")
    return f"images: {'; '.join(shown) or 'none read'}" + (f"; {owner} takes no other size" if owner else "")


def _percent(part: int, whole: Size) -> str:
    return f"{100 * part / (whole[0] * whole[1]):.0f} %"
