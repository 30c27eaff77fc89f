"""qvggt push and qvggt pull with the real client, against a local Hub (tests/fake_hub.py)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_hub import TOKEN, Answer, Commands, FakeHub, fake_hub
from small_network import small_model

from qvggt.calib.rtn import quantize_rtn_
from qvggt.errors import QvggtError
from qvggt.files import file_sha256
from qvggt.hub.card import CardFacts, model_card
from qvggt.jobs.job import read_job
from qvggt.jobs.pull import PullJob
from qvggt.jobs.push import PushJob
from qvggt.quant.checkpoint import Provenance, save_calibrated
from qvggt.quant.scheme import parse_scheme

ME = {"HF_TOKEN": TOKEN}
OTHER = ("--licence", "other")  # of a source that nobody knows


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("share") / "checkpoint"
    model, scheme = small_model(), parse_scheme("w4a4")
    layers = quantize_rtn_(model, scheme)
    source = {"name": "/home/someone/private/vggt.safetensors", "sha256": "0" * 64}
    save_calibrated(folder, model, scheme, Provenance(source, {"seed": 0}, {"torch": "2"}, layers))
    return folder


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeHub, Commands]]:
    with fake_hub() as hub:
        commands = Commands(hub.endpoint, tmp_path_factory.mktemp("home"))
        yield hub, commands
        commands.close()


@pytest.fixture
def hub(process: tuple[FakeHub, Commands]) -> Iterator[FakeHub]:
    hub = process[0]
    hub.repos.clear()
    hub.requests.clear()
    yield hub
    hub.after_request = None


@pytest.fixture
def call(process: tuple[FakeHub, Commands]) -> Commands:
    return process[1]


def mistake(answer: Answer, *parts: str) -> None:
    assert answer.code == 2, answer
    assert answer.err.startswith("error: ")
    assert answer.err.count("\n") == 1, answer.err
    assert TOKEN not in answer.err
    for part in parts:
        assert part in answer.err, answer.err


def content(folder: Path) -> dict[str, str]:
    return {path.name: file_sha256(path) for path in folder.iterdir()}


def report(path: Path, sha256: str) -> Path:
    """The part of an evaluation report that a card reads."""
    ours = {"label": "fake-quant w4a4 | x", "sha256": sha256, "auc": {"30": 76.5, "3": 5.25}, "abs_rel": 0.08}
    base = {"label": "torch fp32", "sha256": "1" * 64, "auc": {"30": 81.25}, "abs_rel": None, "bytes": 4_000_000}
    frames = {"sha256": "abcdef0123456789", "sequences": 7}
    path.write_text(
        json.dumps({"config": {"dataset": "co3d", "frames": 4}, "frame_list": frames, "candidates": [base, ours]})
    )
    return path


def test_there_and_back(hub: FakeHub, call: Commands, checkpoint: Path, tmp_path: Path) -> None:
    metrics = report(tmp_path / "eval.json", file_sha256(checkpoint / "model.safetensors"))
    pushed = call("push", checkpoint, "me/small", "--metrics", metrics, *OTHER, **ME)
    assert (pushed.code, pushed.err) == (0, ""), pushed
    repo = hub.repos["me/small"]
    commit = repo.refs["main"]
    assert commit in pushed.out
    assert repo.private
    assert set(repo.commits[commit]) == {"quant.json", "model.safetensors", "README.md", ".gitattributes"}
    card = repo.commits[commit]["README.md"].decode()
    for text in (
        "license: other",
        "- w4a4-dynamic",
        "| fake-quant w4a4 x (this) | 76.50 |",
        "not measured",
        "qvggt pull me/small",
    ):
        assert text in card, card
    assert "/home/someone" not in card

    pulled = call("pull", "me/small", "-o", tmp_path / "back")
    assert pulled.code == 0, pulled
    assert commit in pulled.out
    assert content(tmp_path / "back") == {**content(checkpoint), "README.md": file_sha256(tmp_path / "back/README.md")}

    hub.requests.clear()
    offline = call("pull", "me/small", "-o", tmp_path / "again", HF_HUB_OFFLINE="1")
    assert offline.code == 0, offline
    assert commit in offline.out
    assert hub.requests == []
    mistake(call("pull", "me/small", "-o", tmp_path / "again", "--offline"), "exists already", "--overwrite")
    assert call("pull", "me/small", "-o", tmp_path / "again", "--offline", "--overwrite").code == 0
    assert content(tmp_path / "again") == content(tmp_path / "back")


def test_a_second_push_is_a_second_commit_and_the_first_can_be_pinned(
    hub: FakeHub, call: Commands, checkpoint: Path, tmp_path: Path
) -> None:
    assert call("push", checkpoint, "me/twice", *OTHER, **ME).code == 0
    first = hub.repos["me/twice"].refs["main"]
    other = tmp_path / "other"
    model, scheme = small_model(1), parse_scheme("w8a8")
    save_calibrated(other, model, scheme, Provenance(layers=quantize_rtn_(model, scheme)))
    assert call("push", other, "me/twice", *OTHER, **ME).code == 0
    assert call("pull", "me/twice", "-o", tmp_path / "new").code == 0
    assert call("pull", "me/twice", "-o", tmp_path / "old", "--revision", first).code == 0
    for folder, original in ((tmp_path / "new", other), (tmp_path / "old", checkpoint)):
        assert content(folder)["model.safetensors"] == content(original)["model.safetensors"]
    mistake(call("pull", "me/twice", "-o", tmp_path / "none", "--revision", "v9"), "no revision 'v9'")
    assert call("push", checkpoint, "me/twice", "--branch", "int4", *OTHER, **ME).code == 0
    assert call("pull", "me/twice", "-o", tmp_path / "branch", "--revision", "int4").code == 0
    assert content(tmp_path / "branch") == content(tmp_path / "old")


def test_a_trunk_travels_with_its_heads(hub: FakeHub, call: Commands, small_pair: Path, tmp_path: Path) -> None:
    assert call("push", small_pair, "me/pair", *OTHER, **ME).code == 0
    assert call("pull", "me/pair", "-o", tmp_path / "back").code == 0
    assert {path.name for path in (tmp_path / "back").iterdir()} == {"small.onnx", "small.heads.onnx", "README.md"}


def test_onnx_files_travel_with_their_data(hub: FakeHub, call: Commands, tmp_path: Path) -> None:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones(2048, np.float32), "w")
    io = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2048]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", io[:1], io[1:], [weight])
    model = helper.make_model(graph)
    onnx.save(model, tmp_path / "foreign.onnx")
    mistake(call("push", tmp_path / "foreign.onnx", "me/onnx", **ME), "no qvggt.source")
    source = {"qvggt.source": '{"name": "tiny"}', "qvggt.scheme": parse_scheme("w8a8").to_json()}
    helper.set_model_props(model, source)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.onnx.data", size_threshold=0)
    (tmp_path / "m.onnx.parity.json").write_text("{}")
    assert call("push", tmp_path / "m.onnx", "me/onnx", **ME).code == 0
    names = {"m.onnx", "m.onnx.data", "m.onnx.parity.json", "README.md"}
    repo = hub.repos["me/onnx"]
    files = repo.commits[repo.refs["main"]]
    assert set(files) == names | {".gitattributes"}
    assert b"license: apache-2.0" in files["README.md"]
    assert call("pull", "me/onnx", "-o", tmp_path / "back").code == 0
    assert {path.name for path in (tmp_path / "back").iterdir()} == names
    repo.add("main", {**files, "m.onnx.data": b"short"})
    mistake(call("pull", "me/onnx", "-o", tmp_path / "no"), "me/onnx/m.onnx", "truncated")
    assert not (tmp_path / "no").exists()


def test_only_expected_names_are_taken(hub: FakeHub, call: Commands, checkpoint: Path, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    hub.make("me/odd", **files, **{"evil.pkl": b"x", "model.pt": b"x", "../up.json": b"x", "sub/quant.json": b"x"})
    assert call("pull", "me/odd", "-o", tmp_path / "odd").code == 0
    assert {path.name for path in (tmp_path / "odd").iterdir()} == {"quant.json", "model.safetensors"}
    asked = {path.split("/")[-1] for method, path in hub.requests if "/resolve/" in path}
    assert asked == {"quant.json", "model.safetensors"}
    mistake(call("push", checkpoint, "me/odd", *OTHER, **ME), "holds other files", "--overwrite")
    assert call("push", checkpoint, "me/odd", "--overwrite", *OTHER, **ME).code == 0
    assert "evil.pkl" in hub.repos["me/odd"].commits[hub.repos["me/odd"].refs["main"]]


def test_what_is_pulled_must_load(hub: FakeHub, call: Commands, checkpoint: Path, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    damaged = bytearray(files["model.safetensors"])
    damaged[-1] ^= 1
    hub.make("me/damaged", **{**files, "model.safetensors": bytes(damaged)})
    mistake(
        call("pull", "me/damaged", "-o", tmp_path / "x"), "me/damaged/model.safetensors", "does not match quant.json"
    )
    hub.make("me/half", **{"quant.json": files["quant.json"]})
    mistake(call("pull", "me/half", "-o", tmp_path / "x"), "me/half/model.safetensors", "cannot be read")
    hub.make("me/float", **{"model.pt": b"x"})
    mistake(call("pull", "me/float", "-o", tmp_path / "x"), "no calibrated checkpoint")
    assert list(tmp_path.iterdir()) == []


def test_a_change_between_two_files_is_noticed(hub: FakeHub, call: Commands, checkpoint: Path, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    repo = hub.make("me/moving", **files)

    def move(method: str, path: str) -> None:
        if method == "GET" and "/resolve/" in path and len(repo.commits) == 1:
            repo.add("main", {**files, "new": b""})

    hub.after_request = move
    mistake(call("pull", "me/moving", "-o", tmp_path / "x"), "changed during the download")
    assert list(tmp_path.iterdir()) == []


def test_a_push_that_another_push_overtakes_changes_nothing(hub: FakeHub, call: Commands, checkpoint: Path) -> None:
    repo = hub.make("me/busy")

    def move(method: str, path: str) -> None:
        if "/preupload/" in path:
            repo.add("main", {"new": b""})

    hub.after_request = move
    mistake(call("push", checkpoint, "me/busy", *OTHER, **ME), "changed meanwhile")
    assert repo.commits[repo.refs["main"]] == {"new": b""}


@pytest.mark.parametrize(
    ("environment", "parts"),
    [
        ({}, ("401",)),
        ({"HF_TOKEN": "hf_wrongwrongwrong"}, ("403", "token that may write")),
        ({**ME, "HF_HUB_OFFLINE": "1"}, ("HF_HUB_OFFLINE",)),
    ],
    ids=["no token", "wrong token", "offline"],
)
def test_a_push_that_is_not_allowed(
    hub: FakeHub, call: Commands, checkpoint: Path, environment: dict[str, str], parts: tuple[str, ...]
) -> None:
    answer = call("push", checkpoint, "me/no", *OTHER, **environment)
    mistake(answer, "me/no", *parts)
    assert "hf_wrong" not in answer.err
    assert hub.repos == {}
    if "HF_HUB_OFFLINE" in environment:
        assert hub.requests == []


def test_mistakes_before_any_network(hub: FakeHub, call: Commands, checkpoint: Path, tmp_path: Path) -> None:
    mistake(call("push", checkpoint, "no-owner", **ME), "expected owner/name")
    mistake(call("pull", "a/b/c", "-o", tmp_path / "x"), "expected owner/name")
    mistake(call("push", tmp_path / "nothing", "me/x", **ME), "quant.json")
    mistake(call("push", checkpoint, "me/x", **ME), "the licence of vggt.safetensors is not known here", "--licence")
    mistake(call("push", checkpoint, "me/x", "--licence", "a: b", **ME), "licence")
    other = report(tmp_path / "other.json", "2" * 64)
    mistake(call("push", checkpoint, "me/x", "--metrics", other, *OTHER, **ME), "no candidate ran model.safetensors")
    other.write_text("[]")
    mistake(call("push", checkpoint, "me/x", "--metrics", other, *OTHER, **ME), "no JSON object")
    assert hub.requests == []


def test_a_changed_checkpoint_is_not_pushed(hub: FakeHub, call: Commands, checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "changed")
    (tmp_path / "changed" / "model.safetensors").write_bytes(b"x" * 100)
    mistake(call("push", tmp_path / "changed", "me/x", *OTHER, **ME), "does not match quant.json")
    assert hub.requests == []


def test_card_only_needs_no_network(hub: FakeHub, call: Commands, checkpoint: Path) -> None:
    answer = call("push", checkpoint, "me/card", "--card-only", "--licence", "cc-by-nc-4.0")
    assert answer.code == 0
    assert answer.out.startswith("---\nlicense: cc-by-nc-4.0\n")
    assert "Not measured: no evaluation report" in answer.out
    assert hub.requests == []


@pytest.mark.parametrize(
    ("source", "header", "words"),
    [
        ("tiny", "license: apache-2.0\n", "(apache-2.0)"),
        ("facebook/VGGT-1B", "license: cc-by-nc-4.0\n", "It allows no commercial use."),
        ("vggt-1b:model.pt", "license: cc-by-nc-4.0\n", "of `facebook/VGGT-1B` before use"),
        (
            "facebook/VGGT-1B-Commercial",
            "license: other\nlicense_name: vggt-aup-license\nlicense_link: https://",
            "(vggt-aup-license)",
        ),
    ],
)
def test_the_licence_is_that_of_the_source(source: str, header: str, words: str, checkpoint: Path) -> None:
    def card(licence: str | None = None) -> str:
        provenance = Provenance({"name": source, "sha256": "0" * 64})
        facts = CardFacts("checkpoint", "me/x", "m", "0", {}, parse_scheme("w8a8"), provenance, licence=licence)
        return model_card(facts)

    assert card().startswith(f"---\n{header}")
    assert words in card()
    if source != "tiny":
        assert "base_model: facebook/VGGT-1B" in card()
        with pytest.raises(QvggtError, match=r"licence apache-2\.0: does not fit facebook/VGGT-1B"):
            card("apache-2.0")
    if "1b" in source.lower() and "Commercial" not in source:
        assert card("cc-by-nc-sa-4.0").startswith("---\nlicense: cc-by-nc-sa-4.0\n")


def test_a_push_is_private_unless_told(hub: FakeHub, call: Commands, checkpoint: Path) -> None:
    assert call("push", checkpoint, "me/open", "--public", *OTHER, **ME).code == 0
    assert not hub.repos["me/open"].private
    hub.requests.clear()
    mistake(call("push", checkpoint, "me/open", *OTHER, **ME), "me/open: is public; add --public")
    assert {method for method, _ in hub.requests} == {"GET"}
    assert call("push", checkpoint, "me/open", "--public", *OTHER, **ME).code == 0


def test_a_calibrated_repository_is_no_float_model(
    hub: FakeHub, call: Commands, checkpoint: Path, tmp_path: Path
) -> None:
    hub.make("me/quantized", **{path.name: path.read_bytes() for path in checkpoint.iterdir()})
    (tmp_path / "a.jpg").touch()
    line = (tmp_path / "a.jpg", "--model", "me/quantized", "--formats", "cameras", "-o", tmp_path / "out")
    mistake(call("reconstruct", *line), "qvggt pull me/quantized")
    asked: list[Any] = [path for _, path in hub.requests if "model.safetensors" in path]
    assert asked == []


def test_weights_of_any_name(hub: FakeHub, call: Commands, tmp_path: Path) -> None:
    """One candidate is taken whatever it is called, later from the cache too; of several one is named."""
    import torch

    network = small_model()
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    weights = (tmp_path / "weights.pt").read_bytes()
    config = json.dumps({"qvggt_config": json.loads(network.config.to_json())}).encode()
    hub.make("me/one", **{"README.md": b"", "deep/odd_name.pt": weights, "deep/config.json": config})
    hub.make("me/two", **{"a.pt": b"no weights", "b.pt": weights, "config.json": config})
    hub.make("facebook/VGGT-1B-Commercial", **{"x.pt": b"", "vggt_1B_commercial.pt": weights, "config.json": config})
    hub.make(
        "facebook/VGGT_tracker_fixed", **{"x.pt": b"", "model_tracker_fixed_e20.pt": weights, "config.json": config}
    )
    hub.make("me/gated").gated = True

    def calibrate(name: str, *words: str, **environment: str) -> Answer:
        line = (name, *words, "--bits", "w8a8", "--recipe", "rtn", "--overwrite", "-o", tmp_path / "out")
        return call("calibrate", *line, **environment)

    def source() -> str:
        return str(json.loads((tmp_path / "out" / "quant.json").read_text())["source"]["name"])

    for name in ("me/one", "facebook/VGGT-1B-Commercial", "facebook/VGGT_tracker_fixed"):
        assert calibrate(name).code == 0
        assert source() == name
    hub.requests.clear()
    assert calibrate("me/one", "--offline").code == 0
    assert hub.requests == []
    mistake(calibrate("me/two"), "me/two on the Hub: holds neither", "but a.pt, b.pt; name one with --file")
    mistake(calibrate("me/two", "--file", "c.pt"), "me/two on the Hub: holds no c.pt; there are a.pt, b.pt")
    mistake(calibrate("me/two", "--file", "../c.pt"), "--file ../c.pt: expected a file of the repository")
    mistake(calibrate("tiny", "--file", "b.pt"), "--file b.pt: goes with one Hub id, got none")
    assert calibrate("me/two", "--file", "b.pt").code == 0
    assert source() == "me/two:b.pt"
    assert calibrate("me/two:b.pt", "--offline").code == 0
    mistake(calibrate("me/gated"), "me/gated: access is restricted; accept its terms")


def test_results_are_json(hub: FakeHub, call: Commands, checkpoint: Path, tmp_path: Path) -> None:
    card = json.loads(call("push", checkpoint, "me/json", "--card-only", "--json", "-", *OTHER).out)
    assert (card["commit"], hub.requests) == (None, [])
    pushed = json.loads(call("push", checkpoint, "me/json", "--json", "-", *OTHER, **ME).out)
    assert pushed == {**card, "commit": hub.repos["me/json"].refs["main"], "url": pushed["url"]}
    assert pushed["files"] == {path.name: path.stat().st_size for path in checkpoint.iterdir()}
    assert hub.repos["me/json"].commits[pushed["commit"]]["README.md"].decode() == pushed["card"]
    pulled = json.loads(call("pull", "me/json", "-o", tmp_path / "back", "--json", "-").out)
    assert (pulled["output"], pulled["commit"]) == (str(tmp_path / "back"), pushed["commit"])
    assert sorted(pulled["files"]) == ["model.safetensors", "quant.json"]


@pytest.mark.parametrize(
    "job",
    [PushJob("a/b", "me/x", branch="int4", overwrite=True), PullJob("me/x", "there", revision="v1", offline=True)],
)
def test_jobs_travel_as_json(job: Any, call: Commands, tmp_path: Path) -> None:
    assert read_job(job.save(tmp_path / "job.json")) == job
    saved = call(job.name, "--config", tmp_path / "job.json", "--save-config", tmp_path / "again.json")
    assert saved.code == 0, saved
    assert read_job(tmp_path / "again.json") == job
