"""A half-precision model as an fp32 one that rounds every tensor: for a runtime without kernels of that type.

ONNX Runtime's CPU provider has no bf16 arithmetic. The copy computes each operator in fp32 and rounds its result to
the half type, which is what a kernel with fp32 accumulation does; weights are the file's own. It shows rounding and
overflow of the numbers in the file, not the order of sums inside a GPU kernel.

The PyTorch reference can round in the same way, which says how much noise the type brings by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper
from torch import Tensor, nn

from qvggt import onnxruntime_config
from qvggt.export.precision import Precision
from qvggt.files import sibling
from qvggt.models.block import Block, LayerScale
from qvggt.models.family import family_of
from qvggt.models.network import Network
from qvggt.onnx_view.cut import HALF, Cut
from qvggt.onnx_view.file import open_onnx
from qvggt.onnx_view.fp4 import without_fp4
from qvggt.onnx_view.graph import tensor_types
from qvggt.quant.linear import QuantLinear

# operators whose results are values of their inputs: nothing to round
EXACT = {"Abs", "Concat", "Expand", "Gather", "Identity", "Max", "Min", "Neg", "ReduceMax", "ReduceMin", "Relu"}
EXACT |= {"Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}


def rounded_copy(model: ModelProto, types: Collection[int] = HALF) -> ModelProto:
    """A copy in which tensors of `types` are fp32 and rounded after every operator that computes new values, and FP4
    is written out.

    Initializers keep their type and bytes (external data stays where it is) and are cast where they are used.
    Inputs and outputs of the graph must be of other types.
    """
    model = without_fp4(model)
    dtypes = tensor_types(model)
    result = ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    del result.graph.value_info[:]
    widened = {t.name: f"{t.name}/wide" for t in model.graph.initializer if t.data_type in types}
    nodes = [helper.make_node("Cast", [old], [new], name=new, to=TensorProto.FLOAT) for old, new in widened.items()]
    for original in model.graph.node:
        node = NodeProto()
        node.CopyFrom(original)
        for i, name in enumerate(node.input):
            node.input[i] = widened.get(name, name)
        nodes.append(node)
        halves = [(i, name) for i, name in enumerate(node.output) if dtypes.get(name) in types]
        if not halves or node.op_type in EXACT:
            continue
        for i, name in halves:
            if node.op_type == "Cast":  # its target is the half type already
                node.output[i] = f"{name}/half"
            else:
                node.output[i] = f"{name}/exact"
                nodes.append(
                    helper.make_node("Cast", [f"{name}/exact"], [f"{name}/half"], name=f"{name}/half", to=dtypes[name])
                )
            nodes.append(helper.make_node("Cast", [f"{name}/half"], [name], name=f"{name}/wide", to=TensorProto.FLOAT))
    result.graph.node.extend(nodes)
    return result


@contextmanager
def measurable(path: Path) -> Iterator[Path]:
    """A file ONNX Runtime can run on a CPU with the numbers of `path`: itself, or a rounded copy of a bf16 network.

    The copy lies beside the file, whose external data it shares, and is gone at the end of the block.
    """
    model = open_onnx(path).proto
    if TensorProto.BFLOAT16 not in tensor_types(model).values():
        yield path
        return
    copy = sibling(path, path.suffix)
    try:
        copy.write_bytes(rounded_copy(model, (TensorProto.BFLOAT16,)).SerializeToString())
        yield copy
    finally:
        copy.unlink(missing_ok=True)


@contextmanager
def rounding(model: Network, precision: Precision) -> Iterator[None]:
    """Inside the block the fp32 `model` rounds weights and results of its modules as an export in `precision` does.

    One module's rounded weights exist at a time. What happens between modules (softmax, GELU) is not rounded.
    """
    wide, handles = family_of(model).island(precision.value), []
    try:
        for path, module in model.named_modules():
            if wide.match(path):
                continue
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, LayerScale)):
                handles += _round_module(module, precision)
            elif isinstance(module, (QuantLinear, Block)):
                handles.append(module.register_forward_hook(round_output(precision)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def round_output(precision: Precision) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    """A hook that rounds what a module returns."""
    return lambda _module, _inputs, out: out.to(precision.torch).to(out.dtype)


def _round_module(module: nn.Module, precision: Precision) -> list[Any]:
    """Hooks that give a module rounded weights for the time of its call, and round its output."""
    kept: list[tuple[nn.Parameter, Tensor]] = []

    def before(_module: nn.Module, _inputs: Any) -> None:
        for parameter in module.parameters(recurse=False):
            kept.append((parameter, parameter.data))
            parameter.data = parameter.data.to(precision.torch).to(parameter.dtype)

    def after(_module: nn.Module, _inputs: Any, _output: Tensor) -> None:
        while kept:
            parameter, data = kept.pop()
            parameter.data = data

    hooks = [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    return [*hooks, module.register_forward_hook(round_output(precision))]


def run_cut(cut: Cut, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """One layer of an exported file run by ONNX Runtime: x [rows, K] -> y [rows, N]; of a convolution one map
    [C, H, W] -> [N, H', W']."""
    (result,) = run_model(rounded_copy(cut.model, (TensorProto.BFLOAT16,)), {cut.input: x[None]})
    return result[0]


def run_model(model: ModelProto, feed: Mapping[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """The outputs of a small model in ONNX Runtime on the CPU, in order."""
    import onnxruntime as ort

    session = ort.InferenceSession(model.SerializeToString(), session_options(), providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feed)))


def session_options() -> Any:
    """Options under which ONNX Runtime computes the numbers the file says, with as many threads as torch."""
    import onnxruntime as ort

    return onnxruntime_config.session_options(ort, torch.get_num_threads())
