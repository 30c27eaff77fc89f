"""Injected outliers change what a linear sees, and no output."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from outlier_injection import gathered_basis, inject_outliers_, pca_basis_, pca_rotation, stream_moments
from reference_weights import fill
from small_models import TRACK, stir_norms_
from small_network import CONFIG, SIZE

from qvggt.calib.rtn import quantize_rtn_
from qvggt.errors import QvggtError
from qvggt.models.block import LayerScale
from qvggt.models.family import Stage, family_of
from qvggt.models.vggt.network import VGGT
from qvggt.quant.checkpoint import Provenance, load_calibrated, save_calibrated
from qvggt.quant.model import quantize_
from qvggt.quant.scheme import parse_scheme
from qvggt.rotation import FoldConfig, applied_fold, fold_

OUTPUTS = {"pose_enc", "depth", "depth_conf", "world_points", "world_points_conf", "track", "vis", "conf"}
POINTS = torch.tensor([[3.0, 5.0], [40.0, 30.5]]).double()
BOUNDS = {torch.float64: 1e-10, torch.float32: 1e-5}
TRACK_BOUND = 5e-5  # fp32: this random tracker amplifies rounding, and is off by 1.7e-5 itself before any stress


def stages(model: VGGT) -> tuple[Stage, ...]:
    return family_of(model).stages(model.config)


LINEARS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
FACTOR, FRACTION = 30.0, 0.05  # 3 of 64 channels


pytestmark = pytest.mark.usefixtures("no_grad")


def network(width: int = 64, heads: int = 4, dtype: torch.dtype = torch.float64) -> VGGT:
    """All heads, and no norm or scale that is an identity."""
    config = CONFIG.replace(
        embed_dim=width, num_heads=heads, vit_depth=2, aa_depth=2, dpt_layers=(0, 0, 1, 1), track=TRACK
    ).replace(heads=("camera", "point", "depth", "track"))
    model = VGGT(config)
    fill(model)
    return stir_norms_(model, width, 2.0, 0.3).requires_grad_(False).to(dtype)


def images(dtype: torch.dtype = torch.float64, frames: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.rand(frames, 3, SIZE, SIZE - 14, generator=torch.Generator().manual_seed(seed)).to(dtype)


def check_same(model: VGGT, changed: VGGT) -> None:
    dtype = model.aggregator.camera_token.dtype
    expected, got = (m(images(dtype), POINTS.to(dtype)) for m in (model, changed))
    assert expected.keys() == got.keys() == OUTPUTS
    assert all(v.std() > 1e-4 * v.abs().max() for v in expected.values())
    worst = {k: float((got[k] - v).abs().max() / v.abs().max()) for k, v in expected.items()}
    loose = {k: TRACK_BOUND for k in ("track", "vis", "conf") if dtype == torch.float32}
    assert all(v <= loose.get(k, BOUNDS[dtype]) for k, v in worst.items()), worst


def inputs(model: VGGT) -> dict[str, torch.Tensor]:
    """Path -> input of every linear of the streams' blocks, [..., C]."""
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        model.get_submodule(path).register_forward_pre_hook(lambda _, args, path=path: seen.update({path: args[0]}))
        for path in (f"{stage.path}.{name}" for stage in stages(model) for name in LINEARS)
    ]
    model(images(model.aggregator.camera_token.dtype))
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("factor", "seed"), [(FACTOR, 0), (100.0, 1), (0.1, 2)])
def test_injection_keeps_every_output(dtype: torch.dtype, factor: float, seed: int) -> None:
    model = network(dtype=dtype)
    changed = copy.deepcopy(model)
    inject_outliers_(changed, factor, FRACTION, seed)
    check_same(model, changed)


def test_injection_multiplies_the_chosen_channels_and_no_other() -> None:
    model = network()
    changed = copy.deepcopy(model)
    inject_outliers_(changed, FACTOR, FRACTION)
    before, after = inputs(model), inputs(changed)
    chosen: dict[str, tuple[int, ...]] = {}
    for path, x in before.items():
        ratio = (after[path] * x).flatten(0, -2).sum(0) / (x * x).flatten(0, -2).sum(0)
        strong = ratio > 2
        expected = torch.where(strong, FACTOR, 1.0).to(ratio)
        torch.testing.assert_close(ratio, expected, rtol=1e-9, atol=0)
        assert int(strong.sum()) == (0 if path.endswith("fc2") else 3), path
        chosen[path] = tuple(strong.nonzero().flatten().tolist())
    # every linear of every block draws its own
    assert len(set(chosen.values())) > 0.9 * sum(not path.endswith("fc2") for path in chosen)


