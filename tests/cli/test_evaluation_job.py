"""The evaluation as a job: from Python, from a file, and what it says when it is stopped."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import calling
import pytest
from calling import light_calls

from qvggt import QvggtError, load, quantize
from qvggt.engines import torch_runner
from qvggt.engines.opening import open_runner
from qvggt.jobs.candidates import Candidates
from qvggt.jobs.evaluate import EvaluateJob
from qvggt.jobs.evaluation import Evaluation
from qvggt.jobs.job import read_job
from qvggt.jobs.report import MergeJob, ReportJob

SMALL = ("--model", "tiny", "--dataset", "synthetic", "--scenes", 2, "--frames", 2, "--size", 28, "--metrics", "pose")
call = partial(calling.call, "eval")
mistake = calling.mistake


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """Two models in memory on two scenes."""
    model = load("tiny")
    models = (model, quantize(model, "w4a4"))
    job = EvaluateJob(
        models, dataset="synthetic", scenes=2, frames=2, size=28, metrics=("pose", "depth"), threads=1, warmup=0
    )
    result = job.run()
    assert isinstance(result, Evaluation)
    return result


def test_models_in_memory(evaluation: Evaluation, capsys: pytest.CaptureFixture[str]) -> None:
    labels = [result.label for result in evaluation.results]
    assert labels == ["torch fp32 tiny", "fake-quant w4a4-dynamic tiny"]
    assert evaluation.results[1].facts["sha256"] is None
    assert 0 < evaluation.results[1].sqnr_db["depth"] < 60
    assert evaluation.passed
    assert capsys.readouterr().out == ""


def test_a_model_in_memory_equals_its_file(evaluation: Evaluation) -> None:
    scenes = partial(EvaluateJob, dataset="synthetic", scenes=2, frames=2, size=28, threads=1, warmup=0)
    (result,) = scenes(("tiny",), metrics=("pose",)).run().results
    assert result.auc() == evaluation.results[0].auc()


def test_a_network_stays_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner on another device has a network of its own."""
    model = load("tiny")
    with open_runner(model) as runner:
        assert runner.model is model.network
    monkeypatch.setattr(torch_runner, "check_device", lambda device: torch_runner.torch.device("meta"))
    with open_runner(model, device="cuda") as runner:
        assert runner.model is not model.network
    assert {parameter.device.type for parameter in model.network.parameters()} == {"cpu"}


def test_what_a_model_in_memory_has_no_use_for(tmp_path: Path) -> None:
    model = load("tiny")
    scenes = partial(EvaluateJob, (model,), dataset="synthetic")
    with pytest.raises(QvggtError, match="another process cannot open a model that is in memory"):
        scenes(memory=True)
    with pytest.raises(QvggtError, match="a model in memory cannot be told from another one later"):
        scenes(records=tmp_path / "r.jsonl")
    with pytest.raises(QvggtError, match="models: is a model in memory, which JSON cannot hold"):
        scenes().to_dict()
    with pytest.raises(QvggtError, match="tiny: is in memory, which has no revision"):
        open_runner(model, revision="main")
    with pytest.raises(QvggtError, match="tiny: openvino runs no such file, torch does"):
        open_runner(model, runtime="openvino")
    with pytest.raises(QvggtError, match="tiny: is quantized, which takes no 'bf16'"):
        open_runner(quantize(model, "w8a8"), precision="bf16")


def test_rows_for_a_table(evaluation: Evaluation) -> None:
    first, second = evaluation.rows()
    summary = evaluation.report["candidates"][1]["summary"]["abs_rel"]
    assert second["abs_rel"] == summary["value"]
    assert (second["abs_rel_low"], second["abs_rel_high"]) == tuple(summary["interval"])
    assert second["abs_rel_delta"] == pytest.approx(second["abs_rel"] - first["abs_rel"])
    assert second["abs_rel_delta_low"] <= second["abs_rel_delta"] <= second["abs_rel_delta_high"]
    assert first["abs_rel_delta"] is first["abs_rel_delta_low"] is None
    assert second["depth_sqnr_db"] == evaluation.results[1].sqnr_db["depth"]
    assert (second["scheme"], second["megabytes"]) == ("w4a4-dynamic", None)
    rows = evaluation.rows("sequences")
    assert [(row["candidate"], row["sequence"]) for row in rows] == [
        (result.label, record.key) for result in evaluation.results for record in result.records
    ]
    assert rows[2]["abs_rel"] == evaluation.results[1].records[0].depth.abs_rel


