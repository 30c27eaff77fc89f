"""Do the tests bite: faults are planted in the files that numbers and trust depend on, and their tests have to go red.

    python tools/mutation.py -o docs/results/mutation.json      # an hour or two on one core; goes on where it stopped
    python tools/mutation.py --only manifest --sample 0         # every place of one file

Per file, a few places (or `--sample`) are drawn by `--seed`, one fault each (`tools/mutants.py`). A fault is planted in
a process forked from one that has PyTorch loaded already; nothing on the disk is touched. The tests that mirror the
file judge it, then, where they let it pass, wider ones (`--quick`: not yet). A test that starts another process does
not see it. What survives stands in the JSON by its text. A survivor that nobody could tell from the original is listed
in `tools/equivalent_mutants.py` with the reason and not counted. What was killed stays killed in the journal;
survivors are tried again by the next run, so that "before" in the JSON is the score of the first.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib
import io
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Annotated, Any

import pytest
import typer
from equivalent_mutants import EQUIVALENT
from mutants import Mutant, draw
from reporting import start, write_json

from qvggt.errors import QvggtError
from qvggt.journal import Journal

ROOT = Path(__file__).resolve().parent.parent
WARM = (
    *("torch", "torch.testing", "torch.fx.experimental.symbolic_shapes", "torch.distributed.tensor", "onnx"),
    *("onnxruntime", "scipy.linalg", "safetensors.torch", "hypothesis.extra.numpy", "typer"),
)
SECONDS = 20  # of CPU, beside three times what the tests take without a fault: a fault may make a loop endless


@dataclass(frozen=True)
class Subject:
    """Files under one heading. tests: those that mirror them. wider: what sees them too, tried with what survives.
    sample: places of a file, more where the tests take a second than where they take ten."""

    files: tuple[str, ...]
    tests: tuple[str, ...]
    wider: tuple[str, ...] = ()
    sample: int = 6


QUANT = tuple(f"tests/quant/test_{name}.py" for name in ("linear", "kronecker", "conv", "linear_onnx"))
FORMATS = tuple(f"tests/formats/test_{name}.py" for name in ("packing", "tensor_format", "float_grid"))
NETWORK = tuple(f"tests/export/test_{name}.py" for name in ("network", "exporter", "reference_onnx"))
FORMS = tuple(f"tests/export/test_{name}.py" for name in ("qdq", "conv_export", "weight_blocks", "storage_forms"))
HALVES = tuple(f"tests/export/test_{name}.py" for name in ("precision", "split_heads", "half_range", "fused_attention"))
GATE = ("tests/export/test_export_faults.py", "tests/export/test_parity.py")
MANIFEST = tuple(f"tests/engines/test_{name}.py" for name in ("engine_runner", "pair_engine", "build_engine"))
EVAL = tuple(f"tests/eval/test_{name}.py" for name in ("result", "bootstrap", "report", "worst"))
FOLD = tuple(f"tests/rotation/test_fold{name}.py" for name in ("_smoothing", "_outliers", ""))


def under(folder: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{folder}/{name}.py" for name in names)


SUBJECTS = {
    "formats": Subject(
        under("qvggt/formats", "grid", "float_grid", "granularity", "tensor_format", "packing"),
        (*FORMATS, *QUANT),
        (
            "tests/formats/test_table.py",
            "tests/export/test_parity.py",
            "tests/quant",
            "tests/calib/test_rtn.py",
            "tests/export/test_weight_blocks.py",
            "tests/export/test_qdq.py",
        ),
        10,
    ),
    "fake quant": Subject(
        under("qvggt/quant", "linear", "conv", "transform", "kronecker"),
        (*QUANT, "tests/quant/test_model.py", "tests/quant/test_checkpoint.py"),
        ("tests/quant", "tests/calib/test_rtn.py", "tests/export/test_qdq.py", "tests/export/test_conv_export.py"),
    ),
    "hadamard": Subject(
        ("qvggt/quant/hadamard.py",), ("tests/quant/test_hadamard.py",), ("tests/quant", "tests/rotation"), 12
    ),
    "cost": Subject(("qvggt/rotation/cost.py",), ("tests/rotation/test_fold_cost.py",), ("tests/rotation",), 12),
    "rotation": Subject(
        under("qvggt/rotation", "fold", "residual", "smoothing", "value", "precision"),
        FOLD,
        ("tests/quant", "tests/models/test_folded.py", "tests/models/test_fold_config.py", "tests/calib/test_rtn.py"),
    ),
    "forms": Subject(
        under("export/forms", "convolution", "code_product", "block_product", "site", "weight_only", "table"),
        (*FORMS, "tests/export/forms", "tests/export/test_export_faults.py"),
        (*HALVES, "tests/export/test_storage.py"),
    ),
    "export": Subject(
        under("export", "blocks", "linear", "dpt", "graph"),
        ("tests/export/test_graph.py", *NETWORK, "tests/export/test_fused_attention.py"),
        ("tests/export/test_qdq.py", *HALVES, "tests/export/test_conv_export.py", "tests/export/test_emulation.py"),
    ),
    "parity": Subject(
        ("export/parity.py", "export/segments.py"),
        GATE,
        (
            "tests/export/test_gate_faults.py",
            "tests/export/test_qdq.py",
            "tests/export/test_conv_export.py",
            "tests/jobs/test_gate_cameras.py",
        ),
    ),
    "gptq": Subject(("calib/gptq.py",), ("tests/calib/test_gptq.py",), ("tests/calib/test_on_a_device.py",), 24),
    "pose": Subject(("eval/pose.py",), ("tests/eval/test_pose.py",), ("tests/eval/test_metrics.py", *EVAL), 24),
    "metrics": Subject(("eval/metrics.py",), ("tests/eval/test_metrics.py",), EVAL, 24),
    "checkpoint": Subject(
        ("qvggt/quant/checkpoint.py",),
        ("tests/quant/test_checkpoint.py",),
        (
            "tests/quant/test_conv.py",
            "tests/quant/test_model.py",
            "tests/quant/test_handle.py",
            "tests/calib/test_rtn.py",
        ),
        12,
    ),
    "manifest": Subject(("engines/manifest.py",), ("tests/engines/test_manifest.py",), MANIFEST, 24),
    "external data": Subject(
        ("qvggt/onnx_view/external_data.py",), ("tests/onnx_view/test_external_data.py",), ("tests/onnx_view",), 24
    ),
}


@dataclass(frozen=True)
class Verdict:
    """by: the first test that went red, or "endless"; "" when all were green. seconds: of CPU."""

    by: str
    seconds: float


class _Red:
    """Plugin of pytest: the first failure."""

    def __init__(self) -> None:
        self.first = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.first:
            self.first = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and not self.first:
            self.first = f"{report.nodeid} (import)"


def planted(path: Path, source: str) -> None:
    """From now on, this process imports `source` where the file at `path` would be."""
    real, read = path.resolve(), SourceFileLoader.get_code

    def get_code(loader: SourceFileLoader, name: str) -> CodeType | None:
        here = Path(loader.get_filename(name)).resolve()
        return compile(source, str(real), "exec", dont_inherit=True) if here == real else read(loader, name)

    setattr(SourceFileLoader, "get_code", get_code)  # noqa: B010 - mypy knows a method there
    for name in [name for name in sys.modules if name.partition(".")[0] == "qvggt"]:
        del sys.modules[name]


def run_tests(tests: Sequence[str], path: Path | None, source: str, limit: int) -> Verdict:
    """The tests in a forked process of their own, with the file at `path` replaced; `limit` in seconds of CPU."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
        text = "died"
        try:
            text = _child(tests, path, source)
        except BaseException as error:
            text = f"died: {error!r}"
        finally:
            os.write(writer, text[:1000].encode())
            os._exit(0)
    os.close(writer)
    done = select.select([reader], [], [], 30 * limit)[0]  # a loop may also wait for ever
    text = os.read(reader, 2000).decode() if done else ""
    os.close(reader)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    used = os.wait4(child, 0)[2]
    return Verdict({"green": "", "": "endless"}.get(text, text), used.ru_utime + used.ru_stime)


