from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_network import small_model

from qvggt.engines.engine_runner import EngineRunner
from qvggt.engines.onnx_runner import OnnxRunner
from qvggt.engines.runner import NetworkSizes
from qvggt.engines.torch_runner import TorchRunner
from qvggt.errors import QvggtError
from qvggt.eval.reconstruction import folder
from qvggt.eval.reconstruction.config import ReconstructionConfig
from qvggt.eval.reconstruction.memory import UNKNOWN, estimate, free_memory, plan_memory, shown
from qvggt.models.family import MemoryFacts

MB = 1e6
TINY = {"sizes": MemoryFacts(128, 64, 14, 5, 32, 16)}
LARGE = {"sizes": MemoryFacts(1024, 64, 14, 5, 256, 32)}
TORCH = {"fused": True, "chunk": 8}
ONNX = {"fused": False, "chunk": None}

# peak resident memory minus that with the model loaded, MB, PyTorch 2.13 and ONNX Runtime 1.32 on the CPU
MEASURED = [
    (TINY, TORCH, 518, {1: 120, 2: 243, 4: 383, 8: 683, 12: 692}),
    (TINY, ONNX, 518, {1: 78, 2: 187, 4: 664}),
    (TINY, ONNX, 266, {1: 14, 2: 35, 4: 74, 8: 221}),
    (LARGE, TORCH, 266, {1: 262, 2: 354, 4: 645, 8: 1011}),
]


@pytest.mark.parametrize(("sizes", "kind", "side", "peaks"), MEASURED)
def test_estimate_against_measured_peaks(sizes: dict, kind: dict, side: int, peaks: dict[int, int]) -> None:
    """Never less than two thirds of a measured peak, and in the largest case of each series at most 2.2 times it."""
    network = NetworkSizes(**sizes, **kind)
    for frames, peak in peaks.items():
        assert estimate(network, frames, side, side) > 0.66 * peak * MB
    most = max(peaks)
    assert estimate(network, most, side, side) < 2.2 * peaks[most] * MB


@given(st.integers(1, 500), st.integers(1, 1 << 38), st.sampled_from([TORCH, ONNX]))
def test_the_plan_keeps_the_limit(count: int, limit: int, kind: dict) -> None:
    network = NetworkSizes(**LARGE, **kind)
    budget = plan_memory(network, count, (392, 518), limit, None)
    assert 1 <= budget.most <= count
    assert budget.most == 1 or budget.pass_bytes + budget.results_bytes <= limit
    if 1 < budget.most < count:
        assert estimate(network, budget.most + 1, 392, 518) + budget.results_bytes > limit
    assert plan_memory(network, count, (392, 518), limit, 7).most == min(7, count)
    assert plan_memory(network, count, (392, 518), None, None).most == count


def test_sizes_are_read_off_the_network(small_float_onnx: Path) -> None:
    model = small_model()
    runner = TorchRunner(model, "small")
    config = model.config
    found = runner.network_sizes()
    assert found is not None
    expected = (config.embed_dim, config.dpt_features, config.dpt_head_channels)
    assert (found.sizes.width, found.sizes.features, found.sizes.head_channels) == expected
    assert found.fused
    exported = OnnxRunner(small_float_onnx).network_sizes()
    assert exported is not None
    assert (exported.sizes.width, exported.sizes.features, exported.sizes.head_channels) == expected
    assert not exported.fused
    runner.close()
    assert runner.network_sizes() is None  # as a network that does not tell
    assert UNKNOWN.sizes.width == 1024


@pytest.mark.parametrize(("asked", "longest"), [(None, 6), (4, 4), (20, 6)])
def test_an_engine_gets_what_it_was_built_for(asked: int | None, longest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = object.__new__(EngineRunner)  # opening a real one takes a GPU
    engine.label, engine.frame_range, engine.frames, engine.files = "engine", (2, 6), None, ()
    asked_for: list[str] = []
    monkeypatch.setattr(folder, "free_memory", lambda device: asked_for.append(device))
    config = ReconstructionConfig(frames_per_pass=asked, overlap=2)
    _, passes = folder.plan(engine, 15, (56, 56), config, None)
    assert max(map(len, passes)) == longest
    assert asked_for == ["cuda"]
    with pytest.raises(QvggtError, match="2 or more at a time, got 1"):
        folder.plan(engine, 1, (56, 56), config, None)


def test_free_memory_and_words() -> None:
    free = free_memory("cpu")
    assert free is None or free > 1 << 20
    assert (shown(3 << 20), shown(5 << 30), shown(10)) == ("3 MiB", "5.0 GiB", "1 MiB")
