"""The short form of `make stress`, and the parts that decide what is right."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from signal import SIGKILL, SIGSEGV

import pytest
from robustness import kinds, mutations
from robustness.judging import judge
from robustness.sandbox import Outcome, limit_files, run_forked

ROOT = Path(__file__).resolve().parents[2]


def ended(code: int | None = 2, err: str = "error: x: expected y\n", signal: int | None = None) -> Outcome:
    return Outcome(code, signal, "", err, 0.1)


@pytest.mark.parametrize(
    ("outcome", "left", "verdict", "why"),
    [
        (ended(), set(), "refused", ""),
        (ended(err="note: z\nerror: x\n"), set(), "refused", ""),
        (ended(), {".c.unfinished", ".c.unfinished/job.json"}, "refused", ""),
        (ended(0, ""), {"m.onnx"}, "harmless", ""),
        (ended(), {".m.onnx.tmp-1"}, "fault", "left behind"),
        (ended(err="error: a\nb\n"), set(), "fault", "2 lines"),
        (ended(err=""), set(), "fault", "0 lines"),
        (ended(1, "parity FAILED\n"), set(), "fault", "exit code 1"),
        (ended(1, "Traceback (most recent call last):\nKeyError: 1\n"), set(), "fault", "KeyError"),
        (ended(None, "", SIGSEGV), set(), "fault", "SIGSEGV"),
        (ended(err="error: " + "x" * 5000), set(), "fault", "characters"),
    ],
)
def test_what_is_a_right_ending(outcome: Outcome, left: set[str], verdict: str, why: str) -> None:
    found = judge(outcome, left)
    assert found.verdict == verdict
    assert why in found.why


def test_a_failed_check_is_right_only_where_there_is_one() -> None:
    assert judge(ended(1, "parity FAILED\n"), set(), check=True).verdict == "check failed"


def test_the_sandbox_reports_codes_output_crashes_and_kills(tmp_path: Path) -> None:
    def crash() -> None:
        os.kill(os.getpid(), SIGSEGV)

    def fill() -> None:
        (tmp_path / "big").write_bytes(bytes(10_000))

    assert run_forked(lambda: sys.exit(3)).code == 3
    assert run_forked(lambda: print("hello")).out == "hello\n"
    assert "ZeroDivisionError" in run_forked(lambda: print(1 // 0)).err
    assert run_forked(crash).signal == SIGSEGV
    assert run_forked(lambda: time.sleep(60), kill_after=0.05).signal == SIGKILL
    full = run_forked(fill, before=limit_files(4096))
    assert "File too large" in full.err


def test_mutations_change_what_they_should_and_are_reproducible() -> None:
    document = json.dumps({"a": [1, 2, {"b": "c"}], "d": 1.5}).encode()
    for mutation in (*mutations.BYTES, mutations.odd_json, mutations.odd_line):
        assert mutation(document, Random("x")) == mutation(document, Random("x")), mutation
    assert {mutations.odd_json(document, Random(seed)) for seed in range(40)} - {document}
    packed = gzip.compress(document, mtime=0)
    assert gzip.decompress(mutations.odd_gzip_json(packed, Random(1))) != document


def test_every_kind_of_input_is_there() -> None:
    found = {kind.name for kind in kinds.kinds()}
    assert len(found) == len(kinds.kinds())
    wanted = {
        "safetensors",
        "torch .pt",
        "quant.json",
        "onnx",
        "external data",
        "image",
        "annotations",
        "engine manifest",
    }
    assert wanted | {"video", "depth map", "block store", "7-Scenes pose", "NRGBD poses"} <= found


def test_short_form(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "tools" / "stress.py", "--short", "-o", tmp_path / "stress.json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "stress.json").read_text())
    figures = report["figures"]
    assert report["faults"] == 0
    assert figures["kills"]["kills"] >= 3
    assert figures["kills"]["same_result"] == figures["kills"]["rounds"]
    assert figures["malformed"]["cases"] >= 12
    assert figures["full_disk"]["refused"] >= 3
    assert figures["unwritable"]["refused"] == 3
