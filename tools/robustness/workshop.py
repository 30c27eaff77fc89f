"""Small valid inputs of every kind the commands read, made once; cases work on copies."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robustness.sandbox import Work, command, run_forked

SIZE = 56  # pixels
BUILD_TIMEOUT = 900.0  # seconds
QUICK = ("--sequences", 2, "--frames", 2, "--epochs", 1)


@dataclass(frozen=True)
class Workshop:
    """`root` holds: float/ (model.safetensors, model.pt), bare/ (model.safetensors, config.json), scenes/, calibrated/,
    onnx/m.onnx, external/m.onnx with m.onnx.data, engine/ where one can be built, rooms/, nrgbd/, video/ with PyAV."""

    root: Path

    def __truediv__(self, name: str) -> Path:
        return self.root / name

    def copy(self, names: tuple[str, ...], target: Path) -> None:
        for name in names:
            shutil.copytree(self.root / name, target / name)


def make_workshop(root: Path, *, engine: bool = True) -> Workshop:
    """Make everything; AssertionError with the command's own words when a valid input is refused."""
    root.mkdir(parents=True)
    must(lambda: make_models(root), "models")
    must(lambda: make_scenes(root / "scenes"), "scenes")
    float_model = root / "float" / "model.safetensors"
    must(
        command("calibrate", [float_model, "--bits", "w4a4", "--recipe", "rtn", "-o", root / "calibrated"]), "calibrate"
    )
    (root / "onnx").mkdir()
    export = [root / "calibrated", "--no-check", "-o", root / "onnx" / "m.onnx"]
    must(command("export", export), "export")
    must(lambda: make_external(root), "external data")
    must(lambda: make_rooms(root), "rooms")
    must(lambda: make_video(root), "video")
    if engine:
        (root / "engine").mkdir()
        plain = [float_model, "--bits", "fp32", "--no-check", "-o", root / "engine" / "m.onnx"]
        must(command("export", plain), "a float ONNX file")
        made = run_forked(lambda: make_engine(root), timeout=BUILD_TIMEOUT)
        if made.code != 0:
            print(f"no engine, so nothing about engines is measured: {made.err.strip()[-300:]}", file=sys.stderr)
            shutil.rmtree(root / "engine", ignore_errors=True)
    return Workshop(root)


def must(work: Work, what: str) -> None:
    outcome = run_forked(work)
    if outcome.code != 0:
        raise AssertionError(f"cannot make {what}: {outcome}")


def small_config() -> object:
    from qvggt.models.vggt.config import VGGTConfig

    return VGGTConfig(
        img_size=SIZE, embed_dim=32, vit_depth=1, aa_depth=4, num_heads=2, layer_scale=1.0, camera_trunk_depth=1,
        camera_num_heads=2, camera_iters=2, dpt_features=8, dpt_out_channels=(8, 8, 8, 8), dpt_layers=(0, 1, 2, 3),
        dpt_head_channels=8, heads=("camera", "point", "depth"),
    )  # fmt: skip


def make_models(root: Path) -> None:
    import torch

    from qvggt.models.loading import save_model
    from qvggt.models.vggt.network import VGGT
    from qvggt.tensor_file import write_tensors

    config = small_config()
    torch.manual_seed(0)
    model = VGGT(config).requires_grad_(False).eval()  # type: ignore[arg-type]
    for name in ("float", "bare"):
        (root / name).mkdir()
    save_model(model, root / "float" / "model.safetensors")
    torch.save(model.state_dict(), root / "float" / "model.pt")
    described = {"qvggt_config": json.loads(model.config.to_json())}
    (root / "float" / "config.json").write_text(json.dumps(described))
    (root / "bare" / "config.json").write_text(json.dumps(described))
    write_tensors(root / "bare" / "model.safetensors", model.state_dict(), {"format": "pt"})


def make_scenes(folder: Path) -> None:
    from qvggt.data.co3d_writer import write_co3d
    from qvggt.data.synthetic.scene import SceneConfig

    config = SceneConfig(height=SIZE, width=SIZE, frames=3)
    write_co3d(folder, config, range(2), range(50, 52), progress=False)


def make_external(root: Path) -> None:
    import onnx

    (root / "external").mkdir()
    model = onnx.load(root / "onnx" / "m.onnx")
    target = root / "external" / "m.onnx"
    onnx.save(model, target, save_as_external_data=True, location="m.onnx.data", size_threshold=256)


def make_engine(root: Path) -> None:
    """From a float32 ONNX file; fails where TensorRT-RTX is not installed."""
    from qvggt.cli.build import app
    from qvggt.cli.common import run

    run(app, [str(root / "engine" / "m.onnx"), "-o", str(root / "engine" / "m.engine"), "--frames", "2"])


def make_rooms(root: Path) -> None:
    """A 7-Scenes and a Neural RGBD scene of three frames: plain walls, exact layout."""
    from PIL import Image

    sequence, room = root / "rooms" / "office" / "seq-01", root / "nrgbd" / "room"
    for folder in (sequence, room / "images", room / "depth"):
        folder.mkdir(parents=True)
    (root / "rooms" / "office" / "TestSplit.txt").write_text("sequence1\n")
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


def make_video(root: Path) -> None:
    """Three frames of 64x64; nothing where PyAV is not installed."""
    try:
        import av
    except ImportError:
        return
    (root / "video").mkdir()
    with av.open(str(root / "video" / "v.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=2)
        stream.width = stream.height = 64
        for value in (0, 100, 200):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), value, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