def _child(tests: Sequence[str], path: Path | None, source: str) -> str:
    sys.stdout = sys.stderr = io.StringIO()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    import hypothesis

    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)  # a red test is enough, whatever its smallest case
    hypothesis.settings.register_profile("mutation", database=None, derandomize=True, phases=phases)
    hypothesis.settings.load_profile("mutation")
    if path is not None:
        planted(path, source)
    red = _Red()
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:unraisableexception", "--capture=sys"]
    code = pytest.main([*options, *tests], plugins=[red])
    return "green" if code == pytest.ExitCode.OK else red.first or f"pytest ended with {code!r}"


class Judge:
    """Tries mutants; what the tests of a subject take without one is the measure of an endless loop."""

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.green: dict[tuple[str, ...], float] = {}

    def verdict(self, mutant: Mutant, subject: Subject) -> Verdict:
        seconds = 0.0
        for tests in (subject.tests,) if self.quick else (subject.tests, subject.wider):
            found = run_tests(tests, ROOT / mutant.file, mutant.source, self.limit(tests))
            seconds += found.seconds
            if found.by:
                return Verdict(found.by, seconds)
        return Verdict("", seconds)

    def limit(self, tests: tuple[str, ...]) -> int:
        if tests not in self.green:
            found = run_tests(tests, None, "", 3600)
            if found.by:
                raise QvggtError(f"{found.by}: red without a fault; mend that first")
            self.green[tests] = found.seconds
        return SECONDS + 3 * int(self.green[tests] + 1)


