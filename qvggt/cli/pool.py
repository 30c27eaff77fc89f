"""Training images of a calibration: a Co3D-format folder or a folder of sequences, all of it or a selection."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from torch import Tensor

from qvggt.calib.class_modes import categories
from qvggt.cli.images import ANNOTATIONS, Frames, ImageSet
from qvggt.data.co3d import Co3DConfig, draw_frames, read_sequences
from qvggt.data.images import load_images_exact
from qvggt.errors import QvggtError

if TYPE_CHECKING:
    from qvggt.calib.selection import Record, Selection, SelectionConfig
    from qvggt.models.network import Network

SPLIT = "train"  # never the evaluation split
SELECTION = "selection.json"  # in the checkpoint folder
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
NO_PHOTO = re.compile(r"(^|[._-])(depth|mask)([._-]|$)")  # maps that lie beside the images in some data sets
DEPTH = 3  # folders below the root in which sequences are looked for


@dataclass(frozen=True)
class FolderSequence:
    """Frames drawn from a folder of images; `frame_indices` count its image files in name order."""

    category: str
    name: str
    image_paths: tuple[Path, ...]
    frame_indices: tuple[int, ...]

    @property
    def key(self) -> str:
        """`category/name`."""
        return f"{self.category}/{self.name}"


@dataclass(frozen=True)
class PoolConfig:
    """What to read. root: a Co3D-format folder (`annotations` holds its .jgz files, ROOT/annotations by default), or
    a folder of sequences, i.e. folders of images up to three levels down. frames: seeded, per sequence. per_category:
    sequences at most, in name order."""

    root: Path
    frames: int
    annotations: Path | None = None
    class_mode: str = "all"
    per_category: int | None = None
    seed: int = 0


def read_pool(config: PoolConfig) -> tuple[Frames, ...]:
    """Every usable training sequence, sorted by category and name. Without annotation files a folder has no split:
    all of it is taken. QvggtError: no such folder, nothing usable, a category that the class mode asks for missing."""
    root, folder = config.root, config.annotations or config.root / ANNOTATIONS
    if not root.is_dir():
        raise QvggtError(f"{root}: is not a folder; give one in Co3D format, or with one folder of images per sequence")
    suffix = f"_{SPLIT}.jgz"
    present = [p.name[: -len(suffix)] for p in folder.glob(f"*{suffix}")] if folder.is_dir() else []
    if not present and config.annotations is not None:
        raise QvggtError(f"{folder}: no *{suffix} annotation file; give the folder of the Co3D annotation files")
    if not present:
        return _folder_sequences(config)
    read = Co3DConfig(
        root=str(root),
        annotations=str(folder),
        categories=categories(config.class_mode, present),
        split=SPLIT,
        frames=config.frames,
        min_frames=config.frames,
        seed=config.seed,
        max_sequences=config.per_category,
    )
    return tuple(read_sequences(read))


def first_sequences(pool: tuple[Frames, ...], count: int) -> tuple[Frames, ...]:
    """`count` sequences of a pool, the categories taking turns; in the pool's order."""
    groups: dict[str, list[Frames]] = {}
    for sequence in pool:
        groups.setdefault(sequence.category, []).append(sequence)
    turns = [s for turn in zip_longest(*groups.values()) for s in turn if s is not None]
    taken = {s.key for s in turns[:count]}
    return tuple(s for s in pool if s.key in taken)


@dataclass(frozen=True)
class Training:
    """Images to calibrate on, every sequence of the pool that was not rejected, and the selection if there was one."""

    images: ImageSet[Frames]
    pool: tuple[Frames, ...]
    selection: Selection | None = None

    def record(self) -> tuple[dict[str, Any], dict[str, str]]:
        """What goes into quant.json, and files beside it (name -> text)."""
        calibration: dict[str, Any] = self.images.listing()
        if self.selection is None:
            return calibration, {}
        about = {"file": SELECTION, "sha256": self.selection.sha256, "pool": len(self.selection.sequences)}
        return {**calibration, "selection": about}, {SELECTION: self.selection.to_json()}


def training_images(
    config: PoolConfig,
    size: tuple[int, int],
    sequences: int,
    model: Network,
    chooser: SelectionConfig | None,
    store: Path,
    job: Mapping[str, Any],
) -> Training:
    """The first `sequences` of the pool, the categories taking turns, or with a `chooser` those it selects; size:
    (height, width). See `read_pool` and `select_images`."""
    found = read_pool(config)
    if chooser is None:
        return Training(ImageSet(first_sequences(found, sequences), *size), found)
    images, selection = select_images(model, ImageSet(found, *size), chooser, store, job)
    print_selection(selection, sequences)
    rejected = set(selection.rejected)
    return Training(images, tuple(s for s in found if s.key not in rejected), selection)


