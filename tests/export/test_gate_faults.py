"""The gate on files broken on purpose: a good file passes, every fault is found at its place.

By default the list of issue 13, several faults of places apart in one file; `-m slow`: every fault alone, in every kind
of file that it applies to. docs/results/gate_faults.json has what was found of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
from faults import BLOCKS, FAULTS, FLOATS, GLOBAL, LINEARS, TABLES, Broken, Fault
from gate_trial import Finding, findings, remembered
from good_files import KINDS, Good, write_good
from onnx import ModelProto

LISTED = (
    "RoPE entry x1.01",
    "RoPE frequency sign",
    "RoPE of two patches swapped",
    "positional embedding entry x1.01",
    "positional embedding: two patches swapped",
    *(f"GELU by tanh @ {block}.mlp" for block in BLOCKS),
    *(f"LayerNorm eps x10 @ {block}.norm1" for block in BLOCKS),
    *(f"attention scale x1.01 @ {block}" for block in BLOCKS),
    *(f"camera weights x1.01 @ {path}" for path in FLOATS),
    *(f"camera weights: a row of zeros @ {path}" for path in FLOATS),
    *(f"token types zeroed @ {table}" for table in TABLES),
    *(f"token types: camera and register swapped @ {table}" for table in TABLES),
    *(f"token types x1.01 @ {table}" for table in TABLES),
    *(f"centre of the patches x1.05 @ {GLOBAL}.{name}" for name in LINEARS),
    "token-range floor 1e-2",
    *(f"bf16 cast of the residual @ {block}" for block in BLOCKS),
)
SMALL = ("w4a4 made up", "w4a4 made up tensorrt")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Good]]:
    """A good file by its name, written once, with what is known of it (`remembered`)."""
    folder, made = tmp_path_factory.mktemp("good"), dict[str, Good]()

    def get(name: str) -> Good:
        if name not in made:
            made[name] = write_good(name, folder)
        return made[name]

    with remembered():
        yield get


def examined(good: Good, broken: ModelProto, tmp_path: Path) -> list[Finding]:
    path = tmp_path / "broken.onnx"
    path.write_bytes(broken.SerializeToString())
    return findings(good, path)


def together(model: ModelProto, faults: list[Fault]) -> Iterator[tuple[ModelProto, dict[str, Broken]]]:
    """Files with several of the faults each, those of one file at places that have nothing to do with each other."""
    left = [fault for fault in faults if fault(model) is not None]
    while left:
        made, draft = dict[str, Broken](), model
        for fault in left:
            broken = fault(draft)
            if broken is not None and not any(other.at(broken.place) for other in made.values()):
                made[fault.name], draft = broken, broken.model
        left = [fault for fault in left if fault.name not in made]
        yield draft, made


@pytest.mark.parametrize("name", SMALL)
def test_what_issue_13_lists_is_found(name: str, good: Callable[[str], Good], tmp_path: Path) -> None:
    file = good(name)
    assert findings(file, file.path) == []
    missed = []
    for broken, faults in together(onnx.load(file.path), [FAULTS[fault] for fault in LISTED]):
        found = examined(file, broken, tmp_path)
        missed += [fault for fault, it in faults.items() if not any(it.at(f.path) for f in found)]
        assert all(any(it.at(f.path) for it in faults.values()) for f in found)
    assert missed == []


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_a_good_file_passes(name: str, good: Callable[[str], Good]) -> None:
    assert findings(good(name), good(name).path) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_every_fault_is_found(name: str, good: Callable[[str], Good], tmp_path: Path) -> None:
    """At its place, however little it changes."""
    file = good(name)
    model, missed = onnx.load(file.path), []
    for fault in FAULTS.values():
        broken = fault(model)
        if broken is not None and not any(broken.at(f.path) for f in examined(file, broken.model, tmp_path)):
            missed.append(fault.name)
    assert missed == []


@pytest.mark.slow
def test_every_fault_applies_to_some_file(good: Callable[[str], Good]) -> None:
    models = [onnx.load(good(name).path) for name in KINDS]
    assert [f.name for f in FAULTS.values() if all(f(model) is None for model in models)] == []
