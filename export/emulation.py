"""A half-precision model as an fp32 one that rounds every tensor: for a runtime without kernels of that type.

ONNX Runtime's CPU provider has no bf16 arithmetic. The copy computes each operator in fp32 and rounds its result to
the half type, which is what a kernel with fp32 accumulation does; weights are the file's own. It shows rounding and
overflow of the numbers in the file, not the order of sums inside a GPU kernel.

The PyTorch reference can round in the same way, which says how much noise the type brings by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper
from torch import Tensor, nn

from qvggt import onnxruntime_config
from qvggt.export.forms.weight_only import lift_of
from qvggt.export.precision import Precision
from qvggt.files import sibling
from qvggt.models.block import Block, LayerScale
from qvggt.models.family import family_of
from qvggt.models.network import Network
from qvggt.onnx_view.file import open_onnx
from qvggt.onnx_view.fp4 import has_fp4, without_fp4
from qvggt.onnx_view.graph import tensor_types
from qvggt.onnx_view.segment import HALF
from qvggt.quant.linear import QuantLinear

# operators whose results are values of their inputs: nothing to round
EXACT = {"Abs", "Concat", "Expand", "Gather", "Identity", "Max", "Min", "Neg", "ReduceMax", "ReduceMin", "Relu"}
EXACT |= {"Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}


def rounded_copy(model: ModelProto, types: Collection[int] = HALF) -> ModelProto:
    """A copy in which tensors of `types` are fp32 and rounded after every operator that computes new values.

    Initializers keep their type and bytes (external data stays where it is) and are cast where they are used.
    Inputs and outputs of the graph must be of other types.
    """
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


def widened(model: ModelProto, kind: int) -> ModelProto:
    """A copy in which tensors of a half type are fp32, and nothing is rounded to it: what the stored numbers say.

    Initializers keep their bytes and are cast where they are used.
    """
    result = ModelProto()
    result.CopyFrom(model)
    graph, wide = result.graph, TensorProto.FLOAT
    del graph.node[:]
    del graph.value_info[:]
    stored = {t.name: f"{t.name}/wide" for t in graph.initializer if t.data_type == kind}
    for old, new in stored.items():
        graph.node.append(helper.make_node("Cast", [old], [new], name=new, to=wide))
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == kind:
            value.type.tensor_type.elem_type = wide
    for node in model.graph.node:
        graph.node.append(node)
        mine = graph.node[-1]
        mine.input[:] = [stored.get(name, name) for name in node.input]
        for attribute in mine.attribute:
            if (node.op_type, attribute.name, attribute.i) == ("Cast", "to", kind):
                attribute.i = wide
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


@contextmanager
def stored(model: Network, precision: Precision) -> Iterator[None]:
    """Inside the block the fp32 `model` computes with the constants that an export in `precision` stores; nothing else
    is rounded. Not those that are only passed on: embeddings, and the position maps of dense heads.
    """
    wide, handles = family_of(model).island(precision.value), []
    try:
        for path, module in model.named_modules() if precision is not Precision.FP32 else ():
            if wide.match(path):
                continue
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
                handles += _hold_rounded(module, list(module.parameters(recurse=False)), precision)
            elif isinstance(module, QuantLinear):
                handles += _hold_stored(module, precision)
            elif isinstance(module, Block):
                handles.append(module.register_forward_pre_hook(partial(_stored_scale, precision)))
                for linear, scale in ((module.attn.proj, module.ls1), (module.mlp.fc2, module.ls2)):
                    if isinstance(scale, LayerScale) and not _returns_fp32(linear):
                        handles += _hold_rounded(scale, [scale.gamma], precision)
        yield
    finally:
        for handle in handles:
            handle.remove()


def _returns_fp32(linear: nn.Module) -> bool:
    """Whatever the float type of the network: scales after a product of codes, and what follows, are fp32."""
    return isinstance(linear, QuantLinear) and linear.format.activation is not None


def _hold_stored(module: QuantLinear, precision: Precision) -> list[Any]:
    """Of a quantized linear, what is not fp32 in a half-precision file."""
    handles, rotation = list[Any](), None if module.transform is None else module.transform.rotation
    if rotation is not None:
        handles += _hold_rounded(rotation, [rotation.left, rotation.right], precision)
    if module.transform is not None and module.transform.basis is not None and module.branch is not None:
        handles += _hold_rounded(module, [module.transform.basis, module.branch], precision)
    if not _returns_fp32(module):
        lift = lift_of(module.weight_scale.cpu().numpy(), precision)
        handles += _hold_rounded(module, [module.weight_scale], precision, lift)
        handles += _hold_rounded(module, [] if module.bias is None else [module.bias], precision)
    return handles


def _stored_scale(precision: Precision, block: Block, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Of a block without positions, whose queries and keys a file multiplies with the root of the attention scale: the
    rotation by nothing that makes up for the rounding of that root. Position tables stay fp32, after fp32 norms."""
    x, *rope = inputs
    if rope and rope[0] is not None:
        return None
    width, root = block.attn.head_dim, torch.tensor(block.attn.head_dim**-0.25)
    error = float(root.to(precision.torch)) / float(root)
    return x, (x.new_full((1, width), error), x.new_zeros(1, width))