def selection_config(sequences: int, clusters: int, class_mode: str, seed: int, rounds: int) -> SelectionConfig:
    """`sequences` from `clusters` clusters, equally many each; QvggtError when they do not split so. rounds: of the
    model's frame and global blocks, the last four of which are judged."""
    from qvggt.calib.selection import SelectionConfig

    if sequences % clusters:
        lower = sequences // clusters * clusters
        near = " or ".join(str(n) for n in (lower, lower + clusters) if n)
        raise QvggtError(
            f"--sequences {sequences}: does not split into {clusters} clusters; take {near}, or other --clusters"
        )
    per_cluster, deep = sequences // clusters, min(4, rounds)
    return SelectionConfig(clusters, per_cluster, seed, deep_rounds=deep, class_mode=class_mode)


def select_images(
    model: Network, pool: ImageSet[Frames], config: SelectionConfig, store: Path, job: Mapping[str, Any]
) -> tuple[ImageSet[Frames], Selection]:
    """The chosen sequences of a pool and the list of reasons.

    One sequence is in memory at a time. Features go to the file `store` as they are measured and are taken from there;
    `job`: what they depend on besides the pool's images. QvggtError as `select_pool`, and for a store of another job.
    """
    from qvggt.calib.pool_store import PoolStore
    from qvggt.calib.selection import measure_pool, select_records

    for sequence in pool.sequences:
        if len(sequence.frame_indices) < 2:
            raise QvggtError("--select needs 2 frames or more of a sequence to compare; raise --frames")
    listing = hashlib.sha256(json.dumps(pool.listing(), sort_keys=True).encode()).hexdigest()
    kept = PoolStore(store, {**job, "pool": listing, "deep_rounds": config.deep_rounds})
    if kept.records:
        typer.echo(f"going on after {len(kept.records)} measured sequences ({store})")
    left = tuple(s for s in pool.sequences if s.key not in kept.records)
    measured: list[Record] = measure_pool(
        model, _keyed(replace(pool, sequences=left)), config.deep_rounds, total=len(left), keep=kept.add
    )
    selection = select_records([*kept.records.values()] if kept.records else measured, config)
    chosen = set(selection.chosen)
    return replace(pool, sequences=tuple(s for s in pool.sequences if s.key in chosen)), selection


def print_selection(selection: Selection, wanted: int) -> None:
    """What was chosen, and why sequences were rejected (the first few)."""
    typer.echo(f"selection: {selection.summary()}")
    if len(selection.chosen) < wanted:
        typer.echo(f"selection: the pool has no {wanted} usable sequences, all {len(selection.chosen)} are taken")
    rejected = [s for s in selection.sequences if s.status == "rejected"]
    for entry in rejected[:5]:
        typer.echo(f"  {entry.key}: {entry.reason}")
    if len(rejected) > 5:
        typer.echo(f"  and {len(rejected) - 5} more, see {SELECTION}")


def _keyed(pool: ImageSet[Frames]) -> Iterator[tuple[str, str, Tensor]]:
    for sequence in pool.sequences:
        yield sequence.key, sequence.category, load_images_exact(sequence.image_paths, pool.height, pool.width)[0]


def _folder_sequences(config: PoolConfig) -> tuple[Frames, ...]:
    found: dict[str, dict[str, list[Path]]] = {}
    for folder, images in _image_folders(config.root, DEPTH):
        parts = folder.relative_to(config.root).parts
        category = parts[0] if len(parts) > 1 else config.root.resolve().name
        name = "/".join(parts[1:]) if len(parts) > 1 else "/".join(parts)
        found.setdefault(category, {})[name] = images
    if not found:
        raise QvggtError(
            f"{config.root}: no *_{SPLIT}.jgz file in {ANNOTATIONS} and no folder of images; expected a Co3D-format "
            "folder, or a folder with one folder of images per sequence"
        )
    sequences: list[FolderSequence] = []
    for category in categories(config.class_mode, found):
        long_enough = {n: p for n, p in found[category].items() if len(p) >= config.frames}
        for name in sorted(long_enough)[: config.per_category]:
            paths = long_enough[name]
            indices = draw_frames(config.seed, category, name, len(paths), config.frames)
            sequences.append(FolderSequence(category, name, tuple(paths[i] for i in indices), indices))
    if not sequences:
        raise QvggtError(f"{config.root}: no folder of images has {config.frames} frames; ask for fewer --frames")
    return tuple(sequences)


def _image_folders(folder: Path, depth: int) -> Iterator[tuple[Path, list[Path]]]:
    """(folder, sorted images) of every sequence at most `depth` levels below; its images may lie in `images/`."""
    for child in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        images = _images(child / "images") or _images(child)
        if images:
            yield child, images
        elif depth > 1:
            yield from _image_folders(child, depth - 1)


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    names = sorted(os.listdir(folder))
    return [folder / n for n in names if n.lower().endswith(SUFFIXES) and not NO_PHOTO.search(Path(n).stem.lower())]
