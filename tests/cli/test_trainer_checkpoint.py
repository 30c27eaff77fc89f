"""What VGGT's own trainer writes goes through every command, without the heads that were not trained."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch
from calling import call
from PIL import Image
from small_network import CONFIG, small_model

from qvggt.models.vggt.config import HEADS


@pytest.mark.slow
def test_a_trainer_checkpoint_in_every_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, photos = tmp_path / "ckpts", tmp_path / "photos"
    folder.mkdir()
    photos.mkdir()
    state = small_model(heads=("camera", "depth")).state_dict()
    torch.save({"prev_epoch": 0, "optimizer": [{"state": {}}], "model": state}, folder / "checkpoint.pt")
    sizes = CONFIG.replace(heads=HEADS).to_json()
    (folder / "config.json").write_text(json.dumps({"qvggt_config": json.loads(sizes)}))
    for index in range(2):
        Image.linear_gradient("L").rotate(90 * index).save(photos / f"{index}.png")
    common = ("--threads", 1)
    assert call("calibrate", folder, "--bits", "w8a8", "--recipe", "rtn", *common, "-o", tmp_path / "q") == 0
    assert call("export", tmp_path / "q", "--no-check", *common, "-o", tmp_path / "m.onnx") == 0
    outputs = [value.name for value in onnx.load(tmp_path / "m.onnx", load_external_data=False).graph.output]
    assert outputs == ["pose_enc", "depth", "depth_conf"]
    data = ("--dataset", "photos", "--root", photos, "--frames", 2)
    assert call("eval", "--model", folder / "checkpoint.pt", *data, *common) == 0
    options = ("--formats", "cameras", "-o", tmp_path / "r")
    assert call("reconstruct", photos, "--model", folder, *options, *common) == 0
    assert call("reconstruct", photos, "--model", folder, *options, "--overwrite", "--query-grid", 2) == 2
    assert "has no track head, only camera, depth" in capsys.readouterr().err
