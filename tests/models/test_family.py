"""A model family describes itself: nothing else knows where VGGT's modules are, and a family can come from outside."""

from __future__ import annotations

import ast
import copy
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from outlier_injection import pca_basis_
from small_network import small_model
from toy_family import FAMILY as TOY
from toy_family import Toy, ToyConfig, toy_model

from qvggt.calib.calibrate import calibrate_
from qvggt.calib.frame_features import deep_layers, sequence_features
from qvggt.calib.plan import Outline, make_plan
from qvggt.calib.recipe import find_recipe
from qvggt.calib.sensitivity import find_units, unit_layers
from qvggt.engines.onnx_runner import OnnxRunner
from qvggt.errors import QvggtError
from qvggt.export.exporter import ExportConfig, export_onnx
from qvggt.export.network import EMITTERS
from qvggt.export.parity import check_linears
from qvggt.models.block import Block
from qvggt.models.family import FAMILIES, LINEARS, check_size, family_of, find_family
from qvggt.models.network import module_at
from qvggt.models.vggt.config import VGGT_1B
from qvggt.quant.checkpoint import Provenance, load_calibrated, save_calibrated
from qvggt.quant.model import quantized_linears, scheme_linears
from qvggt.quant.scheme import parse_scheme
from qvggt.rotation import CostTable, FoldConfig, fold_
from qvggt.sqnr import sqnr_db
from qvggt.target import Target

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("qvggt", "calib", "export", "engines", "eval")
OWN = ("qvggt/models/vggt/", "export/vggt/", "qvggt/predictions.py")  # the family's, and the words all families share
MODULES = re.compile(
    r"\b(aggregator|frame_blocks|global_blocks|patch_embed|camera_head|depth_head|point_head|track_head|camera_token|"
    r"register_tokens?|cls_token|pos_embed|token_norm|patch_rotation|token_rotation|aa_depth|vit_depth|"
    r"num_register_tokens)\b"
)
OUTPUTS = re.compile(r"\b(pose_enc|depth_conf|world_points|world_points_conf)\b")
SIZES = (14, 14**2)  # the patch
EXCEPTIONS = {
    "calib/quantvggt_release.py": "a release of parameters for VGGT, by its own names",
    "calib/import_quantvggt.py": "the same",
    "calib/quantvggt_scheme.py": "the same",
    "qvggt/data/images.py": "14: the preprocessing's default grid, where a caller names none; it knows no network",
    "qvggt/onnx_view/external_data.py": "14: an element type of ONNX",
    "export/forms/weight_only.py": "14: an exponent of fp16",
    "eval/html/charts.py": "a label in a chart is shorter without the trunk's name",
}


