"""Every number format the exporter emits, built by TensorRT-RTX: the kernel each linear becomes, per GPU generation.

No GPU is needed and none is used: the plan is checked, nothing is run.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rtx_forms import LINEAR, SHARED, run_onnx, write_network

from qvggt.engines.build_config import BuildConfig
from qvggt.engines.builder import build_engine, check_capabilities, read_source
from qvggt.engines.layer_report import LayerReport
from qvggt.errors import QvggtError
from qvggt.target import Target

pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: pip install '.[rtx]' in the clone")

GENERATIONS = ("8.6", "8.9", "12.0")
FORMS = [  # bits, activations, kernel, type the weight is stored in, its bytes with block scales
    ("w8a8", "static", "INT8 GEMM", "Int8", 1.0),
    ("w8a8", "dynamic", "INT8 GEMM", "Int8", 1.0),
    ("w4a8", "dynamic", "INT8 GEMM", "Int4", 0.5),
    ("w4a4", "dynamic", "INT8 GEMM", "Int4", 0.5),
    ("w4a4", "static", "INT4 GEMM", "Int4", 0.5),
    ("w4a16", "dynamic", "INT4 weight-only", "Int4", 0.5 + 2 / 128),
]
FLOATS = [  # and the generation from which on it builds
    ("fp8", "static", "FP8 GEMM", "FP8", 1.0, "8.9"),
    ("fp8", "dynamic", "FP8 GEMM", "FP8", 1.0, "8.9"),
    ("w4afp8", "dynamic", "FP8 GEMM", "Int4", 0.5, "8.9"),
    ("nvfp4", "static", "FP4 GEMM", "FP4", 0.5 + 1 / 16, "12.0"),
]


def report_of(onnx: Path, *capabilities: str) -> LayerReport:
    config = BuildConfig(compute_capabilities=capabilities, frames=(1, 30, 120))
    return build_engine(read_source(onnx), onnx.with_suffix(".engine"), config, shown=False).report


@pytest.mark.parametrize(
    ("bits", "act", "kernel", "stored", "size", "capability"),
    [(*form, capability) for form in FORMS for capability in GENERATIONS] + FLOATS,
)
def test_form(bits: str, act: str, kernel: str, stored: str, size: float, capability: str, tmp_path: Path) -> None:
    report = report_of(write_network(tmp_path / "m.onnx", bits, act), capability)
    (verdict,) = report.linears
    assert verdict.path == LINEAR
    assert (verdict.wanted, verdict.found, verdict.note) == (kernel, kernel, "")
    assert (verdict.stored, verdict.bytes_per_weight) == (stored, size)
    assert report.passed
    weights = 256 * 384
    assert report.weight_bytes is not None
    assert size * weights <= report.weight_bytes < size * weights + 40 * 384  # scales, bias and norm


def test_float_formats_choose_their_gpus(tmp_path: Path) -> None:
    """Without --cc, and refused before anything is built."""
    for bits, least, chosen in (("fp8", "8.9", ("8.9", "12.0", "12.1")), ("nvfp4", "12.0", ("12.0", "12.1"))):
        source = read_source(write_network(tmp_path / "m.onnx", bits, "static"))
        assert check_capabilities(source, BuildConfig()).compute_capabilities == chosen
        asked = BuildConfig(compute_capabilities=(chosen[0],))
        assert check_capabilities(source, asked) == asked
        with pytest.raises(QvggtError, match=rf"^--cc 8\.6: .* from {least} on; build for {least} or newer") as error:
            build_engine(source, tmp_path / "m.engine", BuildConfig(compute_capabilities=("8.6",)), shown=False)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "m.engine").exists()


@pytest.mark.parametrize(("capability", "refused"), [("8.6", True), ("9.0", False), ("", False)])
def test_tensorrt_itself_builds_for_the_gpu_here(
    capability: str, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not run on a GPU: what PyTorch says of one is put in its place."""
    monkeypatch.setattr("qvggt.engines.builder.capability_here", lambda: capability)
    source = read_source(write_network(tmp_path / "m.onnx", "fp8", "static"))
    config = BuildConfig("tensorrt")
    if not refused:
        assert check_capabilities(source, config) == config
        return
    with pytest.raises(QvggtError, match=r"^--backend tensorrt: .* no fp8 kernels for compute capability 8\.6"):
        check_capabilities(source, config)


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize(("bits", "act", "kernel", "stored", "size"), [FORMS[1], FORMS[3], FORMS[5]])
def test_a_linear_used_several_times(
    bits: str, act: str, kernel: str, stored: str, size: float, precision: str, tmp_path: Path
) -> None:
    """Every use has the kernel, and the codes are stored once."""
    path = write_network(tmp_path / "m.onnx", bits, act, precision, inner=256, outer=256, uses=4)
    report = report_of(path, *GENERATIONS)
    (verdict,) = report.linears
    assert verdict.path == SHARED
    assert (verdict.wanted, verdict.found, verdict.note, verdict.stored) == (kernel, kernel, "", stored)
    assert report.weight_bytes is not None
    assert report.weight_bytes < (size + 2 / 128) * 256 * 256 + 40 * 256


