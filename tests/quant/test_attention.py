"""Attention on codes: rounding, which attentions get it, the calibration that later blocks see, the checkpoint."""

from __future__ import annotations

import json
import math
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from small_network import small_batches, small_images, small_model, small_rounded
from torch import Tensor, nn

from qvggt.calib.calibrate import calibrate_
from qvggt.calib.recipe import RECIPES
from qvggt.calib.stream import Stream
from qvggt.errors import QvggtError
from qvggt.formats.attention import FORMATS, SHORTEST, AttentionFormat
from qvggt.models.block import Attention, Block
from qvggt.models.family import Stage
from qvggt.models.rope import rope_tables
from qvggt.models.vggt.network import VGGT
from qvggt.quant import attention as module
from qvggt.quant.attention import AttentionRange, QuantAttention, floating, observed, quantized_attentions
from qvggt.quant.checkpoint import Provenance, load_calibrated, save_calibrated
from qvggt.quant.model import settled, short_attentions
from qvggt.quant.scheme import Scheme
from qvggt.sqnr import decibels

FP8 = FORMATS["fp8"]
assert FP8 is not None
SCHEME = Scheme("w8a8", attention="fp8")
GLOBAL = [f"aggregator.global_blocks.{i}.attn" for i in range(4)]

pytestmark = pytest.mark.usefixtures("one_thread", "no_grad")


@pytest.fixture(scope="module")
def rounded() -> VGGT:
    """Frames of 21 tokens, two of them: only global attention is long enough."""
    return small_rounded(SCHEME, small_batches(2, 3))


