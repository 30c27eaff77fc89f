"""`QuantLinear` against ONNX Runtime on the nodes of DESIGN 3.5, written by hand: the exporter has no part in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from qvggt.formats.table import find_format
from qvggt.formats.tensor_format import EPS
from qvggt.onnxruntime_config import session_config
from qvggt.quant.linear import QuantLinear

IN, OUT = 96, 40
CLIP, AMAX = 0.83, 2.6
TIE_WIDTH = 1e-4  # steps
FORMS = [("w8a8", "dynamic"), ("w8a8", "static"), ("w6a6", "dynamic"), ("w6a6", "static"), ("w4a8", "dynamic")]
FORMS += [("w4a4", "dynamic"), ("w4a4", "static")]


@dataclass
class HandMade:
    """The nodes of one linear, opset 21, one initializer per constant."""

    nodes: list[NodeProto]
    constants: list[TensorProto]

    def constant(self, name: str, value: object, dtype: type = np.float32) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def node(self, op: str, inputs: list[str], output: str, **attributes: int) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))  # type: ignore[arg-type]
        return output

    def run(self, x: Tensor, output: str, kind: int = TensorProto.FLOAT) -> NDArray[np.generic]:
        """Tokens x [tokens, IN] -> the named tensor, computed by the nodes up to the one that makes it."""
        last = next(i for i, node in enumerate(self.nodes) if output in node.output)
        graph = helper.make_graph(
            self.nodes[: last + 1],
            "linear",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "tokens", IN])],
            [helper.make_tensor_value_info(output, kind, [1, "tokens", None])],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        for key, value in session_config(ort).items():
            options.add_session_config_entry(key, value)
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        result: NDArray[np.generic] = session.run(None, {"x": x[None].numpy()})[0][0]
        return result


def hand_made(linear: nn.Linear, bits: str, activation: str) -> HandMade:
    """DESIGN 3.5 with numbers of its own: only the weight codes' definition (round(W / scale)) is repeated."""
    weight_bits, act_bits = (int(n) for n in bits[1:].split("a"))
    q, q_weight = 2 ** (act_bits - 1) - 1, 2 ** (weight_bits - 1) - 1
    g = HandMade([], [])
    x = "x"
    if activation == "dynamic":
        g.node("Abs", ["x"], "magnitude")
        g.node("ReduceMax", ["magnitude", g.constant("axis", [-1], np.int64)], "largest", keepdims=1)
        g.node("Mul", ["largest", g.constant("clip", CLIP)], "clipped")
        g.node("Max", ["clipped", g.constant("eps", 1e-6)], "a")
        x = g.node("Div", ["x", "a"], "x_n")
    s = np.float32(AMAX if activation == "static" else 1) / np.float32(q)
    if act_bits < 8:
        low, high = g.constant("low", np.float32(-(q + 1)) * s), g.constant("high", np.float32(q) * s)
        x = g.node("Clip", [x, low, high], "x_c")
    g.constant("step", s)
    g.constant("zero", 0, np.int8)
    g.node("QuantizeLinear", [x, "step", "zero"], "codes")
    g.node("DequantizeLinear", ["codes", "step", "zero"], "x_q")
    weight = linear.weight.detach().numpy()
    scale = np.abs(weight).max(1) / np.float32(q_weight)
    g.constant("weight", np.rint(weight / scale[:, None]).T, np.int8)
    g.constant("weight_scale", scale)
    g.node("DequantizeLinear", ["weight", "weight_scale"], "w_dq", axis=1)
    y = g.node("MatMul", ["x_q", "w_dq"], "product")
    if activation == "dynamic":
        y = g.node("Mul", [y, "a"], "scaled")
    g.constant("bias", linear.bias.detach().numpy())
    g.node("Add", [y, "bias"], "y")
    return g


def made(bits: str, activation: str) -> tuple[QuantLinear, HandMade]:
    torch.manual_seed(0)
    linear = nn.Linear(IN, OUT)
    format = find_format(bits, activation)  # type: ignore[arg-type]
    module = QuantLinear.from_float(linear, format, AMAX)
    if activation == "dynamic":
        module.act_clip = torch.tensor([CLIP, CLIP])
    return module, hand_made(linear, bits, activation)


def spacing(module: QuantLinear) -> float | Tensor:
    activation = module.format.activation
    assert activation is not None
    return activation.grid.unit_scale if activation.dynamic else activation.grid.scale(module.act_amax)


def adversarial(module: QuantLinear) -> Tensor:
    """[tokens, IN] on and one ulp beside every rounding boundary and both clips, dynamic ones of several ranges."""
    q = int(module.format.activation.grid.highest)  # type: ignore[union-attr]
    boundaries = torch.arange(-q - 2.5, q + 3).repeat_interleave(3)
    rows = []
    for amax in torch.logspace(-7, 3, 25) if module.format.mode == "dynamic" else [torch.tensor(AMAX)]:
        values = boundaries * (amax / q)
        values[1::3] = values[1::3].nextafter(torch.tensor(torch.inf))
        values[2::3] = values[2::3].nextafter(torch.tensor(-torch.inf))
        values = torch.cat([values, torch.zeros(-len(values) % (IN - 1))]).view(-1, IN - 1)
        largest = torch.full((len(values), 1), float(amax) / CLIP)
        rows.append(torch.cat([torch.maximum(largest, values.abs().amax(1, keepdim=True)), values], 1))
    return torch.cat(rows)


@pytest.mark.parametrize(("bits", "activation"), FORMS)
def test_same_output(bits: str, activation: str) -> None:
    """Within 1e-6 on every token, those on a tie counted apart: with equal operations none may differ at all."""
    module, graph = made(bits, activation)
    x = torch.randn(2000, IN, generator=torch.Generator().manual_seed(1))
    x[7], x[8, 3] = 0, 300
    with torch.no_grad():
        expected = module(x).numpy()
    errors = np.abs(graph.run(x, "y") - expected).max(1) / np.abs(expected).max(1)
    _, a = module.quantized_input(x)
    scaled = (x if a is None else x / a).double() / spacing(module)
    ties = ((scaled - scaled.floor() - 0.5).abs() < TIE_WIDTH).any(1).numpy()
    assert 0.001 < ties.mean() < 0.05
    assert errors[~ties].max() < 1e-6
    assert (errors[ties] > 1e-6).sum() == 0


@pytest.mark.parametrize(("bits", "activation"), FORMS)
def test_same_codes_on_every_tie(bits: str, activation: str) -> None:
    module, graph = made(bits, activation)
    x = adversarial(module)
    codes = module.quantized_input(x)[0] / spacing(module)
    assert torch.allclose(codes, codes.round(), atol=1e-4)
    got = torch.from_numpy(graph.run(x, "codes", TensorProto.INT8))
    assert torch.equal(got.float(), codes.round())
    q = int(module.format.activation.grid.highest)  # type: ignore[union-attr]
    assert got.unique().tolist() == list(range(-q - 1, q + 1))


def test_the_floor_of_a_range_is_in_the_graph() -> None:
    module, graph = made("w8a8", "dynamic")
    x = torch.full((3, IN), 1e-8) * torch.tensor([[1.0], [-1.0], [0.0]])
    assert torch.equal(module.quantized_input(x)[1], torch.full((3, 1), EPS))  # type: ignore[arg-type]
    assert np.abs(graph.run(x, "y") - module(x).detach().numpy()).max() < 1e-6
