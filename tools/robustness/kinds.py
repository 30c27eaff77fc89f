"""Every kind of input the commands read, how it is damaged, and which commands then read it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from robustness.mutations import (
    BYTES,
    Mutation,
    odd_gzip_json,
    odd_header,
    odd_json,
    odd_line,
    odd_location,
    odd_onnx,
)
from robustness.sandbox import Work, command
from robustness.workshop import QUICK

Reader = Callable[[Path, Path], Work]  # (folder of the case, folder for outputs) -> work


@dataclass(frozen=True)
class Kind:
    """needs: workshop folders a case copies. file: what is damaged, in them. readers: who reads it then, in turn.

    check: a reader may end with 1, a failed check. repair: run after the damage, on the case's folder.
    """

    name: str
    needs: tuple[str, ...]
    file: str
    mutations: tuple[Mutation, ...]
    readers: tuple[Reader, ...]
    check: bool = False
    repair: Callable[[Path], None] | None = None


def export_of(model: str) -> Reader:
    return lambda case, out: command("export", [case / model, "--no-check", "-o", out / "m.onnx"])


def calibration_of(model: str) -> Reader:
    return lambda case, out: command("calibrate", [case / model, "--recipe", "rtn", "-o", out / "c"])


def evaluation(*options: str, scenes: str = "scenes") -> Reader:
    """qvggt-eval; options that name an existing file of the case become paths."""

    def reader(case: Path, out: Path) -> Work:
        args: list[object] = [case / o if (case / o).exists() else o for o in options]
        common = ["--root", case / scenes, "--frames", 2, "--min-frames", 2, "--warmup", 0, "--json", out / "r.json"]
        return command("evaluate", [*args, *common])

    return reader


def room_evaluation(dataset: str, folder: str) -> Reader:
    def reader(case: Path, out: Path) -> Work:
        args = ["--model", case / "float/model.safetensors", "--dataset", dataset, "--root", case / folder]
        options = ["--stride", 1, "--metrics", "pose,depth", "--warmup", 0, "--json", out / "r.json"]
        return command("evaluate", [*args, *options])

    return reader


def calibration_on_data(case: Path, out: Path) -> Work:
    args = [case / "float/model.safetensors", "--act", "static", "--recipe", "rtn", "--data", case / "scenes"]
    return command("calibrate", [*args, "--sequences", 2, "--frames", 2, "-o", out / "c"])


def resumed_calibration(case: Path, out: Path) -> Work:
    """The unfinished store of the workshop lies in the case's folder, so the output goes there too."""
    args = [case / "float/model.safetensors", "--bits", "w4a4", "--data", case / "scenes", *QUICK]
    return command("calibrate", [*args, "-o", case / "store" / "c"])


def reconstruction(source: str) -> Reader:
    def reader(case: Path, out: Path) -> Work:
        args = [case / source, "--model", case / "float/model.safetensors", "--formats", "cameras,ply"]
        return command("reconstruct", [*args, "-o", out / "r"])

    return reader


def query_points(case: Path, out: Path) -> Work:
    args = [case / IMAGES, "--model", case / "float/model.safetensors", "--query-points", case / "points/p.txt"]
    return command("reconstruct", [*args, "-o", out / "r"])


def card(case: Path, _out: Path) -> Work:
    return command("push", [case / "calibrated", "me/x", "--card-only"])


def card_with_metrics(case: Path, _out: Path) -> Work:
    return command("push", [case / "calibrated", "me/x", "--card-only", "--metrics", case / "report/r.json"])


def checked_engine(case: Path, _out: Path) -> Work:
    """The library call a runner makes before it opens an engine."""

    def work() -> None:
        from qvggt.cli.common import fail
        from qvggt.engines.manifest import check_engine
        from qvggt.errors import QvggtError

        try:
            check_engine(case / "engine/m.engine")
        except QvggtError as error:
            fail(str(error))

    return work


def lint(model: str) -> Reader:
    return lambda case, out: command("lint", [case / model])


def build(model: str) -> Reader:
    return lambda case, out: command("build", [case / model, "-o", out / "m.engine", "--frames", "2"])


def released(case: Path, out: Path) -> Work:
    args = [case / "float/model.safetensors", "--bits", "w4a4", "--import-quantvggt", case / "release"]
    return command("calibrate", [*args, "-o", out / "c"])


def merged(case: Path, out: Path) -> Work:
    return command("evaluate", ["merge", case / "records/r.jsonl", "--json", out / "r.json"])


def resumed_evaluation(case: Path, out: Path) -> Work:
    args = ["--model", case / "float/model.safetensors", "--root", case / "scenes", "--frames", 2, "--min-frames", 2]
    options = ["--warmup", 0, "--records", case / "records/r.jsonl", "--json", out / "r.json"]
    return command("evaluate", [*args, *options])


def fix_hash(case: Path) -> None:
    """Make quant.json name the hash of the damaged tensors, so that the damage itself is read."""
    from qvggt.files import file_sha256

    path = case / "calibrated" / "quant.json"
    values = json.loads(path.read_text())
    values["weights_sha256"] = file_sha256(case / "calibrated" / "model.safetensors")
    path.write_text(json.dumps(values))


IMAGES = "scenes/synthetic/scene_000000050/images"
IMAGE = f"{IMAGES}/frame000001.jpg"
DEPTH = "scenes/synthetic/scene_000000050/depths/frame000001.jpg.geometric.png"
FLOAT = "float/model.safetensors"
ON_FLOAT = evaluation("--model", FLOAT)
ON_ONNX = evaluation("--engine", "onnx/m.onnx")


