"""A local stand-in for the Hugging Face Hub's HTTP API: create, look up, preupload, LFS, commit, resolve.

`python tests/fake_hub.py` is the other side: a process that runs qvggt's commands, one JSON line each, against the Hub
that HF_ENDPOINT names (huggingface_hub reads it when it is imported).
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

TOKEN = "hf_secretsecretsecret"
LARGE = (".safetensors", ".onnx", ".data", ".pt")


@dataclass
class Repo:
    """Commits of one repository: id -> {name: content}, and the branches and tags that point at them."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    private: bool = True
    gated: bool = False

    def add(self, branch: str, files: dict[str, bytes]) -> str:
        text = json.dumps([len(self.commits), {n: hashlib.sha256(c).hexdigest() for n, c in files.items()}])
        commit = hashlib.sha1(text.encode()).hexdigest()
        self.commits[commit] = files
        self.refs[branch] = commit
        return commit

    def at(self, revision: str) -> str | None:
        return self.refs.get(revision, revision if revision in self.commits else None)


class FakeHub(ThreadingHTTPServer):
    """`repos`: what it holds. `requests`: (method, path) of all it was asked. Writing needs `TOKEN`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.after_request: Any = None  # called with (method, path): lets a test change things in between

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def make(self, name: str, **files: bytes) -> Repo:
        repo = self.repos[name] = Repo()
        repo.add("main", dict(files))
        return repo


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeHub

    def reply(self, status: int, body: Any = b"", **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def allowed(self) -> bool:
        given = self.headers.get("Authorization", "")
        if given != f"Bearer {TOKEN}":
            self.reply(403 if given else 401, {"error": f"no write access for {given}"})
            return False
        return True

    def missing(self, code: str) -> None:
        self.reply(404, {"error": code}, X_Error_Code=code)

    def handle_any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        path = unquote(self.path.split("?")[0])
        self.server.requests.append((self.command, path))
        parts = path.strip("/").split("/")
        if path == "/api/repos/create":
            self.create(json.loads(body))
        elif path == "/api/validate-yaml":
            self.reply(200, {"warnings": [], "errors": []})
        elif parts[:2] == ["api", "models"]:
            self.model_api("/".join(parts[2:4]), parts[4:], body)
        elif path.endswith(".git/info/lfs/objects/batch"):
            self.batch(json.loads(body))
        elif parts[0] == "lfs":
            self.server.blobs[parts[1]] = body
            self.reply(200)
        elif len(parts) >= 5 and parts[2] == "resolve":
            self.resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self.missing("NotImplemented")
        if self.server.after_request is not None:
            self.server.after_request(self.command, path)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def create(self, asked: dict[str, Any]) -> None:
        if not self.allowed():
            return
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.server.repos:
            return self.reply(409, {"error": "exists", "url": f"{self.server.endpoint}/{name}"})
        repo = self.server.repos[name] = Repo(
            private=asked.get("visibility") == "private" or bool(asked.get("private"))
        )
        repo.add("main", {".gitattributes": b""})
        self.reply(200, {"url": f"{self.server.endpoint}/{name}", "id": name})

    def model_api(self, name: str, rest: list[str], body: bytes) -> None:
        repo = self.server.repos.get(name)
        if repo is None:
            return self.missing("RepoNotFound")
        if not rest or rest[0] == "revision":
            commit = repo.at(rest[1] if rest else "main")
            if commit is None:
                return self.missing("RevisionNotFound")
            siblings = [{"rfilename": file} for file in repo.commits[commit]]
            return self.reply(
                200, {"id": name, "modelId": name, "sha": commit, "private": repo.private, "siblings": siblings}
            )
        if not self.allowed():
            return
        if rest[0] == "branch":
            if rest[1] in repo.refs:
                return self.reply(409, {"error": "exists"})
            repo.refs[rest[1]] = repo.refs["main"]
            return self.reply(200, {})
        if repo.at(rest[1]) is None:
            return self.missing("RevisionNotFound")
        if rest[0] == "preupload":
            files = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for f in json.loads(body)["files"]
            ]
            return self.reply(200, {"files": files})
        if rest[0] == "commit":
            self.commit(name, repo, rest[1], [json.loads(line) for line in body.splitlines()])

    def commit(self, name: str, repo: Repo, branch: str, lines: list[dict[str, Any]]) -> None:
        files = dict(repo.commits[repo.refs[branch]])
        for line in lines:
            value = line["value"]
            if line["key"] == "header" and value.get("parentCommit") not in (None, repo.refs[branch]):
                return self.reply(412, {"error": "parent commit is no longer the head"})
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = repo.add(branch, files)
        self.reply(
            200, {"success": True, "commitOid": commit, "commitUrl": f"{self.server.endpoint}/{name}/commit/{commit}"}
        )

    def batch(self, asked: dict[str, Any]) -> None:
        if not self.allowed():
            return
        objects = [
            {**o, "actions": {"upload": {"href": f"{self.server.endpoint}/lfs/{o['oid']}"}}} for o in asked["objects"]
        ]
        self.reply(200, {"transfer": "basic", "objects": objects})

    def resolve(self, name: str, revision: str, file: str) -> None:
        repo = self.server.repos.get(name)
        if repo is None:
            return self.missing("RepoNotFound")
        if repo.gated:
            return self.reply(403, b"", X_Error_Code="GatedRepo")
        commit = repo.at(revision)
        if commit is None:
            return self.missing("RevisionNotFound")
        content = repo.commits[commit].get(file)
        if content is None:
            return self.reply(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        self.reply(200, content, X_Repo_Commit=commit, ETag=f'"{hashlib.sha256(content).hexdigest()}"')

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    server = FakeHub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@dataclass(frozen=True)
class Answer:
    """How a command ended."""

    code: int
    out: str
    err: str


def hub_environment(endpoint: str, home: Path) -> dict[str, str]:
    """Of a process whose Hub is at `endpoint`: nothing else is inherited."""
    return {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        "PATH": "/usr/bin:/bin",
        "OMP_NUM_THREADS": "1",
    }


class Commands:
    """A process that runs commands against a Hub; the same one for many calls, as importing torch takes seconds."""

    def __init__(self, endpoint: str, home: Path) -> None:
        command = [sys.executable, __file__]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=hub_environment(endpoint, home), text=True
        )

    def __call__(self, command: str, *args: object, **environment: str) -> Answer:
        """Run `qvggt COMMAND args`; `environment` holds for this call only."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([command, [str(a) for a in args], environment]) + "\n")
        self.process.stdin.flush()
        return Answer(**json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait(timeout=30)


def serve() -> None:
    """Read calls from stdin, answer on stdout."""
    import contextlib
    import io

    from qvggt.cli.main import main

    answers = sys.stdout
    for text in sys.stdin:
        command, args, environment = json.loads(text)
        os.environ.update(environment)
        code: Any = None
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            try:
                main([command, *args])
            except SystemExit as end:
                code = end.code or 0
            except BaseException as error:
                code = -1
                print(f"Traceback: {error!r}", file=sys.stderr)
        for name in environment:
            del os.environ[name]
        print(json.dumps({"code": code, "out": out.getvalue(), "err": err.getvalue()}), file=answers, flush=True)


if __name__ == "__main__":
    serve()
