"""The trainer, in seconds: it trains, resumes, refuses another recipe, and writes a model that loads."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import train_model
import typer
from scene_split import render_split
from small_network import CONFIG, SIZE
from training.batches import Draw, Draws, loader

from qvggt.data.synthetic.scene import SceneConfig
from qvggt.hub.loading import load_model

pytestmark = pytest.mark.usefixtures("one_thread")
SCENES = SceneConfig(height=SIZE, width=SIZE, frames=8)
RECIPE = train_model.Recipe("toy", None, 0.005, 1, 3, 2, images_per_worker=8, dense_from=0.0, hold=1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bed")
    render_split(SCENES, range(3), out / "train", 1, progress=False)
    render_split(SCENES, range(10, 12), out / "held_out", 1, progress=False)
    return out


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(train_model.SETTINGS, "toy", train_model.Setting(CONFIG, SCENES))


def test_trains_resumes_and_writes_a_model(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_model.work(0, RECIPE, folder, str(tmp_path / "a"), torch.device("cpu"))
    steps = int(capsys.readouterr().out.split("after ")[1].split()[0])
    assert steps > 0
    assert load_model(folder / "model.safetensors").config == CONFIG
    saved = torch.load(folder / "state.pt", weights_only=True)
    assert saved["step"] == steps
    train_model.work(0, dataclasses.replace(RECIPE, minutes=0.03), folder, str(tmp_path / "b"), torch.device("cpu"))
    assert int(capsys.readouterr().out.split("after ")[1].split()[0]) > steps
    with pytest.raises(typer.BadParameter, match="of another recipe"):
        train_model.work(0, dataclasses.replace(RECIPE, seed=1), folder, str(tmp_path / "c"), torch.device("cpu"))


def test_the_rate_once_falling_keeps_its_budget(folder: Path, tmp_path: Path) -> None:
    falling = dataclasses.replace(RECIPE, hold=0.0)
    state = folder / "state.pt"
    saved = torch.load(state, weights_only=True)
    saved |= {"recipe": train_model.identity(falling), "minutes": falling.minutes}
    torch.save(saved, state)
    with pytest.raises(typer.BadParameter, match="begun to fall"):
        train_model.work(0, dataclasses.replace(falling, minutes=1.0), folder, str(tmp_path / "d"), torch.device("cpu"))


def test_batches_are_those_of_their_draw_whoever_makes_them(folder: Path) -> None:
    draws = [Draw((0, step, 1), 2, 3, 8) for step in range(2)]
    made = list(loader(folder / "train", iter(draws), torch.device("cpu")))
    assert [draw for draw, _ in made] == draws
    again = Draws(folder / "train")[draws[1]][1]
    for field in dataclasses.fields(again):
        assert torch.equal(getattr(again, field.name), getattr(made[1][1], field.name))
    assert not torch.equal(made[0][1].images, made[1][1].images)
    assert again.to(torch.device("meta")).pose.device.type == "meta"
