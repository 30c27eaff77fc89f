"""What makes a reconstruction look wrong to a person, found before they have to: one line of words per doubt."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvggt.data.images import Resize
from qvggt.data.photos import Photo
from qvggt.engines.runner import NetworkSizes
from qvggt.eval.reconstruction.cameras import field_of_view
from qvggt.eval.reconstruction.frames import Frames
from qvggt.eval.reconstruction.scene import Join, Scene

Array = NDArray[Any]
NAMED = 3  # images that a line names


@dataclass(frozen=True)
class Thresholds:
    """Where doubt begins, and why there. Measured with the tiny network on generated scenes of 4 and 6 images unless
    said otherwise.

    toy_width: token width below which a network is a toy: VGGT has 1024, its smallest backbone 384, tiny 128.
    photograph: longest side in pixels from which a picture is taken for a photograph: scenes of qvggt scenes have 70 by
    default, and no camera takes less. contrast: standard deviation of an image's grey values, of 255: below, nothing is
    left to match (sensor noise has 2 to 4, a dim photograph 10). agreement, depth, likeness: an image has a partner
    when at least `agreement` of its confident points land in another one within the share `depth` of the depth there,
    with colours that are by the share `likeness` nearer (squared) than those of points picked at random: chosen on 50
    scenes; of 50 others (seeds 200 to 249, 70 pixels) none of 269 images was called a stranger, and of 50 true
    strangers 43 were. views: the most partners tried, the nearest. angle: between which degrees lenses see; 15 is a
    long telephoto lens, and only a fisheye has 130. focal: ratio of focal lengths within one size of image; ordinary
    ones had up to 1.07, and 1.3 is seen as a bend in walls. residual, turn: of a join, shares of depth and degrees.
    """

    toy_width: int = 256
    photograph: int = 400
    contrast: float = 5.0
    agreement: float = 0.1
    depth: float = 0.1
    likeness: float = 0.3
    views: int = 12
    angle: tuple[float, float] = (15.0, 130.0)
    focal: float = 1.3
    residual: float = 0.1
    turn: float = 10.0


USUAL = Thresholds()


def find_doubts(
    scene: Scene,
    frames: Frames,
    photos: Sequence[Photo],
    joins: Sequence[Join] = (),
    network: NetworkSizes | None = None,
    limits: Thresholds = USUAL,
) -> list[str]:
    """Every doubt, the most fundamental first. network: None where a runner does not tell its sizes."""
    names = [photo.name for photo in photos]
    blank = [i for i, contrast in enumerate(contrasts(frames)) if contrast < limits.contrast]
    found = [*toy(photos, network, limits)]
    if blank:
        found.append(f"{listed(names, blank)}: blank (one colour, black or overexposed); leave out what shows nothing")
    alone = [] if len(photos) < 2 else strangers(scene, frames, limits)
    if len(alone) == len(photos):
        found.append(
            "no two images agree about the scene: they may not overlap, or the network cannot make sense of them"
        )
    elif lone := [i for i in alone if i not in blank]:
        found.append(
            f"{listed(names, lone)}: matches no other image; it may be of another scene, so its camera and points "
            "are doubtful (leave it out, or add images in between)"
        )
    found += lenses(scene, frames.resizes, photos, limits)
    for number, join in enumerate(joins, start=2):
        if is_poor(join, limits):
            found.append(f"pass {number} contradicts the one before it: do not trust the result across them")
    return found


def is_poor(join: Join, limits: Thresholds = USUAL) -> bool:
    return join.residual_median > limits.residual or join.camera_deg > limits.turn


def toy(photos: Sequence[Photo], network: NetworkSizes | None, limits: Thresholds) -> list[str]:
    if network is None or network.sizes.width >= limits.toy_width:
        return []
    large = [photo for photo in photos if max(photo.width, photo.height) >= limits.photograph or photo.time is not None]
    if not large:
        return []
    return [
        "toy network on photographs: it has learned generated scenes (qvggt scenes) only, so expect nonsense; "
        "take --model facebook/VGGT-1B, or a file exported from it"
    ]


def contrasts(frames: Frames) -> list[float]:
    """Standard deviation of the grey values of each image (0..255), its padding left out."""
    pairs = zip(frames.pixels, frames.inside(), strict=True)
    return [float(image.mean(0)[inside].std()) if inside.any() else 0.0 for image, inside in pairs]


def strangers(scene: Scene, frames: Frames, limits: Thresholds) -> list[int]:
    """Images with no partner: whose points no other image confirms, by depth and by colour."""
    inside, colours = frames.inside(), [_smooth(image) for image in frames.pixels]
    centres = -np.einsum("nji,nj->ni", scene.extrinsics[..., :3], scene.extrinsics[..., 3])
    views = zip(scene.points, scene.extrinsics, inside, strict=True)
    depths = [np.where(mine, p @ e[2, :3] + e[2, 3], np.nan) for p, e, mine in views]
    partnered: set[int] = set()
    for index in range(len(frames)):
        row, column = _samples(scene, inside[index], index)
        points, own = scene.points[index, row, column], colours[index][row, column]
        near = np.argsort(np.linalg.norm(centres - centres[index], axis=1), kind="stable")[: limits.views + 1]
        for other in map(int, near):
            camera = scene.extrinsics[other], scene.intrinsics[other]
            if other != index and _confirmed(points, own, camera, depths[other], colours[other], limits):
                partnered |= {index, other}
    return [index for index in range(len(frames)) if index not in partnered]


def _samples(scene: Scene, inside: Array, index: int) -> tuple[Array, Array]:
    """About 1000 pixels (rows, columns): the more confident half of an even grid."""
    height, width = inside.shape
    step = max(1, int(np.sqrt(height * width / 2000)))
    row, column = (a.ravel() for a in np.mgrid[0:height:step, 0:width:step])
    good = inside[row, column] & np.isfinite(scene.points[index, row, column]).all(-1)
    row, column = row[good], column[good]
    confidence = scene.confidence[index, row, column]
    kept = confidence >= np.median(confidence) if len(confidence) else confidence.astype(bool)
    return row[kept], column[kept]


def _confirmed(
    points: Array, own: Array, camera: tuple[Array, Array], depth: Array, colours: Array, limits: Thresholds
) -> bool:
    """Do enough points [N, 3] of colours [N, 3] land in another image at its depth, and look alike there?"""
    (extrinsics, intrinsics), (height, width) = camera, depth.shape
    local = points @ extrinsics[:, :3].T + extrinsics[:, 3]
    with np.errstate(all="ignore"):
        x, y, w = (local @ intrinsics.T).T
        x, y = np.rint(x / w), np.rint(y / w)
        seen = (local[:, 2] > 0) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
        x, y = x[seen].astype(int), y[seen].astype(int)
        near = np.abs(depth[y, x] / local[seen, 2] - 1) < limits.depth
    if near.sum() < max(10, limits.agreement * len(points)):
        return False
    a, b = own[seen][near], colours[y[near], x[near]]
    chance = np.mean((np.random.default_rng(0).permutation(a) - b) ** 2)
    return bool(chance > 0 and 1 - np.mean((a - b) ** 2) / chance >= limits.likeness)


def _smooth(image: Array) -> Array:
    """RGB [3, H, W] -> [H, W, 3], blurred by a 64th of the width: cameras that are a little off must not undo the
    likeness of fine texture."""
    from scipy import ndimage

    sigma = image.shape[2] / 64
    return np.asarray(ndimage.gaussian_filter(image.astype(np.float32), (0, sigma, sigma)).transpose(1, 2, 0))


def lenses(scene: Scene, resizes: Sequence[Resize], photos: Sequence[Photo], limits: Thresholds) -> list[str]:
    """Fields of view that no lens has, and images of one size whose focal lengths disagree."""
    names, intrinsics = [photo.name for photo in photos], scene.source_intrinsics(resizes)
    views = [max(field_of_view(k, p.width, p.height)) for k, p in zip(intrinsics, photos, strict=True)]
    low, high = limits.angle
    odd = [i for i, view in enumerate(views) if not low <= view <= high]
    found = []
    if odd:
        found.append(
            f"{listed(names, odd)}: a field of view of {views[odd[0]]:.0f} degrees, expected {low:.0f} to {high:.0f}; "
            "the camera is doubtful"
        )
    sizes: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, photo in enumerate(photos):
        sizes[min(photo.width, photo.height), max(photo.width, photo.height)].append(index)
    for members in sizes.values():
        focal = intrinsics[members, 0, 0]
        ratio = focal / np.median(focal)
        if focal.max() > limits.focal * focal.min():
            worst = members[int(np.argmax(np.abs(np.log(ratio))))]
            found.append(
                f"focal lengths of images of one size disagree by {focal.max() / focal.min() - 1:.0%}, most in "
                f"{names[worst]}; if nobody zoomed, the cameras are doubtful"
            )
    return found


def listed(names: Sequence[str], indices: Sequence[int]) -> str:
    """The first few names, and how many more."""
    more = f" and {len(indices) - NAMED} more" if len(indices) > NAMED else ""
    return ", ".join(names[i] for i in indices[:NAMED]) + more
