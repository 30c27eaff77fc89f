"""The bench of other tools: a peer that is not there is skipped by name, one that fails stays with its error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import bench_peers
import numpy as np
import peers.running
import pytest
import results_tables
from peers.adapter import EVERYTHING, LINEARS, Peer, Request, Variant
from peers.running import PEERS, find_peer, interpreter, quantized

from qvggt import QvggtError


def test_every_peer_has_a_file_that_imports_without_its_tool():
    peers = [find_peer(name) for name in PEERS]
    assert [peer.name for peer in peers] == list(PEERS)
    labels = [(peer.name, variant.name) for peer in peers for variant in peer.variants]
    assert len(set(labels)) == len(labels)
    with pytest.raises(QvggtError, match="expected one of onnxruntime"):
        find_peer("other")


def test_an_absent_peer_is_skipped_by_name(monkeypatch, capsys):
    ghost = Peer("ghost", "no_such_module_of_anyone", "ghost-tool", ())
    monkeypatch.setattr(bench_peers, "find_peer", lambda _name: ghost)
    assert bench_peers.installed(["ghost"], {}) == ([], {})
    assert "skipped ghost: no module no_such_module_of_anyone; pip install ghost-tool" in capsys.readouterr().out


def test_environments_by_name(tmp_path):
    assert bench_peers.pairs([f"nncf={tmp_path}"]) == {"nncf": tmp_path}
    for wrong in ("nncf", "ghost=/x"):
        with pytest.raises(QvggtError, match="expected NAME=PATH"):
            bench_peers.pairs([wrong])
    with pytest.raises(QvggtError, match="expected a virtual environment"):
        interpreter(find_peer("nncf"), {"nncf": tmp_path / "none"})


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (f"print('noise'); print('{json.dumps({'seconds': 1.0, 'error': 'ValueError: no'})}')", "ValueError: no"),
        (f"print('{json.dumps({'seconds': 1.0, 'error': None})}')", "wrote no file"),
        ("raise SystemExit('a bad day')", "its process ended with 1: a bad day"),
    ],
)
def test_a_failed_peer_keeps_its_error(tmp_path, monkeypatch, said, error):
    (tmp_path / "spoken.py").write_text(said)
    monkeypatch.setattr(peers.running, "WORKER", "spoken")
    monkeypatch.setattr(peers.running, "TOOLS", tmp_path)
    peer = find_peer("nncf")
    request = Request("m.onnx", "c.npz", str(tmp_path / "out.xml"), "images")
    assert quantized(Path(sys.executable), peer, peer.variants[0], request)["error"] == error


def test_the_worker_needs_nothing_of_ours(tmp_path):
    """It runs where qvggt is not: isolated, and a tool that fails is a result."""
    order = tmp_path / "request.json"
    order.write_text(json.dumps({"model": "m", "calibration": "none.npz", "output": "o", "input": "x", "nodes": ["a"]}))
    call = [sys.executable, "-S", "-m", peers.running.WORKER, "nncf", "default", str(order)]
    place = {"PYTHONPATH": str(peers.running.TOOLS)}
    done = subprocess.run(call, capture_output=True, text=True, check=True, cwd=tmp_path, env=place)
    assert json.loads(done.stdout.splitlines()[-1])["error"] == "ModuleNotFoundError: No module named 'nncf'"


def a_row(**values):
    return {"model": "plain", "scope": LINEARS, "runtime": "onnxruntime", **values}


@pytest.fixture
def rows():
    """Finished rows of a float file, ours, a peer of the same format, and one that failed."""
    rng = np.random.default_rng(0)
    scores = {tool: list(rng.uniform(70, 80, 8)) for tool in ("float", "ours", "x")}

    def row(tool, label, format, **values):
        points = {"auc30": scores[tool], "auc5": scores[tool]}
        return a_row(tool=tool, label=label, format=format, scores=points) | values

    rows = [
        row("float", "fp32", "fp32"),
        row("ours", "w8a8-static", "w8a8-static", bytes=5_000_000, kernels={"onnxruntime": {"MatMulInteger": 40}}),
        row("x", "static", "w8a8-static", engine={"error": "no"}, lint={"errors": 2, "warnings": 0}),
        {k: v for k, v in row("x", "bad", "w8a8-static", error="ValueError: no").items() if k != "scores"},
    ]
    return bench_peers.finished({str(i): r for i, r in enumerate(rows)})


def test_rows_are_compared_with_float_and_ours_of_the_same_runtime_and_format(rows):
    assert all("scores" not in r for r in rows)
    assert rows[0]["auc30_change"] == [0, 0, 0]
    assert rows[2]["auc30_ours"][0] == pytest.approx(rows[2]["auc30"] - rows[1]["auc30"], abs=2e-3)
    assert rows[2]["auc30_ours"][1] <= rows[2]["auc30_ours"][0] <= rows[2]["auc30_ours"][2]
    assert "auc30_ours" not in rows[1]
    assert "auc30_change" not in rows[3]


def test_the_tables_show_ours_and_the_failed(monkeypatch, rows):
    timed = a_row(tool="ours", label="w8a8-static", speed_up=2.5, cpu_s=0.1)
    monkeypatch.setattr(results_tables, "load", lambda _name: {"rows": rows, "speed": {"rows": [timed]}})
    assert "| failed |" in results_tables.peers()
    assert "ValueError: no" in results_tables.peers()
    assert "ONNX Runtime 40" in results_tables.peers()
    first, second = results_tables.peers_short().splitlines()[2:]
    assert first.startswith("| ours w8a8-static | w8a8-static |")
    assert "| 2.50x | - | 5.0 |" in first
    assert "| refused |" in second
    assert "refused; lint 2 errors, 0 warnings" in results_tables.peers()
    assert "2.50x" in results_tables.peers_speed()


def test_ours_come_before_the_peers_they_are_compared_with():
    peer = Peer("x", "x", "x", (Variant("dyn", "w8a8", print, dynamic=True), Variant("w", "w4a16", print)))
    found = list(bench_peers.entries(["plain"], ["w8a8-dynamic"], [LINEARS], [peer]))
    assert [e.tool for e in found] == ["float", "ours", "x", "x"]
    assert [e.format for e in found[2:]] == ["w8a8-dynamic", "w4a16-dynamic"]
    assert EVERYTHING not in {e.scope for e in found}