def test_rows_as_csv(evaluation: Evaluation, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same from the evaluation and from its JSON."""
    paths = evaluation.csv(tmp_path / "e.csv")
    assert [path.name for path in paths] == ["e.csv", "e-sequences.csv"]
    for path, of in zip(paths, ("candidates", "sequences"), strict=True):
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        wanted = evaluation.rows(of)
        assert rows == [{name: "" if row.get(name) is None else str(row[name]) for name in rows[0]} for row in wanted]
        assert set(rows[0]) == {name for row in wanted for name in row}
    evaluation.save(tmp_path / "r.json")
    assert call("report", tmp_path / "r.json", "--csv", tmp_path / "again.csv") == 0
    assert f"tables: {tmp_path / 'again.csv'}, {tmp_path / 'again-sequences.csv'}" in capsys.readouterr().out
    for name in ("", "-sequences"):
        assert (tmp_path / f"again{name}.csv").read_bytes() == (tmp_path / f"e{name}.csv").read_bytes()
    (tmp_path / "again.csv").unlink()
    with pytest.raises(QvggtError, match=r"again-sequences\.csv: exists already"):
        ReportJob(tmp_path / "r.json", csv=tmp_path / "again.csv", html=tmp_path / "n.html").run()
    damaged = json.loads((tmp_path / "r.json").read_text())
    del damaged["candidates"][0]["seconds"]
    (tmp_path / "d.json").write_text(json.dumps(damaged))
    with pytest.raises(QvggtError, match=r"d\.json: has no complete rows \(KeyError: 'seconds'\)"):
        ReportJob(tmp_path / "d.json", csv=tmp_path / "d.csv").run()
    assert not list(tmp_path.glob("d.[hc]*"))


def test_a_frame_for_pandas(evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("pandas") is not None:
        assert list(evaluation.to_frame()["candidate"]) == [result.label for result in evaluation.results]
        assert len(evaluation.to_frame("sequences")) == 4
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(QvggtError, match="to_frame needs pandas, which is not installed: pip install pandas"):
        evaluation.to_frame()


def test_short_words(evaluation: Evaluation) -> None:
    assert repr(evaluation).splitlines()[0] == "Evaluation of 2 sequences of synthetic"
    assert len(repr(evaluation).splitlines()) == 4
    assert repr(evaluation).splitlines()[1:] == evaluation.tables().splitlines()[:3]


def test_files_of_a_result(evaluation: Evaluation, tmp_path: Path) -> None:
    entry = {"sequence": "s", "metric": "auc30", "values": [2.0, 1.0], "file": str(tmp_path / "store" / "s.npz")}
    one = Evaluation({**evaluation.header, "worst": [entry]}, evaluation.results)
    saved = json.loads(one.save(tmp_path / "out" / "r.json").read_text())
    assert saved["worst"][0]["file"] == "../store/s.npz"
    assert saved["config"]["threads"] == 1
    page = one.page(tmp_path / "out" / "p.html").read_text(encoding="utf-8")
    assert "fake-quant w4a4-dynamic tiny" in page


def test_a_job_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = EvaluateJob(
        ("tiny", "vggt-1b"), engines=("openvino:a.onnx", Path("b.onnx")), dataset="synthetic", frames=3,
        categories=("a", "b"), metrics=("pose",), records="r.jsonl", shard=(1, 2), providers=("cpu",), threads=2,
    )  # fmt: skip
    assert job.engines == (Path("openvino:a.onnx"), Path("b.onnx"))
    for made in (job, MergeJob(("a.jsonl", "b.jsonl"), html="r.html", show=True), ReportJob("r.json", overwrite=True)):
        assert read_job(made.save(tmp_path / "job.json")) == made
    assert call(*SMALL, "--save-config", tmp_path / "small.json") == 0
    capsys.readouterr()
    options = ("--config", tmp_path / "small.json", "--scenes", 1, "--threads", 1, "--json", "-")
    assert call(*options, "--html", tmp_path / "r.html", "--csv", tmp_path / "r.csv", "-v") == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["frame_list"]["sequences"] == 1
    assert report["config"]["frames"] == 2
    assert "AUC@30 by sequence" in err
    assert "report: " in err
    assert "tables: " in err
    assert (tmp_path / "r-sequences.csv").read_text().startswith("candidate,sequence,category,auc30")


def test_quiet_prints_tables_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*SMALL, "--threads", 1, "-q", "--json", tmp_path / "r.json") == 0
    out = capsys.readouterr().out
    assert out.startswith("candidate")
    assert out.splitlines()[-1].startswith("AUC, RRA, RTA in points")


def test_outputs_are_replaced_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("r.html", "r.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "one.npz").write_text("1")
    for option in (("--html", "r.html"), ("--json", "r.json"), ("--store", "store")):
        err = mistake(capsys, "eval", *SMALL, option[0], tmp_path / option[1])
        assert "add --overwrite to replace" in err
    assert "r.html: exists already" in mistake(capsys, "eval", "report", tmp_path / "r.json")
    assert "r.html: exists already" in mistake(
        capsys, "eval", "merge", tmp_path / "r.json", "--html", tmp_path / "r.html"
    )
    more = ("--threads", 1, "--store", tmp_path / "store", "--html", tmp_path / "r.html", "--overwrite")
    assert call(*SMALL, *more) == 0
    assert (tmp_path / "r.html").stat().st_size > 1000


def test_the_precision_of_float_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Calibrated checkpoints and files stay as they are; another precision is another run."""
    records = ("--records", tmp_path / "r.jsonl", "--precision")
    assert call(*SMALL, *records, "bf16", "--json", tmp_path / "r.json") == 0
    assert "\ntorch float (bf16 aggregator) tiny  " in capsys.readouterr().out
    (entry,) = json.loads((tmp_path / "r.json").read_text())["candidates"]
    assert entry["precision"] == "float, bf16 aggregator, fp32 heads"
    assert (entry["float_type"], entry["scheme"]) == ("bf16", "bf16")
    assert "candidates" in mistake(capsys, "eval", *SMALL, *records, "fp16")
    mixed = Candidates(("tiny", quantize(load("tiny"), "w8a8")), ("a.onnx",), precision="bf16")
    assert [options.get("precision") for _, options in mixed.sources()] == ["bf16", None, None]
    with pytest.raises(QvggtError, match="bf16: is of float models, and calibrated checkpoints compute in fp32"):
        replace(mixed, models=mixed.models[1:], engines=()).prepare()
    with pytest.raises(QvggtError, match="bf16: is of float models, and there is no --model; leave it out"):
        replace(mixed, models=()).prepare()


def test_another_thread_count_is_another_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = ("--records", tmp_path / "r.jsonl")
    assert call(*SMALL, "--threads", 1, *records) == 0
    capsys.readouterr()
    assert "threads" in mistake(capsys, "eval", *SMALL, "--threads", 2, *records)


def test_candidates_run_with_the_count_that_is_recorded(
    small_onnx: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    from qvggt.engines import onnx_runner

    counts = []
    real = onnx_runner.session_options

    def options(ort: Any, threads: int | None) -> Any:
        counts.append(threads)
        return real(ort, threads)

    monkeypatch.setattr(onnx_runner, "session_options", options)
    result = EvaluateJob(engines=(small_onnx,), dataset="synthetic", scenes=1, frames=2, metrics=("pose",)).run()
    assert counts == [1]  # no --threads: what torch has
    assert result.header["config"]["threads"] == result.header["identity"]["threads"] == 1


def test_an_interrupt_says_what_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from qvggt.eval import harness

    calls: list[int] = []
    more = (*SMALL, "--threads", 1, "--warmup", 0, "--records", tmp_path / "r.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr(harness, "_timed", calling.interrupted(harness._timed, calls, 2))
        assert call(*more) == 130
    assert f"interrupted; kept {tmp_path / 'r.jsonl'}: the same command goes on from there" in capsys.readouterr().err
    assert call(*more) == 0
    assert "1 of 2 sequences are done already" in capsys.readouterr().out


def test_a_shard_tells_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--threads", 1, "--shard", "2/2", "--records", tmp_path / "b.jsonl", "--json", tmp_path / "s.json")
    assert call(*SMALL, *more) == 0
    told = json.loads((tmp_path / "s.json").read_text())
    assert told == {"shard": [2, 2], "done": 1, "of": 2, "records": str(tmp_path / "b.jsonl")}
    job = EvaluateJob(
        ("tiny",), dataset="synthetic", scenes=2, frames=2, size=28, metrics=("pose",), records=tmp_path / "a.jsonl",
        shard=(1, 2), threads=1,
    )  # fmt: skip
    part = job.run()
    assert len(part.rows("sequences")) == 1
    with pytest.raises(QvggtError, match="a page is of a whole evaluation"):
        part.page(tmp_path / "p.html")
    with pytest.raises(QvggtError, match="--shard '3/2': expected i/n"):
        EvaluateJob(("tiny",), dataset="synthetic", records="r", shard=(3, 2))


MISTAKES: tuple[tuple[tuple[str, ...], str], ...] = (
    ((), "nothing to evaluate"),
    (("--model", "tiny", "--dataset", "kitti"), "--dataset 'kitti': expected one of co3d"),
    (("--model", "tiny", "--root", "/nowhere"), "/nowhere: root is not a folder"),
    (("--model", "/no/model.pt", "--dataset", "synthetic"), "/no/model.pt: no such file or directory"),
    (("--engine", "/no/m.onnx", "--dataset", "synthetic"), "/no/m.onnx: nothing there, expected"),
    (("--engine", "rtx:m.onnx", "--dataset", "synthetic"), "m.onnx: rtx runs no such file"),
    (("--model", "tiny", "--dataset", "synthetic", "--metrics", "pose,colour"), "got 'colour'"),
    (("--model", "tiny", "--dataset", "synthetic", "--size", "30"), "expected a multiple of 14, got 30; 28 would"),
    (("--model", "tiny", "--dataset", "synthetic", "--device", "tpu"), "'tpu'"),
    (("--engine", "m.onnx", "--dataset", "synthetic", "--provider", "gpu"), "--provider gpu: expected cpu, cuda"),
    (("--model", "tiny", "--dataset", "synthetic", "--point-backend", "pcl"), "'pcl'"),
    (("--model", "tiny", "--dataset", "synthetic", "--worst", "2"), "--worst 2: needs --store"),
    (("--model", "tiny", "--root", "/tmp", "--sim3"), "no points are measured; add points to --metrics"),
    (("--model", "tiny", "--root", "/tmp", "--icp-points", "9"), "no points are measured; add points to --metrics"),
    (("--model", "tiny", "--dataset", "synthetic", "--shard", "0/2"), "--shard '0/2': expected i/n"),
    (("merge", "/no/a.jsonl"), "/no/a.jsonl: cannot be read"),
    (("report", "/no/r.json"), "/no/r"),
)


@pytest.mark.parametrize(("args", "message"), MISTAKES)
def test_a_mistake_is_found_before_anything_heavy_is_imported(args: tuple[str, ...], message: str) -> None:
    lines = tuple(("eval", *line) for line, _ in MISTAKES)
    code, _, err, loaded = light_calls(lines, Path("/"))[("eval", *args)]
    assert code == 2
    assert message in err
    assert not loaded & {"torch", "numpy", "onnx", "onnxruntime", "PIL"}
