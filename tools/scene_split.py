"""Rendered splits on disk: plain .npy arrays that training reads as memory maps.

A split folder holds images.npy uint8 [N,F,H,W,3], depth.npy float16 [N,F,ceil(H/2),ceil(W/2)] (z-depth of pixels
[::2, ::2]), extrinsics.npy float32 [N,F,3,4] (OpenCV camera-from-world), fov.npy float32 [N,2] (radians, vertical and
horizontal), progress.json while rendering and meta.json once complete. Scene n is the one of seed `first_seed + n`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvggt.data.synthetic.render import render
from qvggt.data.synthetic.scene import SceneConfig, config_from_json, config_to_json, sample_scene
from qvggt.data.synthetic.workers import run_jobs
from qvggt.errors import QvggtError
from qvggt.files import atomic_write
from qvggt.progress import bar

Array = NDArray[Any]

DEPTH_STRIDE = 2
_ARRAYS = ("images", "depth", "extrinsics", "fov")


@dataclass(frozen=True)
class SceneSplit:
    """Read-only memory maps of a split; shapes in the module docstring."""

    config: SceneConfig
    seeds: range
    images: Array
    depth: Array
    extrinsics: Array
    fov: Array

    def __len__(self) -> int:
        return len(self.images)


def render_split(
    config: SceneConfig,
    seeds: range,
    out_dir: str | Path,
    workers: int = 2,
    chunk: int = 100,
    progress: bool = True,
) -> Path:
    """Render one scene per seed into `out_dir`, in chunks that survive an interruption; returns the folder.

    A complete folder with the same config and seeds is left as it is; one with others is an error.
    Bytes do not depend on `workers` or `chunk`.
    """
    if seeds.step != 1 or len(seeds) == 0:
        raise QvggtError(f"split seeds: expected a non-empty range with step 1, got {seeds}")
    out = Path(out_dir)
    recipe = _recipe(config, seeds)
    if (out / "meta.json").exists():
        _require_same(out / "meta.json", recipe)
        return out
    out.mkdir(parents=True, exist_ok=True)
    done = _resume(out, recipe)
    blocks = [range(a, min(a + chunk, len(seeds))) for a in range(0, len(seeds), chunk)]
    jobs = [(config, seeds.start, out, block) for block in blocks if not done.issuperset(block)]
    with bar(total=len(seeds), desc=f"render {out.name}", unit="scene", shown=progress) as moved:
        for block in run_jobs(_render_block, jobs, workers):
            done.update(block)
            _write_json(out / "progress.json", {**recipe, "done": _spans(done)})
            moved.n = len(done)
            moved.refresh()
    _write_json(out / "meta.json", recipe)
    (out / "progress.json").unlink()
    return out


def load_split(directory: str | Path) -> SceneSplit:
    """Open a complete split as memory maps; QvggtError when it is missing, incomplete or damaged."""
    folder = Path(directory)
    if not (folder / "meta.json").exists():
        state = "is not complete" if (folder / "progress.json").exists() else "has no meta.json"
        raise QvggtError(f"{folder} {state}: expected a rendered split; run render_split on it")
    meta = _read_json(folder / "meta.json")
    config = config_from_json(meta["config"])
    seeds = range(*meta["seeds"])
    shapes = _layout(config, len(seeds))
    arrays = {}
    for name in _ARRAYS:
        path = folder / f"{name}.npy"
        try:
            arrays[name] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise QvggtError(f"{path}: expected an array, got {error}; delete the folder and render again") from error
        if arrays[name].shape != shapes[name][0]:
            raise QvggtError(f"{path}: expected shape {shapes[name][0]}, got {arrays[name].shape}; render again")
    return SceneSplit(config=config, seeds=seeds, **arrays)


def _layout(config: SceneConfig, count: int) -> dict[str, tuple[tuple[int, ...], Any]]:
    height, width = -(-config.height // DEPTH_STRIDE), -(-config.width // DEPTH_STRIDE)
    views = (count, config.frames)
    return {
        "images": ((*views, config.height, config.width, 3), np.uint8),
        "depth": ((*views, height, width), np.float16),
        "extrinsics": ((*views, 3, 4), np.float32),
        "fov": ((count, 2), np.float32),
    }


def _recipe(config: SceneConfig, seeds: range) -> dict[str, Any]:
    return {"config": config_to_json(config), "seeds": [seeds.start, seeds.stop], "samples": 1}


def _resume(out: Path, recipe: dict[str, Any]) -> set[int]:
    """Indices already rendered; allocates the arrays on a fresh start."""
    if (out / "progress.json").exists():
        state = _require_same(out / "progress.json", recipe)
        return {i for start, stop in state["done"] for i in range(start, stop)}
    config = config_from_json(recipe["config"])
    for name, (shape, dtype) in _layout(config, recipe["seeds"][1] - recipe["seeds"][0]).items():
        np.lib.format.open_memmap(out / f"{name}.npy", mode="w+", dtype=dtype, shape=shape).flush()
    _write_json(out / "progress.json", {**recipe, "done": []})
    return set()


def _render_block(config: SceneConfig, first_seed: int, out: Path, block: range) -> range:
    maps = {name: np.lib.format.open_memmap(out / f"{name}.npy", mode="r+") for name in _ARRAYS}
    for index in block:
        views = render(sample_scene(config, first_seed + index), config, stride_depth=DEPTH_STRIDE)
        maps["images"][index] = views.images
        maps["depth"][index] = views.depth
        maps["extrinsics"][index] = views.extrinsics
        maps["fov"][index] = views.fov_hw[0]
    for array in maps.values():
        array.flush()
    return block


def _spans(indices: set[int]) -> list[list[int]]:
    spans: list[list[int]] = []
    for index in sorted(indices):
        if spans and spans[-1][1] == index:
            spans[-1][1] = index + 1
        else:
            spans.append([index, index + 1])
    return spans


def _require_same(path: Path, recipe: dict[str, Any]) -> dict[str, Any]:
    stored = _read_json(path)
    for key, value in recipe.items():
        if stored.get(key) != value:
            raise QvggtError(
                f"{path}: holds another split ({key} differs from what was asked); choose another folder or delete it"
            )
    return stored


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise QvggtError(f"{path}: expected JSON, got {error}; delete the folder and render again") from error
    if not isinstance(data, dict):
        raise QvggtError(f"{path}: expected a JSON object, got {type(data).__name__}; delete the folder")
    return data


def _write_json(path: Path, data: dict[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(data, indent=1) + "\n")
