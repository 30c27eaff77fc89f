"""Generated scenes on disk in real Co3Dv2 layout, so that readers, calibration and evaluation run on them unchanged.

<root>/<category>/<sequence>/images/frame000001.jpg, .../depths/frame000001.jpg.geometric.png, and the annotation files
<annotations>/<category>_{train,test}.jgz with the cameras in PyTorch3D form (spec evaluation.md 4.1).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvggt.data.co3d_annotations import Annotations, annotation_path, load_annotations, write_annotations
from qvggt.data.ndc import intrinsics_to_ndc
from qvggt.data.synthetic.render import intrinsics_of
from qvggt.data.synthetic.scene import SceneConfig, config_to_json, sample_scene
from qvggt.data.synthetic.sequence import QUALITY, depth_name, image_name, sequence_name, write_sequence
from qvggt.data.synthetic.workers import run_jobs
from qvggt.errors import QvggtError
from qvggt.files import atomic_write
from qvggt.geometry import opencv_to_pytorch3d
from qvggt.progress import bar

MARKER = "qvggt_scenes.json"


@dataclass(frozen=True)
class WrittenScenes:
    """Where the data is; `rendered` sequences were made now, `reused` ones were there already."""

    root: Path
    annotations: Path
    category: str
    config_hash: str
    rendered: int
    reused: int


def write_co3d(
    root: str | Path,
    config: SceneConfig,
    train: range,
    test: range,
    annotations: str | Path | None = None,
    category: str = "synthetic",
    workers: int = 1,
    progress: bool = True,
) -> WrittenScenes:
    """One sequence of `config.frames` frames per seed of `train` and `test` (disjoint; either may be empty).

    annotations: folder of the .jgz files, default <root>/annotations. An interrupted or repeated call with the same
    parameters keeps every finished sequence; other parameters for the same category folder, or a category folder that
    is not ours, are a QvggtError.
    """
    _check(category, train, test)
    folder = (root := Path(root)) / category
    target = Path(annotations) if annotations is not None else root / "annotations"
    recipe = {
        "scene": config_to_json(config),
        "train": [train.start, train.stop],
        "test": [test.start, test.stop],
        "samples": 1,  # of a pixel; was a choice once, and is part of the hash
        "quality": QUALITY,
    }
    config_hash = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    splits = {annotation_path(target, category, "train"): train, annotation_path(target, category, "test"): test}
    for path, split in splits.items():
        _check_present(path, split)
    _claim(folder, recipe, config_hash)
    seeds = [*train, *test]
    missing = [seed for seed in seeds if not (folder / sequence_name(seed)).is_dir()]
    jobs = [(folder, config, seed) for seed in missing]
    with bar(total=len(missing), desc=f"write {category}", unit="scene", shown=progress and bool(missing)) as moved:
        for _ in run_jobs(write_sequence, jobs, workers):
            moved.update()
    for path, split in splits.items():
        if not path.exists():
            write_annotations(path, annotate(config, category, split))
    return WrittenScenes(root, target, category, config_hash, len(missing), len(seeds) - len(missing))


def annotate(config: SceneConfig, category: str, seeds: range) -> Annotations:
    """The compact annotations of the scenes of `seeds`; exact float64 cameras, nothing is rendered."""
    annotations: Annotations = {}
    for seed in seeds:
        scene = sample_scene(config, seed)
        name = sequence_name(seed)
        focal, principal = intrinsics_to_ndc(intrinsics_of(scene, config), config.height, config.width)
        annotations[name] = [
            {
                "filepath": f"{category}/{name}/images/{image_name(frame)}",
                "depth_path": f"{category}/{name}/depths/{depth_name(frame)}",
                "image_size": [config.height, config.width],
                "R": rotation.tolist(),
                "T": translation.tolist(),
                "focal_length": focal.tolist(),
                "principal_point": principal.tolist(),
            }
            for frame, (rotation, translation) in enumerate(map(opencv_to_pytorch3d, scene.extrinsics))
        ]
    return annotations


def _check(category: str, train: range, test: range) -> None:
    if not category or category in (".", "..", "annotations") or set(category) & set("/\\"):
        raise QvggtError(f"Co3D category: expected a plain folder name other than annotations, got {category!r}")
    for name, seeds in (("train", train), ("test", test)):
        if seeds.step != 1 or seeds.start < 0:
            raise QvggtError(f"Co3D {name} seeds: expected a range from >= 0 with step 1, got {seeds}")
    if not train and not test:
        raise QvggtError("Co3D seeds: expected at least one train or test scene, got none")
    if max(train.start, test.start) < min(train.stop, test.stop):
        raise QvggtError(f"Co3D seeds: expected disjoint train and test ranges, got {train} and {test}")


def _check_present(path: Path, seeds: range) -> None:
    """An annotation file that is there already is kept, so it must be of these scenes."""
    if path.exists() and sorted(load_annotations(path)) != [sequence_name(seed) for seed in seeds]:
        raise QvggtError(f"{path}: annotates other sequences; delete it or give another annotation folder")


def _claim(folder: Path, recipe: dict[str, Any], config_hash: str) -> None:
    """Mark the category folder as holding `recipe`, or refuse to mix two data sets in it."""
    marker = folder / MARKER
    if marker.exists():
        try:
            stored = json.loads(marker.read_text())["hash"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise QvggtError(f"{marker}: expected the marker of a generated category; delete {folder}") from error
        if stored != config_hash:
            raise QvggtError(
                f"{folder}: holds scenes of other parameters (hash {str(stored)[:12]}, asked {config_hash[:12]}); "
                "delete the folder or give another root or category"
            )
        return
    if folder.exists() and any(folder.iterdir()):
        raise QvggtError(f"{folder}: not empty and not made by this tool; give another root or category")
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(marker) as temporary:
        temporary.write_text(json.dumps({"hash": config_hash, **recipe}, indent=1) + "\n")
