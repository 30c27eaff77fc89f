from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qvggt.errors import QvggtError
from qvggt.files import file_sha256
from qvggt.hub.loading import load, load_model
from qvggt.models.loading import save_model
from qvggt.models.vggt.config import HEADS, TrackConfig, VGGTConfig
from qvggt.models.vggt.description import VGGTFamily
from qvggt.models.vggt.network import VGGT
from qvggt.tensor_file import TensorFile, open_tensors

CONFIG = VGGTConfig(
    img_size=28,
    embed_dim=16,
    vit_depth=1,
    aa_depth=2,
    num_heads=2,
    camera_trunk_depth=1,
    camera_num_heads=2,
    dpt_features=8,
    dpt_out_channels=(4, 4, 8, 8),
    dpt_layers=(0, 0, 1, 1),
    dpt_head_channels=4,
    heads=("camera", "point", "depth"),
    track=TrackConfig(features=8, hidden_size=8, depth=1, num_heads=2, virtual_tracks=4),
)
IMAGES = torch.linspace(0, 1, 2 * 3 * 28 * 28).view(1, 2, 3, 28, 28)


@pytest.fixture(scope="module")
def model() -> VGGT:
    torch.manual_seed(0)
    model = VGGT(CONFIG)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval().requires_grad_(False)


@pytest.fixture
def stored(model: VGGT, tmp_path: Path) -> Path:
    save_model(model, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def same(got: VGGT, expected: VGGT, config: VGGTConfig = CONFIG) -> None:
    state = expected.state_dict()
    assert got.config == config
    assert not got.training
    for name, tensor in [*got.named_parameters(), *got.named_buffers()]:
        assert tensor.device.type == "cpu", name
        assert tensor.dtype == torch.float32, name
        assert not tensor.requires_grad, name
    for name, tensor in got.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    buffers = dict(got.named_buffers())
    for name, tensor in expected.named_buffers():
        assert torch.equal(buffers[name], tensor), name


def fails(source: str | Path, *parts: str, **options: object) -> str:
    with pytest.raises(QvggtError) as e:
        load_model(source, **options)  # type: ignore[arg-type]
    text = str(e.value)
    assert "\n" not in text
    for part in parts:
        assert part in text, text
    return text


def test_round_trip_gives_equal_outputs(model: VGGT, stored: Path) -> None:
    got = load_model(stored)
    same(got, model)
    with torch.no_grad():
        for key, value in model(IMAGES).items():
            torch.testing.assert_close(got(IMAGES)[key], value)


def test_round_trip_with_every_head(tmp_path: Path) -> None:
    config = CONFIG.replace(heads=HEADS)
    model = VGGT(config).eval()
    save_model(model, tmp_path / "f.safetensors")
    got = load_model(tmp_path / "f.safetensors")
    same(got, model, config)
    assert got.track_head is not None


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s}, lambda s: {"state_dict": s}])
@pytest.mark.parametrize("name", ["model.pt", "model.pth"])
def test_torch_files_with_an_explicit_config(model: VGGT, tmp_path: Path, wrap: object, name: str) -> None:
    torch.save(wrap(model.state_dict()), tmp_path / name)  # type: ignore[operator]
    same(load_model(tmp_path / name, config=CONFIG), model)


def test_directory_prefers_safetensors(model: VGGT, stored: Path) -> None:
    (stored.parent / "model.pt").write_bytes(b"junk")
    same(load_model(str(stored.parent)), model)
    stored.unlink()
    torch.save(model.state_dict(), stored.parent / "model.pt")
    same(load_model(stored.parent, config=CONFIG), model)


