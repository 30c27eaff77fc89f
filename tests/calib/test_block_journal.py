"""Finished blocks on disk: read back bit for bit, and refused in one line when anything is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_network import small_model

from qvggt.calib.block_journal import JOURNAL, BlockJournal
from qvggt.calib.reconstruct import BlockReport
from qvggt.calib.steps import Steps
from qvggt.errors import QvggtError
from qvggt.formats.linear_format import LinearFormat
from qvggt.models.block import Block
from qvggt.quant.model import quantize_
from qvggt.quant.scheme import parse_scheme
from qvggt.tensor_file import open_tensors, write_tensors

PATH = "aggregator.frame_blocks.0"
LINEARS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


def block_of(quantized: bool) -> Block:
    model = small_model()
    if quantized:
        quantize_(model, parse_scheme("w8a8"), None)
    block = model.get_submodule(PATH)
    assert isinstance(block, Block)
    return block


def formats() -> dict[str, LinearFormat]:
    scheme = parse_scheme("w8a8")
    found = {name: scheme.format(f"{PATH}.{name}") for name in LINEARS}
    return {name: format for name, format in found.items() if format is not None}


@pytest.fixture
def report() -> BlockReport:
    return BlockReport(3.0, 2.0, 1.0, {"attn.qkv": Steps(scale=True, db=41.5), "mlp.fc2": Steps(center=True)})


@pytest.fixture
def store(tmp_path: Path, report: BlockReport) -> BlockJournal:
    store = BlockJournal(tmp_path / "store", {"seed": 0})
    store.save(PATH, block_of(quantized=True), report)
    return store


def stored(store: BlockJournal) -> Path:
    (path,) = store.folder.glob("*.safetensors")
    return path


def refused(store: BlockJournal, *words: str) -> None:
    with pytest.raises(QvggtError) as caught:
        store.load(PATH, block_of(quantized=False), formats())
    message = str(caught.value)
    assert "\n" not in message
    for word in (str(stored(store)), *words):
        assert word in message, message


def test_a_block_is_read_back_bit_for_bit(store: BlockJournal, report: BlockReport) -> None:
    loaded = store.load(PATH, block_of(quantized=False), formats())
    assert loaded is not None
    wanted = block_of(quantized=True).state_dict()
    assert loaded[0].state_dict().keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in loaded[0].state_dict().items())
    assert loaded[1] == report
    assert store.journal.values[PATH]["file"] == stored(store).name
    assert store.finished() == 1
    assert store.load("aggregator.frame_blocks.1", block_of(quantized=False), formats()) is None


@pytest.mark.parametrize(
    "damage",
    [
        None,
        {"report": None},
        {"report": {}},
        {"report": "words"},
        {"report": {"start": 1, "learned": 1, "final": 1, "colour": 1}},
        {"sha256": 3},
        {"transforms": 3},
        {"transforms": {"mlp.fc2": {"colour": 1}}},
        {"transforms": {"mlp.fc2": 3}},
        {"transforms": {"mlp.fc2": {"scale": True}}},
    ],
)
def test_a_damaged_line_is_one_line(store: BlockJournal, damage: dict[str, Any] | None) -> None:
    entry = store.journal.values[PATH]
    store.journal.add(PATH, damage and {**entry, **damage})
    again = BlockJournal(store.folder, {"seed": 0})
    refused(again, "no finished block", "delete it")
    stored(store).unlink()
    assert again.load(PATH, block_of(quantized=False), formats()) is None
    assert again.finished() == 0


def test_absent_and_misshaped_tensors_are_one_line(store: BlockJournal) -> None:
    file = open_tensors(stored(store))
    read = file.opener()
    tensors = {key: read(key).clone() for key in file.entries}
    first = next(iter(tensors))
    write_tensors(stored(store), {k: t for k, t in tensors.items() if k != first}, dict(file.metadata))
    refused(store, "no finished block")
    write_tensors(stored(store), {**tensors, first: torch.zeros(3)}, dict(file.metadata))
    refused(store, "no finished block")


def test_a_flipped_bit_is_noticed(store: BlockJournal) -> None:
    path = stored(store)
    damaged = bytearray(path.read_bytes())
    damaged[-5] ^= 4
    path.write_bytes(damaged)
    refused(store, "do not match their sha256")


def test_a_truncated_file_is_one_line(store: BlockJournal) -> None:
    path = stored(store)
    path.write_bytes(path.read_bytes()[:-100])
    refused(store, "truncated")


@pytest.mark.parametrize("content", [b"\xff\xfe\xbb", b"", json.dumps({"seed": 1}).encode()])
def test_another_or_damaged_job_is_refused(store: BlockJournal, content: bytes) -> None:
    (store.folder / JOURNAL).write_bytes(content)
    with pytest.raises(QvggtError, match="delete"):
        BlockJournal(store.folder, {"seed": 0})


def test_a_kill_between_file_and_line_means_another_go(store: BlockJournal, report: BlockReport) -> None:
    journal = store.folder / JOURNAL
    whole, file = journal.read_bytes(), stored(store).read_bytes()
    block, wanted = block_of(quantized=False), formats()
    for length in range(whole.index(b"\n") + 1, len(whole)):
        journal.write_bytes(whole[:length])
        again = BlockJournal(store.folder, {"seed": 0})
        assert again.load(PATH, block, wanted) is None
    again.save(PATH, block_of(quantized=True), report)
    assert (journal.read_bytes(), stored(store).read_bytes()) == (whole, file)


def test_what_was_rounded_is_kept_for_an_adaptation(store: BlockJournal, report: BlockReport) -> None:
    block = block_of(quantized=True)
    linear = block.get_submodule("mlp.fc1")
    linear.latent = linear.codes + 0.25  # type: ignore[operator]
    store.save(PATH, block, report)
    loaded = store.load(PATH, block_of(quantized=False), formats())
    assert loaded is not None
    assert torch.equal(loaded[0].get_submodule("mlp.fc1").latent, linear.latent)  # type: ignore[arg-type]
    assert loaded[0].get_submodule("mlp.fc2").latent is None


def test_a_damaged_state_is_refused(store: BlockJournal) -> None:
    assert store.kept("adaptation") is None
    store.keep("adaptation", 3, {"a": torch.ones(2)})
    store.keep("adaptation", 6, {"a": torch.zeros(2)})
    step, tensors = store.kept("adaptation") or (0, {})
    assert (step, tensors["a"].tolist()) == (6, [0.0, 0.0])
    (file,) = store.folder.glob("adaptation*")
    write_tensors(file, {"a": torch.ones(2)}, {})
    with pytest.raises(QvggtError, match="do not match their sha256"):
        store.kept("adaptation")