@pytest.mark.parametrize(("bits", "act", "kernel", "stored", "size"), FORMS[3:5])
def test_a_branch_leaves_the_kernel(bits: str, act: str, kernel: str, stored: str, size: float, tmp_path: Path) -> None:
    """What passes the grid by is two small products before the codes' and one beside it."""
    report = report_of(write_network(tmp_path / "m.onnx", bits, act, rank=16), "8.9")
    (verdict,) = report.linears
    assert (verdict.found, verdict.note, verdict.stored, verdict.bytes_per_weight) == (kernel, "", stored, size)


@pytest.mark.parametrize(
    ("act", "int8", "stored", "size"), [("dynamic", True, "Int8", 1.0), ("static", False, "Int4", 0.5)]
)
def test_forms_for_tensorrt_itself(act: str, int8: bool, stored: str, size: float, tmp_path: Path) -> None:
    """TensorRT was not run: RTX, which takes the same forms, plans the kernels they are meant for."""
    path = write_network(tmp_path / "m.onnx", "w4a4", act, target=Target.TENSORRT_10, int8=int8)
    (verdict,) = report_of(path, "8.9").linears
    assert (verdict.found, verdict.note) == ("INT8 GEMM", "")
    assert (verdict.stored, verdict.bytes_per_weight) == (stored, size)


@pytest.mark.parametrize(
    ("bits", "act"), [("w4a8", "dynamic"), ("w4a4", "dynamic"), ("w4a4", "static"), ("w4a16", "dynamic")]
)
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_forms_for_tensorrt_itself_compute_the_same_numbers(
    bits: str, act: str, precision: str, tmp_path: Path
) -> None:
    """As the form for RTX, in ONNX Runtime: to the bit, but for static w4a4 in fp32, where RTX multiplies INT4 by INT4
    with other scales inside."""
    x = np.random.default_rng(0).standard_normal((1, 20, 256)).astype(np.float32)
    expected = run_onnx(write_network(tmp_path / "rtx.onnx", bits, act, precision), x)
    largest = 2e-6 * np.abs(expected).max() if (bits, act, precision) == ("w4a4", "static", "fp32") else 0
    for int8 in (False, True):
        path = write_network(tmp_path / "m.onnx", bits, act, precision, target=Target.TENSORRT_10, int8=int8)
        assert np.abs(run_onnx(path, x) - expected).max() <= largest


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_float_networks(precision: str, tmp_path: Path) -> None:
    report = report_of(write_network(tmp_path / "m.onnx", precision, precision=precision), *GENERATIONS)
    kind = {"fp16": "Half", "bf16": "BFloat16", "fp32": "Float"}[precision]
    assert report.summary == f"no quantized linears; matrix products: 1 in {kind}"


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize(("bits", "act", "kernel", "stored", "size"), [FORMS[1], FORMS[3], FORMS[5]])
def test_form_in_other_float_types(
    bits: str, act: str, kernel: str, stored: str, size: float, precision: str, tmp_path: Path
) -> None:
    (verdict,) = report_of(write_network(tmp_path / "m.onnx", bits, act, precision), *GENERATIONS).linears
    assert (verdict.found, verdict.stored, verdict.passed) == (kernel, stored, True)
    assert verdict.bytes_per_weight == size + (2 / 128 if (bits, precision) == ("w4a16", "fp32") else 0)


@pytest.mark.parametrize("inner", [64, 128])
def test_weight_only_of_one_block_keeps_its_kernel(inner: int, tmp_path: Path) -> None:
    """One scale per row is expanded to floats by TensorRT-RTX; the exporter repeats it over two blocks."""
    (verdict,) = report_of(write_network(tmp_path / "m.onnx", "w4a16", inner=inner), "8.9").linears
    assert (verdict.found, verdict.passed) == ("INT4 weight-only", True)


def test_repeated_scales_compute_the_same_numbers(tmp_path: Path) -> None:
    """Width 128 with blocks of 64 (as emitted) and of 128 (as the scheme says), in ONNX Runtime."""
    import onnx

    path = write_network(tmp_path / "m.onnx", "w4a16", precision="fp32", inner=128)
    model = onnx.load(path)
    (node,) = [n for n in model.graph.node if n.op_type == "DequantizeLinear"]
    (block,) = [a for a in node.attribute if a.name == "block_size"]
    (scales,) = [t for t in model.graph.initializer if t.name == node.input[1]]
    values = onnx.numpy_helper.to_array(scales)
    assert (block.i, len(values)) == (64, 2)
    np.testing.assert_array_equal(values[0], values[1])
    block.i = 128
    scales.CopyFrom(onnx.numpy_helper.from_array(values[:1], scales.name))
    onnx.save(model, tmp_path / "one.onnx")
    x = np.random.default_rng(0).standard_normal((1, 50, 128)).astype(np.float32)
    np.testing.assert_array_equal(run_onnx(path, x), run_onnx(tmp_path / "one.onnx", x))
