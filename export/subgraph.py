"""One linear of an exported file as a model of its own, run by ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from qvggt.errors import QvggtError
from qvggt.onnxruntime_config import SESSION_CONFIG


@dataclass(frozen=True)
class LinearModel:
    """A linear [1, rows, K] -> [1, rows, N] cut out of a file; rank 3 as in the network, so the same kernels run."""

    model: onnx.ModelProto
    input: str

    def run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """x [rows, K] -> y [rows, N]."""
        import onnxruntime as ort

        session = ort.InferenceSession(
            self.model.SerializeToString(), session_options(), providers=["CPUExecutionProvider"]
        )
        result: NDArray[np.float32] = session.run(None, {self.input: x[None]})[0][0]
        return result


def session_options() -> Any:
    """Options under which ONNX Runtime computes the numbers the file says."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    for key, value in SESSION_CONFIG.items():
        options.add_session_config_entry(key, value)
    return options


@lru_cache(maxsize=1)
def _skeleton(path: Path, stamp: int) -> tuple[onnx.ModelProto, dict[str, TensorProto]]:
    model = onnx.load(path, load_external_data=False)
    return model, {t.name: t for t in model.graph.initializer}


def extract_linear(onnx_path: Path, path: str) -> LinearModel:
    """The nodes of the quantized linear at a module path, with their initializers; QvggtError if the file has none.

    A linear that is used several times (the unrolled camera iterations) is taken at its first use.
    """
    model, initializers = _skeleton(onnx_path, onnx_path.stat().st_mtime_ns)
    users = [n for n in model.graph.node if f"{path}.weight_codes" in n.input]
    if not users:
        raise QvggtError(f"{onnx_path}: no nodes of {path}: expected the linear the scheme names; export again")
    prefix = users[0].name.rpartition("/")[0] + "/"
    nodes = [n for n in model.graph.node if n.name.startswith(prefix)]
    produced = {o for n in nodes for o in n.output}
    needed = [i for n in nodes for i in n.input if i and i not in produced]
    inputs = sorted({i for i in needed if i not in initializers})
    consumed = {i for n in nodes for i in n.input}
    outputs = [o for n in nodes for o in n.output if o not in consumed]
    if len(inputs) != 1 or len(outputs) != 1:
        raise QvggtError(f"{onnx_path}: {path} has inputs {inputs} and outputs {outputs}, expected one of each")
    weights = []
    for name in sorted({i for i in needed if i in initializers}):
        tensor = TensorProto()
        tensor.CopyFrom(initializers[name])
        if uses_external_data(tensor):
            load_external_data_for_tensor(tensor, str(onnx_path.parent))
        weights.append(tensor)
    graph = helper.make_graph(
        nodes,
        path,
        [helper.make_tensor_value_info(inputs[0], TensorProto.FLOAT, [1, "rows", None])],
        [helper.make_tensor_value_info(outputs[0], TensorProto.FLOAT, [1, "rows", None])],
        weights,
    )
    cut = helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    return LinearModel(cut, inputs[0])