def test_injection_leaves_the_rest_alone() -> None:
    model = network(dtype=torch.float32)
    changed = copy.deepcopy(model)
    inject_outliers_(changed, FACTOR, FRACTION)
    state = model.state_dict()
    touched = {k for k, v in changed.state_dict().items() if not torch.equal(v, state[k])}
    ends = ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "qkv.weight", "qkv.bias", "proj.weight")
    assert touched == {
        f"{stage.path}.{end if end.startswith('norm') else 'attn.' + end}" for stage in stages(model) for end in ends
    } | {f"{stage.path}.mlp.fc1.weight" for stage in stages(model)}


def test_injection_is_seeded() -> None:
    models = [network() for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        inject_outliers_(model, FACTOR, FRACTION, seed)
    norms = [m.aggregator.frame_blocks[1].norm2.weight for m in models]
    assert torch.equal(norms[0], norms[1])
    assert not torch.equal(norms[0], norms[2])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fraction": 0.001}, "fraction 0.001 gives 0 of 64 channels, expected 1 to 64"),
        ({"fraction": 1.5}, "fraction 1.5 gives 96 of 64 channels"),
        ({"factor": 0.0}, "factor 0.0, expected a positive finite number"),
        ({"factor": float("inf")}, "factor inf, expected"),
    ],
)
def test_injection_refuses_senseless_settings(changes: dict[str, float], words: str) -> None:
    model = network()
    kept = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(QvggtError, match=words):
        inject_outliers_(model, **{"fraction": FRACTION, **changes})
    assert all(torch.equal(v, kept[k]) for k, v in model.state_dict().items())


