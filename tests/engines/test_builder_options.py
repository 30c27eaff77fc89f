"""Options of the builders: what each backend takes, what reaches it, what the manifest keeps; with real RTX builds."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rtx_forms import write_network

from qvggt import QvggtError
from qvggt.engines import build_worker
from qvggt.engines.build_config import BuildConfig, BuilderOptions
from qvggt.engines.builder import build_engine, plan_profiles, plan_trtexec, read_source
from qvggt.engines.manifest import check_engine

rtx = pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None, reason="needs TensorRT-RTX: pip install '.[rtx]' in the clone"
)
FRAMES = (1, 4, 8)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return write_network(tmp_path / "in" / "m.onnx", "w8a8")


@pytest.fixture
def tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RTX under the name of TensorRT: the same API, whose timing caches are empty and whose levels are all alike."""
    package = tmp_path / "site" / "tensorrt"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from tensorrt_rtx import *\n__version__ = '10.13.0'\n")
    monkeypatch.syspath_prepend(package.parent)


def build(model: Path, config: BuildConfig) -> Any:
    return build_engine(read_source(model), model.with_suffix(".engine"), config, shown=False)


@pytest.mark.parametrize(
    ("options", "backend", "words"),
    [
        ({"timing_cache": Path("t")}, "rtx", r"--timing-cache: TensorRT-RTX times no kernels .*; leave it out, or use"),
        ({"optimization_level": 0}, "rtx", r"--optimization-level: TensorRT-RTX plans the same kernels at every level"),
        ({"version_compatible": True}, "rtx", r"--version-compatible: TensorRT-RTX has no lean runtime"),
        ({"optimization_level": 6}, "tensorrt", r"--optimization-level 6: expected 0 to 5"),
        ({"workspace": 0.0}, "tensorrt", r"--workspace 0\.0: expected GB above 0"),
    ],
)
def test_what_a_backend_has_not(options: dict[str, Any], backend: str, words: str) -> None:
    """Known before a file is opened."""
    with pytest.raises(QvggtError, match=words) as caught:
        BuildConfig(backend, options=BuilderOptions(**options))
    assert "\n" not in str(caught.value)
    if backend == "rtx":
        for other in ("tensorrt", "trtexec"):
            BuildConfig(other, options=BuilderOptions(**options))


def test_only_what_was_asked_for_is_kept() -> None:
    assert BuilderOptions().given() == {}
    asked = BuilderOptions(Path("a.cache"), 0, 0.5, True, True)
    assert asked.given() == {
        "timing_cache": "a.cache",
        "optimization_level": 0,
        "workspace": 0.5,
        "weight_streaming": True,
        "version_compatible": True,
    }


def test_profiles(model: Path) -> None:
    source = read_source(model)
    config = BuildConfig(frames=(1, 1, 1), profiles=((2, 8, 32), (64, 64, 64)))
    assert [[shape[1] for shape in profile["x"]] for profile in plan_profiles(source, config)] == [
        [1, 1, 1],
        [2, 8, 32],
        [64, 64, 64],
    ]
    with pytest.raises(QvggtError, match=r"--profile 2:1:3: expected 1 <= min <= opt <= max"):
        BuildConfig(profiles=((2, 1, 3),))


def test_profiles_of_a_file_that_fixes_its_shapes(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 4, 64)) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path / "m.onnx")
    with pytest.raises(QvggtError, match=r"--profile 1:2:3: .*m\.onnx fixes its shapes; leave it out"):
        plan_profiles(read_source(tmp_path / "m.onnx"), BuildConfig(profiles=((1, 2, 3),)))


def test_trtexec_is_told_them_all(model: Path, tmp_path: Path) -> None:
    options = BuilderOptions(tmp_path / "t.cache", 4, 0.5, True, True)
    config = BuildConfig("trtexec", frames=(1, 1, 1), profiles=((2, 8, 32),), options=options)
    command, _ = plan_trtexec(read_source(model), tmp_path / "m.engine", config)
    at = command.index("--profile=0")
    assert command[at:] == [
        *("--profile=0", "--minShapes=x:1x1x256", "--optShapes=x:1x1x256", "--maxShapes=x:1x1x256"),
        *("--profile=1", "--minShapes=x:1x2x256", "--optShapes=x:1x8x256", "--maxShapes=x:1x32x256"),
        f"--timingCacheFile={tmp_path / 't.cache'}",
        "--builderOptimizationLevel=4",
        "--memPoolSize=workspace:500000000B",
        "--allowWeightStreaming",
        "--versionCompatible",
    ]


