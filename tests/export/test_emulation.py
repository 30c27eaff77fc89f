"""Copies that round: the same numbers as arithmetic in the half type, whatever kernels the runtime has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto
from small_network import small_images, small_model

from qvggt.export.emulation import measurable, rounded_copy, rounding
from qvggt.export.exporter import ExportConfig, export_onnx
from qvggt.export.graph import GraphBuilder
from qvggt.export.precision import Precision
from qvggt.onnx_view.graph import tensor_types
from qvggt.quant.scheme import parse_scheme


def network(precision: Precision) -> onnx.ModelProto:
    builder = GraphBuilder(precision=precision)
    x = builder.cast(builder.input("x", ["n", 8]), precision, "in")
    w = builder.real("w", np.random.default_rng(0).standard_normal((8, 8), np.float32))
    y = builder.op("MatMul", [x, w], "a")
    y = builder.op("Mul", [builder.op("Transpose", [y], "a", perm=[0, 1]), y], "a")
    builder.output(y, "y", ["n", 8])
    return builder.model("m", {}, "0")


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16])
def test_a_copy_rounds_like_torch_does(precision: Precision) -> None:
    x = np.random.default_rng(1).standard_normal((5, 8), np.float32)
    copy = rounded_copy(network(precision))
    onnx.checker.check_model(copy, full_check=True)
    weight = torch.from_numpy(onnx.numpy_helper.to_array(copy.graph.initializer[0]).astype(np.float32))
    y = (torch.from_numpy(x).to(precision.torch).float() @ weight).to(precision.torch).float()
    expected = (y * y).to(precision.torch).float().numpy()
    np.testing.assert_allclose(run(copy, x), expected, rtol=2 * precision.epsilon)
    assert np.mean(run(copy, x) == expected) > 0.9  # sums in another order round differently now and then
    assert set(run(copy, x).ravel()) <= set(torch.from_numpy(run(copy, x)).to(precision.torch).float().ravel().tolist())


def test_a_copy_overflows_where_the_type_does() -> None:
    x = np.full((1, 8), 400.0, np.float32)
    assert np.isinf(run(rounded_copy(network(Precision.FP16)), x)).any()
    assert np.isfinite(run(rounded_copy(network(Precision.BF16)), x)).all()


def test_only_the_asked_types_are_replaced() -> None:
    model = network(Precision.FP16)
    assert TensorProto.FLOAT16 in tensor_types(rounded_copy(model, (TensorProto.BFLOAT16,))).values()
    kinds = tensor_types(rounded_copy(model))
    halves = {name for name, kind in kinds.items() if kind == TensorProto.FLOAT16}
    assert halves == {"w"} | {name for name in kinds if name.endswith("/half")}


@pytest.mark.parametrize("external", [False, True])
def test_a_bf16_file_is_measured_beside_its_data(external: bool, tmp_path: Path) -> None:
    model, path = small_model(), tmp_path / "m.onnx"
    config = ExportConfig(28, 28, ("depth",), precision=Precision.BF16, external_above=0 if external else 1 << 40)
    export_onnx(model, parse_scheme("bf16"), config, path)
    before = path.read_bytes()
    with pytest.raises(Exception, match="NOT_IMPLEMENTED"):
        ort.InferenceSession(path)
    with measurable(path) as copy:
        assert copy != path
        session = ort.InferenceSession(copy)
        depth = session.run(["depth"], {"images": np.zeros((1, 1, 3, 28, 28), np.float32)})[0]
        assert np.isfinite(depth).all()
    assert not copy.exists()
    assert path.read_bytes() == before


def test_the_reference_rounds_and_forgets() -> None:
    model, images = small_model(), small_images(2, size=28)
    with torch.no_grad():
        plain = model(images)
        weights = {name: p.clone() for name, p in model.named_parameters()}
        with rounding(model, Precision.BF16):
            half = model(images)
        again = model(images)
    for name, value in plain.items():
        assert torch.equal(value, again[name])
        change = (half[name] - value).norm() / value.norm()
        assert 0 < change < 0.01, name
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())
