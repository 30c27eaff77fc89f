"""The data sets there are: what each one is and takes, and the one question that every reader answers.

A description is cheap; the module that reads is imported when a question is asked. `register` adds a data set from
anywhere, and calibration, gates, budget search, evaluation and the Python API then know it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qvggt.errors import QvggtError
from qvggt.lazy import Function, function

if TYPE_CHECKING:
    from qvggt.data.frame_list import FrameList
    from qvggt.data.sequence import SequenceSet


@dataclass(frozen=True)
class Question:
    """Which frames of which sequences, of one split. None: the data set's default.

    annotations: where they lie apart from `root`. categories: () = all; class_mode: a published choice of them instead
    (see `class_modes`). frames: per sequence, drawn by `seed`. min_frames: shorter sequences are left out.
    max_sequences: the first so many names of each category. stride, depth: of data sets with these options.
    """

    root: Path = Path()
    split: str = "test"
    frames: int | None = None
    min_frames: int | None = None
    max_sequences: int | None = None
    seed: int = 0
    annotations: Path | None = None
    categories: tuple[str, ...] = ()
    class_mode: str | None = None
    stride: int | None = None
    depth: str = "auto"

    def __post_init__(self) -> None:
        for name in ("frames", "min_frames", "max_sequences", "stride"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise QvggtError(f"{name}: expected 1 or more, got {value}")

    def facts(self, *names: str) -> dict[str, Any]:
        """These fields, JSON-ready; all of them without names."""
        values = {name: getattr(self, name) for name in names or [field.name for field in fields(self)]}
        return {
            name: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
        }


@dataclass(frozen=True)
class DataSet:
    """A data set. holds: what lies under its root, in a line.

    reader(question, frame list or None) -> SequenceSet; without cameras an evaluation takes the first candidate's for
    the truth. metrics: what it measures unless asked otherwise; () where it cannot. options: of a call, those that not
    every data set has. points: what is different in its protocol of points, fields of eval's PointConfig. frames,
    min_frames, stride: defaults of the question; fast: sequences per category of the fast mode. room: images are
    prepared as the room protocols do, else cropped.
    recognise(question) -> whether this data lies there; a data set without it is read only where it is named.
    list_frames(question) -> FrameList to store, where that is more than the frames that were read.
    generate(folder, question, (height, width), scenes) writes data where no root is given; scenes: by default.
    """

    name: str
    holds: str
    reader: Function
    metrics: tuple[str, ...] = ("pose", "depth", "points")
    options: tuple[str, ...] = ()
    points: Mapping[str, Any] = field(default_factory=dict)
    frames: int | None = None
    min_frames: int | None = None
    stride: int | None = None
    fast: int | None = None
    room: bool = False
    recognise: Function | None = None
    list_frames: Function | None = None
    generate: Function | None = None
    scenes: int | None = None

    def answer(self, question: Question, frame_list: FrameList | None = None) -> SequenceSet[Any]:
        """The sequences; with a stored list exactly its frames. QvggtError for data that does not fit. Whatever the
        reader lets through, a sequence with a pose that is no camera is skipped."""
        sequences: SequenceSet[Any] = function(self.reader)(self.filled(question), frame_list)
        return sequences.with_cameras()

    def frame_list(self, question: Question, sequences: SequenceSet[Any]) -> FrameList:
        """What to store for another run on the same frames, `sequences` being the answer."""
        if self.list_frames is None:
            return sequences.frame_list()
        frames: FrameList = function(self.list_frames)(self.filled(question))
        return frames

    def filled(self, question: Question) -> Question:
        """The question with the data set's defaults."""
        frames = question.frames or self.frames
        return replace(
            question,
            frames=frames,
            min_frames=question.min_frames or self.min_frames or frames,
            stride=question.stride or self.stride,
        )


_DATA_SETS: dict[str, DataSet] = {}


def register(dataset: DataSet) -> DataSet:
    """Make a data set known; QvggtError where the name is taken by another one."""
    if _DATA_SETS.setdefault(dataset.name, dataset) != dataset:
        raise QvggtError(f"data set {dataset.name}: is registered already; choose another name")
    return dataset


def dataset_names(option: str | None = None) -> tuple[str, ...]:
    """Of the data sets that can be evaluated, and have that option."""
    return tuple(d.name for d in _DATA_SETS.values() if d.metrics and (option is None or option in d.options))


def find_dataset(name: str) -> DataSet:
    """By name; QvggtError lists the names there are."""
    if name not in dataset_names():
        raise QvggtError(f"--dataset {name!r}: expected one of {', '.join(dataset_names())}")
    return _DATA_SETS[name]


def recognise(question: Question, otherwise: str) -> DataSet:
    """The first data set that finds its own data at the question's root, else the one named `otherwise`."""
    able = (d for d in _DATA_SETS.values() if d.recognise is not None and function(d.recognise)(question))
    return next(able, _DATA_SETS[otherwise])


_CO3D: dict[str, Any] = {"list_frames": "qvggt.data.co3d:draw_frame_list", "reader": "qvggt.data.co3d:read_sequences"}
_ALIGNED: dict[str, Any] = {"crop": None, "limit": 20_000_000, "sim3": True, "icp": None}
_ROOM: dict[str, Any] = {"stride": 100, "fast": 1, "room": True}

for _data_set in (
    DataSet(
        "co3d",
        "CATEGORY/SEQUENCE/images, annotations/CATEGORY_SPLIT.jgz",
        metrics=("pose", "depth"),
        frames=10,
        min_frames=50,
        fast=20,  # as the published script
        recognise="qvggt.data.co3d:is_annotated",
        **_CO3D,
    ),
    DataSet(
        "7scenes",
        "SCENE/TestSplit.txt, SCENE/seq-XX/frame-XXXXXX.color.png",
        "qvggt.data.seven_scenes:read_seven_scenes",
        options=("stride", "depth"),
        **_ROOM,
    ),
    DataSet("nrgbd", "SCENE/images/imgX.png", "qvggt.data.nrgbd:read_nrgbd", options=("stride",), **_ROOM),
    DataSet(
        "dtu",
        "Rectified/scanX/rect_XXX_3_r5000.png, Cameras, Depths, Points, ObsMask",
        "qvggt.data.dtu:read_dtu",
        options=("stride",),
        points=_ALIGNED,
        stride=1,
    ),
    DataSet(
        "eth3d",
        "SCENE/images/dslr_images_undistorted/X.JPG, dslr_calibration_undistorted",
        "qvggt.data.eth3d:read_eth3d",
        points=_ALIGNED,
        frames=10,
    ),
    DataSet(
        "synthetic",
        "scenes of qvggt scenes",
        options=("scenes",),
        frames=8,
        fast=8,
        generate="qvggt.data.synthetic.generator:generate",
        scenes=32,
        **_CO3D,
    ),
    DataSet(
        "calib_data",
        "QuantVGGT's calibration file",
        "qvggt.data.calibration_file:read_calibration_file",
        metrics=(),
        recognise="qvggt.data.calibration_file:is_calibration_file",
    ),
    DataSet(
        "photos",
        "*.jpg, or SEQUENCE/*.jpg",
        "qvggt.data.image_folders:read_photos",
        metrics=("pose", "depth"),
        frames=4,
    ),
):
    register(_data_set)