def test_directories_without_a_float_model(stored: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    fails(tmp_path / "empty", "model.safetensors", "model.pt")
    (tmp_path / "quant.json").touch()
    fails(tmp_path, "calibrated checkpoint")


def test_config_precedence(model: VGGT, stored: Path, tmp_path: Path) -> None:
    iters = CONFIG.replace(camera_iters=2)
    beside = tmp_path / "pt" / "config.json"
    beside.parent.mkdir()
    beside.write_text(json.dumps({"img_size": 518, "qvggt_config": json.loads(CONFIG.to_json())}))
    torch.save(model.state_dict(), beside.with_name("model.pt"))
    same(load_model(beside.parent), model)  # config.json
    (tmp_path / "config.json").write_text(json.dumps({"qvggt_config": json.loads(iters.to_json())}))
    assert load_model(stored).config == CONFIG  # metadata over config.json
    assert load_model(stored, config=iters).config == iters  # explicit over both
    beside.write_text('{"img_size": 518}')  # no qvggt_config: the 1B sizes
    fails(beside.parent, "VGGT-1B was assumed", "pass config=")


@pytest.mark.parametrize("text", ["{", "[]", '{"qvggt_config": 3}', '{"qvggt_config": {"track": {"x": 1}}}'])
def test_bad_config_json(model: VGGT, tmp_path: Path, text: str) -> None:
    torch.save(model.state_dict(), tmp_path / "model.pt")
    (tmp_path / "config.json").write_text(text)
    fails(tmp_path, "VGGT-1B was assumed" if text == "[]" else "config.json")


@pytest.mark.parametrize("text", ["{", "3", '{"nonsense": 1}', '{"num_heads": 0}', '{"heads": ["nose"]}'])
def test_bad_config_metadata(model: VGGT, tmp_path: Path, text: str) -> None:
    save_file(dict(model.state_dict()), tmp_path / "f.safetensors", metadata={"config": text})
    fails(tmp_path / "f.safetensors", "metadata key 'config'")


def test_heads_not_asked_for_are_neither_built_nor_read(
    model: VGGT, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    floats = TensorFile.floats

    def recorded(self: TensorFile, keys: Iterable[str]) -> Iterator[tuple[str, torch.Tensor]]:
        read.extend(keys)
        return floats(self, read)

    monkeypatch.setattr(TensorFile, "floats", recorded)
    got = load_model(stored, heads=("depth", "camera"))
    same(got, model, CONFIG.replace(heads=("camera", "depth")))
    assert got.point_head is None
    assert len(read) == len(got.state_dict())
    assert not any(key.startswith("point_head.") for key in read)
    monkeypatch.undo()
    assert load_model(stored, heads=()).config.heads == ()
    fails(stored, "nose", heads=("nose",))


def test_absent_head_says_how_to_load_without_it(model: VGGT, tmp_path: Path) -> None:
    state = {k: t for k, t in model.state_dict().items() if not k.startswith(("depth_head.", "point_head."))}
    torch.save(state, tmp_path / "f.pt")
    fails(tmp_path / "f.pt", "no point and no depth head", "heads=('camera',)", config=CONFIG)
    assert load_model(tmp_path / "f.pt", config=CONFIG, heads=("camera",)).camera_head is not None


@pytest.mark.parametrize("wrapped", ["", "module.", "_orig_mod."])
@pytest.mark.parametrize("described", [False, True])
def test_what_a_trainer_writes(
    model: VGGT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, described: bool, wrapped: str
) -> None:
    """Beside optimizer and counters, without the heads that were not trained; named as the trainer names it."""
    held = ("camera_head.", "depth_head.", "aggregator.")
    state = {wrapped + key: tensor for key, tensor in model.state_dict().items() if key.startswith(held)}
    moments = {"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-4}]}
    folder = tmp_path / "ckpts"
    folder.mkdir()
    torch.save({"prev_epoch": 3, "optimizer": [moments], "model": state}, folder / "checkpoint.pt")
    whole = CONFIG.replace(heads=HEADS)
    if described:
        (folder / "config.json").write_text(json.dumps({"qvggt_config": json.loads(whole.to_json())}))
    else:  # then it is taken for the network the family assumes
        monkeypatch.setattr(VGGTFamily, "assumed", ("a small one", whole))
    for source in (folder, folder / "checkpoint.pt"):
        found = load(source)
        assert found.network.config.heads == ("camera", "depth")
        assert torch.equal(found.network.depth_head.norm.weight, model.depth_head.norm.weight)
        assert found.sha256 == file_sha256(folder / "checkpoint.pt")
    fails(folder, "holds no point and no track head", "heads=('camera', 'depth')")


def shards(model: VGGT, folder: Path) -> Path:
    """The model in two shards with their index; config.json states the sizes, as shards written by others have none."""
    folder.mkdir(exist_ok=True)
    state = model.state_dict()
    names = [f"model-{number:05d}-of-00002.safetensors" for number in (1, 2)]
    where = {key: names[index % 2] for index, key in enumerate(sorted(state))}
    for name in names:
        save_file({key: state[key] for key in where if where[key] == name}, folder / name, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    (folder / "config.json").write_text(json.dumps({"qvggt_config": json.loads(CONFIG.to_json())}))
    return folder


def test_shards_are_one_model(model: VGGT, tmp_path: Path) -> None:
    folder = shards(model, tmp_path / "m")
    hashes = set()
    for source in (folder, folder / "model.safetensors.index.json", folder / "model-00002-of-00002.safetensors"):
        same(load_model(source), model)
        hashes.add(load(source).sha256)
    assert len(hashes) == 1
    first = folder / "model-00001-of-00002.safetensors"
    state = load_file(first)
    state[next(iter(state))] += 1
    save_file(state, first)
    assert load(folder).sha256 not in hashes


def test_broken_shards(model: VGGT, tmp_path: Path) -> None:
    folder = shards(model, tmp_path / "m")
    index = folder / "model.safetensors.index.json"
    good = json.loads(index.read_text())["weight_map"]
    key = next(iter(good))
    for name in ("../x.safetensors", "/etc/x.safetensors", "x.pt", 3, "x.safetensors/y"):
        index.write_text(json.dumps({"weight_map": {**good, key: name}}))
        fails(folder, "names the shard", "expected a .safetensors file beside it")
    other = next(name for name in set(good.values()) if name != good[key])
    index.write_text(json.dumps({"weight_map": {**good, key: other}}))
    fails(folder, f"holds no {key}")
    index.write_text("{}")
    fails(folder, "has no weight_map")
    index.write_text(json.dumps({"weight_map": good}))
    (folder / other).unlink()
    fails(folder, other, "nothing there")
    index.unlink()
    fails(folder / good[key], "is one of 2 shards", "model.safetensors.index.json is not beside it")
    fails(folder, "holds neither")


def test_a_folder_with_one_weights_file(model: VGGT, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    save_model(model, tmp_path / "m" / "mine.safetensors")
    same(load_model(tmp_path / "m"), model)
    save_model(model, tmp_path / "m" / "other.safetensors")
    fails(tmp_path / "m", "holds neither model.safetensors nor model.pt, but mine.safetensors, other.safetensors")


def test_mismatches_come_in_one_line_with_counts(model: VGGT, tmp_path: Path) -> None:
    state = dict(model.state_dict())
    del state["aggregator.camera_token"]
    for i in range(5):
        state[f"extra.{i}"] = torch.ones(1)
    state["aggregator.patch_embed.norm.weight"] = torch.ones(17)
    torch.save(state, tmp_path / "f.pt")
    text = fails(
        tmp_path / "f.pt",
        str(tmp_path / "f.pt"),
        "1 missing (aggregator.camera_token)",
        "5 unexpected (extra.0; extra.1; extra.2; and 2 more)",
        "1 mis-shaped (aggregator.patch_embed.norm.weight expected [16] got [17])",
        config=CONFIG,
    )
    assert "extra.3" not in text


def test_half_a_head_is_missing_keys_not_an_absent_head(model: VGGT, tmp_path: Path) -> None:
    state = {k: t for k, t in model.state_dict().items() if not k.startswith("depth_head.scratch")}
    torch.save(state, tmp_path / "f.pt")
    fails(tmp_path / "f.pt", "missing (depth_head.scratch", "more", config=CONFIG)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_storage_is_read_back_as_fp32(model: VGGT, tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "half.safetensors"
    save_model(model, path, {"origin": "test"}, dtype=dtype)
    file = open_tensors(path)
    assert file.metadata["origin"] == "test"
    assert {e.dtype for e in file.entries.values()} == {"F16" if dtype == torch.float16 else "BF16"}
    got = load_model(path).state_dict()
    for key, tensor in model.state_dict().items():
        assert torch.equal(got[key], tensor.to(dtype).float())


def test_weights_beyond_fp16_are_not_shipped(stored: Path, tmp_path: Path) -> None:
    model = load_model(stored)
    model.aggregator.camera_token.fill_(1e5)
    with pytest.raises(QvggtError, match=r"aggregator\.camera_token.*float16"):
        save_model(model, tmp_path / "half.safetensors", dtype=torch.float16)
    assert not (tmp_path / "half.safetensors").exists()


def test_saved_bytes_are_reproducible_and_metadata_keys_reserved(model: VGGT, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_model(model, tmp_path / f"{name}.safetensors", {"x": "1", "y": "2", "z": "3"})
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    with pytest.raises(ValueError, match="config"):
        save_model(model, tmp_path / "c.safetensors", {"config": "{}"})
    with pytest.raises(ValueError, match="int8"):
        save_model(model, tmp_path / "c.safetensors", dtype=torch.int8)


def test_saving_over_the_file_a_model_is_mapped_from(model: VGGT, stored: Path) -> None:
    got = load_model(stored)
    save_model(got, stored)
    same(got, model)
    same(load_model(stored), model)


def test_writing_to_a_loaded_weight_leaves_the_file_alone(model: VGGT, stored: Path) -> None:
    before = stored.read_bytes()
    load_model(stored).aggregator.camera_token.add_(1)
    assert stored.read_bytes() == before


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nonfinite_weights_on_request(model: VGGT, tmp_path: Path, value: float) -> None:
    state = {k: t.clone() for k, t in model.state_dict().items()}
    state["aggregator.register_token"].view(-1)[3] = value
    torch.save(state, tmp_path / "f.pt")
    load_model(tmp_path / "f.pt", config=CONFIG)
    fails(tmp_path / "f.pt", "aggregator.register_token", "NaN", config=CONFIG, check_finite=True)
    state["aggregator.register_token"].zero_()
    torch.save(state, tmp_path / "f.pt")
    load_model(tmp_path / "f.pt", config=CONFIG, check_finite=True)


def test_damaged_files_are_one_line(stored: Path, tmp_path: Path) -> None:
    os.truncate(stored, stored.stat().st_size // 2)
    fails(stored, "truncated")
    fails(tmp_path / "nowhere.pt", "no such file")


WRITE_1B = """
import sys, torch
from safetensors.torch import load_file, save_file
from qvggt.models.vggt.description import VGGTFamily
from qvggt.models.vggt.network import VGGT
from qvggt.models.vggt.config import VGGTConfig
with torch.device("meta"):
    state = VGGT(VGGTConfig(heads=("camera", "point", "depth"))).state_dict()
save_file({k: (torch.randn(t.shape) * 0.02).to(getattr(torch, sys.argv[2])) for k, t in state.items()}, sys.argv[1])
"""
LOAD_1B = """
import resource, sys, time, torch
from qvggt.files import file_sha256
from qvggt.hub.loading import load, load_model
began = time.perf_counter()
model = load_model(sys.argv[1], heads=("camera", "point", "depth"))
took = time.perf_counter() - began
if len(sys.argv) > 2:
    sum(p.sum() for p in model.parameters())  # page every weight in
size = sum(p.nbytes for p in model.parameters())
print(size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, took)
"""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_one_billion_parameters_load_in_one_copy(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "model.safetensors"
    subprocess.run([sys.executable, "-c", WRITE_1B, str(path), dtype], check=True)
    out = subprocess.run(
        [sys.executable, "-c", LOAD_1B, str(path), "touch"], check=True, capture_output=True, text=True
    )
    path.unlink()
    size, peak, took = map(float, out.stdout.split())
    print(f"{dtype}: {size / 1e9:.2f} GB of fp32 weights, peak RSS {peak / 1e9:.2f} GB, {took:.1f} s")
    assert size > 4.5e9
    assert peak <= 1.15 * size
