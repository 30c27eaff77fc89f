"""Peers found, run, and what became of their files: in our interpreter."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from peers.adapter import Peer, Request, Variant
from qvggt.errors import QvggtError

PEERS = {  # name -> module in this folder
    "onnxruntime": "onnx_runtime",
    "modelopt": "modelopt",
    "nncf": "nncf",
    "quark": "quark",
    "torchao": "torchao",
    "neural-compressor": "neural_compressor",
}
TOOLS = Path(__file__).resolve().parent.parent
WORKER = "peers.worker"
INTEGER = frozenset(
    {"MatMulInteger", "QLinearMatMul", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulNBits"}
    | {"QGemm", "QLinearConv", "ConvInteger", "QAttention"}
)
LINEAR = re.compile(r"\.(attn\.(qkv|proj)|mlp\.fc[12])/MatMul(_\d+)?$")
LIMIT = 3600  # seconds that a tool may take


def find_peer(name: str) -> Peer:
    if name not in PEERS:
        raise QvggtError(f"peer {name!r}: expected one of {', '.join(PEERS)}")
    peer = import_module(f"peers.{PEERS[name]}").PEER
    assert isinstance(peer, Peer)
    return peer


def interpreter(peer: Peer, environments: Mapping[str, Path]) -> Path | None:
    """The Python that has the peer: of its own environment, else ours; None where neither has it."""
    folder = environments.get(peer.name)
    python = Path(sys.executable) if folder is None else folder / "bin" / "python"
    if not python.is_file():
        raise QvggtError(f"--venv {peer.name}={folder}: expected a virtual environment, found no {python}")
    asks = f"import sys, importlib.util as u; sys.exit(u.find_spec({peer.module!r}) is None)"
    found = subprocess.run([str(python), "-c", asks], capture_output=True, check=False)
    return python if found.returncode == 0 else None


def quantized(python: Path, peer: Peer, variant: Variant, request: Request) -> dict[str, Any]:
    """Seconds, versions and the error, if any, of the tool in its interpreter."""
    with tempfile.TemporaryDirectory(prefix="qvggt-peer-") as folder:
        order = Path(folder) / "request.json"
        order.write_text(json.dumps(asdict(request)), encoding="utf-8")
        call = [str(python), "-m", WORKER, PEERS[peer.name], variant.name, str(order)]
        try:
            done = subprocess.run(
                call, capture_output=True, text=True, cwd=folder, timeout=LIMIT, check=False,
                env=os.environ | {"PYTHONPATH": str(TOOLS)},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return {"error": f"took more than {LIMIT} s"}
    lines = done.stdout.strip().splitlines()
    try:
        said = json.loads(lines[-1]) if done.returncode == 0 and lines else None
    except ValueError:
        said = None
    if not isinstance(said, dict):
        words = (done.stderr.strip().splitlines() or ["no word"])[-1]
        said = {"error": f"its process ended with {done.returncode}: {words[:200]}"}
    if said.get("error") is None and not Path(request.output).is_file():
        said["error"] = "wrote no file"
    return said


def products(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the MatMuls that are a block's linears in a float file of ours, outside the camera head; and of every
    other MatMul, Gemm and convolution."""
    nodes = onnx.load(path, load_external_data=False).graph.node
    heavy = [node.name for node in nodes if node.op_type in ("MatMul", "Gemm", "Conv", "ConvTranspose")]
    ours = [name for name in heavy if LINEAR.search(name) and not name.startswith("camera_head")]
    return tuple(ours), tuple(name for name in heavy if name not in ours)


def file_bytes(path: Path) -> int:
    """With the weights beside it."""
    beside = (path.with_suffix(".bin"), path.with_name(path.name + ".data"), path.with_name(path.name + "_data"))
    return sum(part.stat().st_size for part in (path, *beside) if part.is_file())


class File:
    """An ONNX or OpenVINO file opened on the CPU, as a function of its only input."""

    def __init__(self, path: Path, runtime: str, threads: int = 1) -> None:
        """QvggtError with the runtime's words where it refuses the file."""
        self.runtime = runtime
        try:
            self._open(path, threads)
        except Exception as error:  # of either runtime, which have no common base
            raise QvggtError(f"{runtime} refuses it: {first_line(error)}") from error

    def _open(self, path: Path, threads: int) -> None:
        if self.runtime == "openvino":
            from qvggt.engines.openvino_runner import compile_cpu, import_openvino

            self.compiled: Any = compile_cpu(import_openvino(), path, "f32", threads)
            self.request = self.compiled.create_infer_request()
            return
        from qvggt.engines.onnx_runner import import_onnxruntime
        from qvggt.onnxruntime_config import session_options

        ort = import_onnxruntime()
        options = session_options(ort, threads)
        self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.outputs = [output.name for output in self.session.get_outputs()]

    def __call__(self, feeds: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        if self.runtime == "openvino":
            values = self.request.infer(feeds)
            return {name: np.array(value) for port, value in values.items() for name in port.names}
        return dict(zip(self.outputs, self.session.run(None, feeds), strict=True))


def first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]


def integer_kernels(path: Path, runtime: str) -> dict[str, int] | str:
    """Kind of kernel -> how many products with weights or of attention run in low-bit integers; or why none is told."""
    try:
        return _openvino_kernels(path) if runtime == "openvino" else _onnxruntime_kernels(path)
    except Exception as error:  # as above
        return f"refused: {first_line(error)}"


def _onnxruntime_kernels(path: Path) -> dict[str, int]:
    from qvggt.engines.onnx_runner import import_onnxruntime
    from qvggt.onnxruntime_config import session_options

    if path.suffix != ".onnx":
        return {}
    ort = import_onnxruntime()
    with tempfile.TemporaryDirectory(prefix="qvggt-peer-") as folder:
        options = session_options(ort, 1)
        options.optimized_model_filepath = f"{folder}/optimized.onnx"
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(options.optimized_model_filepath, load_external_data=False).graph.node
    return dict(Counter(node.op_type for node in nodes if node.op_type in INTEGER))


def _openvino_kernels(path: Path) -> dict[str, int]:
    """Of the compiled model's own graph: products whose kernel computes in i8 or u8."""
    opened = File(path, "openvino")
    found: Counter[str] = Counter()
    for node in opened.compiled.get_runtime_model().get_ops():
        facts = node.get_rt_info()
        kind, precision = (str(facts[key].value) for key in ("layerType", "runtimePrecision"))
        if precision in ("i8", "u8") and kind.startswith(("FullyConnected", "MatMul", "Convolution", "Subgraph")):
            found["attention" if kind == "Subgraph" else kind] += 1
    return dict(found)
