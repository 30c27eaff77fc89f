"""One linear of an exported file as a model of its own, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
from qvggt.export.emulation import HALF, rounded_copy, tensor_types
from qvggt.onnxruntime_config import session_config

Dims = Sequence[int | str | None]


@dataclass(frozen=True)
class LinearModel:
    """A linear [1, rows, K] -> [1, rows, N] cut out of a file; rank 3 as in the network, so the same kernels run.

    Both ends are fp32; `kind` is the element type of the input in the network, to which it is cast first.
    """

    model: onnx.ModelProto
    input: str
    kind: int

    def run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """x [rows, K] -> y [rows, N]; of a convolution one map [C, H, W] -> [N, H', W']."""
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
    for key, value in session_config(ort).items():
        options.add_session_config_entry(key, value)
    return options


@lru_cache(maxsize=1)
def _skeleton(path: Path, stamp: int) -> tuple[onnx.ModelProto, dict[str, TensorProto], dict[str, int]]:
    model = onnx.load(path, load_external_data=False)
    return model, {t.name: t for t in model.graph.initializer}, tensor_types(model)


def extract_linear(onnx_path: Path, path: str, dims: Dims = (1, "rows", None)) -> LinearModel:
    """The nodes of the quantized linear at a module path, with their initializers; QvggtError if the file has none.

    A linear that is used several times (the unrolled camera iterations) is taken at its first use. A convolution is
    found likewise; `dims` are then those of its maps.
    """
    model, initializers, kinds = _skeleton(onnx_path, onnx_path.stat().st_mtime_ns)
    product = _product(model.graph.node, f"{path}.weight_codes")
    if product is None:
        raise QvggtError(f"{onnx_path}: no nodes of {path}: expected the linear the scheme names; export again")
    prefixes = (product.name.rpartition("/")[0] + "/", f"{path}.weight/")
    nodes = [n for n in model.graph.node if n.name.startswith(prefixes)]
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
    start, end, kind = inputs[0], outputs[0], kinds[inputs[0]]
    if kind in HALF:
        start = f"{inputs[0]}/fp32"
        nodes.insert(0, helper.make_node("Cast", [start], [inputs[0]], name=inputs[0], to=kind))
    if kinds[outputs[0]] in HALF:
        end = f"{outputs[0]}/fp32"
        nodes.append(helper.make_node("Cast", [outputs[0]], [end], name=end, to=TensorProto.FLOAT))
    graph = helper.make_graph(
        nodes,
        path,
        [helper.make_tensor_value_info(start, TensorProto.FLOAT, list(dims))],
        [helper.make_tensor_value_info(end, TensorProto.FLOAT, list(dims))],
        weights,
    )
    cut = helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    return LinearModel(rounded_copy(cut, (TensorProto.BFLOAT16,)), start, kind)


def _product(nodes: Iterable[onnx.NodeProto], codes: str) -> onnx.NodeProto | None:
    """The first MatMul or Conv that reads a weight, however many constant nodes lie between (topological order)."""
    carried = {codes}
    for node in nodes:
        if carried & set(node.input):
            if node.op_type in ("MatMul", "Conv"):
                return node
            carried.update(node.output)
    return None
