"""The tool that plants faults: what is a fault and what an equal program; a planted one is seen and leaves nothing."""

from __future__ import annotations

from pathlib import Path

import hypothesis  # noqa: F401 - or every forked process would import it
import pytest
from equivalent_mutants import EQUIVALENT
from mutants import behaviour, draw
from mutation import ROOT, SUBJECTS, run_tests

PLAIN = """from __future__ import annotations
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from torch import Tensor
LIMIT: int | None = 7
def held(x: Tensor | None, low: float = 0.0) -> Tensor:
    return x.clamp(min=low, max=LIMIT)
"""


def test_annotations_and_what_type_checkers_read_are_no_faults() -> None:
    for old, new in (
        ("Tensor | None", "Tensor"),
        ("-> Tensor", "-> int"),
        ("if TYPE", "if not TYPE"),
        ("int |", "x +"),
    ):
        assert behaviour(PLAIN.replace(old, new)) == behaviour(PLAIN)
    for old, new in (("0.0", "1.0"), (".clamp(min=low, max=LIMIT)", ""), ("= 7", "= 8")):
        assert behaviour(PLAIN.replace(old, new)) not in ("", behaviour(PLAIN))
    read = PLAIN + "from qvggt.mapping import from_mapping\n"  # there the types of fields decide what is read
    assert behaviour(read.replace("int | None", "int")) != behaviour(read)
    assert behaviour("x = = 1") == ""


def test_a_draw_is_repeatable_and_has_one_fault_a_place(tmp_path: Path) -> None:
    pytest.importorskip("cosmic_ray")
    path = tmp_path / "m.py"
    path.write_text(PLAIN + "    raise ValueError(low)\n")
    places, every = draw(path, "m.py", 0, 0)
    texts = {mutant.name for mutant in every}
    assert len(every) == places
    assert {
        "m.py: return x.clamp(min=low, max=LIMIT) -> return x",
        "m.py: return x.clamp(min=low, max=LIMIT) -> return x.clamp( max=LIMIT)",
        "m.py: return x.clamp(min=low, max=LIMIT) -> return x.clamp(min=low)",
        "m.py: raise ValueError(low) -> pass",
    } <= texts
    assert sum("LIMIT: int" in text for text in texts) == 1  # 6 or 8
    assert draw(path, "m.py", 0, 0) == (places, every)
    few = draw(path, "m.py", 0, 3)
    assert few[0] == places
    assert {mutant.name for mutant in few[1]} < {mutant.name for mutant in draw(path, "m.py", 0, 4)[1]} < texts


def test_a_planted_fault_is_seen_and_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    path, test = tmp_path / "planted_module.py", tmp_path / "test_planted_module.py"
    source = "def held(x):\n    return min(x, 7)\n"
    path.write_text(source)
    test.write_text("from planted_module import held\n\n\ndef test_it():\n    assert held(9) == 7\n")
    assert run_tests([str(test)], path, source, 60).by == ""
    assert run_tests([str(test)], path, source.replace("7", "8"), 60).by == "test_planted_module.py::test_it"
    assert run_tests([str(test)], path, "import nothing_there\n", 60).by == "test_planted_module.py (import)"
    assert run_tests([str(test)], path, source + "\nwhile True: pass\n", 1).by == "endless"
    assert path.read_text() == source


def test_the_subjects_are_there() -> None:
    for subject in SUBJECTS.values():
        assert subject.files
        for name in (*subject.files, *subject.tests, *subject.wider):
            assert (ROOT / name).exists(), name
    assert all(EQUIVALENT.values())
