from __future__ import annotations

import argparse
import os
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from qvggt import tensor_file
from qvggt.errors import QvggtError
from qvggt.tensor_file import open_tensors, write_tensors

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b.c": torch.tensor([1.5]), "d": torch.tensor(2.0)}


def read(path: Path) -> dict[str, torch.Tensor]:
    file = open_tensors(path)
    return dict(file.floats(file.entries))


def refused(path: Path, *parts: str) -> None:
    with pytest.raises(QvggtError) as e:
        read(path)
    text = str(e.value)
    assert "\n" not in text
    assert "weights_only" not in text  # torch's own advice is the unsafe way out
    for part in (str(path), *parts):
        assert part in text, text


class Touch:
    """Creates `path` when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("name", ["f.safetensors", "f.pt", "f.pth", "f.PT"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_round_trip(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    path, tensors = tmp_path / name, {k: t.to(dtype) for k, t in TENSORS.items()}
    if name == "f.safetensors":
        write_tensors(path, tensors)
    else:
        torch.save(tensors, path)
    got = read(path)
    assert got.keys() == TENSORS.keys()
    for key, tensor in TENSORS.items():
        assert got[key].dtype == torch.float32
        assert torch.equal(got[key], tensor)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda d: {"model": d, "epoch": 3},
        lambda d: {"state_dict": d},
        lambda d: {f"module.{k}": t for k, t in d.items()},
    ],
)
def test_wrapped_state_dicts(tmp_path: Path, wrap: object) -> None:
    torch.save(wrap(TENSORS), tmp_path / "f.pt")  # type: ignore[operator]
    assert read(tmp_path / "f.pt").keys() == TENSORS.keys()


def test_pages_are_given_back_while_converting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_file, "RELEASE_EVERY", 4)
    half = {f"k{i}": torch.full((3,), float(i), dtype=torch.float16) for i in range(5)} | {"full": torch.ones(2)}
    for path in (tmp_path / "f.pt", tmp_path / "f.safetensors"):
        torch.save(half, path) if path.suffix == ".pt" else save_file(half, path)
        got = read(path)
        assert all(torch.equal(got[k], t.float()) for k, t in half.items())


def test_non_contiguous_weights_become_contiguous(tmp_path: Path) -> None:
    torch.save({"w": TENSORS["a"].t()}, tmp_path / "f.pt")
    got = read(tmp_path / "f.pt")["w"]
    assert got.is_contiguous()
    assert torch.equal(got, TENSORS["a"].t())


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    metadata = {k: k * 3 for k in "qwertyuiop"} | {"text": 'é "quoted" \\ \n'}
    shuffled = dict(sorted(metadata.items(), key=lambda kv: hash(kv[0])))
    write_tensors(tmp_path / "a.safetensors", TENSORS, metadata)
    write_tensors(tmp_path / "b.safetensors", dict(reversed(TENSORS.items())), shuffled)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert dict(open_tensors(tmp_path / "a.safetensors").metadata) == metadata
    assert all(torch.equal(t, TENSORS[k]) for k, t in load_file(tmp_path / "a.safetensors").items())


TEXT = st.text(st.characters(codec="utf-8"))


@settings(deadline=None, max_examples=25)
@given(metadata=st.dictionaries(TEXT, TEXT))
def test_any_text_survives_as_metadata(tmp_path_factory: pytest.TempPathFactory, metadata: dict[str, str]) -> None:
    path = tmp_path_factory.mktemp("meta") / "f.safetensors"
    write_tensors(path, TENSORS, metadata)
    file = open_tensors(path)
    assert dict(file.metadata) == metadata
    assert torch.equal(dict(file.floats(["a"]))["a"], TENSORS["a"])


@pytest.mark.parametrize("wrapped", [True, False])
def test_malicious_pickle_is_refused_and_never_runs(tmp_path: Path, wrapped: bool) -> None:
    canary = tmp_path / "owned"
    payload = {"model": Touch(canary)} if wrapped else Touch(canary)
    torch.save(payload, tmp_path / "zip.pt")
    refused(tmp_path / "zip.pt", "refused", "system")
    with open(tmp_path / "bare.pt", "wb") as file:
        pickle.dump(payload, file)
    refused(tmp_path / "bare.pt", "not a torch zip archive")
    assert not canary.exists()
    torch.load(tmp_path / "zip.pt", weights_only=False)  # the payload works where nothing guards
    assert canary.exists()


def test_python_objects_are_refused(tmp_path: Path) -> None:
    torch.save({"model": TENSORS, "args": argparse.Namespace(lr=1)}, tmp_path / "f.pt")
    refused(tmp_path / "f.pt", "argparse.Namespace")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b"<HTML>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"garbage that is long enough to be anything", "get"),
    ],
)
@pytest.mark.parametrize("name", ["f.safetensors", "f.pt"])
def test_impostors(tmp_path: Path, content: bytes, part: str, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, part)


def test_missing_directory_and_unknown_kind(tmp_path: Path) -> None:
    refused(tmp_path / "no.pt", "nothing there")
    refused(tmp_path, "directory")
    (tmp_path / "f.ckpt").write_bytes(b"x")
    refused(tmp_path / "f.ckpt", ".ckpt", ".safetensors")


def test_truncation_says_how_much_is_left(tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    write_tensors(path, TENSORS)
    size = path.stat().st_size
    os.truncate(path, size - 4)
    refused(path, "truncated", f"expected {size} bytes", f"got {size - 4}")
    os.truncate(path, 50)
    refused(path, "truncated", "50 bytes")


def test_every_truncation_is_one_line(tmp_path: Path) -> None:
    write_tensors(tmp_path / "f.safetensors", TENSORS, {"k": "v"})
    torch.save(TENSORS, tmp_path / "f.pt")
    for path in (tmp_path / "f.safetensors", tmp_path / "f.pt"):
        whole = path.read_bytes()
        for size in range(0, len(whole) - 22, 37 if path.suffix == ".pt" else 7):
            path.write_bytes(whole[:size])
            refused(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@settings(deadline=None, max_examples=100)
@given(data=st.data(), name=st.sampled_from(["f.safetensors", "f.pt"]))
def test_flipped_bytes_load_or_give_one_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, name: str
) -> None:
    path = tmp_path_factory.mktemp("flip") / name
    torch.save(TENSORS, path) if name == "f.pt" else write_tensors(path, TENSORS, {"k": "v"})
    content = bytearray(path.read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[position] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    message = ""
    try:
        read(path)
    except QvggtError as error:  # anything else fails the test
        message = str(error)
    assert "\n" not in message


def test_contents_that_are_no_state_dict(tmp_path: Path) -> None:
    path = tmp_path / "f.pt"
    torch.save([torch.ones(1)], path)
    refused(path, "list", "state dict")
    torch.save({"epoch": 3}, path)
    refused(path, "epoch is a int")
    torch.save({"w": torch.eye(2).to_sparse()}, path)
    refused(path, "special tensor")


def test_integer_weights_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "f.pt", tmp_path / "f.safetensors"):
        tensors = {"w": torch.ones(2, dtype=torch.int8)}
        torch.save(tensors, path) if path.suffix == ".pt" else save_file(tensors, path)
        refused(path, "w holds", "int8" if path.suffix == ".pt" else "I8", "F32")
