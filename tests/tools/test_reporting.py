"""What benchmarks share: tables, JSON, one-line errors, and scores on held-out scenes."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from held_out import HELD_OUT_SEED, Yardstick, drawn, scenes_in
from reporting import change_text, columns, markdown, shown, sqnr_db, start, write_json

from qvggt.data.synthetic.scene import SceneConfig
from qvggt.errors import QvggtError
from qvggt.hub.loading import load_model


def test_tables() -> None:
    rows = [["a", "1"], ["b", "2"]]
    assert markdown(["x", "y"], rows) == "| x | y |\n|---|---|\n| a | 1 |\n| b | 2 |\n"
    assert markdown(["x", "y"], rows[:1], aligned=True) == "| x | y |\n| --- | ---: |\n| a | 1 |\n"
    row = {"auc30_change": -1.234, "auc30_interval": [-2.5, 0.004]}
    assert change_text(row) == "-1.23 [-2.50, +0.00]"


def test_a_cell_is_a_key_a_unit_a_format_and_what_stands_for_nothing() -> None:
    row = {"name": "a", "bytes": 2_500_000, "auc": {"30": 81.256}, "none": None}
    assert shown(row, "name") == "a"
    assert shown(row, "bytes/1e6 {:.1f} or -") == "2.5"
    assert shown(row, "auc.30 {:.2f}x") == "81.26x"
    assert [shown(row, text) for text in ("auc.5 {:.2f} or -", "none.deeper or -", "none or ", "none")] == [
        "-",
        "-",
        "",
        "",
    ]
    with pytest.raises(KeyError):
        shown(row, "absent {:.1f}")
    assert columns([row], {"x": "name", "y": lambda r: str(len(r))}) == markdown(["x", "y"], [["a", "4"]], aligned=True)


def test_json_is_told_or_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "r.json"
    write_json(path, {"a": 1}, told=False)
    assert capsys.readouterr().out == ""
    write_json(path, {"a": 2})
    assert capsys.readouterr().out == f"wrote {path}\n"
    assert json.loads(path.read_text()) == {"a": 2}


def test_sqnr_is_a_number_that_json_has() -> None:
    truth = torch.ones(4)
    assert sqnr_db(truth, truth * 1.1) == pytest.approx(20, abs=1e-4)
    assert 200 < sqnr_db(truth, truth) < float("inf")


def test_a_mistake_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def tool() -> None:
        raise QvggtError("x: expected y")

    monkeypatch.setattr("sys.argv", ["tool"])
    with pytest.raises(SystemExit) as end:
        start(tool)
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: x: expected y\n"


@pytest.mark.usefixtures("one_thread")
def test_a_model_against_itself_and_against_a_worse_one(tmp_path: Path) -> None:
    split = scenes_in(tmp_path / "held_out", HELD_OUT_SEED, 2, workers=1)
    model = load_model("tiny")
    yardstick = Yardstick(model, split)
    same = yardstick.row(model)
    assert (same["auc30_change"], same["auc5_interval"]) == (0, [0, 0])
    assert 50 < same["auc30"] <= 100
    assert same["abs_rel"] < 0.3
    assert set(same["sqnr_db"]) == {"pose_enc", "depth", "depth_conf"}  # nothing is judged by the point head
    assert model.point_head is not None
    worse = copy.deepcopy(model)
    worse.aggregator.frame_blocks[0].mlp.fc1.weight.data *= 0.5
    changed = yardstick.row(worse, ("auc5",))
    assert changed["sqnr_db"]["pose_enc"] < 40 < same["sqnr_db"]["pose_enc"]
    assert "auc5_change" in changed
    assert "auc30_change" not in changed
    images, extrinsics = drawn(SceneConfig(height=70, width=70, family="random", frames=8), 4, HELD_OUT_SEED)
    assert torch.equal((images * 255).round().byte(), torch.from_numpy(split.images[0, :4].copy()).permute(0, 3, 1, 2))
    assert extrinsics.shape == (4, 3, 4)
