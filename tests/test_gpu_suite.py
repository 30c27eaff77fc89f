"""The GPU suite, where there is no GPU: it is collected, it says why it does not run, and its figures add up."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from measuring import Results, summary, wall_seconds

ROOT = Path(__file__).resolve().parent.parent
GPU = ROOT / "tests" / "gpu"


def test_it_is_collected_and_says_why_it_does_not_run():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU: make test-gpu runs the suite")
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", str(GPU)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (told,) = re.findall(r"^(\d+) skipped: needs an NVIDIA GPU: .*$", done.stdout, re.MULTILINE)
    last = done.stdout.strip().splitlines()[-1]
    skipped = re.fullmatch(r"(\d+) skipped(, \d+ warnings?)? in .*", last)
    assert skipped is not None, last
    assert int(skipped[1]) == int(told) > 30


def test_the_default_suite_leaves_it_out():
    for path in GPU.glob("test_*.py"):
        assert "\npytestmark = pytest.mark.gpu\n" in path.read_text()


def test_percentiles():
    figures = summary([0.1] * 98 + [0.5, 0.9])
    assert figures["p50_s"] == pytest.approx(0.1)
    assert 0.5 <= figures["p99_s"] <= 0.9
    assert figures["calls"] == 100


def test_warm_up_calls_are_not_counted():
    calls = []
    assert len(wall_seconds(lambda: calls.append(0), calls=3, warm_up=2)) == 3
    assert len(calls) == 5


def test_every_entry_is_on_disk_at_once(tmp_path):
    results = Results(tmp_path / "deep" / "r.json")
    results.add("a", {"x": 1})
    results.add("a", {"y": 2})
    results.add("b", {"z": 3})
    assert json.loads(results.path.read_text()) == {"entries": {"a": {"x": 1, "y": 2}, "b": {"z": 3}}}
