"""Damaged inputs, one at a time, for every command that reads them."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from robustness.judging import Judgement, judge, names
from robustness.kinds import BLOCK, ODD_WORDS, WORDS, Kind, kinds
from robustness.sandbox import Work, command, run_forked
from robustness.workshop import QUICK, Workshop, must


@dataclass(frozen=True)
class Case:
    """One damaged input. `number` seeds the damage."""

    kind: str
    number: int
    what: str


Result = tuple[Case, Judgement, str]  # and what the command wrote to stderr


@dataclass(frozen=True)
class Fault:
    """A case that ended wrongly; `said`: the end of what the command wrote to stderr."""

    case: Case
    why: str
    said: str


def prepare(shop: Workshop, release: Path) -> None:
    """What cases need beyond the workshop: records, a frame list, an unfinished calibration, a report, a release."""
    shutil.copytree(release, shop / "release")
    for name in ("frames", "records", "report", "store", "points"):
        (shop / name).mkdir()
    (shop / "points" / "p.txt").write_text("10 10\n20.5 30\n")
    model = shop / "float" / "model.safetensors"
    data = ["--root", shop / "scenes", "--frames", 2, "--min-frames", 2, "--warmup", 0]
    kept = ["--records", shop / "records" / "r.jsonl", "--json", shop / "report" / "r.json"]
    drawn = ["--frame-list", shop / "frames" / "list.json"]
    must(command("evaluate", ["--model", model, *data, "--records", shop / "records" / "r.jsonl"]), "records")
    must(command("evaluate", ["--model", shop / "calibrated", *data, *kept[2:], *drawn]), "a report")
    must(stopped_calibration(shop), "an unfinished calibration")


def stopped_calibration(shop: Workshop) -> Work:
    """A calibration that ends after the second block, as if the machine had stopped."""

    def work() -> None:
        from qvggt.calib.block_store import BlockStore
        from qvggt.cli.calibrate import app
        from qvggt.cli.common import run

        save = BlockStore.save

        def save_two(store: BlockStore, *block: Any) -> None:
            save(store, *block)
            if store.finished() == 2:
                raise SystemExit(0)

        setattr(BlockStore, "save", save_two)  # noqa: B010 (no assignment to a method, for the type checker)
        args = [shop / "float" / "model.safetensors", "--bits", "w4a4", "--data", shop / "scenes", *QUICK]
        run(app, [str(arg) for arg in (*args, "-o", shop / "store" / "c")])

    return work


def usable_kinds(shop: Workshop) -> list[Kind]:
    """The kinds whose file is there, the block store's name filled in."""
    blocks = sorted((shop / "store" / ".c.unfinished").glob("*.safetensors"))
    found = [
        replace(kind, file=f"store/.c.unfinished/{blocks[0].name}") if kind.file == BLOCK else kind for kind in kinds()
    ]
    return [kind for kind in found if (shop / kind.file).is_file()]


def run_cases(shop: Workshop, folder: Path, indices: Iterable[int], seed: int) -> Iterator[Result]:
    """Damaged files: number `index` of the endless list in which the kinds take turns. Reproducible by seed."""
    chosen = usable_kinds(shop)
    for index in indices:
        yield run_case(shop, folder, chosen[index % len(chosen)], index // len(chosen), seed)


def run_words(shop: Workshop, folder: Path, each: int, seed: int) -> Iterator[Result]:
    """`each` odd words for every option of WORDS."""
    options = [(name, args, option) for name, args, options in WORDS for option in options]
    for index, (name, args, option) in enumerate(options):
        for number in range(each):
            word = ODD_WORDS[(7 * index + 5 * number + seed) % len(ODD_WORDS)]
            yield run_word(shop, folder, name, args, option, word)


def run_case(shop: Workshop, folder: Path, kind: Kind, number: int, seed: int) -> Result:
    """One damaged file. The mutation and the reader follow from the number, the damage from (seed, kind, number)."""
    random = Random(f"{seed}/{kind.name}/{number}")
    mutation = kind.mutations[number % len(kind.mutations)]
    reader = kind.readers[(number + number // len(kind.readers)) % len(kind.readers)]
    place, out = folder / "case", folder / "out"
    for path in (place, out):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
    shop.copy(kind.needs, place)
    target = place / kind.file
    target.write_bytes(mutation(target.read_bytes(), random))
    if kind.repair is not None:
        kind.repair(place)
    before = names(place)
    outcome = run_forked(reader(place, out))
    left = names(out) | {f"input folder: {name}" for name in names(place) - before}
    judgement = judge(outcome, left, check=kind.check)
    return Case(kind.name, number, mutation.__name__), judgement, outcome.err[-2000:]


def run_word(shop: Workshop, folder: Path, name: str, args: Sequence[str], option: str, word: str) -> Result:
    """A command line with one odd word. Exit code 1 is right where a gate runs on what the word allows."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    suffix = {"calibrate": "c", "export": "m.onnx", "build": "m.engine"}[name]
    full = [shop / args[0], *args[1:], option, word, "-o", out / suffix]
    if name == "export" and "--no-check" not in args:
        full += ["--parity-sequences", 0, "--data", shop / "scenes"] if option == "--parity-frames" else []
    outcome = run_forked(command(name, full))
    case = Case(f"word {name} {option}", 0, word[:40])
    return case, judge(outcome, names(out), check=True), outcome.err[-2000:]


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """Counts by verdict and kind, and every fault; JSON-ready."""
    by_kind: dict[str, Counter[str]] = {}
    for case, judgement, _ in results:
        kind = "words on the command line" if case.kind.startswith("word ") else case.kind
        by_kind.setdefault(kind, Counter())[judgement.verdict] += 1
    faults = [Fault(case, j.why, err[-600:]) for case, j, err in results if j.verdict == "fault"]
    return {
        "by_kind": {kind: dict(counts) for kind, counts in by_kind.items()},
        "faults": [asdict(fault) for fault in faults],
    }


def merged(summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Several summaries as one, with totals."""
    by_kind: dict[str, Counter[str]] = {}
    for part in summaries:
        for kind, counts in part["by_kind"].items():
            by_kind.setdefault(kind, Counter()).update(counts)
    verdicts = sum(by_kind.values(), Counter())
    return {
        "cases": sum(verdicts.values()),
        "verdicts": dict(verdicts),
        "by_kind": {kind: dict(by_kind[kind]) for kind in sorted(by_kind)},
        "faults": [fault for part in summaries for fault in part["faults"]],
    }
