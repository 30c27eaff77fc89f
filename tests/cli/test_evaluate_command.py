"""qvggt eval, from the command line to the JSON; every bad input is one line and exit code 2."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import NoReturn

import calling
import numpy as np
import pytest
import torch
from mvs_data import small_views, write_dtu, write_eth3d
from PIL import Image
from room_data import room, write_nrgbd, write_seven_scenes
from small_network import SIZE, small_rounded, small_scenes

from qvggt.data.co3d_writer import write_co3d
from qvggt.data.frame_list import load_frame_list
from qvggt.data.synthetic.scene import SceneConfig
from qvggt.errors import QvggtError
from qvggt.export.exporter import ExportConfig, export_onnx
from qvggt.quant.scheme import parse_scheme

FRAMES = 4
call = partial(calling.call, "eval")


@pytest.fixture(autouse=True)
def threads():
    """--threads is global to PyTorch."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(small_float, small_checkpoint, small_onnx, tmp_path_factory):
    """scenes/ and the candidates float.safetensors, w8a8/, w8a8.onnx."""
    folder = tmp_path_factory.mktemp("data")
    small_scenes(folder / "scenes", FRAMES + 1, range(0), range(3))
    shutil.copy(small_float, folder)
    shutil.copytree(small_checkpoint, folder / "w8a8")
    shutil.copy(small_onnx, folder / "w8a8.onnx")
    return folder


def on(data, *more):
    return ("--root", data / "scenes", "--frames", FRAMES, "--min-frames", FRAMES, "--threads", 1, *more)


def mistake(capsys, *args):
    return calling.mistake(capsys, "eval", *args)


def test_three_candidates_on_the_same_frames(data, tmp_path, capsys):
    engine, model = data / "w8a8.onnx", data / "float.safetensors"
    args = ("--engine", engine, "--model", model, "--model", data / "w8a8", "--dataset", "co3d")
    assert call(*args, *on(data, "--json", tmp_path / "r.json", "--frame-list", tmp_path / "f.json")) == 0
    out = capsys.readouterr().out
    rows = [line.split("  ")[0] for line in out.splitlines()[3:6]]
    labels = ["torch fp32 float.safetensors", "fake-quant w8a8-dynamic w8a8", "onnxruntime w8a8-dynamic w8a8.onnx"]
    assert rows == labels  # models come first, whatever the order of the call
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["baseline"] == labels[0]
    assert [c["label"] for c in report["candidates"]] == labels
    assert report["frame_list"]["sha256"] == load_frame_list(tmp_path / "f.json").sha256
    assert report["frame_list"]["sequences"] == 3
    assert report["config"]["images"] == {"mode": "exact", "height": SIZE, "width": SIZE}
    assert {"qvggt", "torch", "numpy", "onnxruntime"} <= set(report["versions"])
    _, fake, onnx = report["candidates"]
    assert fake["delta"]["auc"].keys() == {"30", "15", "5", "3"}
    assert len(fake["sha256"]) == len(onnx["sha256"]) == 64
    assert onnx["bytes"] == engine.stat().st_size
    assert len(onnx["sequences"]) == 3
    assert onnx["abs_rel"] == pytest.approx(fake["abs_rel"], rel=0.01)


def test_a_stored_frame_list_is_used_again(data, tmp_path, capsys):
    reports = []
    for seed, name in ((1, "a"), (2, "b")):
        more = ("--json", tmp_path / name, "--frame-list", tmp_path / "f.json", "--seed", seed)
        assert call("--model", data / "float.safetensors", *on(data, *more)) == 0
        reports.append(json.loads((tmp_path / name).read_text()))
    first, second = (report["frame_list"] for report in reports)
    assert first["frames"] == second["frames"]
    assert reports[0]["candidates"][0]["auc"] == reports[1]["candidates"][0]["auc"]
    assert call("--model", data / "float.safetensors", *on(data, "--json", tmp_path / "c", "--seed", 2)) == 0
    assert json.loads((tmp_path / "c").read_text())["frame_list"]["sha256"] != first["sha256"]


