"""A model repository for NVIDIA Triton: one folder a file, with the configuration its backend needs.

    DIR/README.md
    DIR/<model>/config.pbtxt
    DIR/<model>/1/model.onnx     and its external data, under the names the file calls them by
    DIR/<model>/1/model.plan     and its manifest

The layout and the fields are those of Triton's documentation; no server was run by this project.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qvggt.engines.manifest import check_engine, manifest_path
from qvggt.engines.network_file import INPUT, NetworkFile, read_network
from qvggt.errors import QvggtError
from qvggt.files import atomic_directory
from qvggt.onnxruntime_config import SESSION_CONFIG, WIDE_8_BIT
from qvggt.predictions import TRAILING

README = "README.md"
MARKER = ".qvggt-triton"  # a folder without it is not ours to replace
CONFIG = "config.pbtxt"
VERSION = "1"
ANY = -1  # a dimension that every request may set


@dataclass(frozen=True)
class Served:
    """A file under a name of the server. network: of the .onnx file that it is or was built from; engine: None to serve
    the .onnx file itself. gpu: whether the server runs it on one."""

    name: str
    network: NetworkFile
    engine: Path | None = None
    gpu: bool = False

    @property
    def backend(self) -> str:
        return "onnxruntime" if self.engine is None else "tensorrt"

    @property
    def file(self) -> str:
        """Name of the file of the network in the version's folder."""
        return "model.onnx" if self.engine is None else "model.plan"

    def config(self) -> str:
        """The text of config.pbtxt (protobuf text format of inference.ModelConfig)."""
        height, width = self.network.size or (ANY, ANY)
        side = {"H": height, "W": width}
        frames = self.network.frames or ANY
        low, _, high = self.network.frame_profile
        outputs = [
            _tensor(name, [1, frames, *(side.get(str(d), d) for d in TRAILING[name])]) for name in self.network.outputs
        ]
        lines = [
            f"# images: RGB in [0, 1]; {low} to {high} frames of a scene in a request",
            f'name: "{self.name}"',
            f'backend: "{self.backend}"',
            f'default_model_filename: "{self.file}"',
            "max_batch_size: 0  # a request is one scene: its frames see each other, so scenes cannot be batched",
            f"input [\n{_tensor(INPUT, [1, frames, 3, height, width])}\n]",
            "output [\n" + ",\n".join(outputs) + "\n]",
            f"instance_group [ {{ kind: {'KIND_GPU' if self.gpu else 'KIND_CPU'} count: 1 }} ]",
        ]
        return "\n".join(lines) + "\n"


def served_name(stem: str) -> str:
    """What a file's model is called: letters, digits and underscores of its name."""
    return re.sub(r"\W+", "_", stem, flags=re.ASCII)


def serve_onnx(path: Path, gpu: bool) -> Served:
    """An exported file in the ONNX Runtime backend; QvggtError as `read_network`, and for a network in two files."""
    return Served(f"{served_name(path.stem)}_onnxruntime", _whole_network(path), gpu=gpu)


def serve_engine(engine: Path, onnx: Path) -> Served:
    """An engine in the TensorRT backend, built from `onnx`. QvggtError for one that does not belong to its manifest, or
    that TensorRT-RTX built: the server's backend is TensorRT's."""
    manifest = check_engine(engine)
    if manifest.backend == "rtx":
        raise QvggtError(
            f"{engine}: is an engine of TensorRT-RTX, which Triton has no backend for; build it with "
            "--backend tensorrt or trtexec, of the server's version"
        )
    return Served(f"{served_name(engine.stem)}_tensorrt", _whole_network(onnx), engine, gpu=True)


def _whole_network(path: Path) -> NetworkFile:
    network = read_network(path)
    if network.levels:
        raise QvggtError(f"{path}: is the trunk of a network in two files; Triton serves one: export it in one file")
    return network


def write_repository(folder: Path, models: Sequence[Served], notes: Sequence[str] = ()) -> None:
    """Write `folder` at once, in place of a repository that was written there before; files are copied.

    notes: sentences for its README. QvggtError for two models of one name, external data that cannot lie beside the
    model, and a folder that holds anything else.
    """
    names = [model.name for model in models]
    if twice := {name for name in names if names.count(name) > 1}:
        raise QvggtError(f"{folder}: two files would be served as {min(twice)!r}; rename one")
    with atomic_directory(folder, replace=True, marker=MARKER) as temporary:
        for model in models:
            version = temporary / model.name / VERSION
            version.mkdir(parents=True)
            for source, name in _copies(model):
                if (version / name).exists():
                    raise QvggtError(f"{source}: its data file has the name {name}, which Triton needs; export again")
                (version / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, version / name)
            (version.parent / CONFIG).write_text(model.config(), encoding="utf-8")
        (temporary / MARKER).touch()
        (temporary / README).write_text(_readme(models, notes), encoding="utf-8")


def _copies(model: Served) -> list[tuple[Path, str]]:
    """(file, its name in the version's folder). A model keeps the names it calls its external data by."""
    if model.engine is not None:
        return [(model.engine, model.file), (manifest_path(model.engine), manifest_path(Path(model.file)).name)]
    root = model.network.path.parent
    data = [Path(file.path) for file in model.network.files[1:]]
    # the files are real paths, the model may be named by a relative one
    return [
        (model.network.path, model.file),
        *((path.absolute(), path.absolute().relative_to(root.resolve()).as_posix()) for path in data),
    ]


def _tensor(name: str, dims: Sequence[int | str]) -> str:
    return f'  {{ name: "{name}" data_type: TYPE_FP32 dims: [ {", ".join(map(str, dims))} ] }}'


def _readme(models: Sequence[Served], notes: Sequence[str]) -> str:
    first = models[0]
    height, width = first.network.size or ("H", "W")
    low, opt, high = first.network.frame_profile
    rows = "\n".join(f"| `{m.name}` | {m.backend} | {'GPU' if m.gpu else 'CPU'} | `{m.file}` |" for m in models)
    extra = "".join(f"\n{note}\n" for note in notes)
    return f"""# Models for Triton

Written by `qvggt deploy --triton`, which replaces this folder as a whole when it is called again. Start a server that
has the backends below:

```bash
tritonserver --model-repository=$PWD
```

| model | backend | runs on | file |
|---|---|---|---|
{rows}

A request is one scene: `images` float32 [1, S, 3, {height}, {width}], RGB in [0, 1], {low} to {high} frames; outputs
keep [1, S] in front. Frames of a request see each other, so scenes cannot be batched (`max_batch_size: 0`).
{extra}
```python
import numpy as np
import tritonclient.http as triton

images = np.zeros((1, {opt}, 3, {height}, {width}), np.float32)  # your frames
client = triton.InferenceServerClient("localhost:8000")
asked = triton.InferInput("images", list(images.shape), "FP32")
asked.set_data_from_numpy(images)
answer = client.infer("{first.name}", [asked])
cameras = answer.as_numpy("{first.network.outputs[0]}")
```

qvggt itself opens ONNX Runtime with `{next(iter(SESSION_CONFIG))}=1` and, on x86 CPUs
without VNNI instructions, with `{WIDE_8_BIT}=1`. Triton's ONNX Runtime backend was not seen to have a field for
either, so 8-bit products may saturate on such a CPU: compare one answer with `qvggt eval` on the server first. An
engine runs in the TensorRT version and on the kind of GPU it was built for; the manifest beside it says which.
"""
