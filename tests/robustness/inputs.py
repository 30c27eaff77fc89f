"""Every kind of input the commands read: a valid one, how it is damaged, and which commands then read it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from damage import BYTES, Damage, odd_gzip_json, odd_header, odd_json, odd_line, odd_location, odd_onnx
from sandbox import QUICK, Work, command, must

RELEASE = Path(__file__).resolve().parents[1] / "data" / "quantvggt_release"
FLOAT, WIDE = "float/model.safetensors", "wide/model.safetensors"
IMAGES = "scenes/synthetic/scene_000000050/images"
DATA = ("--root", "{case}/scenes", "--frames", 2, "--min-frames", 2, "--warmup", 0)


@dataclass(frozen=True)
class Reader:
    """A command line, in which "{case}" is the folder of inputs and "{out}" the folder for outputs."""

    command: str
    line: tuple[object, ...]

    def work(self, case: Path, out: Path) -> Work:
        words = [str(word).replace("{case}", str(case)).replace("{out}", str(out)) for word in self.line]
        return command(self.command, words) if self.command != "engine" else partial(check_engine, words[0])


@dataclass(frozen=True)
class Kind:
    """needs: workshop folders a case copies. file: what is damaged in them, a glob pattern. readers: who reads it then.

    check: a reader may end with 1, a failed check. repair: run after the damage, on the case's folder.
    """

    name: str
    needs: tuple[str, ...]
    file: str
    damages: tuple[Damage, ...]
    readers: tuple[Reader, ...]
    check: bool = False
    repair: Callable[[Path], None] | None = None


def check_engine(path: str) -> None:
    """The library call a runner makes before it opens an engine."""
    from qvggt.cli.terminal import fail
    from qvggt.engines import manifest
    from qvggt.errors import QvggtError

    try:
        manifest.check_engine(Path(path))
    except QvggtError as error:
        fail(str(error))


def fix_hash(case: Path) -> None:
    """Make quant.json name the hash of the damaged tensors, so that the damage itself is read."""
    from qvggt.files import file_sha256

    path = case / "calibrated" / "quant.json"
    values = json.loads(path.read_text())
    values["weights_sha256"] = file_sha256(case / "calibrated" / "model.safetensors")
    path.write_text(json.dumps(values))


def exported(model: str) -> Reader:
    return Reader("export", (f"{{case}}/{model}", "--no-check", "-o", "{out}/m.onnx"))


def evaluated(*options: str) -> Reader:
    return Reader("eval", (*options, *DATA, "--json", "{out}/r.json"))


def evaluated_room(dataset: str, folder: str) -> Reader:
    line = ("--model", f"{{case}}/{FLOAT}", "--dataset", dataset, "--root", f"{{case}}/{folder}")
    options = ("--stride", 1, "--metrics", "pose,depth", "--warmup", 0, "--json", "{out}/r.json")
    return Reader("eval", (*line, *options))


def evaluated_mvs(dataset: str) -> Reader:
    line = ("--model", f"{{case}}/{FLOAT}", "--dataset", dataset, "--root", f"{{case}}/{dataset}", "--frames", 2)
    return Reader("eval", (*line, "--point-backend", "scipy", "--warmup", 0, "--json", "{out}/r.json"))


def reconstructed(source: str, *options: str, model: str = FLOAT) -> Reader:
    return Reader("reconstruct", (f"{{case}}/{source}", "--model", f"{{case}}/{model}", *options, "-o", "{out}/r"))


def onnx_readers(file: str) -> tuple[Reader, ...]:
    path = f"{{case}}/{file}"
    build = Reader("build", (path, "-o", "{out}/m.engine", "--frames", "2"))
    return Reader("lint", (path,)), evaluated("--engine", path), build


ON_FLOAT = evaluated("--model", f"{{case}}/{FLOAT}")
CARD = ("{case}/calibrated", "me/x", "--card-only")
RTN = Reader("calibrate", (f"{{case}}/{FLOAT}", "--recipe", "rtn", "-o", "{out}/c"))
STATIC = (f"{{case}}/{FLOAT}", "--act", "static", "--recipe", "rtn")
ON_DATA = Reader("calibrate", (*STATIC, "--data", "{case}/scenes", "--sequences", 2, "--frames", 2, "-o", "{out}/c"))
LEARNING = (f"{{case}}/{FLOAT}", "--bits", "w4a4", "--data", "{case}/scenes", *QUICK)
RESUMED = Reader("calibrate", (*LEARNING, "-o", "{case}/store/c"))  # beside its unfinished store
RELEASED = (f"{{case}}/{WIDE}", "--bits", "w4a4", "--import-quantvggt", "{case}/release", "-o", "{out}/c")
MERGED = Reader("eval", ("merge", "{case}/records/r.jsonl", "--json", "{out}/r.json"))
RECORDED = evaluated("--model", f"{{case}}/{FLOAT}", "--records", "{case}/records/r.jsonl")
LISTED = evaluated("--model", f"{{case}}/{FLOAT}", "--frame-list", "{case}/frames/list.json")
CLOUD = ("--formats", "cameras,ply")
TRACKED = reconstructed(IMAGES, "--query-points", "{case}/points/p.txt", *CLOUD, model=WIDE)
ROOMS, NRGBD = (evaluated_room("7scenes", "rooms"),), (evaluated_room("nrgbd", "nrgbd"),)
DTU, ETH3D = ((evaluated_mvs("dtu"),), (evaluated_mvs("eth3d"),))
DTU_NEEDS, ETH3D_NEEDS = ("float", "dtu"), ("float", "eth3d")
FILED = (*STATIC, "--data", "{case}/filed/calib_data.pt", "--sequences", 2, "--frames", 2, "-o", "{out}/c")
ANNOTATED = (Reader("annotate", ("{case}/download", "-o", "{out}/a")),)
ENGINE = (Reader("engine", ("{case}/engine/m.engine",)),)
WEIGHTS = (exported(FLOAT), RTN, ON_FLOAT)
QUANTIZED = (exported("calibrated"), evaluated("--model", "{case}/calibrated"), Reader("push", CARD))
PUSHED = (Reader("push", (*CARD, "--metrics", "{case}/report/r.json")),)
IMAGE_READERS = (ON_FLOAT, ON_DATA, reconstructed(IMAGES, *CLOUD))
VIDEO, IMAGE = (reconstructed("video/v.mp4", *CLOUD),), f"{IMAGES}/frame000001.jpg"
DEPTH = "scenes/synthetic/scene_000000050/depths/frame000001.jpg.geometric.png"
RELEASE_FILE = "release/qs_frame_parameters_total.pth"
POSE, POSE_DEPTH = (f"rooms/office/seq-01/frame-000001.{end}" for end in ("pose.txt", "depth.proj.png"))
ONNX, EXTERNAL = onnx_readers("onnx/m.onnx"), onnx_readers("external/m.onnx")
CALIBRATED, TENSORS = ("calibrated", "scenes"), "calibrated/model.safetensors"
SCENES, STORE, JSON = ("float", "scenes"), ("float", "scenes", "store"), (odd_json, *BYTES)
HEADER, GZIP, LINE = (odd_header, *BYTES), (odd_gzip_json, *BYTES), (odd_line, *BYTES)

# those whose file the workshop lacks (no PyAV, no TensorRT-RTX) are skipped
KINDS = (
    Kind("safetensors", SCENES, FLOAT, HEADER, WEIGHTS),
    Kind("torch .pt", ("float",), "float/model.pt", BYTES, (exported("float/model.pt"),)),
    Kind("config.json", ("bare",), "bare/config.json", JSON, (exported("bare"),)),
    Kind("quant.json", CALIBRATED, "calibrated/quant.json", JSON, QUANTIZED),
    Kind("quantized tensors", CALIBRATED, TENSORS, BYTES, QUANTIZED),
    Kind("quantized tensors, hash mended", CALIBRATED, TENSORS, HEADER, QUANTIZED, repair=fix_hash),
    Kind("onnx", ("onnx", "scenes"), "onnx/m.onnx", (odd_onnx, *BYTES), ONNX, check=True),
    Kind("external data", ("external", "scenes"), "external/m.onnx.data", BYTES, EXTERNAL, check=True),
    Kind("external locations", ("external", "scenes"), "external/m.onnx", (odd_location,), EXTERNAL, check=True),
    Kind("image", SCENES, IMAGE, BYTES, IMAGE_READERS),
    Kind("depth map", SCENES, DEPTH, BYTES, (ON_FLOAT,)),
    Kind("annotations", SCENES, "scenes/annotations/synthetic_test.jgz", GZIP, (ON_FLOAT,)),
    Kind("training annotations", SCENES, "scenes/annotations/synthetic_train.jgz", GZIP, (ON_DATA,)),
    Kind("frame list", (*SCENES, "frames"), "frames/list.json", JSON, (LISTED,)),
    Kind("records", (*SCENES, "records"), "records/r.jsonl", BYTES, (RECORDED, MERGED)),
    Kind("block store", STORE, "store/.c.unfinished/*.safetensors", HEADER, (RESUMED,)),
    Kind("block journal", STORE, "store/.c.unfinished/journal.jsonl", BYTES, (RESUMED,)),
    Kind("released parameters", ("wide", "release"), RELEASE_FILE, BYTES, (Reader("calibrate", RELEASED),)),
    Kind("metrics report", ("calibrated", "report"), "report/r.json", JSON, PUSHED),
    Kind("7-Scenes pose", ("float", "rooms"), POSE, LINE, ROOMS),
    Kind("7-Scenes depth", ("float", "rooms"), POSE_DEPTH, BYTES, ROOMS),
    Kind("7-Scenes split", ("float", "rooms"), "rooms/office/TestSplit.txt", LINE, ROOMS),
    Kind("NRGBD poses", ("float", "nrgbd"), "nrgbd/room/poses.txt", LINE, NRGBD),
    Kind("NRGBD depth", ("float", "nrgbd"), "nrgbd/room/depth/depth1.png", BYTES, NRGBD),
    Kind("DTU camera", DTU_NEEDS, "dtu/Cameras/00000001_cam.txt", LINE, DTU),
    Kind("DTU depth", DTU_NEEDS, "dtu/Depths/scan1/depth_map_0001.pfm", BYTES, DTU),
    Kind("DTU scan", DTU_NEEDS, "dtu/Points/stl/stl001_total.ply", BYTES, DTU),
    Kind("DTU mask", DTU_NEEDS, "dtu/ObsMask/ObsMask1_10.mat", BYTES, DTU),
    Kind("DTU plane", DTU_NEEDS, "dtu/ObsMask/Plane1.mat", BYTES, DTU),
    Kind("ETH3D cameras", ETH3D_NEEDS, "eth3d/hall/dslr_calibration_jpg/cameras.txt", LINE, ETH3D),
    Kind("ETH3D images", ETH3D_NEEDS, "eth3d/hall/dslr_calibration_undistorted/images.txt", LINE, ETH3D),
    Kind("ETH3D depth", ETH3D_NEEDS, "eth3d/hall/ground_truth_depth/dslr_images/DSC_0001.JPG", BYTES, ETH3D),
    Kind("calibration file", ("float", "filed"), "filed/calib_data.pt", BYTES, (Reader("calibrate", FILED),)),
    Kind("download", ("download",), "download/pear/frame_annotations.jgz", GZIP, ANNOTATED),
    Kind("video", ("float", "video"), "video/v.mp4", BYTES, VIDEO),
    Kind("query points", ("wide", "scenes", "points"), "points/p.txt", LINE, (TRACKED,)),
    Kind("engine", ("engine",), "engine/m.engine", BYTES, ENGINE),
    Kind("engine manifest", ("engine",), "engine/m.engine.manifest.json", JSON, ENGINE),
)

# options of commands that take words of their own grammar
FLOAT_PATH = f"{{case}}/{FLOAT}"
CALIBRATE = ("calibrate", (FLOAT_PATH, "--recipe", "rtn", "-o", "{out}/c"))
EXPORT = ("export", (FLOAT_PATH, "--no-check", "-o", "{out}/m.onnx"))
CHECKED = ("export", ("{case}/calibrated", "-o", "{out}/m.onnx"))
BUILD = ("build", ("{case}/onnx/m.onnx", "-o", "{out}/m.engine"))
NO_SEQUENCES = (*CHECKED[1], "--parity-sequences", 0, "--data", "{case}/scenes")
WORDS = (
    *((*CALIBRATE, option) for option in ("--bits", "--act", "--parts", "--size", "--rounding", "--recipe")),
    *((*EXPORT, option) for option in ("--bits", "--act", "--parts", "--size", "--frames", "--outputs", "--target")),
    ("export", NO_SEQUENCES, "--parity-frames"),
    (*CHECKED, "--parity-sequences"),
    *((*BUILD, option) for option in ("--frames", "--cc", "--precision", "--backend")),
)


def stock(shop: Path, *, unfinished: bool = True) -> None:
    """Put what the kinds need into a workshop. unfinished: a calibration that stopped, too, which takes seconds."""
    shutil.copytree(RELEASE, shop / "release")
    for name in ("frames", "records", "report", "store", "points", "bare", "external", "wide"):
        (shop / name).mkdir()
    (shop / "points" / "p.txt").write_text("10 10\n20.5 30\n")
    must(partial(wide_model, shop / WIDE), "a model with a track head")
    must(partial(other_files, shop), "other files")
    must(partial(rooms, shop), "rooms")
    must(partial(video, shop / "video"), "a video")
    must(partial(data_sets, shop), "data sets")
    report = ("--frame-list", "{case}/frames/list.json", "--json", "{case}/report/r.json")
    for reader in (RECORDED, Reader("eval", ("--model", "{case}/calibrated", *DATA, *report))):
        must(reader.work(shop, shop / "unused"), reader.command)
    shutil.rmtree(shop / "unused", ignore_errors=True)
    if unfinished:
        must(partial(stopped_calibration, RESUMED.work(shop, shop)), "an unfinished calibration")


def stopped_calibration(calibration: Work) -> None:
    """A calibration that ends after the second block, as if the machine had stopped."""
    from qvggt.calib.block_journal import BlockJournal

    save = BlockJournal.save

    def save_two(store: BlockJournal, *block: Any) -> None:
        save(store, *block)
        if store.finished() == 2:
            raise SystemExit(0)

    BlockJournal.save = save_two  # type: ignore[method-assign]
    calibration()


def wide_model(path: Path) -> None:
    """As wide and deep as the released parameters are for, with a track head for query points."""
    from small_models import TRACK
    from small_network import small_model

    from qvggt.models.loading import save_model

    save_model(small_model(heads=("camera", "point", "depth", "track"), track=TRACK), path)


def other_files(shop: Path) -> None:
    """The float weights as model.pt and without config inside, the ONNX file with external data."""
    import onnx
    import torch
    from safetensors.torch import load_file

    from qvggt.tensor_file import write_tensors

    state = load_file(shop / FLOAT)
    torch.save(state, shop / "float" / "model.pt")
    write_tensors(shop / "bare" / "model.safetensors", state, {"format": "pt"})
    shutil.copy(shop / "float" / "config.json", shop / "bare")
    model = onnx.load(shop / "onnx" / "m.onnx")
    target = shop / "external" / "m.onnx"
    onnx.save(model, target, save_as_external_data=True, location="m.onnx.data", size_threshold=256)


def rooms(shop: Path) -> None:
    """A 7-Scenes and a Neural RGBD scene of three frames: plain walls, exact layout."""
    from PIL import Image

    sequence, room = shop / "rooms" / "office" / "seq-01", shop / "nrgbd" / "room"
    for folder in (sequence, room / "images", room / "depth"):
        folder.mkdir(parents=True)
    (shop / "rooms" / "office" / "TestSplit.txt").write_text("sequence1\n")
    ramp = np.linspace(0, 255, 640 * 480, dtype=np.uint8).reshape(480, 640)
    colour = Image.fromarray(np.stack([ramp, ramp.T.reshape(480, 640), 255 - ramp], -1))
    depth = Image.fromarray(np.full((480, 640), 2000, np.uint16))
    lines = []
    for index in range(3):
        pose = np.eye(4)
        pose[:3, 3] = (0.1 * index, 0.02 * index, 0)
        rows = [" ".join(f"{value:.6f}" for value in row) for row in pose]
        stem = sequence / f"frame-{index:06d}"
        colour.save(f"{stem}.color.png")
        depth.save(f"{stem}.depth.proj.png")
        Path(f"{stem}.pose.txt").write_text("\n".join(rows) + "\n")
        colour.save(room / "images" / f"img{index}.png")
        depth.save(room / "depth" / f"depth{index}.png")
        lines += rows
    (room / "poses.txt").write_text("\n".join(lines) + "\n")


def data_sets(shop: Path) -> None:
    """DTU and ETH3D, a calibration file, and Co3D as it is downloaded."""
    import gzip

    import torch
    from mvs_data import small_views, write_dtu, write_eth3d

    views = small_views(2, 3, 24, 32)[1]
    write_dtu(shop / "dtu", 1, views)
    write_eth3d(shop / "eth3d", "hall", views.extrinsics)
    (shop / "filed").mkdir()
    entry = {"images": torch.rand(2, 3, 28, 28), "category": "pear"}
    torch.save([{**entry, "seq_name": "a"}, {**entry, "seq_name": "b"}], shop / "filed" / "calib_data.pt")
    (shop / "download" / "pear").mkdir(parents=True)
    viewpoint = {"R": np.eye(3).tolist(), "T": [0.0, 0, 1], "focal_length": [2.0, 2.0], "principal_point": [0.0, 0.0]}
    frames = [
        {"sequence_name": "s", "frame_number": n, "image": {"path": f"{n}.jpg", "size": [4, 4]}, "viewpoint": viewpoint}
        for n in range(3)
    ]
    (shop / "download" / "pear" / "frame_annotations.jgz").write_bytes(gzip.compress(json.dumps(frames).encode()))


def video(folder: Path) -> None:
    """Three frames of 64x64; nothing where PyAV is not installed."""
    try:
        import av
    except ImportError:
        return
    folder.mkdir()
    with av.open(str(folder / "v.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=2)
        stream.width = stream.height = 64
        for value in (0, 100, 200):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), value, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