def test_size_and_selection(data, tmp_path, capsys):
    more = ("--size", 28, "--max-sequences", 1, "--categories", "synthetic", "--json", tmp_path / "r.json")
    assert call("--model", data / "float.safetensors", *on(data, *more)) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["config"]["images"] == {"mode": "crop", "width": 28}
    assert report["frame_list"]["sequences"] == 1
    again = ("--json", tmp_path / "r.json", "--overwrite")
    assert call("--model", data / "float.safetensors", *on(data, *again)) == 0
    native = json.loads((tmp_path / "r.json").read_text())
    assert native["config"]["images"] == {"mode": "crop", "width": SIZE}


def test_one_line_in_a_process_of_its_own(data, tmp_path):
    """No library may add a warning to the line."""
    (tmp_path / "bad.onnx").write_bytes(b"no model at all")
    program = str(Path(sys.executable).with_name("qvggt-eval"))
    done = subprocess.run(
        [program, "--engine", str(tmp_path / "bad.onnx"), *map(str, on(data))],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {tmp_path / 'bad.onnx'}: ")


def test_calls_that_make_no_sense(data, tmp_path, capsys):
    model, engine = ("--model", data / "float.safetensors"), ("--engine", data / "w8a8.onnx")
    assert "give --model, --engine or both" in mistake(capsys, *on(data))
    assert "Missing option '--root'" in mistake(capsys, *model)
    assert "--dataset 'kitti': expected one of co3d, 7scenes" in mistake(
        capsys, *model, *on(data), "--dataset", "kitti"
    )
    assert "give it with --engine" in mistake(capsys, "--model", data / "w8a8.onnx", *on(data))
    assert "expected an .onnx file" in mistake(capsys, "--engine", data / "w8a8", *on(data))
    assert "leave the size out" in mistake(capsys, *engine, *on(data), "--size", 28)
    assert "multiple of 14" in mistake(capsys, *model, *on(data), "--size", 30)
    assert "no --model is a Hub id" in mistake(capsys, *model, *on(data), "--revision", "main")
    assert "device: expected cpu, cuda or cuda:N, got str 'tpu'" in mistake(
        capsys, *model, *on(data), "--device", "tpu"
    )


def test_data_that_is_not_there(data, tmp_path, capsys):
    model = ("--model", data / "float.safetensors")
    assert "root is not a folder" in mistake(capsys, *model, "--root", tmp_path / "nowhere")
    assert "no *_test.jgz annotation file" in mistake(capsys, *model, "--root", tmp_path)
    missing = ("--annotations", tmp_path / "none")
    assert "no *_test.jgz annotation file" in mistake(capsys, *model, "--root", tmp_path, *missing)
    assert "no annotation file for category pear" in mistake(capsys, *model, *on(data, "--categories", "pear"))
    assert "no *_val.jgz" in mistake(capsys, *model, *on(data, "--split", "val"))
    scenes = ("--root", data / "scenes", "--min-frames", FRAMES)
    assert "expected at least 9 frames, got 5" in mistake(capsys, *model, *scenes, "--frames", 9)
    assert "3 too few frames" in mistake(capsys, *model, "--root", data / "scenes", "--frames", FRAMES)


def test_files_that_are_broken(data, tmp_path, capsys):
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 64)
    assert "bad.safetensors" in mistake(capsys, "--model", tmp_path / "bad.safetensors", *on(data))
    assert "no such file" in mistake(capsys, "--model", tmp_path / "none.safetensors", *on(data))
    (tmp_path / "cut.onnx").write_bytes((data / "w8a8.onnx").read_bytes()[:5000])
    assert "cut.onnx" in mistake(capsys, "--engine", tmp_path / "cut.onnx", *on(data))
    shutil.copytree(data / "w8a8", tmp_path / "w8a8")
    with open(tmp_path / "w8a8" / "model.safetensors", "r+b") as file:
        file.truncate(9000)
    assert "does not match quant.json" in mistake(capsys, "--model", tmp_path / "w8a8", *on(data))
    shutil.copytree(data / "scenes", tmp_path / "scenes")
    image = sorted((tmp_path / "scenes").rglob("*.jpg"))
    for path in image:
        path.write_bytes(path.read_bytes()[:200])
    err = mistake(capsys, "--model", data / "float.safetensors", *on(tmp_path))
    assert "expected a readable image" in err
    for path in image:
        path.unlink()
    assert "no such image file" in mistake(capsys, "--model", data / "float.safetensors", *on(tmp_path))


