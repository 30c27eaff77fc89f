"""Folding changes no output: float64 on small models, fp32 on the reference model and at 1B."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import small_models
import torch
from reference_weights import fill, reference_weight
from safetensors import safe_open
from small_models import OUTPUTS, TRACKS, distances, images

from qvggt.errors import QvggtError
from qvggt.models.block import LayerScale
from qvggt.models.vggt.config import VGGT_1B, VGGTConfig
from qvggt.models.vggt.network import VGGT
from qvggt.quant.hadamard import residual_rotation, sylvester_hadamard
from qvggt.quant.model import quantize_
from qvggt.quant.scheme import parse_scheme
from qvggt.rotation import FoldConfig, applied_fold, fold_
from qvggt.rotation.fold import rotate_streams_

REFERENCE = Path(__file__).parents[1] / "data" / "vggt_reference_small.safetensors"
BOUND = 1e-10  # 1e-13 measured
MATMULS = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.ConvTranspose2d, torch.nn.MultiheadAttention)


def folded(model: VGGT, config: FoldConfig) -> VGGT:
    out = copy.deepcopy(model)
    fold_(out, config)
    return out


def check_same(model: VGGT, other: VGGT, x: torch.Tensor, points: torch.Tensor | None = None) -> None:
    expected = model(x, points)
    assert expected.keys() == OUTPUTS | (TRACKS if points is not None else set())
    assert all(v.std() > 1e-4 * v.abs().max() for k, v in expected.items() if k != "pose_enc")
    worst = distances(other(x, points), expected)
    assert max(worst.values()) <= BOUND, worst


@pytest.mark.parametrize("seed", [0, 1, 17])
@pytest.mark.parametrize(("dim", "heads"), [(16, 4), (16, 2), (64, 4), (256, 4), (128, 2), (96, 4), (48, 4)])
def test_every_output_is_kept(dim: int, heads: int, seed: int) -> None:
    """Powers of four, and widths with the general form of the rotation; head widths 4, 8, 12, 16, 24 and 64."""
    model = small_models.model(small_models.config(dim, heads), seed)
    other = folded(model, FoldConfig(seed=seed, camera_value=True))
    check_same(model, other, images(2, 42, 56), torch.tensor([[3.0, 5.0], [40.0, 30.5]]).double())


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 56, 56), (2, 28, 70), (3, 70, 28), (4, 42, 42)])
def test_sizes_and_frame_counts(frames: int, height: int, width: int) -> None:
    model = small_models.model(small_models.config(64, 4))
    check_same(model, folded(model, FoldConfig()), images(frames, height, width))


@pytest.mark.parametrize(
    "config",
    [
        FoldConfig(value=False),
        FoldConfig(residual=False),
        FoldConfig(residual=False, layer_scale=False),
        FoldConfig(residual=False, value=False),
        FoldConfig(residual=False, layer_scale=False, value=False, camera_value=True),
    ],
)
def test_each_fold_alone(config: FoldConfig) -> None:
    model = small_models.model(small_models.config(64, 4))
    other = folded(model, config)
    check_same(model, other, images(2, 42, 56))
    assert applied_fold(other) == config
    # a fold that does nothing would pass the comparison above
    changed = {
        k for k, v in other.state_dict().items() if k in model.state_dict() and not v.equal(model.state_dict()[k])
    }
    block = "aggregator.global_blocks.1."
    assert (block + "attn.qkv.weight" in changed) == (config.residual or config.value)
    assert (block + "norm1.weight" in changed) == config.residual
    assert (block + "mlp.fc2.weight" in changed) == config.layer_scale
    assert ("camera_head.trunk.0.attn.qkv.weight" in changed) == config.camera_value
    assert ("camera_head.trunk.0.attn.proj.weight" in changed) == (config.layer_scale or config.camera_value)


def test_reference_model_keeps_the_original_outputs() -> None:
    """The folded reference model against tensors of the original implementation, fp32."""
    with safe_open(REFERENCE, "pt") as file:
        config = VGGTConfig.from_dict(
            {
                **json.loads(file.metadata()["config"]),
                "camera_num_heads": 4,
                "heads": ("camera", "point", "depth"),
            }
        )
        model = fill(VGGT(config))
        fold_(model)
        for case in ("square", "wide", "tall", "single"):
            got = model(file.get_tensor(f"{case}/images"))
            for key in OUTPUTS:
                torch.testing.assert_close(got[key], file.get_tensor(f"{case}/{key}"), atol=2e-5, rtol=0)


def test_structure_of_the_folded_model() -> None:
    model = small_models.model(small_models.config(64, 4))
    other = folded(model, FoldConfig())
    assert any(isinstance(m, LayerScale) for m in model.modules())
    assert not any(isinstance(m, LayerScale) for m in other.modules())
    before, after = ({n for n, m in x.named_modules() if isinstance(m, MATMULS)} for x in (model, other))
    assert after - before == {"aggregator.patch_rotation", "camera_head.token_rotation"}
    assert not before - after
    for name, norm in other.named_modules():
        stream = name.startswith("aggregator.") and name.rsplit(".", 1)[-1] in ("norm", "norm1", "norm2")
        head = name in ("camera_head.token_norm", "depth_head.norm", "track_head.feature_extractor.norm")
        if isinstance(norm, torch.nn.LayerNorm) and (stream or head):
            assert torch.equal(norm.weight, torch.ones_like(norm.weight)), name
            assert torch.equal(norm.bias, torch.zeros_like(norm.bias)), name


@pytest.mark.parametrize("stream", ["aggregator.patch_embed", "aggregator"])
def test_every_token_and_embedding_turns_with_its_stream(stream: str) -> None:
    """Also the mask token, which only training reads: turned apart from the others, its angles to them would change."""
    model = small_models.model(small_models.config(64, 4))
    before, after = (
        torch.cat([p.flatten(0, -2) for p in m.get_submodule(stream).parameters(recurse=False)])
        for m in (model, folded(model, FoldConfig()))
    )
    assert (after - before).norm(dim=-1).min() > 0.1 * before.norm(dim=-1).min() > 0
    torch.testing.assert_close(after @ after.T, before @ before.T, atol=BOUND, rtol=0)


def test_exported_graph_has_two_more_matmuls_and_no_layer_scale() -> None:
    shallow = {"vit_depth": 1, "aa_depth": 1, "camera_iters": 1, "dpt_layers": (0, 0, 0, 0)}
    model = small_models.model(small_models.config(16, 4, heads=("camera", "depth"), **shallow))

    def ops(network: VGGT) -> dict[str, int]:
        program = torch.export.export(network, (images(2, 28, 28)[None],)).graph_module
        graphs = [m.graph for m in program.modules() if isinstance(m, torch.fx.GraphModule)]  # the heads have their own
        names = [str(node.target) for graph in graphs for node in graph.nodes if node.op == "call_function"]
        return {name: names.count(f"aten.{name}.default") for name in ("linear", "conv2d", "layer_norm")} | {
            "mul": names.count("aten.mul.Tensor")
        }

    before, after = ops(model), ops(folded(model, FoldConfig()))
    config = model.config
    trunk = config.camera_trunk_depth * config.camera_iters  # the trunk runs once an iteration
    scales = 2 * (config.vit_depth + 2 * config.aa_depth + trunk)
    assert after == before | {"linear": before["linear"] + 2, "mul": before["mul"] - scales}


@pytest.mark.parametrize("heads", [("camera",), ("depth",), ("track", "point")])
def test_any_set_of_heads(heads: tuple[str, ...]) -> None:
    model = small_models.model(small_models.config(16, 4, heads=heads))
    other = folded(model, FoldConfig())
    x, points = images(2, 28, 28), torch.tensor([[3.0, 5.0]]).double()
    assert max(distances(other(x, points), model(x, points)).values()) <= BOUND


def test_parameters_keep_type_identity_and_the_weights_they_came_from() -> None:
    model = VGGT(small_models.config(16, 4)).requires_grad_(False)
    fill(model)
    source = dict(model.named_parameters())
    storage = {k: v.data for k, v in source.items()}  # as if mapped from a file
    kept = {k: v.clone() for k, v in storage.items()}
    fold_(model)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32, name
        assert not parameter.requires_grad, name
        assert name not in source or parameter is source[name]
    assert all(torch.equal(storage[k], kept[k]) for k in storage)
    assert not model.aggregator.patch_rotation.training


def test_seeds_give_other_weights_and_the_same_seed_the_same() -> None:
    model = small_models.model(small_models.config(16, 4))
    weights = [folded(model, FoldConfig(seed=s)).aggregator.frame_blocks[0].mlp.fc1.weight for s in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_bases_that_layer_norm_would_notice_are_refused() -> None:
    """Before anything is changed: a stream in such a basis is another network."""
    model, q = VGGT(small_models.config(16, 4)), residual_rotation(16, 0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for wrong, words in ((sylvester_hadamard(16), "Q 1 is not 1"), (1.01 * q, "not orthogonal")):
        for pair in ((q, wrong), (wrong, q)):
            with pytest.raises(AssertionError, match=words):
                rotate_streams_(model, *pair)
    for count in (1, 3):
        with pytest.raises(ValueError, match="zip"):
            rotate_streams_(model, *[q] * count)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("first", [FoldConfig(), FoldConfig(residual=False, layer_scale=False)])
def test_folding_twice_is_refused(first: FoldConfig) -> None:
    model = VGGT(small_models.config(16, 4))
    fold_(model, first)
    for other in (model, copy.deepcopy(model)):
        with pytest.raises(QvggtError, match="already folded") as error:
            fold_(other, FoldConfig())
        assert "\n" not in str(error.value)


def test_a_folded_model_of_unknown_history_is_refused() -> None:
    model = VGGT(small_models.config(16, 4))
    fold_(model, FoldConfig(residual=False))
    model.__dict__.pop("_fold_config")
    with pytest.raises(QvggtError, match=r"blocks\.0\.ls1 is no LayerScale"):
        fold_(model)


def test_a_quantized_model_is_refused() -> None:
    model = VGGT(small_models.config(16, 4))
    quantize_(model, parse_scheme("w8a8"))
    with pytest.raises(QvggtError, match="is a QuantLinear, expected Linear; fold before quantizing"):
        fold_(model)


@pytest.mark.slow
def test_one_billion_parameters_in_single_precision() -> None:
    """Needs 6.2 GiB and two minutes on one core; 2.6e-6 measured."""
    with torch.device("meta"):
        model = VGGT(VGGT_1B.replace(heads=("camera", "point", "depth")))
    state = model.state_dict()
    for name in state:
        state[name] = torch.from_numpy(reference_weight(name, tuple(state[name].shape)))
    model.load_state_dict(state, assign=True)
    del state
    model.requires_grad_(False).eval()
    x = images(2, 70, 70, torch.float32)
    expected = model(x)
    fold_(model)
    worst = distances(model(x), expected)
    assert max(worst.values()) <= 1e-3, worst
