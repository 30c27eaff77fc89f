"""The examples of docs/evaluation.md; that for Ray with a stand-in for it: its commands are ones qvggt eval takes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

from qvggt.cli.main import make_command
from qvggt.jobs.words import shard

DOC = Path(__file__).parents[2] / "docs" / "evaluation.md"


def examples():
    return re.findall(r"```python\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)


def test_the_ray_example(monkeypatch):
    code = examples()[0]
    ray = ModuleType("ray")
    ray.remote = lambda **options: lambda function: SimpleNamespace(remote=function)
    ray.init = lambda **options: None
    ray.get = list
    lines = []
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(subprocess, "run", lambda line, check: lines.append(line))
    exec(compile(code, str(DOC), "exec"), {})
    *shards, merge = lines
    assert [shard(line[line.index("--shard") + 1]) for line in shards] == [(i, 8) for i in range(1, 9)]
    records = [line[line.index("--records") + 1] for line in shards]
    assert merge == ["qvggt", "eval", "merge", *records, "--json", "/nfs/out/eval.json"]
    command = make_command("eval")
    known = {name for param in command.params for name in param.opts}
    assert {part for line in shards for part in line if part.startswith("--")} <= known
    assert "merge" in command.commands


def test_the_python_example(tmp_path, monkeypatch, one_thread):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=list))
    found = {}
    exec(compile(examples()[1].replace("scenes=8", "scenes=2"), str(DOC), "exec"), found)
    assert [row["candidate"] for row in found["frame"]] == [result.label for result in found["result"].results]
    assert {path.name for path in tmp_path.iterdir()} == {"mine.json", "eval.html", "eval.csv", "eval-sequences.csv"}
