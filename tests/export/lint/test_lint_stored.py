"""QV50x: how weights are stored, with what TensorRT-RTX makes of it; and files too large to load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from lint_graphs import K, N, Net
from onnx import TensorProto, load
from rtx import Build, Lint

from qvggt.export.lint import lint_model
from qvggt.target import Target

T = TensorProto


@pytest.mark.parametrize("shape", [(K, 131), (255, N)])
@pytest.mark.parametrize(("bits", "kind"), [(4, T.INT8), (4, T.INT4), (8, None)])
def test_odd_sizes_are_padded_at_every_run(
    shape: tuple[int, int], bits: int, kind: int | None, rules: Lint, build: Build
) -> None:
    net = Net(("m", shape[0]))
    x = "x" if kind is None else net.quantized(kind=kind)
    model = net.model(net.op("MatMul", x, net.weight(bits, shape=shape)))
    assert rules(model) == {"QV501"}
    verdict = build(model)
    assert verdict.built
    assert verdict.fused("Int8") == 0
    assert any(k.inputs == () and k.constants and k.outputs for k in verdict.kernels)  # weight work at run time


def test_an_odd_size_in_blocks(rules: Lint, build: Build) -> None:
    net = Net()
    model = net.model(net.op("MatMul", "x", net.weight(4, "block", (K, 131))))
    assert rules(model) == {"QV501"}
    assert build(model).fused("Int4") == 0


def test_even_sizes_need_no_more(rules: Lint, build: Build) -> None:
    net = Net()
    model = net.model(net.op("MatMul", "x", net.weight(4, "block", (K, 130))))
    assert rules(model) == set()
    assert build(model).fused("Int4") == 1


def test_an_odd_count_needs_its_padding_nibble(rules: Lint, build: Build) -> None:
    net = Net()
    codes = net.codes((255, 131), 4)
    net.tensors[-1].raw_data = net.tensors[-1].raw_data[:-1]
    model = net.model(net.op("DequantizeLinear", codes, net.real(0.01)))
    assert rules(model) == {"QV502", "QV504"}
    assert {f.rule for f in lint_model(model, Target.CPU)} == {"QV502"}
    assert not build(model).parsed


@pytest.mark.parametrize(("shape", "fine"), [((33, 33), False), ((33, 34), True)])
def test_an_odd_count_of_int4_codes_is_refused(shape: tuple[int, int], fine: bool, rules: Lint, build: Build) -> None:
    net = Net((4, shape[0]))
    model = net.model(net.op("MatMul", net.quantized(), net.weight(4, shape=shape)))
    assert rules(model) == {"QV501"} | (set() if fine else {"QV504"})
    verdict = build(model)
    assert verdict.built is fine
    assert fine or "odd tensor volume" in verdict.text


def test_an_odd_count_of_int4_activations_is_refused(rules: Lint, build: Build) -> None:
    net = Net((3, 9))
    model = net.model(net.op("MatMul", net.quantized(kind=T.INT4), net.weight(4, shape=(9, 8))))
    assert rules(model) == {"QV501", "QV504"}
    assert not build(model).parsed


def write(folder: Path, location: str, size: int = 4096) -> Path:
    """A model whose weight [64, 64] int8 lies in another file."""
    net = Net(("m", 64))
    name = net.codes((64, 64))
    tensor = net.tensors[-1]
    tensor.ClearField("raw_data")
    tensor.data_location = T.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="length", value="4096")
    weight = net.op("DequantizeLinear", name, net.real(0.01))
    if location == "weights":
        (folder / location).write_bytes(bytes(size))
    return net.save(net.op("MatMul", net.quantized(), weight), folder / "m.onnx")


@pytest.mark.parametrize("target", list(Target))
@pytest.mark.parametrize("location", ["../weights", "/etc/passwd", "gone", "sub/../../weights"])
def test_external_data_outside_of_the_folder(location: str, target: Target, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "weights").write_bytes(bytes(4096))
    (finding,) = lint_model(write(tmp_path / "inner", location), target)
    assert finding.rule == "QV503"
    assert location in finding.reason


def test_external_data_that_is_too_short(tmp_path: Path) -> None:
    (finding,) = lint_model(write(tmp_path, "weights", size=4095))
    assert "truncated" in finding.reason


def test_good_external_data_and_a_model_in_memory(tmp_path: Path) -> None:
    path = write(tmp_path, "weights")
    assert lint_model(path) == []
    (finding,) = lint_model(load(path, load_external_data=False))  # no path: nothing can be checked
    assert finding.rule == "QV503"


@pytest.mark.parametrize("in_memory", [False, True])
def test_scales_that_may_not_be_read_are_not_read(in_memory: bool, tmp_path: Path) -> None:
    """The file outside would be a zero scale."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "secret").write_bytes(bytes(2))
    net = Net()
    step = net.real(0.05)
    tensor = net.tensors[-1]
    tensor.ClearField("raw_data")
    tensor.data_location = T.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    y = net.op("MatMul", net.quantized(scale=step), net.weight(scales="tensor"))
    path = net.save(y, tmp_path / "inner" / "m.onnx")
    model = load(path, load_external_data=False) if in_memory else path
    assert [f.rule for f in lint_model(model)] == ["QV503"]


def test_codes_in_another_file_are_read_for_the_overflow_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qvggt.onnx_view.values.CHUNK", 10_000)  # read in pieces, the last one counts too
    net = Net()
    name = net.codes((K, N))
    tensor = net.tensors[-1]
    tensor.ClearField("raw_data")
    tensor.data_location = T.EXTERNAL
    tensor.external_data.add(key="location", value="weights")
    weight = net.op("DequantizeLinear", name, net.real(np.full(N, 0.01)), axis=1)
    path = net.save(net.op("MatMul", net.quantized(), weight), tmp_path / "m.onnx")
    (tmp_path / "weights").write_bytes(bytes([7]) * (K * N))
    assert lint_model(path) == []
    (tmp_path / "weights").write_bytes(bytes([7]) * (K * N - 1) + bytes([8]))
    assert [f.rule for f in lint_model(path)] == ["QV308"]


def test_two_gigabytes_of_weights_are_not_loaded(tmp_path: Path) -> None:
    """A sparse file stands for the weights; the process may use no more than it needs for a small model."""
    path, side, count = tmp_path / "large.onnx", 16384, 8
    net = Net(("m", side))
    y = "x"
    for index in range(count):
        name = net.codes((2, 2))
        tensor = net.tensors[-1]
        tensor.ClearField("raw_data")
        tensor.dims[:] = [side, side]
        tensor.data_location = T.EXTERNAL
        for key, value in (("location", "large.data"), ("offset", index * side * side), ("length", side * side)):
            tensor.external_data.add(key=key, value=str(value))
        y = net.op("MatMul", net.quantized(y), net.op("DequantizeLinear", name, net.real(0.01)))
    net.save(y, path)
    with open(tmp_path / "large.data", "wb") as file:
        file.truncate(count * side * side)
    code = f"""
import resource
from qvggt.export.lint import lint_model
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert lint_model({str(path)!r}) == []
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout) * unit < 200e6
