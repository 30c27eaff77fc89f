"""Everything qvggt reconstruct can be told, in one frozen record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from qvggt.errors import QvggtError
from qvggt.files import check_file

Format = Literal["glb", "ply", "colmap", "depth", "cameras", "images", "page", "rrd"]
Mask = Literal["black", "white", "sky"]
PointSource = Literal["depth", "head"]
DepthSize = Literal["network", "image"]
Fit = Literal["crop", "pad"]
"""As `qvggt.data.images.Mode`, without its torch."""
FORMATS = get_args(Format)
USUAL = tuple(name for name in FORMATS if name != "rrd")  # what is written unless asked otherwise: rrd needs an extra
Viewer = Literal["rerun", "viser"]
Tracking = Literal["matches", "head"]
MARKER = "reconstruction.json"  # the folder that holds it is ours


@dataclass(frozen=True)
class ReconstructionConfig:
    """size: width of the network's images (None: the engine's, the model's own, or 518). fit: crop or pad images of
    another shape. every, limit: images used; rate: frames per second of a video. points: from depth maps or the
    point head. percentile: of the pixels dropped for low confidence. masks: black, white, sky; mask_folder: mask
    files. max_points of GLB and PLY, colmap_points of the COLMAP model (0: all). formats: of FORMATS. depth_size:
    of the depth PNGs. edges: drop pixels beside a jump of depth of more than this share (0: none). shared_camera:
    one COLMAP camera for all images; colmap_tracks: its points from matched features or the track head, seen in
    several images (None: from depth). frames_per_pass, overlap: of the network passes; memory_limit: bytes.
    queries: file of points to track, or query_grid: N x N of them.
    """

    size: int | None = None
    fit: Fit = "crop"
    every: int = 1
    limit: int | None = None
    rate: float = 2.0
    points: PointSource = "depth"
    percentile: float = 25.0
    edges: float = 0.15
    masks: tuple[str, ...] = ()
    mask_folder: str | None = None
    max_points: int = 1_000_000
    colmap_points: int = 100_000
    formats: tuple[str, ...] = USUAL
    shared_camera: bool = False
    colmap_tracks: Tracking | None = None
    depth_size: DepthSize = "network"
    frames_per_pass: int | None = None
    overlap: int = 4
    memory_limit: int | None = None
    queries: str | None = None
    query_grid: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, values, known in (("format", self.formats, FORMATS), ("mask", self.masks, get_args(Mask))):
            if unknown := [value for value in values if value not in known]:
                raise QvggtError(f"{name} {unknown[0]!r}: expected one of {', '.join(known)}")
        if not self.formats:
            raise QvggtError(f"formats: expected at least one of {', '.join(FORMATS)}")
        for name, kind in (("fit", Fit), ("depth_size", DepthSize), ("points", PointSource)):
            if (value := getattr(self, name)) not in get_args(kind):
                raise QvggtError(f"{name.replace('_', ' ')} {value!r}: expected {' or '.join(get_args(kind))}")
        if not 0 <= self.percentile < 100:
            raise QvggtError(f"confidence percentile: expected 0 <= percentile < 100, got {self.percentile:g}")
        if "colmap" not in self.formats and (self.shared_camera or self.colmap_tracks is not None):
            name = "--shared-camera" if self.shared_camera else "--colmap-tracks"
            raise QvggtError(f"{name}: is about the COLMAP model; add colmap to --formats, or leave it out")
        if self.colmap_tracks not in (None, *get_args(Tracking)):
            raise QvggtError(f"COLMAP tracks {self.colmap_tracks!r}: expected {' or '.join(get_args(Tracking))}")
        if not 0 <= self.edges < float("inf"):
            raise QvggtError(f"edges: expected a share of depth of 0 (keep them) or more, got {self.edges:g}")
        if self.queries is not None and self.query_grid is not None:
            raise QvggtError("query points: give a file or a grid, not both")

    @property
    def tracking(self) -> bool:
        return self.queries is not None or self.query_grid is not None or self.colmap_tracks == "head"

    def check_files(self) -> None:
        """QvggtError for masks or query points that are not there."""
        if self.mask_folder is not None and not Path(self.mask_folder).is_dir():
            raise QvggtError(f"{self.mask_folder}: no such folder of masks")
        if self.queries is not None:
            check_file(Path(self.queries), "a text file of query points")