def _round_module(module: nn.Module, precision: Precision) -> list[Any]:
    """Hooks that give a module rounded weights for the time of its call, and round its output."""
    hooks = _hold_rounded(module, list(module.parameters(recurse=False)), precision)
    return [*hooks, module.register_forward_hook(round_output(precision))]


def _hold_rounded(module: nn.Module, held: Sequence[Tensor], precision: Precision, lift: float = 1.0) -> list[Any]:
    """Hooks that round these tensors for the time of the module's call. lift: a power of two they are stored times."""
    kept: list[tuple[Tensor, Tensor]] = []

    def before(_module: nn.Module, _inputs: Any) -> None:
        for tensor in held:
            kept.append((tensor, tensor.data))
            tensor.data = (tensor.data * lift).to(precision.torch).to(tensor.dtype) / lift

    def after(_module: nn.Module, _inputs: Any, _output: Tensor) -> None:
        while kept:
            tensor, data = kept.pop()
            tensor.data = data

    return [module.register_forward_pre_hook(before), module.register_forward_hook(after)]


Run = Callable[[Mapping[str, NDArray[np.float32]]], NDArray[np.float32]]


def open_segment(model: ModelProto, wide: int | None = None) -> Run:
    """A piece of an exported file with fp32 ends (`segment_model`), to be run in ONNX Runtime on the CPU.

    Node by node, without optimizers: what they fuse forgets parts of what a file says, such as the axis of a scale.
    wide: a half type that is not rounded to, so that the result is what the stored numbers say.
    """
    import onnxruntime as ort

    if wide is not None:
        model = widened(model, wide)
    bf16 = TensorProto.BFLOAT16
    casts = (a.i for node in model.graph.node if node.op_type == "Cast" for a in node.attribute if a.name == "to")
    if wide != bf16 and (bf16 in casts or any(tensor.data_type == bf16 for tensor in model.graph.initializer)):
        model = rounded_copy(model, (bf16,))
    options = session_options()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_cpu_mem_arena = False  # many stay open, and an arena keeps the memory of the largest call
    session = _session(model, options)
    return lambda feed: session.run(None, dict(feed))[0]


def run_model(model: ModelProto, feed: Mapping[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """The outputs of a small model in ONNX Runtime on the CPU, in order."""
    return list(_session(model, session_options()).run(None, dict(feed)))


def _session(model: ModelProto, options: Any) -> Any:
    """Of ONNX Runtime on the CPU, which has no FP4."""
    import onnxruntime as ort

    model = without_fp4(model) if has_fp4(model) else model
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def session_options() -> Any:
    """Options under which ONNX Runtime computes the numbers the file says, with as many threads as torch."""
    import onnxruntime as ort

    return onnxruntime_config.session_options(ort, torch.get_num_threads())
