"""The whole job: images in, network, files out, in a folder that is complete or absent."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qvggt import __version__
from qvggt.data.photos import Photo, find_images, is_video, stage_images
from qvggt.data.video import import_av, stage_video
from qvggt.engines.runner import Runner
from qvggt.errors import QvggtError
from qvggt.eval.ground_truth import ImagePlan, plan_images
from qvggt.eval.reconstruction import tracks as tracking
from qvggt.eval.reconstruction.cameras import CONVENTIONS, describe_cameras
from qvggt.eval.reconstruction.cloud import Cloud, Selection, build_cloud, select
from qvggt.eval.reconstruction.colmap import (
    Views,
    check_one_size,
    dense_model,
    import_pycolmap,
    one_camera,
    write_colmap,
)
from qvggt.eval.reconstruction.config import MARKER, ReconstructionConfig
from qvggt.eval.reconstruction.depth_maps import write_depth_maps
from qvggt.eval.reconstruction.doubts import find_doubts, is_poor
from qvggt.eval.reconstruction.frames import Frames, load_frames
from qvggt.eval.reconstruction.masks import keep, read_masks
from qvggt.eval.reconstruction.memory import SHARE, UNKNOWN, Budget, free_memory, plan_memory
from qvggt.eval.reconstruction.meshes import import_trimesh, write_glb, write_ply
from qvggt.eval.reconstruction.overview import PAGE, PREVIEW, camera_rows, preview, write_page
from qvggt.eval.reconstruction.passes import Pass, plan_passes
from qvggt.eval.reconstruction.scene import Join, Scene, check_outputs, reconstruct
from qvggt.eval.reconstruction.sparse import GRID, matched_model, tracked_model
from qvggt.eval.reconstruction.viewers import import_rerun, write_rrd
from qvggt.eval.seen import in_words
from qvggt.files import atomic_directory

Array = NDArray[Any]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Result:
    """What a run made: files (name, bytes) in the order of writing, and the facts of reconstruction.json."""

    photos: tuple[Photo, ...]
    frames: Frames
    scene: Scene
    cloud: Cloud
    joins: tuple[Join, ...]
    files: tuple[tuple[str, int], ...]
    facts: dict[str, Any]


def check_libraries(config: ReconstructionConfig, inputs: Sequence[Path]) -> None:
    """Before any work: are the libraries for the chosen formats here? QvggtError names the extra to install."""
    if {"glb", "ply"} & set(config.formats):
        import_trimesh()
    if "colmap" in config.formats:
        import_pycolmap()
    if "rrd" in config.formats:
        import_rerun()
    if any(is_video(path) for path in inputs):
        import_av()


def reconstruct_folder(
    runner: Runner,
    inputs: Sequence[Path],
    out: Path,
    config: ReconstructionConfig | None = None,
    *,
    device: str | None = None,
    images: ImagePlan | None = None,
    overwrite: bool = False,
    say: Say = lambda line: None,
) -> Result:
    """Reconstruct `inputs` (images, folders of images, or one video) with `runner` and write `out`.

    The folder appears when everything is in it; an existing one is replaced only with `overwrite`, and only when it
    is a reconstruction. images: preprocessing shared with other networks, by default the runner's own. say: receives
    a line per step. QvggtError for everything a user can get wrong.
    """
    config = config or ReconstructionConfig()
    config.check_files()
    check_libraries(config, inputs)
    check_outputs(runner, config.points)
    if "depth" in config.formats and "depth" not in runner.outputs:
        raise QvggtError(f"{runner.label}: computes no depth; leave depth out of --formats")
    with atomic_directory(out, replace=overwrite, marker=MARKER) as folder:
        photos = stage(inputs, folder / "images", config, say)
        images = images or plan_images([runner], config.size, fit=config.fit)
        frames = load_frames([p.path for p in photos], images)
        (height, width), seen = frames.size, in_words(frames.views(), images.owner)
        if config.shared_camera:
            check_one_size([p.name for p in photos], frames.resizes)
        say(f"{len(photos)} images, {width}x{height} network pixels")
        say(seen)
        budget, passes = plan(runner, len(photos), frames.size, config, device)
        say(_pass_note(passes, budget))
        queries = set_queries(runner, frames, passes, config)
        scene, joins = reconstruct(runner, frames, passes, config.points)
        for number, join in enumerate(joins, start=2):
            say(_join_note(number, join))
        inside = frames.inside()
        keep = unmasked(frames, photos, config, say)
        selection = select(scene, inside, keep, config.percentile, config.edges)
        whole = build_cloud(scene, selection, frames.pixels)
        say(_point_note(selection))
        if not len(whole) and {"glb", "ply", "colmap"} & set(config.formats):
            raise QvggtError("no point is left to write; relax the masks, or choose --formats depth,cameras")
        doubts = find_doubts(scene, frames, photos, joins, runner.network_sizes())
        facts: dict[str, Any] = {
            "format": "qvggt-reconstruction",
            "version": 1,
            "qvggt": __version__,
            "network": runner.describe(),
            "threads": torch.get_num_threads(),
            "options": asdict(config),
            "conventions": {**CONVENTIONS, "scene.glb": "glTF axes (x, -y, -z): y up, first camera looks along -z"},
            "images": len(photos),
            "network_size": {"width": width, "height": height},
            "seen": seen,
            "largest_cropped_share": round(frames.unseen(), 4),
            "passes": [[p.start, p.stop] for p in passes],
            "memory": {
                "limit_bytes": budget.limit,
                "estimated_pass_bytes": budget.pass_bytes,
                "estimated_result_bytes": budget.results_bytes,
            },
            "joins": [asdict(join) for join in joins],
            "points": selection.counts(),
            "warnings": doubts,
        }
        cloud = whole.at_most(config.max_points, config.seed)
        made = Result(tuple(photos), frames, scene, cloud, tuple(joins), (), facts)
        tracks = None
        if queries is not None and isinstance(runner, tracking.TrackingRunner) and runner.tracks is not None:
            tracks = tracking.in_sources(runner.tracks, frames.resizes)
            tracking.write_tracks(folder / "tracks.npz", [p.name for p in photos], queries, tracks)
            facts["tracks"] = {"queries": len(queries), "visible": float(np.mean(tracks.visibility > 0.5))}
        _write(folder, made, whole, inside, selection.keep, config)
        if "colmap" in config.formats:
            say(_write_model(folder, made, whole, selection.keep, tracks, config))
        if "images" not in config.formats:
            shutil.rmtree(folder / "images")
        if "page" in config.formats and len(cloud):
            _write_page(folder, made)
        files = _listing(folder)
        facts["files"] = dict(files)
        text = json.dumps(facts, indent=1, allow_nan=False) + "\n"
        (folder / MARKER).write_text(text, encoding="utf-8")
    return replace(made, files=(*files, (MARKER, len(text))))


def stage(inputs: Sequence[Path], folder: Path, config: ReconstructionConfig, say: Say) -> list[Photo]:
    """Upright images of the inputs in `folder`; say: hears what of the inputs is not used."""
    folder.mkdir(parents=True)
    if len(inputs) == 1 and is_video(inputs[0]):
        return stage_video(inputs[0], folder, config.rate, config.limit, say)
    return stage_images(find_images(inputs, config.every, config.limit, say), folder)


def plan(
    runner: Runner, count: int, size: tuple[int, int], config: ReconstructionConfig, device: str | None
) -> tuple[Budget, list[Pass]]:
    """Memory and passes. device: where the network runs, by default the runner's."""
    limit, asked, least = config.memory_limit, config.frames_per_pass, 1
    if runner.frame_range is not None:
        least, high = runner.frame_range
        asked = high if asked is None else min(asked, high)  # its buffers were sized when it was built
    if limit is None:
        free = free_memory(device or runner.device)
        limit = None if free is None else int(SHARE * free)
    budget = plan_memory(runner.network_sizes() or UNKNOWN, count, size, limit, asked)
    return budget, plan_passes(count, budget.most, config.overlap, runner.frames, least)


