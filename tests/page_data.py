"""A small report and its stored sequences, as qvggt eval writes them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np

LABELS = ("float tiny", "w4a4 tiny.onnx")
SHORT = ("fp32 PyTorch", "w4a4 ORT")


def report(worst: bool = True) -> dict[str, Any]:
    """Two candidates, three metrics (one never measured), two categories, layers of the second, one stored sequence."""
    metrics = [
        {"name": "auc30", "title": "AUC@30", "unit": "points 0-100", "better": "higher", "digits": 2},
        {"name": "abs_rel", "title": "depth abs-rel", "unit": "fraction", "better": "lower", "digits": 4},
        {"name": "head_acc", "title": "Acc (point head)", "unit": "m", "better": "lower", "digits": 4},
    ]
    first = {
        "label": LABELS[0], "kind": "pytorch", "scheme": "fp32", "file": "/a/model.safetensors", "sha256": "ab" * 32,
        "bytes": 8_000_000, "latency": {"p50": 0.5, "p99": 0.75, "runs": 4, "warmup": 1, "repeats": 2}, "memory": None,
        "layers": None,
        "summary": {
            "auc30": {"value": 83.25, "interval": [79.5, 87.5], "delta": None, "delta_interval": None},
            "abs_rel": {"value": 0.0864, "interval": None, "delta": None, "delta_interval": None},
        },
        "categories": {
            "cup": {"sequences": 2, "metrics": {"auc30": 81.5, "abs_rel": 0.09}},
            "hat": {"sequences": 1, "metrics": {"auc30": 85.0}},
        },
    }  # fmt: skip
    second = copy.deepcopy(first) | {
        "label": LABELS[1], "kind": "onnxruntime", "scheme": "w4a4", "bytes": 2_500_000,
        "memory": {"peak_rss": 300_000_000, "rss_before": 1, "device": None},
        "reference": {"label": LABELS[0], "name": "tiny", "floor_db": 30.0},
        "layers": {
            "source": "/a/quant.json", "measure": "SQNR of the weights of a linear",
            "rows": [{"path": "frame_blocks.0.attn.qkv", "sqnr_db": 21.5}, {"path": "blocks.1", "sqnr_db": "inf"}],
        },
    }  # fmt: skip
    second["summary"] = {
        "auc30": {"value": 78.5, "interval": [70.0, 84.0], "delta": -4.75, "delta_interval": [-9.5, -0.25]},
        "abs_rel": {"value": "nan", "interval": None, "delta": "nan", "delta_interval": ["nan", "nan"]},
    }
    noise = {"sqnr_db": 34.5, "max_error": 0.25, "p99": 0.125, "peak": 2.0}
    stored = {"sequence": "cup/one", "metric": "auc30", "values": [80.0, 60.0], "file": "store/one.npz"}
    return {
        "format": 2,
        "config": {"dataset": "co3d", "frames": 3, "metrics": ["pose", "depth"]},
        "config_sha256": "cd" * 32,
        "frame_list": {"sha256": "ef" * 32, "sequences": 3},
        "notes": ["points: not measured, no sequence has ground-truth depth"],
        "versions": {"qvggt": "0.1.0"},
        "units": {"auc": "points, 0-100"},
        "metrics": metrics,
        "baseline": LABELS[0],
        "sequences": [],
        "candidates": [first, second],
        "parity": [{"reference": LABELS[0], "candidate": LABELS[1], "outputs": {"depth": noise}}],
        "worst": [stored] if worst else [],
    }


def six(word: str = "") -> dict[str, Any]:
    """The report of six candidates with long labels, the first two as in `report`; the third is below its floor. word:
    in all their names."""
    value = report()
    first, second = value["candidates"]
    value["candidates"] += [
        copy.deepcopy(second) | {"label": f"{second['label']} {name}", "scheme": scheme, "bytes": size, "kind": kind}
        for name, scheme, size, kind in (
            ("in a folder-with-a-long-name/and-another", "w8a8-static+camera+dpt", 3_000_000, "openvino"),
            ("quantized by somebody else entirely", "unknown scheme", 4_000_000, "onnxruntime"),
            ("once more", "w8a8-dynamic", 3_500_000, "onnxruntime"),
            ("again", "w8a8-dynamic", 3_500_000, "onnxruntime"),
        )
    ]
    for index, candidate in enumerate(value["candidates"]):
        candidate["label"] += word
        candidate["scheme"] += word
        candidate["latency"] = {**candidate["latency"], "p50": 0.5 - 0.05 * index}
        if index:
            candidate["reference"] = {**second["reference"], "label": first["label"]}
    for index in (3, 4, 5):
        summary = value["candidates"][index]["summary"]
        summary["auc30"] = {"value": 83.0, "interval": [79.0, 87.0], "delta": -0.25, "delta_interval": [-1.5, 1.25]}
        summary["abs_rel"] = {"value": 0.0865, "interval": None, "delta": 0.0001, "delta_interval": [-0.001, 0.001]}
    noise, outputs = value["parity"][0]["outputs"]["depth"], ("pose_enc", "depth", "world_points_conf")
    value["parity"] = [
        {"reference": one["label"], "candidate": other["label"],
         "outputs": {name: noise | {"sqnr_db": 34.5 - 5 * (i == 2)} for name in outputs}}
        for i, other in enumerate(value["candidates"])
        for one in value["candidates"][:i]
    ]  # fmt: skip
    value["worst"][0]["values"] = [80.0, 60.0, 79.0, 81.0, 80.0, 80.0]
    return value


def stored_arrays(frames: int = 3, size: int = 20, truth: bool = True, candidates: int = 2) -> dict[str, np.ndarray]:
    """A plane seen by cameras in a row; candidates but the first are 10 % off and have one NaN."""
    generator = np.random.default_rng(0)
    extrinsics = np.tile(np.eye(3, 4), (frames, 1, 1))
    extrinsics[:, 0, 3] = -0.2 * np.arange(frames)
    intrinsics = np.tile(np.array([[size, 0, size / 2], [0, size, size / 2], [0, 0, 1.0]]), (frames, 1, 1))
    depth = np.tile(np.linspace(1, 3, size, dtype=np.float32)[:, None], (frames, 1, size))
    points = generator.uniform((-1, -1, 1), (1, 1, 3), (500, 3)).astype(np.float32)
    colors = generator.integers(0, 200, (500, 3), np.uint8)
    arrays: dict[str, np.ndarray] = {
        "images": generator.integers(0, 255, (frames, size, size, 3), np.uint8),
        "frames": np.arange(10, 10 + frames),
        "gt_extrinsics": extrinsics,
        "gt_intrinsics": intrinsics,
    }
    if truth:
        arrays |= {"gt_depth": depth, "gt_points": points, "gt_colors": colors}
    for index, factor in enumerate((1.0, *[1.1] * (candidates - 1))):
        own = (factor * depth).astype(np.float32)
        own[0, 0, 0] = np.nan if index else own[0, 0, 0]
        arrays |= {
            f"c{index}_extrinsics": extrinsics, f"c{index}_intrinsics": intrinsics, f"c{index}_depth": own,
            f"c{index}_points": (factor * points).astype(np.float32), f"c{index}_colors": colors,
            f"c{index}_scale": np.array(1.0),
        }  # fmt: skip
    return arrays


def store(folder: Path, candidates: int = 2, **changes: Any) -> Path:
    """store/one.npz below `folder`; changes replace arrays, None drops one."""
    arrays = stored_arrays(candidates=candidates) | changes
    path = folder / "store" / "one.npz"
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(path, **{name: value for name, value in arrays.items() if value is not None})
    return path
