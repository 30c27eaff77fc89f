"""The gate on files broken on purpose: a good file passes, every fault is found at its place.

By default the list of issue 13, several faults of places apart in one file; `-m slow`: every fault alone, in every kind
of file that it applies to. docs/results/gate_faults.json has what was found of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx
import pytest
from faults import CAMERA, ENCODER, FAULTS, FRAME, GLOBAL, Broken
from gate_trial import examine, examine_broken, remembered, trials
from good_files import KINDS, Good, write_good

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


@pytest.mark.parametrize(("name", "lines"), [("w4a4 made up", LISTED), ("w4a4 made up tensorrt", LISTED[3:5])])
def test_what_issue_13_lists_is_found(
    name: str, lines: tuple[tuple[str, ...], ...], good: Callable[[str], Good]
) -> None:
    file = good(name)
    model, missed = onnx.load(file.path), []
    assert examine(file, frames=(1, 2)).findings == []
    for names in lines:
        broken, places = model, dict[str, Broken]()
        for fault in (FAULTS[name] for name in names):
            if (made := fault(broken)) is not None:
                places[fault.name], broken = made, made.model
        last = list(places.values())[-1:]
        found = examine_broken(file, *last, frames=(1, 2)) if last else []
        missed += [fault for fault, made in places.items() if not any(made.at(f.path) for f in found)]
        assert [f for f in found if not any(made.at(f.path) for made in places.values())] == []
    assert missed == []


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_a_good_file_passes(name: str, good: Callable[[str], Good]) -> None:
    assert examine(good(name)).findings == []


@pytest.mark.slow
def test_every_fault_is_found(good: Callable[[str], Good]) -> None:
    """At its place, however little it changes; but for those that are said to be unseen, and are, and those that some
    files do not show."""
    goods = {name: good(name) for name in KINDS}
    tried, otherwise = set[str](), list[tuple[str, str]]()
    for name, fault, broken in trials(goods):
        tried.add(fault.name)
        found = any(broken.at(f.path) for f in examine_broken(goods[name], broken))
        if found == bool(fault.unseen) and not fault.chance:
            otherwise.append((fault.name, name))
    assert sorted(FAULTS.keys() - tried) == []
    assert sorted(otherwise) == []