def test_outputs_are_checked_before_the_work(data, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    broken = ("--model", tmp_path / "none.safetensors")  # would fail later
    err = mistake(capsys, *broken, *on(data, "--json", tmp_path / "file" / "r.json"))
    assert "r.json: cannot be written" in err
    assert "is a folder" in mistake(capsys, *broken, *on(data, "--json", tmp_path))
    err = mistake(capsys, *broken, *on(data, "--frame-list", tmp_path / "file" / "f.json"))
    assert "f.json: cannot be written" in err


def test_nothing_is_left_by_a_failure(data, tmp_path, capsys):
    mistake(capsys, "--model", tmp_path / "none.safetensors", *on(data, "--json", tmp_path / "r.json"))
    assert list(tmp_path.iterdir()) == []


def without_times(report):
    """What must not depend on when and in how many parts it was measured."""
    for candidate in report["candidates"]:
        del candidate["seconds"], candidate["latency"], candidate["file"], candidate["files"]
        for record in candidate["sequences"]:
            del record["seconds"], record["timings"]
    return report


def generated(data, *more):
    model = ("--model", data / "float.safetensors", "--engine", data / "w8a8.onnx")
    return (*model, "--dataset", "synthetic", "--scenes", 5, "--frames", 2, "--threads", 1, *more)


QUICK = ("--metrics", "pose,depth")


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The report and the record file of one run over generated scenes."""
    folder = tmp_path_factory.mktemp("whole")
    assert call(*generated(data, *QUICK, "--json", folder / "r.json", "--records", folder / "r.jsonl")) == 0
    return folder


def test_generated_scenes_with_everything(data, tmp_path):
    more = ("--json", tmp_path / "r.json", "--store", tmp_path / "store", "--worst", 2, "--point-backend", "scipy")
    assert call(*generated(data, *more)) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["format"] == 2
    assert report["config"]["metrics"] == ["pose", "depth", "points"]
    assert report["notes"] == ["points: ICP and normals by scipy"]
    first, second = report["candidates"]
    assert first["summary"]["auc30"]["delta"] is None
    entry = second["summary"]["head_acc"]
    assert entry["delta"] == pytest.approx(entry["value"] - first["summary"]["head_acc"]["value"])
    assert entry["delta_interval"][0] <= entry["delta"] <= entry["delta_interval"][1]
    assert {m["name"] for m in report["metrics"]} == set(second["summary"])
    assert set(second["categories"]["synthetic"]["metrics"]) == set(second["summary"])
    assert set(second["sequences"][0]["points"]) == {"head", "unproj"}
    (pair,) = report["parity"]
    assert (pair["reference"], pair["candidate"]) == (first["label"], second["label"])
    assert pair["outputs"]["depth"]["sqnr_db"] == pytest.approx(second["sqnr_db"]["depth"])
    assert pair["outputs"]["depth"]["p99"] <= pair["outputs"]["depth"]["max_error"]
    assert first["latency"]["runs"] == 5
    assert first["latency"]["p50"] <= first["latency"]["p99"]
    assert first["memory"] is None
    assert [len(entry["images"]) for entry in report["sequences"]] == [2] * 5
    assert all(Path(path).is_file() for path in report["sequences"][0]["images"])
    assert len(report["worst"]) == 2
    stored = [tmp_path / entry["file"] for entry in report["worst"]]
    assert all(path.is_file() and path.parent == tmp_path / "store" for path in stored)


def test_a_finished_run_is_only_read(data, whole, tmp_path, capsys):
    more = (*QUICK, "--json", tmp_path / "r.json", "--records", whole / "r.jsonl")
    before = (whole / "r.jsonl").read_bytes()
    assert call(*generated(data, *more)) == 0
    assert "5 of 5 sequences are done already" in capsys.readouterr().out
    assert (whole / "r.jsonl").read_bytes() == before
    found, first = (json.loads((folder / "r.json").read_text()) for folder in (tmp_path, whole))
    assert found["candidates"] == first["candidates"]  # times too: they are in the records
    assert "another configuration (differs in protocol)" in mistake(
        capsys, *generated(data, "--repeats", 2, *more, "--overwrite")
    )
    assert (whole / "r.jsonl").read_bytes() == before


def test_an_interrupted_run_goes_on(data, whole, tmp_path, capsys):
    lines = (whole / "r.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "r.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:100])
    assert call(*generated(data, *QUICK, "--json", tmp_path / "r.json", "--records", tmp_path / "r.jsonl")) == 0
    assert "2 of 5 sequences are done already" in capsys.readouterr().out
    found, first = (without_times(json.loads((folder / "r.json").read_text())) for folder in (tmp_path, whole))
    assert found["candidates"] == first["candidates"]
    assert found["parity"] == first["parity"]


def test_shards_merge_to_the_whole(data, whole, tmp_path, capsys):
    parts = [tmp_path / f"{k}.jsonl" for k in (1, 2)]
    for k, path in enumerate(parts, 1):
        assert call(*generated(data, *QUICK, "--shard", f"{k}/2", "--records", path)) == 0
    assert "shard 2/2: 2 of 5 sequences" in capsys.readouterr().out
    assert call("merge", *parts[::-1], "--json", tmp_path / "r.json") == 0
    assert "5 sequences of 2 record files" in capsys.readouterr().out
    found, first = (without_times(json.loads((folder / "r.json").read_text())) for folder in (tmp_path, whole))
    assert found["config"]["seen"] == first["config"]["seen"] == {"56x56, whole": 10}
    for key in ("candidates", "parity", "config_sha256", "frame_list", "notes", "metrics"):
        assert found[key] == first[key], key
    err = mistake(capsys, "merge", parts[0], "--json", tmp_path / "r2.json")
    assert "2 of 5 sequences are in no file" in err
    assert "no.jsonl: cannot be read" in mistake(capsys, "merge", tmp_path / "no.jsonl")
    assert "Missing argument" in mistake(capsys, "merge")
    assert "--scenes: has no use before merge" in mistake(capsys, "--scenes", 3, "merge", *parts)
    assert "give --records FILE" in mistake(capsys, *generated(data, "--shard", "1/2"))
    assert "expected i/n" in mistake(capsys, *generated(data, "--shard", "3/2", "--records", tmp_path / "x.jsonl"))
    assert "has none of 5" in mistake(capsys, *generated(data, "--shard", "6/6", "--records", tmp_path / "x.jsonl"))
    assert not (tmp_path / "x.jsonl").exists()


def test_a_fixed_size_is_said_and_kept_by_padding(data, tmp_path, capsys):
    """Wide images and a square file; with a file of their own shape beside it nothing is padded."""
    wide = SceneConfig(height=SIZE // 2, width=SIZE, frames=2)
    write_co3d(tmp_path / "wide", wide, range(0), range(2), progress=False)
    small = small_rounded(parse_scheme("w8a8"))
    export_onnx(small, parse_scheme("w8a8"), ExportConfig(SIZE // 2, SIZE), tmp_path / "wide.onnx")
    model, square = ("--model", data / "float.safetensors"), data / "w8a8.onnx"
    folder = ("--root", tmp_path / "wide", "--frames", 2, "--min-frames", 2, "--overwrite")
    run = (*model, *folder, "--threads", 1, "--warmup", 0)
    both, label = f"{square},{tmp_path / 'wide.onnx'}", "onnxruntime w8a8-dynamic w8a8.onnx"
    half = "56x28 padded to 56x56 (50 % of the pixels are image)"
    cropped = "112x56 cropped to 56x56 (50 % of the image is seen)"
    found = {}
    for engine, options, words, owner in (
        (square, ("--fit", "pad"), half, label),
        (square, (), cropped, label),
        (both, (), "56x28, whole", f"{label} and 1 more size"),
        (None, (), "56x28, whole", None),
    ):
        engines = () if engine is None else ("--engine", engine)
        page = ("--html", tmp_path / "r.html") if options else ()
        assert call(*run, *engines, *options, *page, "--json", tmp_path / "r.json") == 0
        line = f"images: {words}" + (f"; {owner} takes no other size" if owner else "")
        printed = capsys.readouterr()
        assert [text.count(f"{line}\n") for text in printed] == ([1, 0] if "whole" in words else [0, 1])
        report = json.loads((tmp_path / "r.json").read_text())
        assert report["config"]["seen"] == {words: 4}
        found[words, owner] = report
    assert half in (tmp_path / "r.html").read_text()
    padded, cut, several, alone = found.values()
    assert padded["config"]["images"] == {"mode": "exact", "height": 56, "width": 56, "fit": "pad"}
    pixels = [[s["depth"]["pixels"] for s in report["candidates"][0]["sequences"]] for report in found.values()]
    assert pixels == [[2 * 28 * 56] * 2, [2 * 56 * 56] * 2, [2 * 28 * 56] * 2, [2 * 28 * 56] * 2]
    assert several["candidates"][0]["auc"] == alone["candidates"][0]["auc"]  # the pixels it sees by itself
    assert several["candidates"][1]["size"] == [[56, 56], [28, 56]]
    assert several["candidates"][1]["sqnr_db"]["depth"] > 20
    assert padded["config_sha256"] != cut["config_sha256"]
    assert "no.onnx" in mistake(capsys, *run, "--engine", f"{square},{tmp_path / 'no.onnx'}")


def test_dtu_and_eth3d(data, tmp_path, capsys):
    views = small_views(3, 3)[1]
    write_dtu(tmp_path / "d", 1, views)
    write_eth3d(tmp_path / "e", "pipes", views.extrinsics)
    model = ("--model", data / "float.safetensors", "--threads", 1, "--point-backend", "scipy")
    figures = {}
    for name, root, key, more in (("dtu", "d", "scan1/all", ()), ("eth3d", "e", "pipes/dslr", ("--frames", 3))):
        place = ("--dataset", name, "--root", tmp_path / root, "--json", tmp_path / f"{root}.json")
        assert call(*model, *place, *more) == 0
        report = json.loads((tmp_path / f"{root}.json").read_text())
        assert sorted(report["frame_list"]["frames"][key]) == [0, 1, 2]
        points = report["config"]["points"]
        assert (points["crop"], points["icp"], points["sim3"]) == (None, None, True)
        figures[name] = {metric: entry["value"] for metric, entry in report["candidates"][0]["summary"].items()}
        assert figures[name]["head_overall"] == (figures[name]["head_acc"] + figures[name]["head_comp"]) / 2
    assert "head_nc" not in figures["dtu"]
    assert 0 <= figures["eth3d"]["head_nc"] <= 1
    assert figures["dtu"]["head_acc"] < 20  # pairs beyond are left out
    capsys.readouterr()
    err = mistake(capsys, *model, "--dataset", "dtu", "--root", tmp_path / "d", "--icp-points", 100)
    assert "--icp-points 100: --dataset dtu has no ICP" in err


def test_rooms(data, tmp_path, capsys):
    _, views = room(525.0, 2, 3)
    write_seven_scenes(tmp_path / "7", "chess", 1, views)
    write_nrgbd(tmp_path / "n", "kitchen", views)
    model = ("--model", data / "float.safetensors", "--threads", 1, "--stride", 1, "--point-backend", "scipy")
    for name, root, key in (("7scenes", "7", "chess/seq-01"), ("nrgbd", "n", "kitchen/all")):
        more = ("--dataset", name, "--root", tmp_path / root, "--json", tmp_path / "r.json", "--overwrite")
        assert call(*model, *more, "--frame-list", tmp_path / f"{root}.json", "--fast") == 0
        report = json.loads((tmp_path / "r.json").read_text())
        assert report["frame_list"]["frames"] == {key: [0, 1]}
        assert report["config"]["images"] == {"mode": "room", "height": 42, "width": SIZE}
        assert report["candidates"][0]["summary"]["unproj_nc"]["interval"] is None  # of one sequence
        assert call(*model, *more, "--frame-list", tmp_path / f"{root}.json") == 0
    assert "depth.proj.png (registered to colour)" in capsys.readouterr().out
    err = mistake(capsys, *model, "--dataset", "nrgbd", "--root", tmp_path / "7")
    assert "expected folders that hold poses.txt" in err
    err = mistake(capsys, *model, "--dataset", "nrgbd", "--root", tmp_path / "n", "--depth", "raw")
    assert "--depth raw: only for --dataset 7scenes" in err
    assert "--stride 1: only for --dataset 7scenes and nrgbd" in mistake(capsys, *model, *on(data))
    assert "--scenes: only for" in mistake(capsys, *model[:2], *on(data), "--scenes", 3)


def test_the_folder_of_scenes_is_a_synthetic_data_set_too(data, tmp_path):
    more = ("--dataset", "synthetic", "--root", data / "scenes", "--frames", FRAMES, "--metrics", "pose,depth")
    assert call("--model", data / "float.safetensors", "--threads", 1, *more, "--json", tmp_path / "r.json") == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["frame_list"]["sequences"] == 3
    assert "head_acc" not in report["candidates"][0]["summary"]


def test_what_no_sequence_has_is_said(data, tmp_path, capsys):
    shutil.copytree(data / "scenes", tmp_path / "scenes")
    for path in (tmp_path / "scenes").rglob("*.geometric.png"):
        path.unlink()
    assert call("--model", data / "float.safetensors", *on(tmp_path, "--json", tmp_path / "r.json")) == 0
    (note,) = json.loads((tmp_path / "r.json").read_text())["notes"]
    assert note.startswith("depth: not measured, no sequence has ground-truth depth")
    assert f"note: {note}" in capsys.readouterr().out


def test_memory_is_measured_in_processes_of_their_own(data, tmp_path):
    model = ("--model", data / "float.safetensors", "--max-sequences", 1, "--memory")
    assert call(*model, *on(data, "--json", tmp_path / "r.json")) == 0
    (candidate,) = json.loads((tmp_path / "r.json").read_text())["candidates"]
    memory = candidate["memory"]
    assert 50e6 < memory["rss_before"] < memory["peak_rss"] < 5e9
    assert memory["device"] is None


def test_what_is_evaluated_outlives_the_measuring_of_memory(data, tmp_path, monkeypatch, capsys):
    from qvggt.eval import memory

    def fails(*_: object) -> NoReturn:
        assert json.loads((tmp_path / "r.json").read_text())["candidates"]  # is there before anything is measured
        assert (tmp_path / "r.csv").exists()
        raise QvggtError("m: peak memory was not measured, its process ended with code -9: no message")

    monkeypatch.setattr(memory, "measure_memory", fails)
    places = ("--json", tmp_path / "r.json", "--csv", tmp_path / "r.csv", "--records", tmp_path / "r.jsonl")
    line = ("--model", data / "float.safetensors", "--max-sequences", 1, "--memory", *on(data, *places))
    assert call(*line) == 0
    printed = capsys.readouterr()
    assert "AUC" in printed.out
    assert printed.err == "warning: m: peak memory was not measured, its process ended with code -9: no message\n"
    assert json.loads((tmp_path / "r.json").read_text())["candidates"][0]["memory"] is None

    found = memory.Memory(2 << 30, 1 << 30, None)
    monkeypatch.setattr(memory, "measure_memory", lambda *_: found)
    assert call(*line, "--overwrite") == 0
    assert json.loads((tmp_path / "r.json").read_text())["candidates"][0]["memory"]["peak_rss"] == 2 << 30

    def stopped(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(memory, "measure_memory", stopped)
    line = ("--model", data / "float.safetensors", "--max-sequences", 1, "--memory", *on(data, *places[:2]))
    capsys.readouterr()
    assert call(*line, "--overwrite") == 130
    assert capsys.readouterr().err == f"interrupted; {tmp_path / 'r.json'} holds what was there\n"
    assert json.loads((tmp_path / "r.json").read_text())["candidates"][0]["memory"] is None


def test_equal_names_are_told_apart(data, tmp_path):
    shutil.copy(data / "float.safetensors", tmp_path)
    models = ("--model", data / "float.safetensors", "--model", tmp_path / "float.safetensors")
    assert call(*models, *on(data, "--json", tmp_path / "r.json")) == 0
    labels = [c["label"] for c in json.loads((tmp_path / "r.json").read_text())["candidates"]]
    assert labels == ["torch fp32 float.safetensors", "torch fp32 float.safetensors (2)"]


def test_options_without_a_use(data, tmp_path, capsys):
    model = ("--model", data / "float.safetensors")
    assert "no --engine runs in ONNX Runtime" in mistake(capsys, *model, *on(data), "--provider", "cuda")
    budget = ("--weight-streaming-budget", "1")
    assert "no --engine is one of TensorRT" in mistake(capsys, *model, *on(data), *budget)
    assert "got 'colour'" in mistake(capsys, *model, *on(data), "--metrics", "pose,colour")
    (tmp_path / "file").write_text("")
    assert "expected a folder for --store" in mistake(capsys, *model, *on(data), "--store", tmp_path / "file")
    assert "r.jsonl: cannot be written" in mistake(
        capsys, *model, *on(data), "--records", tmp_path / "file" / "r.jsonl"
    )
    (tmp_path / "other.jsonl").write_text("no records\n")
    assert "other.jsonl: line 1: expected JSON" in mistake(
        capsys, *model, *on(data), "--records", tmp_path / "other.jsonl"
    )
    assert (tmp_path / "other.jsonl").read_text() == "no records\n"


def test_a_folder_of_photographs(data, tmp_path, capsys):
    """Ten of them, of two shapes: no cameras, so the first candidate stands for the truth, and all outputs say so."""
    (tmp_path / "photos").mkdir()
    for index in range(10):
        pixels = np.random.default_rng(index).integers(0, 255, (60, 80, 3), np.uint8)
        Image.fromarray(pixels if index % 3 else pixels.swapaxes(0, 1)).save(tmp_path / "photos" / f"{index}.jpg")
    candidates = ("--model", data / "float.safetensors", "--engine", data / "w8a8.onnx")
    outputs = ("--json", tmp_path / "r.json", "--html", tmp_path / "r.html", "--store", tmp_path / "store")
    photos = ("--dataset", "photos", "--root", tmp_path / "photos", "--frames", FRAMES, "--threads", 1)
    assert call(*candidates, *photos, *outputs, "--records", tmp_path / "r.jsonl") == 0
    out = capsys.readouterr().out
    report = json.loads((tmp_path / "r.json").read_text())
    (note,) = report["notes"]
    assert "cameras and depth of torch fp32 float.safetensors are taken for the truth" in note
    assert f"note: {note}" in out
    assert note in (tmp_path / "r.html").read_text()
    assert "3 sequences of 1 category, 4 frames each" in out
    first, second = report["candidates"]
    assert first["abs_rel"] == 0
    assert first["auc"]["30"] == 100
    assert second["abs_rel"] > 0
    assert second["auc"]["30"] < 100
    stored = dict(np.load(tmp_path / report["worst"][0]["file"]))
    assert "c1_extrinsics" in stored
    assert not [name for name in stored if name.startswith("gt_")]
    assert call(*candidates, *photos, "--records", tmp_path / "r.jsonl") == 0
    assert "3 of 3 sequences are done already" in capsys.readouterr().out
