from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from fake_hub import hub_environment
from huggingface_hub.errors import LocalEntryNotFoundError

from qvggt.errors import QvggtError
from qvggt.hub import names as hub
from qvggt.hub.client import Repository
from qvggt.hub.names import find_weights, hub_id

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def fails(source: str | Path, *parts: str, **options: Any) -> None:
    with pytest.raises(QvggtError) as e:
        find_weights(source, **options)
    assert "\n" not in str(e.value)
    for part in parts:
        assert part in str(e.value), str(e.value)


@pytest.mark.parametrize(
    ("source", "repository"),
    [
        ("facebook/VGGT-1B", "facebook/VGGT-1B"),
        ("vggt-1b", "facebook/VGGT-1B"),
        ("tiny", None),
        (Path("facebook/VGGT-1B"), None),
        ("./VGGT-1B", None),
        ("../VGGT-1B", None),
        ("/abs", None),
        ("a/b/c", None),
        ("weights/model.pt", None),
        ("weights/model.safetensors", None),
        ("owner/.hidden", None),
        ("two words/x", None),
        ("a/b\n", None),
        ("a/b:some/file.pt", "a/b"),
        ("vggt-1b:model.pt", "facebook/VGGT-1B"),
        ("a/b:", None),
        ("a/b:../up.pt", None),
        ("a/b:run.py", None),
        ("a/b/c.pt:d.pt", None),
        ("", None),
    ],
)
def test_what_is_a_hub_id(source: str | Path, repository: str | None) -> None:
    assert hub_id(source) == repository


def test_local_path_wins_over_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    (tmp_path / "owner" / "name" / "model.pt").touch()
    monkeypatch.chdir(tmp_path)
    assert find_weights("owner/name") == Path("owner/name/model.pt")
    fails("owner/name", "revision 'v2'", revision="v2")


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "m.pt").touch()
    assert find_weights("~/m.pt") == tmp_path / "m.pt"


def test_tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub.resources, "files", lambda package: tmp_path)
    fails("tiny", "tiny model is not in this installation", "model.safetensors")
    (tmp_path / hub.TINY).parent.mkdir(parents=True)
    (tmp_path / hub.TINY).touch()
    assert find_weights("tiny") == tmp_path / hub.TINY


class FakeHub:
    """Stands for hf_hub_download: `held` names the files there are; everything asked for is in `calls`."""

    def __init__(self, folder: Path, *held: str, error: Exception | None = None) -> None:
        self.folder, self.held, self.error = folder, held, error
        self.calls: list[tuple[str, str, str | None, bool]] = []

    def __call__(self, repo: str, name: str, *, revision: str | None = None, local_files_only: bool = False) -> str:
        self.calls.append((repo, name, revision, local_files_only))
        if self.error is not None:
            raise self.error
        if name not in self.held:
            raise huggingface_hub.errors.EntryNotFoundError("404")
        (self.folder / name).touch()
        return str(self.folder / name)


def test_safetensors_come_first_then_pt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeHub(tmp_path, "model.safetensors", "model.pt", "config.json")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert find_weights("a/b", revision="v1") == tmp_path / "model.safetensors"
    names = ("quant.json", "model.safetensors", "config.json")
    assert fake.calls == [("a/b", name, "v1", False) for name in names]
    fake.held = ("model.pt",)
    assert find_weights("vggt-1b") == tmp_path / "model.pt"
    assert fake.calls[3][0] == "facebook/VGGT-1B"
    fake.held = ()
    files = ["README.md"]
    monkeypatch.setattr(hub, "look_up", lambda repository, revision: Repository(COMMIT, tuple(files)))
    fails("a/b", "holds neither model.safetensors nor model.pt")
    files += ["mine.pt"]
    fake.held = ("mine.pt",)
    assert find_weights("a/b") == tmp_path / "mine.pt"
    files += ["last.pt"]
    fails(
        "a/b",
        "holds neither model.safetensors nor model.pt, but last.pt, mine.pt; name one with --file, or as a/b:FILE",
    )
    fake.held = ("vggt_1B_commercial.pt", "config.json")
    assert find_weights("facebook/VGGT-1B-Commercial") == tmp_path / "vggt_1B_commercial.pt"
    fake.held = ("model.safetensors", "quant.json")
    fails("a/b", "is a calibrated checkpoint", "qvggt pull a/b")


def test_shards_come_with_their_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = tmp_path / "model.safetensors.index.json"
    fake = FakeHub(tmp_path, index.name, names[0])
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    index.write_text(json.dumps({"weight_map": {"a": names[1], "b": names[0]}}))
    fails("a/b", f"{names[1]} is missing")
    fake.held = (*fake.held, names[1])
    assert find_weights("a/b", revision="v1") == index
    assert [call[1] for call in fake.calls if call[2] == "v1"][-2:] == names