def attention(spread: float, format: AttentionFormat | None = FP8) -> tuple[QuantAttention, Tensor]:
    """With inputs [2, 69, 128] whose logits have about this standard deviation."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = Attention(128, 2, qk_norm=True).requires_grad_(False)
        layer.q_norm.weight.mul_(spread)  # type: ignore[operator, union-attr]
        x = torch.randn(2, 69, 128)
    with observed(nn.ModuleDict({"attn": layer}), ["attn"]) as ranges:
        layer(x)
    assert format is not None
    return QuantAttention(layer, format, ranges["attn"]), x


def e4m3(x: Tensor, scale: float) -> np.ndarray:
    codes = np.clip(x.numpy() / np.float32(scale), -448, 448).astype(ml_dtypes.float8_e4m3fn)
    return codes.astype(np.float32) * np.float32(scale)


def test_against_numpy() -> None:
    layer, x = attention(2.0)
    rope = rope_tables(8, 8, 64, 5, 100.0)
    q, k, v = layer.heads(x, rope)
    scales = layer.scales.tolist()
    q, k, v = (
        torch.from_numpy(e4m3(t * f, s)) for t, f, s in zip((q, k, v), (64**-0.25, 64**-0.25, 1), scales, strict=True)
    )
    weights = torch.from_numpy(e4m3((q @ k.transpose(-2, -1)).softmax(-1), 146 / 2**16))
    expected = layer.proj((weights @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(layer(x, rope), expected, rtol=0, atol=1e-6)


def test_scales() -> None:
    """Exact in every float type, with headroom; a probability of 1 has the largest code."""
    assert FP8.scale(448.0) == 8.0
    assert FP8.scale(57.0) == 2.0
    assert FP8.scale(0.0) == 1.0
    assert FP8.scale(1e-9) == 2.0**-15
    scale = torch.tensor(FP8.probability_scale)
    for kind in (torch.float16, torch.bfloat16):
        assert float(scale.to(kind)) == float(scale) == pytest.approx(1 / 448, rel=4e-3)
    assert float(FP8.grid.round(torch.ones(()), FP8.probability_scale)) == 448


@pytest.mark.parametrize(("spread", "floor"), [(1.0, 24.0), (3.0, 22.0), (6.0, 18.0)])
def test_noise_of_sharp_logits(spread: float, floor: float) -> None:
    """More than of flat ones: why fp8 attention is no default before real logits were seen."""
    layer, x = attention(spread)
    with floating(nn.ModuleDict({"attn": layer}), []):
        exact = Attention.attend(layer, *layer.heads(x, None))
    got = layer.attend(*layer.heads(x, None))
    db = decibels(float(exact.square().sum()), float((got - exact).square().sum()))
    assert floor < db < floor + 8


def test_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = attention(1.0)
    whole = layer(x)
    monkeypatch.setattr(module, "SCORES", 2 * 2 * 69 * 7)
    torch.testing.assert_close(layer(x), whole, rtol=0, atol=1e-6)


def test_which_attentions(rounded: VGGT) -> None:
    """Not those of short sequences, nor of the camera head."""
    assert [path for path, _ in quantized_attentions(rounded)] == GLOBAL
    found = settled(rounded, SCHEME)
    assert len(found.float_attentions) == 5
    assert found.label == "w8a8-dynamic+fp8-attention"
    assert settled(rounded, found) == found
    assert settled(small_model(), SCHEME).attention == "fp16"
    assert short_attentions(rounded, (56, 56), 2) == []
    assert short_attentions(rounded, (56, 56), 1) == GLOBAL
    assert short_attentions(rounded, (84, 84), 1) == []


def test_floats_for_a_while(rounded: VGGT) -> None:
    images = small_images(2)
    before = rounded(images)["depth"]
    with floating(rounded, GLOBAL[:1]):
        assert [path for path, _ in quantized_attentions(rounded)] == GLOBAL[1:]
        assert not torch.equal(rounded(images)["depth"], before)
    assert torch.equal(rounded(images)["depth"], before)


def test_a_checkpoint(rounded: VGGT, tmp_path: Path) -> None:
    save_calibrated(tmp_path / "c", rounded, SCHEME, Provenance())
    loaded = load_calibrated(tmp_path / "c")
    images = small_images(2)
    assert torch.equal(loaded.model(images)["pose_enc"], rounded(images)["pose_enc"])
    assert loaded.scheme == settled(rounded, SCHEME)
    kept = json.loads((tmp_path / "c" / "quant.json").read_text())["scheme"]
    assert kept["attention"] == "fp8"


def test_a_scheme_of_floats_says_nothing() -> None:
    values = Scheme("w8a8").to_dict()
    assert not any("attention" in key for key in values)
    assert Scheme.from_dict(values) == Scheme("w8a8")
    assert Scheme.from_dict(SCHEME.to_dict()) == SCHEME
    assert (SCHEME.floor_db, Scheme("w8a8").floor_db, Scheme("w4a4", attention="fp8").floor_db) == (36.0, 45.0, 30.0)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"bits": "w8a8", "attention": "int8"}, "--attention int8: TensorRT fuses it up to 512 tokens only"),
        ({"bits": "w8a8", "attention": "fp4"}, "unknown attention 'fp4': expected fp16 or fp8"),
        ({"bits": "fp16", "attention": "fp8"}, "--bits fp16 quantizes no linear"),
    ],
)
def test_mistakes(values: dict[str, str], words: str) -> None:
    with pytest.raises(QvggtError, match=words):
        Scheme(**values)  # type: ignore[arg-type]


def test_needs_ranges() -> None:
    with pytest.raises(QvggtError, match=r"quantized attention needs observed ranges"):
        small_rounded(SCHEME)


def test_later_blocks_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, bool] = {}
    advance = Stream.advance

    def spy(stream: Stream, stage: Stage, block: Block, frame_shapes: bool = False) -> None:
        if stage.view == "global" and block.attn.qkv.__class__.__name__ == "QuantLinear":
            seen[f"{stage.path}.attn"] = isinstance(block.attn, QuantAttention)
        advance(stream, stage, block, frame_shapes)

    monkeypatch.setattr(Stream, "advance", spy)
    model, batches = small_model(), small_batches(2, 3)
    with torch.enable_grad():
        calibrate_(model, SCHEME, RECIPES["smoothquant"], batches, progress=False)
    assert seen == dict.fromkeys(GLOBAL, True)
    assert [path for path, _ in quantized_attentions(model)] == GLOBAL
    scales = model.get_submodule(GLOBAL[0]).scales
    assert all(math.log2(scale).is_integer() for scale in scales.tolist())  # type: ignore[operator, union-attr]


def test_ranges_of_several_sequences() -> None:
    layer = Attention(16, 2, qk_norm=False).requires_grad_(False)
    small, large = torch.randn(1, SHORTEST + 8, 16), torch.randn(1, SHORTEST, 16) * 9
    with observed(nn.ModuleDict({"a": layer}), ["a"]) as ranges:
        layer(large)
        first = ranges["a"]
        layer(small)
    assert ranges["a"] == AttentionRange(first.q, first.k, first.v, SHORTEST)
    assert "attend" not in vars(layer)
    with pytest.raises(QvggtError, match="NaN"), observed(nn.ModuleDict({"a": layer}), ["a"]):
        layer(small * math.nan)