def kinds() -> tuple[Kind, ...]:
    """All of them; those whose file the workshop lacks (no PyAV, no TensorRT-RTX) are left out by the caller."""
    json_twice = (odd_json, odd_json, *BYTES)
    weights = (export_of(FLOAT), calibration_of(FLOAT), ON_FLOAT)
    quantized = (export_of("calibrated"), evaluation("--model", "calibrated"), card)
    onnx = (lint("onnx/m.onnx"), ON_ONNX, build("onnx/m.onnx"))
    rooms, nrgbd = (room_evaluation("7scenes", "rooms"),), (room_evaluation("nrgbd", "nrgbd"),)
    external = (lint("external/m.onnx"), evaluation("--engine", "external/m.onnx"), build("external/m.onnx"))
    return (
        Kind("safetensors", ("float", "scenes"), FLOAT, (*BYTES, odd_header, odd_header), weights),
        Kind("torch .pt", ("float",), "float/model.pt", BYTES, (export_of("float/model.pt"),)),
        Kind("config.json", ("bare",), "bare/config.json", json_twice, (export_of("bare"),)),
        Kind("quant.json", ("calibrated", "scenes"), "calibrated/quant.json", json_twice, quantized),
        Kind("quantized tensors", ("calibrated", "scenes"), "calibrated/model.safetensors", BYTES, quantized),
        Kind(
            "quantized tensors, hash mended",
            ("calibrated", "scenes"),
            "calibrated/model.safetensors",
            (odd_header, *BYTES),
            quantized,
            repair=fix_hash,
        ),
        Kind("onnx", ("onnx", "scenes"), "onnx/m.onnx", (odd_onnx, odd_onnx, odd_onnx, *BYTES), onnx, check=True),
        Kind("external data", ("external", "scenes"), "external/m.onnx.data", BYTES, external, check=True),
        Kind("external locations", ("external", "scenes"), "external/m.onnx", (odd_location,), external, check=True),
        Kind("image", ("float", "scenes"), IMAGE, BYTES, (ON_FLOAT, calibration_on_data, reconstruction(IMAGES))),
        Kind("depth map", ("float", "scenes"), DEPTH, BYTES, (ON_FLOAT,)),
        Kind(
            "annotations",
            ("float", "scenes"),
            "scenes/annotations/synthetic_test.jgz",
            (odd_gzip_json, odd_gzip_json, *BYTES),
            (ON_FLOAT,),
        ),
        Kind(
            "training annotations",
            ("float", "scenes"),
            "scenes/annotations/synthetic_train.jgz",
            (odd_gzip_json, odd_gzip_json, *BYTES),
            (calibration_on_data,),
        ),
        Kind(
            "frame list",
            ("float", "scenes", "frames"),
            "frames/list.json",
            json_twice,
            (evaluation("--model", FLOAT, "--frame-list", "frames/list.json"),),
        ),
        Kind("records", ("float", "scenes", "records"), "records/r.jsonl", BYTES, (resumed_evaluation, merged)),
        Kind("block store", ("float", "scenes", "store"), BLOCK, (odd_header, *BYTES), (resumed_calibration,)),
        Kind("block store job", ("float", "scenes", "store"), JOB, (odd_json, *BYTES), (resumed_calibration,)),
        Kind("released parameters", ("float", "release"), "release/qs_frame_parameters_total.pth", BYTES, (released,)),
        Kind("metrics report", ("calibrated", "report"), "report/r.json", json_twice, (card_with_metrics,)),
        Kind("7-Scenes pose", ("float", "rooms"), ROOM_POSE, (odd_line, *BYTES), rooms),
        Kind("7-Scenes depth", ("float", "rooms"), ROOM_DEPTH, BYTES, rooms),
        Kind("7-Scenes split", ("float", "rooms"), "rooms/office/TestSplit.txt", (odd_line, *BYTES), rooms),
        Kind("NRGBD poses", ("float", "nrgbd"), "nrgbd/room/poses.txt", (odd_line, *BYTES), nrgbd),
        Kind("NRGBD depth", ("float", "nrgbd"), "nrgbd/room/depth/depth1.png", BYTES, nrgbd),
        Kind("video", ("float", "video"), "video/v.mp4", BYTES, (reconstruction("video/v.mp4"),)),
        Kind("query points", ("float", "scenes", "points"), "points/p.txt", (odd_line, *BYTES), (query_points,)),
        Kind("engine", ("engine",), "engine/m.engine", BYTES, (checked_engine,)),
        Kind("engine manifest", ("engine",), "engine/m.engine.manifest.json", json_twice, (checked_engine,)),
    )  # fmt: skip


BLOCK = "store/.c.unfinished/BLOCK.safetensors"  # the caller puts the name of a stored block in
JOB = "store/.c.unfinished/job.json"
ROOM_POSE = "rooms/office/seq-01/frame-000001.pose.txt"
ROOM_DEPTH = "rooms/office/seq-01/frame-000001.depth.proj.png"

# options of commands that take words of their own grammar: every one gets odd words
WORDS = (
    ("calibrate", (FLOAT, "--recipe", "rtn"), ("--bits", "--act", "--parts", "--size", "--rounding", "--recipe")),
    ("export", (FLOAT, "--no-check"), ("--bits", "--act", "--parts", "--size", "--frames", "--outputs", "--target")),
    ("export", ("calibrated",), ("--parity-frames", "--parity-sequences")),
    ("build", ("onnx/m.onnx",), ("--frames", "--cc", "--precision", "--backend")),
)
ODD_WORDS = (
    "", "x", "w3a3", "-1", "0", "1:2", "3:2:1", "99999999999999999999", "56x", "0x0", "57x57", "dino,dino,x", "a b",
    "é\u2028", "../..", "1e9", "nan", "'; rm", ",", "x" * 3000,
)  # fmt: skip