def digest(mutant: Mutant) -> str:
    return hashlib.sha256(f"{mutant.file}\n{mutant.source}".encode()).hexdigest()[:16]


def main(
    only: Annotated[str, typer.Option(help="Only files whose path contains this.")] = "",
    quick: Annotated[bool, typer.Option(help="Only the tests that mirror a file.")] = False,
    sample: Annotated[int, typer.Option(min=-1, help="Places of a file to plant a fault in; 0: all; -1: a few.")] = -1,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="JSON file to write.")] = None,
    work: Annotated[Path, typer.Option(help="Folder of the journal.")] = ROOT / "outputs" / "mutation",
) -> None:
    """Plant faults, one at a time, and count those that some test sees."""
    os.chdir(ROOT)
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    for name in WARM:
        importlib.import_module(name)
    gc.freeze()  # what every child would walk and so copy
    journal = Journal(work / f"seed{seed}.jsonl", {"seed": seed}, "mutants")
    judge, rows = Judge(quick), list[dict[str, Any]]()
    for title, subject in SUBJECTS.items():
        for file in subject.files:
            if only in file:
                possible, mutants = draw(ROOT / file, file, seed, subject.sample if sample < 0 else sample)
                for mutant in mutants:
                    tried(mutant, subject, judge, journal)
                rows.append(summary(title, file, possible, mutants, journal))
                print(told(rows[-1]), flush=True)
    print(told(total(rows)))
    if output is not None:
        write_json(output, {"seed": seed, "commit": commit(), "files": [*rows, total(rows)]})


def commit() -> str:
    words = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()


def told(row: dict[str, Any]) -> str:
    counts = ", ".join(f"{row[name]} {name}" for name in ("killed", "survived", "equivalent"))
    return f"{row['file']}: {row['mutants']} mutants: {counts}: {row['score']} % (before {row['score_first']} %)"


def tried(mutant: Mutant, subject: Subject, judge: Judge, journal: Journal) -> None:
    """Its row in the journal: `by` the verdict of the last try, `first` that of the first."""
    key, known = digest(mutant), journal.values.get(digest(mutant))
    if known is not None and (known["by"] or judge.quick or mutant.name in EQUIVALENT):
        return
    found = judge.verdict(mutant, subject)
    row = {"name": mutant.name, "line": mutant.line, "operator": mutant.operator, "seconds": round(found.seconds, 1)}
    journal.add(key, {**row, "first": known["first"] if known else found.by, "by": found.by})
    if not found.by:
        print(f"survived: {mutant.file}:{mutant.line}: {mutant.before} -> {mutant.after}", file=sys.stderr, flush=True)


def summary(title: str, file: str, possible: int, mutants: Sequence[Mutant], journal: Journal) -> dict[str, Any]:
    rows = [journal.values[digest(mutant)] for mutant in mutants]
    lasting = [row for row in rows if not row["by"] and row["name"] not in EQUIVALENT]
    equivalent = [row["name"].partition(": ")[2] for row in rows if not row["by"] and row["name"] in EQUIVALENT]
    counts = {
        "places": possible,
        "mutants": len(rows),
        "killed": sum(bool(row["by"]) for row in rows),
        "killed_first": sum(bool(row["first"]) for row in rows),
        "equivalent": len(equivalent),
        "survived": len(lasting),
    }
    texts = [f"line {row['line']}: {row['name'].partition(': ')[2]}" for row in lasting]
    return {"subject": title, "file": file, **counts, **scores(counts), "survivors": texts, "equivalents": equivalent}


def scores(counts: dict[str, int]) -> dict[str, float]:
    """Killed of those that are not equivalent, in percent: now, and by the tests there were at the first try."""
    real = max(counts["mutants"] - counts["equivalent"], 1)
    return {
        "score": round(100 * counts["killed"] / real, 1),
        "score_first": round(100 * counts["killed_first"] / real, 1),
    }


def total(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = ("places", "mutants", "killed", "killed_first", "equivalent", "survived")
    counts = {name: sum(row[name] for row in rows) for name in names}
    return {"file": "all", **counts, **scores(counts)}


if __name__ == "__main__":
    start(main)