def own_words(path: Path) -> Iterator[str]:
    """Words of VGGT in the code of a file: names, attributes, strings that are no docstring, numbers."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    prose = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    for node in ast.walk(tree):
        found: list[str] = []
        if isinstance(node, ast.Attribute | ast.Name):
            found = MODULES.findall(node.attr if isinstance(node, ast.Attribute) else node.id)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found = [module for module in modules if module.startswith("qvggt.models.vggt")]
        elif isinstance(node, ast.Constant) and id(node) not in prose:
            if isinstance(node.value, str):
                found = MODULES.findall(node.value) + OUTPUTS.findall(node.value)
            elif type(node.value) is int and node.value in SIZES:
                found = [str(node.value)]
        yield from (f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}: {word}" for word in found)


def test_only_the_family_knows_its_modules() -> None:
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    assert len(files) > 150
    found = {path.relative_to(ROOT).as_posix(): list(own_words(path)) for path in files}
    strange = [w for name, words in found.items() for w in words if not name.startswith(OWN) and name not in EXCEPTIONS]
    assert strange == []
    assert all(found[name] for name in EXCEPTIONS), "an exception that is none any more"
    assert found["qvggt/models/vggt/description.py"], "the search finds nothing anywhere"


def test_facts_need_no_torch() -> None:
    code = (
        "import sys; from qvggt.models.family import find_family\n"
        "f = find_family(); c = f.assumed[1]; f.stages(c), f.streams(c), f.added(c), f.convs, f.memory(c)\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")


def test_an_unknown_family() -> None:
    with pytest.raises(QvggtError, match=r"'da7'.*expected one of vggt"):
        find_family("da7")
    with pytest.raises(QvggtError, match="not a positive multiple of the patch size 4"):
        check_size(16, 18, 4)


def described(network: torch.nn.Module) -> None:
    """Every path a description names is there, and every block is in a stage or in a part of a head. A state dict holds
    all tensors, as a network is built on the meta device before it is loaded."""
    assert {name for name, _ in network.named_buffers()} <= network.state_dict().keys()
    family = family_of(network)  # type: ignore[arg-type]
    config = network.config
    stages = family.stages(config)
    assert all(isinstance(network.get_submodule(stage.path), Block) for stage in stages)
    names = [stream.name for stream in family.streams(config)]
    assert {stage.stream for stage in stages} == set(names)
    added = {linear.path for linear in family.added(config)}
    assert all(module_at(network, path) is None for path in added)
    for stream in family.streams(config):
        for path in stream.vectors:
            assert network.get_parameter(path).shape[-1] == config.embed_dim
        norms = [r.norm for r in stream.readers if r.norm is not None]
        layers = [path for reader in stream.readers for path in reader.layers]
        assert all(module_at(network, p) is not None for p in (*norms, *layers, *stream.writers) if p not in added)
    blocks = {path for path, module in network.named_modules() if isinstance(module, Block)}
    in_parts = {b for b in blocks if any(part.pattern.fullmatch(f"{b}.{LINEARS[0]}") for part in family.parts)}
    assert {stage.path for stage in stages} | in_parts == blocks
    for head in family.heads:
        assert (module_at(network, head.path) is not None) == (head.name in config.heads)


def test_descriptions_are_true(toy: Toy) -> None:
    for network in (small_model(), small_model(heads=("depth",)), toy):
        described(network)


def test_vggt_in_numbers() -> None:
    family = find_family()
    stages = family.stages(VGGT_1B)
    assert len(stages) == 72
    assert [s.path for s in stages if s.enters] == ["aggregator.frame_blocks.0"]
    assert len(family.convs) == 60 + 2 * 2 + 1  # refinenet4 has no resConfUnit1: names that match nothing
    assert family.tokens(VGGT_1B, 518, 518) == 1374
    assert len(family.rounds(VGGT_1B)) == 24
    assert family.outputs(VGGT_1B.replace(heads=("point", "camera"))) == (
        "pose_enc",
        "world_points",
        "world_points_conf",
    )


# a family from outside the package


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Toy:
    monkeypatch.setitem(FAMILIES, "toy", "toy_family")
    assert find_family("toy") is TOY
    return toy_model()


def images(frames: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(frames, 3, 16, 24, generator=torch.Generator().manual_seed(seed))


def distance(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    return max(float((got[name] - value).norm() / value.norm()) for name, value in expected.items())


@pytest.mark.parametrize("config", [FoldConfig(), FoldConfig(residual=False), FoldConfig(value=False, seed=3)])
def test_another_family_folds_exactly(toy: Toy, config: FoldConfig) -> None:
    model = toy.double()
    folded = copy.deepcopy(model)
    fold_(folded, config)
    assert (folded.backbone.back is not None) == config.residual
    for frames in (1, 4):
        x = images(frames).double()
        assert distance(folded(x), model(x)) < 1e-12
    with pytest.raises(QvggtError, match="already folded"):
        fold_(folded)


def test_another_family_takes_a_basis_and_a_fold(toy: Toy) -> None:
    model = toy.double()
    changed = copy.deepcopy(model)
    pca_basis_(changed, [images(2).double()])
    fold_(changed)
    assert distance(changed(images(3).double()), model(images(3).double())) < 1e-12


@pytest.fixture
def calibrated(toy: Toy) -> Toy:
    """With a rotated stream, online rotations and centers."""
    model, scheme = copy.deepcopy(toy), parse_scheme("w8a8", family="toy")
    recipe = find_recipe("qvggt").replace(online="fc2", center="types")
    reports = calibrate_(model, scheme, recipe, [images(3), images(2, 1)], progress=False)
    assert list(reports) == [stage.path for stage in TOY.stages(ToyConfig())]
    return model


@torch.no_grad()
def test_another_family_is_calibrated_and_stored(toy: Toy, calibrated: Toy, tmp_path: Path) -> None:
    model, scheme = calibrated, parse_scheme("w8a8", family="toy")
    assert scheme.parts == ("backbone",)
    assert len(list(scheme_linears(toy, scheme))) == 6 * 4
    types = {path.split(".")[2]: linear.types for path, linear in quantized_linears(model)}
    assert types == {"0": 2, "1": 2, "2": 3, "3": 3, "4": 3, "5": 3}
    for frames in (1, 5):
        assert distance(model(images(frames, 7)), toy(images(frames, 7))) < 0.05
    save_calibrated(tmp_path / "toy", model, scheme, Provenance())
    loaded = load_calibrated(tmp_path / "toy")
    assert loaded.scheme.family == "toy"
    assert distance(loaded.model(images(3, 7)), model(images(3, 7))) == 0


@pytest.mark.parametrize("target", list(Target))
@torch.no_grad()
def test_another_family_is_exported(
    target: Target, toy: Toy, calibrated: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EMITTERS, "toy", "toy_emitter")
    for model, scheme in ((toy, parse_scheme("fp32", family="toy")), (calibrated, parse_scheme("w8a8", family="toy"))):
        export_onnx(model, scheme, ExportConfig(16, 24, ("pose", "depth"), target=target), tmp_path / "m.onnx")
        assert all(check_linears(tmp_path / "m.onnx", model, images(3), progress=False))
        runner = OnnxRunner(tmp_path / "m.onnx")
        for frames in (1, 4):
            got = runner.run_named(images(frames, 3).numpy())
            expected = {name: value.numpy() for name, value in model(images(frames, 3)).items()}
            assert got.keys() == expected.keys()
            assert all(sqnr_db(expected[name], got[name]) > 40 for name in got)
    with pytest.raises(QvggtError, match="unknown output 'points': expected a subset of pose, depth"):
        export_onnx(toy, parse_scheme("fp32", family="toy"), ExportConfig(16, 24, ("points",)), tmp_path / "n.onnx")


def test_another_family_is_planned_searched_and_selected(toy: Toy) -> None:
    units = find_units(toy, ("backbone",), "block")
    assert [unit.name for unit in units] == [f"backbone.blocks.{i}" for i in range(6)]
    assert sum(unit_layers(toy, unit) for unit in find_units(toy, ("backbone",), "part")) == 24
    assert deep_layers(toy, 1) == ("backbone.blocks.4", "backbone.blocks.5")
    assert sequence_features(toy, images(3), rounds=2).similarity.shape == (2,)
    recipe = find_recipe("qvggt")
    outline = Outline(ToyConfig(), parse_scheme("w8a8", family="toy"), recipe, 2, 2, 16, 16)
    plan = make_plan(outline, progress=False)
    assert plan.blocks == {"early": 2, "each": 2, "all": 2}
    assert "back 576 MACs a patch" in CostTable(ToyConfig()).to_markdown(16, 16)
