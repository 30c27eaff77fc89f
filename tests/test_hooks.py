"""Looking at modules changes nothing and leaves nothing behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qvggt.hooks import hooked


@pytest.mark.parametrize("outputs", [False, True])
def test_what_modules_see_is_told_by_path_and_left_alone(outputs: bool) -> None:
    model, x = nn.Sequential(nn.ReLU(), nn.Linear(2, 2), nn.Tanh()), torch.tensor([[-1.0, 2.0]])
    expected, told = model(x), {}

    def see(path: str, module: nn.Module, *seen: torch.Tensor) -> torch.Tensor:
        told[path] = (module, *seen)
        return torch.zeros(1, 2)  # ignored

    with hooked(model, ["0", "2"], see, outputs):
        assert torch.equal(model(x), expected)
    assert list(told) == ["0", "2"]
    assert told["0"][0] is model[0]
    assert torch.equal(told["0"][1], x)
    assert len(told["0"]) == (3 if outputs else 2)
    assert not outputs or torch.equal(told["2"][2], expected)
    with pytest.raises(RuntimeError, match="shapes"), hooked(model, ["0", "2"], see, outputs):
        model(x[:, :1])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