def set_queries(runner: Runner, frames: Frames, passes: Sequence[Pass], config: ReconstructionConfig) -> Array | None:
    """Give a tracking runner its query points; returns them in pixels of the first image."""
    if not config.tracking:
        return None
    if not isinstance(runner, tracking.TrackingRunner):
        raise QvggtError(f"{runner.label}: tracks need a float PyTorch model with its track head (--model)")
    if len(passes) > 1:
        raise QvggtError(
            f"tracks: need all images in one pass, got {len(passes)} passes; use fewer images, or raise "
            "--max-frames-per-pass"
        )
    if config.queries is not None:
        queries = tracking.read_queries(Path(config.queries))
    else:
        queries = tracking.grid_queries(config.query_grid or GRID, frames.resizes[0], frames.size)
    runner.queries = tracking.to_network(queries, frames.resizes[0], frames.size)
    return queries


def unmasked(frames: Frames, photos: Sequence[Photo], config: ReconstructionConfig, say: Say) -> Array:
    """bool [F, H, W]: pixels that no mask leaves out; say: hears of images without one."""
    kept = np.ones((len(frames), *frames.size), bool)
    if config.masks:
        for slot, image in zip(kept, frames.pixels, strict=True):
            slot[:] = keep(image.transpose(1, 2, 0), config.masks)
    if config.mask_folder is not None:
        masks, without = read_masks(Path(config.mask_folder), photos, frames.resizes, frames.size)
        kept &= masks
        if without:
            shown = ", ".join(without[:3]) + (", ..." if len(without) > 3 else "")
            say(f"note: {config.mask_folder}: no mask for {len(without)} of {len(photos)} images ({shown})")
    return kept