def test_quantized_models_are_refused() -> None:
    model = network(dtype=torch.float32)
    quantize_(model, parse_scheme("w8a8", parts=("aggregator",)))
    kept = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(QvggtError, match=r"frame_blocks\.0\.attn\.qkv is a QuantLinear.*inject before quantizing"):
        inject_outliers_(model, fraction=FRACTION)
    unread = iter([images(torch.float32)])
    with pytest.raises(QvggtError, match="is a QuantLinear, expected Linear"):
        pca_basis_(model, unread)
    assert len(list(unread)) == 1  # refused before any work
    assert all(torch.equal(v, kept[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("width", "heads"), [(64, 4), (16, 2), (24, 2)])
def test_pca_basis_keeps_every_output(width: int, heads: int, dtype: torch.dtype) -> None:
    model = network(width, heads, dtype)
    changed = copy.deepcopy(model)
    pca_basis_(changed, [images(dtype), images(dtype, frames=3, seed=1)], seed=width)
    check_same(model, changed)


def test_pca_basis_gathers_the_energy_of_both_streams() -> None:
    model = network()
    batches = [images(), images(frames=3, seed=1)]
    before = stream_moments(model, batches)
    pca_basis_(model, batches)
    after = stream_moments(model, batches)
    for old, new in zip(before.values(), after.values(), strict=True):
        energies = torch.linalg.eigvalsh(old)
        torch.testing.assert_close(torch.linalg.eigvalsh(new), energies, atol=1e-9, rtol=0)
        channels = new.diagonal().sort(descending=True).values
        assert float(channels[0]) == pytest.approx(float(energies[-1]) * (1 - 1 / 64), rel=1e-9)
        assert float(channels[:8].sum()) > 0.95 * float(energies[-8:].sum())
        assert float(channels[0]) > 2 * float(old.diagonal().max())
        assert float(new.sum(1).abs().max()) < 1e-9  # the ones stay outside


def test_linears_see_the_gathered_channel() -> None:
    model = network()
    before = inputs(model)
    pca_basis_(model, [images()])
    after = inputs(model)
    for path in before:
        if path.endswith(("attn.qkv", "fc1")):
            x = after[path].flatten(0, -2).abs()
            peaks = x.amax(0)
            assert float(peaks.max() / peaks.median()) > 2.5, path
        else:
            torch.testing.assert_close(after[path], before[path], atol=1e-10, rtol=0)


def test_pca_basis_is_deterministic_and_seeded() -> None:
    models = [network(dtype=torch.float32) for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        pca_basis_(model, (images(torch.float32, seed=i) for i in range(2)), seed)
    states = [m.state_dict() for m in models]
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())
    key = "aggregator.frame_blocks.0.mlp.fc1.weight"
    assert not torch.equal(states[0][key], states[2][key])
    torch.testing.assert_close(states[0][key].sort(1).values, states[2][key].sort(1).values, atol=1e-5, rtol=0)


def test_pca_basis_needs_images() -> None:
    model = network()
    with pytest.raises(QvggtError, match="at least one image sequence"):
        pca_basis_(model, [])
    assert applied_fold(model) is None


def test_injection_after_the_pca_basis_is_exact_and_survives() -> None:
    model = network()
    both = copy.deepcopy(model)
    pca_basis_(both, [images()])
    inject_outliers_(both, FACTOR, FRACTION)
    check_same(model, both)
    assert float(both.aggregator.frame_blocks[0].norm1.weight.max()) == pytest.approx(FACTOR)


FOLDS = [
    FoldConfig(),
    FoldConfig(seed=5, camera_value=True),
    FoldConfig(residual=False),
    FoldConfig(residual=False, layer_scale=False, value=False),
]


@pytest.mark.parametrize("config", FOLDS)
@pytest.mark.parametrize("inject", [False, True])
def test_a_stressed_model_folds_like_any_other(config: FoldConfig, inject: bool) -> None:
    model = network()
    changed = copy.deepcopy(model)
    pca_basis_(changed, [images()])
    if inject:
        inject_outliers_(changed, FACTOR, FRACTION)
    fold_(changed, config)
    check_same(model, changed)
    assert not any(isinstance(m, LayerScale) for m in changed.modules())
    structure = applied_fold(changed)
    assert structure is not None
    assert (structure.residual, structure.layer_scale, structure.seed) == (True, True, config.seed)
    with pytest.raises(QvggtError, match="already folded"):
        fold_(copy.deepcopy(changed), config)
    if config.residual:  # the energy is spread again
        moments = stream_moments(changed, [images()]).values()
        assert all(float(m.diagonal().max() / m.diagonal().mean()) < 4 for m in moments)


def test_two_changes_of_basis_are_one() -> None:
    model = network()
    changed = copy.deepcopy(model)
    pca_basis_(changed, [images()], seed=0)
    pca_basis_(changed, [images()], seed=1)
    check_same(model, changed)
    fold_(changed)
    check_same(model, changed)


@pytest.mark.parametrize("fold", [None, FoldConfig(), FoldConfig(residual=False)])
@pytest.mark.parametrize("pca", [False, True])
def test_stressed_checkpoints_load(fold: FoldConfig | None, pca: bool, tmp_path: Path) -> None:
    model = network(dtype=torch.float32)
    if pca:
        pca_basis_(model, [images(torch.float32)])
    inject_outliers_(model, FACTOR, FRACTION)
    if fold is not None:
        fold_(model, fold)
    scheme = parse_scheme("w4a4")
    quantize_rtn_(model, scheme, progress=False)
    save_calibrated(tmp_path / "checkpoint", model, scheme, Provenance())
    loaded = load_calibrated(tmp_path / "checkpoint").model
    expected, got = (m(images(torch.float32)) for m in (model, loaded))
    assert all(torch.equal(got[k], v) for k, v in expected.items())


def test_round_to_nearest_suffers() -> None:
    """Random weights know no accuracy, so: the error of the pose encodings at 8 bits."""

    def error(changed: VGGT) -> float:
        rounded = copy.deepcopy(changed)
        quantize_rtn_(rounded, parse_scheme("w8a8"), progress=False)
        wanted, got = (m(images(torch.float32))["pose_enc"] for m in (changed, rounded))
        return float((got - wanted).norm() / wanted.norm())

    model = network(dtype=torch.float32)
    plain = error(model)
    inject_outliers_(model, 100, FRACTION)
    assert error(model) > 5 * plain


@settings(deadline=None, max_examples=25)
@given(width=st.integers(2, 40), rank=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_pca_rotation_of_any_moment(width: int, rank: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(rank, width, generator=generator).double()
    tokens -= tokens.mean(1, keepdim=True)
    moment = tokens.T @ tokens
    q = pca_rotation(moment, seed % 1000)
    eye, one = torch.eye(width).double(), torch.ones(width).double()
    torch.testing.assert_close(q.T @ q, eye, atol=1e-12, rtol=0)
    torch.testing.assert_close(q.sum(0), one, atol=1e-12, rtol=0)
    torch.testing.assert_close(q.sum(1), one, atol=1e-12, rtol=0)
    channels, bound = (q.T @ moment @ q).diagonal(), torch.linalg.eigvalsh(moment)[-1] * (1 - 1 / width)
    torch.testing.assert_close(channels.max(), bound, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("width", [2, 5, 128])
def test_gathered_basis(width: int) -> None:
    w = gathered_basis(width)
    torch.testing.assert_close(w.T @ w, torch.eye(width - 1).double(), atol=1e-13, rtol=0)
    torch.testing.assert_close(w.sum(0), torch.zeros(width - 1).double(), atol=1e-13, rtol=0)
    rest = torch.arange(width, 1, -1).double()
    torch.testing.assert_close(w.diagonal() ** 2, 1 - 1 / rest)
    assert torch.equal(w.triu(1), torch.zeros_like(w))
