"""Engines and the manifests beside them: what belongs together opens, everything else is one line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qvggt import QvggtError
from qvggt.engines.manifest import (
    FileFact,
    Manifest,
    check_engine,
    check_onnx,
    manifest_path,
    read_manifest,
    runtime_of,
)

FACTS = [("qvggt.size", "56x56"), ("qvggt.bits", "w8a8")]


def manifest(engine: Path, **changes: Any) -> Manifest:
    onnx = FileFact("m.onnx", "a" * 64, 10)
    values: dict[str, Any] = {
        "engine": FileFact.of(engine),
        "onnx": (onnx, FileFact("m.onnx.data", "b" * 64, 20)),
        "backend": "rtx",
        "backend_version": "1.7.1.116",
        "precision": "fp16",
        "profile": {"images": ((1, 1, 3, 56, 56), (1, 4, 3, 56, 56), (1, 8, 3, 56, 56))},
        "compute_capabilities": ("8.6", "8.9"),
        "scheme": {"bits": "w8a8"},
        "metadata": {"qvggt.size": "56x56"},
        "report": {"summary": "40/40 linears INT8 GEMM"},
        "created": "2026-01-01T00:00:00+00:00",
    }
    return Manifest(**{**values, **changes})


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "m.engine"
    path.write_bytes(b"engine bytes")
    manifest_path(path).write_text(manifest(path).to_json())
    return path


def test_what_was_written_is_read(engine: Path) -> None:
    assert manifest_path(engine).name == "m.engine.manifest.json"
    assert read_manifest(engine) == check_engine(engine) == manifest(engine)
    assert check_engine(str(engine)).profile["images"][1] == (1, 4, 3, 56, 56)


def test_an_engine_without_manifest_is_refused(engine: Path) -> None:
    manifest_path(engine).unlink()
    with pytest.raises(QvggtError, match=r"m\.engine: has no manifest m\.engine\.manifest\.json beside it"):
        check_engine(engine)
    with pytest.raises(QvggtError, match=r"no\.engine: nothing there, expected an engine file"):
        check_engine(engine.with_name("no.engine"))
    with pytest.raises(QvggtError, match="a directory there"):
        check_engine(engine.parent)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"engine bytez", r"sha256 \w{12}\.\.\., its manifest says \w{12}\.\.\.: changed or replaced .*build again"),
        (b"engine byte", r"has 11 bytes, its manifest says 12: truncated or replaced; build again"),
        (b"engine bytes+", r"has 13 bytes, its manifest says 12: truncated or replaced; build again"),
        (b"", r"has 0 bytes, its manifest says 12: truncated or replaced; build again"),
    ],
)
def test_a_changed_engine_is_refused(engine: Path, content: bytes, words: str) -> None:
    """Another size without reading gigabytes, longer files too."""
    engine.write_bytes(content)
    with pytest.raises(QvggtError, match=words) as caught:
        check_engine(engine)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("digit", [0, 7, 8, 11, 12, 62, 63])
def test_every_digit_of_a_hash_counts(engine: Path, digit: int) -> None:
    """A mix-up that shares the digits an error shows, or those git shows, is a mix-up all the same."""
    right = read_manifest(engine)

    def other(fact: FileFact) -> FileFact:
        flipped = "0" if fact.sha256[digit] != "0" else "1"
        return dataclasses.replace(fact, sha256=fact.sha256[:digit] + flipped + fact.sha256[digit + 1 :])

    manifest_path(engine).write_text(dataclasses.replace(right, engine=other(right.engine)).to_json())
    with pytest.raises(QvggtError, match="changed or replaced since it was built"):
        check_engine(engine)
    with pytest.raises(QvggtError, match="was built from"):
        check_onnx(right, other(right.onnx[0]))


def test_an_engine_of_another_model_is_refused(engine: Path) -> None:
    check_onnx(read_manifest(engine), FileFact("renamed.onnx", "a" * 64, 10))
    with pytest.raises(QvggtError, match=r"m\.engine: was built from m\.onnx of sha256 aaaaaaaaaaaa"):
        check_onnx(read_manifest(engine), FileFact("m.onnx", "c" * 64, 10))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("version", 2, "version 2, expected 1"),
        ("engine", {"name": "m", "sha256": "xyz", "bytes": 3}, "64 hex digits"),
        ("engine", {"name": "m", "sha256": "a" * 64, "bytes": "3"}, "an integer"),
        ("engine", {"name": "m", "sha256": "a" * 64, "bytes": True}, "an integer"),
        ("engine", {"name": "m", "sha256": "a" * 64, "bytes": -1}, r"engine\.bytes: expected a count, got int '-1'"),
        ("engine", {"name": "m", "sha256": "a" * 65, "bytes": 3}, "64 hex digits"),
        ("engine", {"name": "m", "sha256": "a" * 64 + "\n", "bytes": 3}, "64 hex digits"),
        ("engine", {"name": "m", "sha256": "A" * 64, "bytes": 3}, "64 hex digits"),
        ("engine", {"name": "m", "sha256": "a" * 64, "bytes": 3, "more": 1}, r"unknown key 'engine\.more'"),
        ("onnx", [{"name": "m", "sha256": "a" * 64, "bytes": 3, "more": 1}], r"unknown key 'onnx\[0\]\.more'"),
        ("engine", [], "engine: expected an object"),
        ("onnx", [], "a list of files"),
        ("backend", "cuda", "one of rtx, tensorrt, trtexec"),
        ("profile", {"images": [[1, 2], [1, 2]]}, "three lists of integers"),
        ("profile", {"images": [[1], [1], ["1"]]}, "three lists of integers"),
        ("compute_capabilities", [8.6], "a list of strings"),
        ("metadata", {"a": 1}, "an object of strings"),
        ("scheme", "w8a8", "an object or null"),
        ("surprise", 1, "unknown key 'surprise'"),
    ],
)
def test_a_manifest_of_another_form_is_refused(engine: Path, key: str, value: object, words: str) -> None:
    path = manifest_path(engine)
    values = {**json.loads(path.read_text()), key: value}
    path.write_text(json.dumps(values))
    with pytest.raises(QvggtError, match=words) as caught:
        check_engine(engine)
    assert str(caught.value).startswith(f"{path}: not a manifest of this version")
    assert str(caught.value).endswith("; build again")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null", b"[" * 100_000])
def test_what_is_no_json_object_is_refused(engine: Path, content: bytes) -> None:
    manifest_path(engine).write_bytes(content)
    with pytest.raises(QvggtError, match="not a manifest of this version"):
        read_manifest(engine)


def test_a_huge_manifest_is_not_read(engine: Path) -> None:
    with open(manifest_path(engine), "r+b") as file:
        file.truncate(1 << 30)  # sparse
    with pytest.raises(QvggtError, match="expected at most"):
        read_manifest(engine)


def test_equal_manifests_are_equal_bytes(engine: Path, tmp_path: Path) -> None:
    one = manifest_path(engine).read_bytes()
    manifest_path(engine).write_text(dataclasses.replace(read_manifest(engine)).to_json())
    assert manifest_path(engine).read_bytes() == one
    backwards = [manifest(engine, metadata=dict(pairs)).to_json() for pairs in (FACTS, FACTS[::-1])]
    assert backwards[0] == backwards[1]
    assert backwards[0] == json.dumps(json.loads(backwards[0]), indent=2, sort_keys=True) + "\n"


@pytest.mark.parametrize(("backend", "runtime"), [("rtx", "rtx"), ("tensorrt", "tensorrt"), ("trtexec", "tensorrt")])
def test_the_runtime_of_an_engine_is_that_of_its_builder(engine: Path, backend: str, runtime: str) -> None:
    manifest_path(engine).write_text(manifest(engine, backend=backend).to_json())
    assert runtime_of(engine) == runtime
    assert runtime_of(str(engine)) == runtime


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_manifests_end_in_one_line(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    engine = tmp_path_factory.mktemp("fuzz") / "m.engine"
    engine.write_bytes(b"x")
    text = bytearray(manifest(engine).to_json().encode())
    for _ in range(data.draw(st.integers(0, 3))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    manifest_path(engine).write_bytes(text[: data.draw(st.integers(0, len(text)))])
    outcome = ""
    try:
        outcome = check_engine(engine).backend
    except QvggtError as error:
        outcome = str(error)
    assert "\n" not in outcome
