"""Damaged inputs and odd words: every command refuses them with one line, or reads what can still be read.

`make stress` runs the deep profile, the default suite some cases of it.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from damage import ODD_WORDS
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from inputs import KINDS, WORDS, Kind, Reader
from sandbox import fresh, judge, names, run_forked

COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck)}
SHORT = settings(max_examples=12, derandomize=True, database=None, phases=(Phase.generate,), **COMMON)
DEEP = settings(max_examples=10, **COMMON)
DEEP_WORDS = settings(max_examples=4, **COMMON)
TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20)
IDS = [f"{command} {option}" for command, _, option in WORDS]


class Bench:
    """Runs damaged cases of a workshop, one after the other, and counts how they end."""

    def __init__(self, clean: Callable[..., Any], shop: Path, folder: Path, endings: dict[str, Counter[str]]) -> None:
        self.clean, self.shop, self.folder, self.endings = clean, shop, folder, endings

    def usable(self, kind: Kind) -> bool:
        return any(self.shop.glob(kind.file))

    def damaged(self, kind: Kind, data: st.DataObject) -> None:
        """Draw one damaged input of this kind, and let a reader read it."""
        case = fresh(self.folder / "case")
        for name in kind.needs:
            shutil.copytree(self.shop / name, case / name)
        target = min(case.glob(kind.file))
        damage = data.draw(st.sampled_from(kind.damages))
        target.write_bytes(data.draw(damage(target.read_bytes())).data)
        reader = data.draw(st.sampled_from(kind.readers))
        if kind.repair is not None:
            kind.repair(case)
        before = names(case)
        self.read(kind.name, reader, case, lambda: {f"input folder: {n}" for n in names(case) - before}, kind.check)

    def read(
        self, kind: str, reader: Reader, case: Path, more: Callable[[], set[str]] = set, check: bool = False
    ) -> None:
        out = fresh(self.folder / "out")
        outcome = self.clean(run_forked, reader.work(case, out))
        found = judge(outcome, names(out) | more(), check=check)
        self.endings.setdefault(kind, Counter())[found.verdict] += 1
        assert found.verdict != "fault", f"{kind}: {found.why}\n{outcome.err[-2000:]}"


@pytest.fixture(scope="module")
def bench(
    clean: Callable[..., Any],
    shop: Path,
    endings: dict[str, Counter[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Bench:
    return Bench(clean, shop, tmp_path_factory.mktemp("malformed"), endings)


@SHORT
@given(st.data())
def test_some_damaged_inputs(bench: Bench, data: st.DataObject) -> None:
    bench.damaged(data.draw(st.sampled_from([kind for kind in KINDS if bench.usable(kind)])), data)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
@DEEP
@given(st.data())
def test_damaged_inputs(bench: Bench, kind: Kind, data: st.DataObject) -> None:
    if not bench.usable(kind):
        pytest.skip("the workshop has no such file")
    bench.damaged(kind, data)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_undamaged_inputs_are_read(bench: Bench, kind: Kind) -> None:
    """Else a refusal would say nothing about the damage."""
    if not bench.usable(kind):
        pytest.skip("the workshop has no such file")
    for reader in kind.readers:
        case, out = fresh(bench.folder / "case"), fresh(bench.folder / "out")
        for name in kind.needs:
            shutil.copytree(bench.shop / name, case / name)
        outcome = bench.clean(run_forked, reader.work(case, out))
        assert outcome.code == 0, f"{reader}: {outcome.err}"


@pytest.mark.slow
@pytest.mark.parametrize(("command", "line", "option"), WORDS, ids=IDS)
@DEEP_WORDS
@given(word=st.sampled_from(ODD_WORDS) | TEXT)
def test_odd_words(bench: Bench, command: str, line: tuple[object, ...], option: str, word: str) -> None:
    """Exit code 1 is right where a gate runs on what the word allows."""
    bench.read("words on the command line", Reader(command, (*line, option, word)), bench.shop, check=True)


def test_every_kind_of_input_is_there() -> None:
    found = {kind.name for kind in KINDS}
    assert len(found) == len(KINDS)
    wanted = {"safetensors", "torch .pt", "quant.json", "onnx", "external data", "image", "annotations"}
    wanted |= {"engine manifest", "video", "depth map", "block store", "7-Scenes pose", "NRGBD poses"}
    assert wanted <= found
