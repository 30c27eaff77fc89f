"""The gate on files broken on purpose: a good file passes, every fault is found at its place.

By default the list of issue 13, several faults of places apart in one file; `-m slow`: every fault alone, in every kind
of file that it applies to. docs/results/gate_faults.json has what was found of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
from faults import CAMERA, ENCODER, FAULTS, FRAME, GLOBAL, Broken
from gate_trial import Finding, findings, remembered
from good_files import KINDS, Good, write_good
from onnx import ModelProto

from qvggt.jobs.gate import SEGMENT_FRAMES

EMBEDDED = "camera_head.embed_pose"
LISTED = (
    ("RoPE entry x1.01", f"LayerNorm eps x10 @ {ENCODER}.norm1", f"camera weights x1.01 @ {EMBEDDED}"),
    ("RoPE frequency sign", f"GELU by tanh @ {ENCODER}.mlp", f"camera weights: a row of zeros @ {EMBEDDED}"),
    ("RoPE of two patches swapped", f"attention scale x1.01 @ {ENCODER}", f"bf16 cast of the residual @ {CAMERA}"),
    (
        "positional embedding entry x1.01",
        f"token types zeroed @ {FRAME}.attn.proj:center",
        f"token types x1.01 @ {FRAME}.mlp.fc2:kind_bias",
        f"centre of the patches x1.05 @ {GLOBAL}.attn.qkv",
    ),
    (
        "positional embedding: two patches swapped",
        f"token types: camera and register swapped @ {FRAME}.mlp.fc2:kind_bias",
        f"centre of the patches x1.05 @ {GLOBAL}.mlp.fc2",
        f"attention scale x1.01 @ {GLOBAL}",
    ),
    ("token-range floor 1e-2",),
)
"""What issue 13 lists, a line for one file: places that have nothing to do with each other."""


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


def examined(good: Good, broken: ModelProto, tmp_path: Path, frames: tuple[int, ...] = SEGMENT_FRAMES) -> list[Finding]:
    path = tmp_path / "broken.onnx"
    path.write_bytes(broken.SerializeToString())
    return findings(good, path, frames)


@pytest.mark.parametrize("name", ["w4a4 made up", "w4a4 made up tensorrt"])
def test_what_issue_13_lists_is_found(name: str, good: Callable[[str], Good], tmp_path: Path) -> None:
    file = good(name)
    model, missed = onnx.load(file.path), []
    assert findings(file, file.path, (1, 2)) == []
    for names in LISTED:
        broken, places = model, dict[str, Broken]()
        for fault in (FAULTS[name] for name in names):
            if (made := fault(broken)) is not None:
                places[fault.name], broken = made, made.model
        found = examined(file, broken, tmp_path, (1, 2)) if places else []
        missed += [fault for fault, made in places.items() if not any(made.at(f.path) for f in found)]
        assert [f for f in found if not any(made.at(f.path) for made in places.values())] == []
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