@pytest.mark.parametrize("way", ["argument", "environment"])
def test_offline_reads_the_cache_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    fake = FakeHub(tmp_path, error=LocalEntryNotFoundError("not cached"))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1" if way == "environment" else "0")
    fails("a/b", "offline", "cache", offline=way == "argument")
    assert all(call[3] for call in fake.calls)


@pytest.mark.parametrize(
    "error", [LocalEntryNotFoundError("no network"), ConnectionError("refused\nlong tail"), RuntimeError("odd")]
)
def test_network_failures_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", FakeHub(tmp_path, error=error))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    fails("a/b", "a/b", "could not be downloaded", "by hand")


class Handler(BaseHTTPRequestHandler):
    """The part of the Hub's protocol that a download needs: resolve URLs with commit and etag headers."""

    def serve(self, body: bool) -> None:
        server: Any = self.server
        server.requests.append(self.path)
        owner, repo, _, revision, name = ([*self.path.split("?")[0].strip("/").split("/"), *[""] * 5])[:5]
        content = server.content.get(name)
        code = None
        if f"{owner}/{repo}" != "own/model":
            code = "RepoNotFound"
        elif revision not in ("main", "v1", COMMIT):
            code = "RevisionNotFound"
        elif content is None:
            code = "EntryNotFound"
        self.send_response(200 if code is None else 404)
        self.send_header("X-Repo-Commit", COMMIT)
        if code is not None:
            self.send_header("X-Error-Code", code)
            content = b""
        self.send_header("ETag", f'"{name}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def do_GET(self) -> None:
        self.serve(True)

    def do_HEAD(self) -> None:
        self.serve(False)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.content = [], {}
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


CLIENT = """
import json, sys
from qvggt.errors import QvggtError
from qvggt.hub.loading import load_model
results = []
for source, options in json.loads(sys.argv[1]):
    try:
        model = load_model(source, **options)
        results.append(["ok", model.config.to_json(), float(sum(p.double().sum() for p in model.parameters()))])
    except QvggtError as error:
        results.append(["error", str(error)])
print(json.dumps(results))
"""


def client(endpoint: str, home: Path, *cases: tuple[str, dict[str, Any]]) -> list[list[Any]]:
    """`load_model` of each case in a fresh process whose Hub is at `endpoint` (read at import time)."""
    command = [sys.executable, "-c", CLIENT, json.dumps(cases)]
    out = subprocess.run(command, env=hub_environment(endpoint, home), capture_output=True, text=True, timeout=120)
    assert out.returncode == 0, out.stderr
    return list(json.loads(out.stdout))


def test_a_real_client_against_a_local_hub(server: Any, tmp_path: Path) -> None:
    import torch

    from qvggt.models.vggt.config import VGGTConfig
    from qvggt.models.vggt.network import VGGT

    config = VGGTConfig(
        img_size=28, embed_dim=16, vit_depth=1, aa_depth=1, num_heads=2, dpt_layers=(0, 0, 0, 0), heads=()
    )
    model = VGGT(config)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    server.content["model.pt"] = (tmp_path / "model.pt").read_bytes()
    server.content["config.json"] = json.dumps({"qvggt_config": json.loads(config.to_json())}).encode()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    home = tmp_path / "home"
    loaded = ["ok", config.to_json(), float(sum(p.double().sum() for p in model.parameters()))]

    results = client(
        endpoint,
        home,
        ("own/model", {"offline": True}),
        ("own/model", {"revision": "v1"}),
        ("own/model", {"revision": "v9"}),
        ("own/nothing", {}),
        ("own/model", {"offline": True, "revision": COMMIT}),
    )
    assert results[0][0] == "error"
    assert "Hub cache" in results[0][1]
    assert results[1] == loaded
    assert "no revision 'v9'" in results[2][1]
    assert "no such repository" in results[3][1]
    assert results[4] == loaded
    assert any("/own/model/resolve/v1/model.safetensors" in path for path in server.requests)

    server.requests.clear()
    (offline,) = client(endpoint, home, ("own/model", {"offline": True, "revision": "v1"}))
    assert offline == loaded
    assert server.requests == []


@pytest.mark.slow  # the client retries for half a minute
def test_no_server_at_all(tmp_path: Path) -> None:
    (result,) = client("http://127.0.0.1:9", tmp_path, ("own/model", {}))
    assert result[0] == "error"
    assert "could not be downloaded" in result[1]
    assert "\n" not in result[1]
