"""Annotate: Co3Dv2 as it is downloaded -> the compact annotation files of the protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from qvggt.errors import QvggtError
from qvggt.jobs.job import Doc, Job, Place, Result
from qvggt.jobs.places import check_new_file
from qvggt.progress import Console, bar

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Annotations(Result):
    """What was written. sequences: file name -> how many. notes: what a reader of the data must know."""

    output: Path
    sequences: Mapping[str, int]
    notes: tuple[str, ...] = ()

    def to_dict(self, folder: Path | None = None) -> dict[str, Any]:
        return {**asdict(self), "output": str(self.output), "notes": list(self.notes)}


@dataclass(frozen=True)
class AnnotateJob(Job[Annotations]):
    """Compact annotation files of a downloaded Co3Dv2.

    CATEGORY_train.jgz and CATEGORY_test.jgz of every category: the frames of its few-view set list with their cameras,
    of sequences whose viewpoint quality is above 0.5, as VGGT's evaluation has them.
    """

    name: ClassVar[str] = "annotate"
    examples: ClassVar[tuple[str, ...]] = ("qvggt annotate /data/co3d", "qvggt annotate /data/co3d -o annotations")
    more: ClassVar[str] = "Other commands read a download without these files, but parse its annotations every time."

    root: Annotated[Place, Doc("Folder of the categories: CATEGORY/frame_annotations.jgz.", argument=True)]
    _: KW_ONLY
    output: Annotated[Place | None, Doc("Folder to write. [ROOT/annotations]", ("-o", "--output"))] = None

    @property
    def folder(self) -> Path:
        """Where the files go."""
        return Path(self.output or Path(self.root) / "annotations")

    def prepare(self) -> None:
        from qvggt.data.co3d_annotations import annotation_path
        from qvggt.data.co3d_download import FRAMES, downloaded_categories

        categories = downloaded_categories(Path(self.root))
        if not categories:
            raise QvggtError(f"{self.root}: no CATEGORY/{FRAMES} below it; give the folder of Co3D's categories")
        for category in categories:
            for split in SPLITS:
                check_new_file(annotation_path(self.folder, category, split), self.overwrite)

    def execute(self, console: Console) -> Annotations:
        from qvggt.data.co3d_annotations import annotation_path, write_annotations
        from qvggt.data.co3d_download import downloaded_categories, load_downloaded

        counts, notes = dict[str, int](), list[str]()
        for category in bar(downloaded_categories(Path(self.root)), desc="annotate", unit="category"):
            found = load_downloaded(Path(self.root) / category, *SPLITS)
            for split, downloaded in found.items():
                path = annotation_path(self.folder, category, split)
                write_annotations(path, downloaded.annotations)
                counts[path.name] = len(downloaded.annotations)
                notes += downloaded.notes
                if downloaded.poor:
                    console.detail(f"{path.name}: {len(downloaded.poor)} sequences left out (low viewpoint quality)")
        notes = [*dict.fromkeys(notes)]
        for note in notes:
            console.warn(f"note: {note}")
        console.result(f"{self.folder}: {len(counts)} files, {sum(counts.values())} sequences")
        return Annotations(self.folder, counts, tuple(notes))