def _write(folder: Path, made: Result, whole: Cloud, inside: Array, kept: Array, config: ReconstructionConfig) -> None:
    """Every file but the marker and the tracks; what they are goes into the facts of `made`."""
    scene, frames, facts = made.scene, made.frames, made.facts
    names, resizes = [photo.name for photo in made.photos], frames.resizes
    if "glb" in config.formats:
        write_glb(folder / "scene.glb", made.cloud, scene.extrinsics, scene.intrinsics, frames.size)
    if "ply" in config.formats:
        write_ply(folder / "points.ply", made.cloud)
    facts["points"]["in_glb_and_ply"] = len(made.cloud)
    if "rrd" in config.formats:
        write_rrd(folder / "scene.rrd", made)
    if "depth" in config.formats:
        files = write_depth_maps(folder / "depth", names, scene, resizes, inside, kept, config.depth_size)
        facts["depth_png"] = {
            "scale": files.scale,
            "meaning": "depth = scale * integer; 0: none; 65535: beyond",
            "saturated_share": files.saturated,
        }
    if "cameras" in config.formats:
        described = describe_cameras(made.photos, scene, resizes)
        (folder / "cameras.json").write_text(json.dumps(described, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _write_model(
    folder: Path, made: Result, whole: Cloud, kept: Array, tracks: tracking.Tracks | None, config: ReconstructionConfig
) -> str:
    """The COLMAP model; returns what it is good for, in a line."""
    scene, frames, facts = made.scene, made.frames, made.facts
    names = [photo.name for photo in made.photos]
    views = Views(names, scene.extrinsics, scene.source_intrinsics(frames.resizes), frames.resizes)
    if config.shared_camera:
        views = one_camera(views)
    model, source = None, "depth"
    if config.colmap_tracks == "matches":
        model, source = matched_model(views, folder / "images"), "matches"
    elif tracks is not None and config.colmap_tracks == "head":
        x, y = tracking.pixels(tracks.places[0], frames.resizes[0], frames.size)
        model = tracked_model(views, tracks, scene.points[0, y, x], frames.pixels[0, :, y, x], kept[0, y, x])
        source = "head"
    if model is not None and not model.num_points3D():
        why = "no track is sure" if source == "head" else "no matched feature agrees with the cameras"
        facts["warnings"].append(f"COLMAP model: {why}, so its points come from depth, seen in one image each")
        model = None
    if model is None:
        model, source = dense_model(views, whole.at_most(config.colmap_points, config.seed), frames.size), "depth"
    write_colmap(folder, model)
    facts["points"]["in_colmap"] = model.num_points3D()
    observations = sum(point.track.length() for point in model.points3D.values())
    error = float(model.compute_mean_reprojection_error())
    facts["colmap"] = {"points_from": source, "observations": observations, "mean_reprojection_error_px": error}
    if source == "depth":
        use = "one observation each: to look at and for splatting, not for bundle adjustment (see --colmap-tracks)"
    else:
        use = f"{observations:,} observations, {error:.2f} pixels of mean error: bundle adjustment can refine it"
    return f"COLMAP model: {model.num_points3D():,} points from {source}, {use}"


def _write_page(folder: Path, made: Result) -> None:
    from PIL import Image

    scene, frames = made.scene, made.frames
    picture = preview(made.cloud, scene.extrinsics, scene.intrinsics, frames.size)
    Image.fromarray(picture).save(folder / PREVIEW)
    rows = camera_rows(made.photos, frames.pixels, scene.source_intrinsics(frames.resizes), scene.extrinsics)
    write_page(folder / PAGE, made.facts, dict(_listing(folder)), rows, picture)


def _listing(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(p.relative_to(folder)), p.stat().st_size) for p in folder.rglob("*") if p.is_file())


def _pass_note(passes: Sequence[Pass], budget: Budget) -> str:
    if len(passes) == 1:
        return f"one pass; memory: {budget.describe()}"
    least = min(p.shared for p in passes[1:])
    return (
        f"{len(passes)} passes of up to {max(map(len, passes))} images, {least} or more shared with the pass before; "
        f"memory: {budget.describe()}"
    )


def _join_note(number: int, join: Join) -> str:
    note = "; POOR: the passes contradict each other, do not trust the result across them" if is_poor(join) else ""
    return (
        f"pass {number} joined on {join.shared} images: scale {join.scale:.3f}, median residual "
        f"{join.residual_median:.1%} of depth, shared cameras within {join.camera_deg:.2f} degrees and "
        f"{join.camera_shift:.1%} of depth{note}"
    )


def _point_note(selection: Selection) -> str:
    c = selection.counts()
    return (
        f"{c['kept']:,} of {c['pixels']:,} pixels kept; dropped {c['below_confidence']:,} of low confidence, "
        f"{c['depth_edges']:,} at edges of depth, {c['masked']:,} masked, "
        f"{c['invalid']:,} not finite or behind the camera"
    )
