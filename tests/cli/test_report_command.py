"""qvggt eval report: the page of a finished evaluation, and what it refuses."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import calling
import pytest
import torch
from page_data import report, store

call = partial(calling.call, "eval")


def test_the_page_lies_beside_the_report(tmp_path, capsys, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: bool(opened.append(address)) or len(opened) == 1)
    store(tmp_path)
    (tmp_path / "r.json").write_text(json.dumps(report()))
    assert call("report", tmp_path / "r.json", "--open") == 0
    assert f"report: {tmp_path / 'r.html'} (0." in capsys.readouterr().out
    assert opened == [(tmp_path / "r.html").as_uri()]
    assert call("report", tmp_path / "r.json", "--html", tmp_path / "new" / "p.html", "--open") == 0
    assert "no browser found" in capsys.readouterr().err
    assert (tmp_path / "new" / "p.html").read_text() == (tmp_path / "r.html").read_text()  # the same twice


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("report", "no.json"), "no.json: cannot be read"),
        (("report", "r.json", "--html", "r.json"), "is the report itself"),
        (("report", "r.json", "--html", "folder"), "is a folder"),
        (("report", "r.json"), "is no JSON"),
        (("--model", "tiny", "--dataset", "synthetic", "--open"), "--open: give --html"),
        (("--open", "report", "r.json"), "--open: has no use before report"),
        (("merge", "a.jsonl", "--open"), "--open: give --html"),
        (
            ("--model", "tiny", "--dataset", "synthetic", "--shard", "1/2", "--html", "p.html"),
            "--shard: give --records",
        ),
    ],
)
def test_mistakes(tmp_path, capsys, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("r.json").write_text("{")
    assert call(*args) == 2
    assert message in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "r.json"]


def test_an_evaluation_writes_its_page(tmp_path, capsys):
    """Without --json; the pictures are found from where the page lies."""
    args = ("--model", "tiny", "--dataset", "synthetic", "--scenes", 1, "--frames", 2, "--metrics", "pose,depth")
    before = torch.get_num_threads()
    try:
        assert call(*args, "--threads", 1, "--store", tmp_path / "s", "--html", tmp_path / "out" / "e.html") == 0
    finally:
        torch.set_num_threads(before)
    assert "e.html (0." in capsys.readouterr().out
    text = (tmp_path / "out" / "e.html").read_text(encoding="utf-8")
    assert text.count("data:image/jpeg") == 2 + 2 + 2 + 1  # frames, truth, the model, the colour scale
    assert "not available" not in text
    assert "one candidate alone has nothing to compare with" in text
