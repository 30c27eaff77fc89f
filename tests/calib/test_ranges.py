from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_network import SIZE, small_batches, small_model
from torch import nn

from qvggt.calib.ranges import observe_ranges
from qvggt.errors import QvggtError
from qvggt.models.vggt.network import VGGT
from qvggt.quant.model import scheme_linears
from qvggt.quant.scheme import parse_scheme

FC2 = "aggregator.global_blocks.0.mlp.fc2"


@pytest.fixture(scope="module")
def batches() -> list[torch.Tensor]:
    """Sequences of other frame counts and brightness."""
    return [images * light for images, light in zip(small_batches(2, 3, 1), (1.0, 0.1, 0.7), strict=True)]


@pytest.fixture(scope="module")
def model() -> VGGT:
    return small_model(aa_depth=1, dpt_layers=(0, 0, 0, 0), heads=("camera",))


@pytest.fixture(scope="module")
def paths(model: VGGT) -> list[str]:
    scheme = parse_scheme("w8a8", "static", ("dino", "aggregator", "camera"))
    return [path for path, _, _ in scheme_linears(model, scheme)]


def test_the_largest_magnitude_of_every_input(model: VGGT, batches: list[torch.Tensor], paths: list[str]) -> None:
    """Every token counts: the special ones, all frames and batches, all iterations of the camera head."""
    seen: dict[str, list[torch.Tensor]] = {path: [] for path in paths}
    hooks = [
        model.get_submodule(path).register_forward_hook(lambda _m, args, _y, path=path: seen[path].append(args[0]))
        for path in paths
    ]
    for images in batches:
        model(images)
    for hook in hooks:
        hook.remove()
    ranges = observe_ranges(model, iter(batches), paths, progress=False)
    assert list(ranges) == paths
    assert ranges == {path: max(float(x.abs().max()) for x in inputs) for path, inputs in seen.items()}
    assert len(seen["camera_head.trunk.0.mlp.fc1"]) == 4 * len(batches)


def test_more_images_only_widen(model: VGGT, batches: list[torch.Tensor], paths: list[str]) -> None:
    one = observe_ranges(model, batches[:1], paths, progress=False)
    everything = observe_ranges(model, batches, paths, progress=False)
    assert all(everything[path] >= one[path] for path in paths)
    assert observe_ranges(model, batches[::-1], paths, progress=False) == everything


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=3), min_size=1, max_size=5))
def test_any_values(rows: list[list[float]]) -> None:
    linear = nn.Sequential(nn.Linear(3, 2))
    ranges = observe_ranges(linear, [torch.tensor([row]) for row in rows], ["0"], progress=False)
    assert ranges == {"0": max(abs(v) for row in rows for v in row)}


def test_only_the_named_linears(model: VGGT, batches: list[torch.Tensor]) -> None:
    assert list(observe_ranges(model, batches[:1], [FC2], progress=False)) == [FC2]


def test_batches_are_read_one_at_a_time(model: VGGT, batches: list[torch.Tensor]) -> None:
    events: list[str] = []

    def read() -> Iterator[torch.Tensor]:
        for images in batches:
            events.append("read")
            yield images

    hook = model.register_forward_hook(lambda *_: events.append("run"))
    observe_ranges(model, read(), [FC2], progress=False)
    hook.remove()
    assert events == ["read", "run"] * len(batches)


def test_the_model_is_left_as_it_was(model: VGGT, batches: list[torch.Tensor], paths: list[str]) -> None:
    def fail() -> Iterator[torch.Tensor]:
        yield batches[0]
        raise RuntimeError("no more")

    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="no more"):
        observe_ranges(model, fail(), paths, progress=False)
    observe_ranges(model, batches[:1], paths, progress=False)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_no_gradients_are_kept(batches: list[torch.Tensor]) -> None:
    model = small_model(aa_depth=1, dpt_layers=(0, 0, 0, 0), heads=("camera",)).requires_grad_(True)
    grads: list[bool] = []
    hook = model.get_submodule(FC2).register_forward_pre_hook(lambda _, args: grads.append(args[0].requires_grad))
    observe_ranges(model, batches[:1], [FC2], progress=False)
    hook.remove()
    assert grads == [False]


def test_no_images_are_no_range(model: VGGT, batches: list[torch.Tensor], paths: list[str]) -> None:
    """A range of 0 would saturate every value. An iterator read before is the usual way to get there."""
    spent = iter(batches)
    list(spent)
    nothing: list[torch.Tensor] = []
    for without in (nothing, spent):
        with pytest.raises(QvggtError, match=r"blocks\.0\.attn\.qkv: no input seen"):
            observe_ranges(model, without, paths, progress=False)


def test_a_linear_that_does_not_run_has_no_range() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.used(x)
            return y

    with pytest.raises(QvggtError, match="idle: no input seen"):
        observe_ranges(Half(), [torch.ones(1, 2)], ["used", "idle"], progress=False)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_inputs_that_are_not_finite(bad: float, model: VGGT) -> None:
    linear = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(QvggtError, match="0: its input holds NaN or infinity"):
        observe_ranges(linear, [torch.ones(1, 2), torch.tensor([[1.0, bad]])], ["0"], progress=False)
    assert not linear[0]._forward_pre_hooks
    images = torch.rand(2, 3, SIZE, SIZE)
    images[0, 0, 0, 0] = bad
    with pytest.raises(QvggtError, match="NaN or infinity") as caught:
        observe_ranges(model, [images], [FC2], progress=False)
    assert "\n" not in str(caught.value)


def test_unknown_path(model: VGGT, batches: list[torch.Tensor]) -> None:
    with pytest.raises(AttributeError):
        observe_ranges(model, batches, ["aggregator.nose"], progress=False)
