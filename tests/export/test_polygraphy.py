"""The Polygraphy commands of the documentation, as they stand there, on files of both targets."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import onnx
import pytest
from onnx import ModelProto, TensorProto
from small_network import small_images, small_rounded

from qvggt.export.exporter import ExportConfig, export_onnx
from qvggt.export.lint import lint_model
from qvggt.quant.scheme import parse_scheme
from qvggt.target import Target

DOCS = Path(__file__).resolve().parents[2] / "docs"
SIZE = 70  # what the commands say
LOW_BIT = (TensorProto.INT8, TensorProto.INT4)


def documented() -> list[str]:
    """Every polygraphy command in the fenced blocks of docs/tensorrt*.md, in order."""
    found = []
    for page in sorted(DOCS.glob("tensorrt*.md")):
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            found += [line for line in block.splitlines() if re.match(r"(\w+=\S+ )?polygraphy ", line)]
    return found


def run(command: str, folder: Path, *extra: str) -> str:
    """Run one command line in a folder; its output, once it has succeeded."""
    words = shlex.split(command, comments=True)
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        environment[name] = value
    program = shutil.which("polygraphy", path=str(Path(sys.executable).parent)) or shutil.which("polygraphy")
    assert program is not None
    assert words[0] == "polygraphy"
    line = [program, *words[1:], *extra]
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


FILES = [
    ("w4a4", "dynamic", Target.TENSORRT, ("pose", "depth", "points")),
    ("w8a8", "static", Target.CPU, ("pose",)),
]


@pytest.fixture(scope="module", params=FILES, ids=["w4a4-tensorrt", "w8a8-cpu"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.onnx."""
    bits, act, target, outputs = request.param
    path = tmp_path_factory.mktemp(f"{bits}-{target.value}")
    scheme = parse_scheme(bits, act)
    model = small_rounded(scheme, [small_images(2, seed=1, size=SIZE)], seed=3)
    export_onnx(model, scheme, ExportConfig(SIZE, SIZE, outputs, target=target), path / "model.onnx")
    return path


def kept(model: ModelProto) -> tuple[Counter[str], dict[str, bytes]]:
    """What must survive: Q/DQ nodes and low-bit products, and the bytes of low-bit initializers by name."""
    operators = Counter(n.op_type for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear"))
    stored = {t.name: t.raw_data for t in model.graph.initializer if t.data_type in LOW_BIT}
    return operators, stored


def test_the_commands(folder: Path) -> None:
    commands = [command for command in documented() if "--trt " not in command]
    assert len(commands) == 5
    for command in commands:
        if "capability" in command:
            pytest.importorskip("tensorrt_rtx", reason="pip install '.[rtx]' in the clone")
            assert "Graph is fully supported by TensorRT" in run(command, folder)
        elif "surgeon" in command:
            pytest.importorskip("onnx_graphsurgeon", reason="pip install onnx-graphsurgeon")
            run(command, folder)
        else:
            printed = run(command, folder)
            assert "pose_enc" in printed
    before, after = (kept(onnx.load(folder / name)) for name in ("model.onnx", "folded.onnx"))
    assert before == after
    assert before[0]["QuantizeLinear"] >= 36
    assert len(before[1]) >= 36
    target = Target.CPU if "cpu" in folder.name else Target.TENSORRT
    assert lint_model(folder / "folded.onnx", target) == []


def test_the_gpu_command_is_well_formed(folder: Path) -> None:
    """Nothing runs it here; Polygraphy writes the script that it would run."""
    (command,) = [command for command in documented() if "--trt " in command]
    run(command, folder, "--gen-script", "script.py")
    script = (folder / "script.py").read_text()
    assert "strongly_typed=True" in script
    assert "'world_points_conf': 0.01" in script
    compile(script, "script.py", "exec")