@rtx
def test_what_rtx_takes(model: Path) -> None:
    """Several profiles, weight streaming and a workspace, in one engine; the report is of all its profiles."""
    options = BuilderOptions(workspace=1.0, weight_streaming=True)
    profiles = ((16, 16, 16),)
    result = build(model, BuildConfig(frames=FRAMES, profiles=profiles, compute_capabilities=("8.9",), options=options))
    manifest = check_engine(result.engine)
    assert manifest == result.manifest
    assert manifest.engine.bytes > 600_000, "kernels of both: with one profile it has 450 kB"
    assert manifest.options == {"workspace": 1.0, "weight_streaming": True}
    assert manifest.profiles == ({"x": ((1, 16, 256), (1, 16, 256), (1, 16, 256))},)
    assert result.report.summary.startswith("1/1 linears INT8 GEMM, weights stored as Int8 (1.00 bytes each)")
    assert sum(result.report.kernels.values()) < 6, "rows of both profiles in one report"


@rtx
def test_a_workspace_that_is_too_small(model: Path) -> None:
    config = BuildConfig(frames=FRAMES, compute_capabilities=("8.9",), options=BuilderOptions(workspace=1e-9))
    with pytest.raises(QvggtError, match=r"TensorRT-RTX cannot build it: .*workspace") as caught:
        build(model, config)
    assert "\n" not in str(caught.value)


@rtx
@pytest.mark.usefixtures("tensorrt")
def test_a_timing_cache(model: Path, tmp_path: Path) -> None:
    """Written as a whole after the build; one that does not fit is made anew."""
    cache = tmp_path / "caches" / "t.cache"
    config = BuildConfig("tensorrt", frames=FRAMES, options=BuilderOptions(cache, optimization_level=1))
    manifest = build(model, config).manifest
    assert manifest.options == {"timing_cache": str(cache), "optimization_level": 1}
    assert cache.is_file()
    with pytest.raises(QvggtError, match=r"--timing-cache .*caches: is a folder, expected a file"):
        build(model, BuildConfig("tensorrt", options=BuilderOptions(cache.parent)))


class Config:
    """A builder's configuration that takes no cache but an empty or a good one."""

    def __init__(self) -> None:
        self.cache: Any = None

    def create_timing_cache(self, data: bytes) -> Any:
        return None if data == b"garbage" else data

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.cache = cache
        return bool(cache != b"other GPU")


@pytest.mark.parametrize(
    ("kept", "used", "warnings"), [(b"good", b"good", 0), (b"other GPU", b"", 1), (b"garbage", b"", 1), (None, b"", 0)]
)
def test_a_timing_cache_that_does_not_fit_is_made_anew(
    kept: bytes | None, used: bytes, warnings: int, tmp_path: Path
) -> None:
    if kept is not None:
        (tmp_path / "t.cache").write_bytes(kept)
    request = {"level": None, "workspace": None, "flags": [], "timings": [str(tmp_path / "t.cache"), ""]}
    config, logger = Config(), SimpleNamespace(warnings=[])
    assert build_worker._set_options(SimpleNamespace(), config, request, logger) == config.cache == used
    assert len(logger.warnings) == warnings


def test_a_builder_that_lacks_an_option_says_so() -> None:
    request = {"level": None, "workspace": None, "flags": ["WEIGHT_STREAMING"], "timings": None}
    with pytest.raises(build_worker.Refused) as caught:
        build_worker._set_options(SimpleNamespace(BuilderFlag=None), Config(), request, None)
    assert caught.value.reasons == [{"text": "--weight-streaming: this builder has it not"}]


@rtx
@pytest.mark.slow
@pytest.mark.usefixtures("tensorrt")
def test_levels_are_all_alike_to_rtx(model: Path) -> None:
    """Why `--optimization-level` is refused there."""
    engines = {
        build(
            model, BuildConfig("tensorrt", frames=FRAMES, options=BuilderOptions(optimization_level=level))
        ).manifest.engine.sha256
        for level in (0, 3, 5)
    }
    assert len(engines) == 1


@rtx
@pytest.mark.slow
@pytest.mark.usefixtures("tensorrt")
def test_rtx_cannot_be_version_compatible(model: Path) -> None:
    with pytest.raises(QvggtError, match=r"libnvinfer_lean"):
        build(model, BuildConfig("tensorrt", frames=FRAMES, options=BuilderOptions(version_compatible=True)))
