"""What an evaluation comes to, in words: who keeps the accuracy of the first candidate at what size, who loses how
much, and whose file does not compute what it was made from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from qvggt.eval.html.document import Candidate, Document, Interval
from qvggt.eval.html.text import megabytes, plain
from qvggt.eval.metrics import MetricWords
from qvggt.numbers import number

DECISIVE = ("auc30", "auc5", "abs_rel", "head_acc", "unproj_acc")
"""Metrics that decide; where none of them was measured, all do."""

LITTLE = 0.005  # of the first candidate's figure: a change below it matters to nobody, however sure it is
FEW = 10  # sequences: the bootstrap of fewer is rough

Kind = Literal["keeps", "loses", "open"]


@dataclass(frozen=True)
class Verdict:
    """Of candidate `index`. kind: "open" without intervals. words: go on a sentence that begins with its name. size:
    the same, may be empty. more: other changes that the intervals tell from chance. fails: outputs below the floor
    against its own reference, (name, dB)."""

    index: int
    kind: Kind
    words: str
    size: str
    more: tuple[str, ...] = ()
    fails: tuple[tuple[str, float], ...] = ()


def verdicts(document: Document, names: Sequence[str]) -> list[Verdict]:
    """Of every candidate but the first, which they are compared with. names: short ones."""
    deciding = deciding_metrics(document)
    made = []
    for index, candidate in enumerate(document.candidates[1:], 1):
        kind, words, more = _accuracy(candidate, deciding, plain(names[0]))
        made.append(Verdict(index, kind, words, _size(document, index, names), more, tuple(_failing(document, index))))
    return made


def deciding_metrics(document: Document) -> list[MetricWords]:
    measured = document.measured()
    return [metric for metric in measured if metric.name in DECISIVE] or measured


def headline(document: Document, names: Sequence[str], found: Sequence[Verdict]) -> list[str]:
    """Sentences, the most important first."""
    base = plain(names[0])
    if not found:
        return ["One candidate alone: there is nothing to compare it with."]
    # a checkpoint whose file is here too is spoken for by the file
    spoken = {candidate.reference.label for candidate in document.candidates if candidate.reference}
    shown = [v for v in found if document.candidates[v.index].label not in spoken] or found
    sentences = []
    keeping = [verdict for verdict in shown if verdict.kind == "keeps"]
    small = [v for v in keeping if document.compression(v.index) is not None and not v.fails]
    if small:
        best = min(small, key=lambda v: document.candidates[v.index].file_size or 0)
        sentences.append(f"{plain(names[best.index])} {best.words}{best.size}.")
        keeping.remove(best)
    if keeping:
        kept = _listed([names[verdict.index] for verdict in keeping])
        what = "it too" if small else f"the accuracy of {base}"
        sentences.append(f"{kept} {'keep' if len(keeping) > 1 else 'keeps'} {what}.")
    sentences += [f"{plain(names[v.index])} {v.words}{v.size}." for v in shown if v.kind == "loses"]
    if undecided := [names[verdict.index] for verdict in shown if verdict.kind == "open"]:
        sentences.append(f"Not decided, as no metric has an interval: {_listed(undecided)}.")
    if failing := [names[verdict.index] for verdict in found if verdict.fails]:
        sentences.append(f"Parity fails for {_listed(failing)}: not what it was made from.")
    elif any(document.own_parity(index) for index in range(len(document.candidates))):
        sentences.append("Files agree with what they were made from.")
    sequences = document.frame_list.sequences
    if sequences and sequences < FEW:
        sentences.append(f"Only {sequences} {'sequence' if sequences == 1 else 'sequences'}: the intervals are rough.")
    return sentences


def _accuracy(candidate: Candidate, deciding: Sequence[MetricWords], base: str) -> tuple[Kind, str, tuple[str, ...]]:
    """kind, words and more of a `Verdict`."""
    worse: list[tuple[MetricWords, float, Interval]] = []
    better: list[tuple[MetricWords, float, Interval]] = []
    broken, decided = [], 0
    for metric in deciding:
        figure, title = candidate.summary.get(metric.name), plain(metric.title)
        if figure is None or figure.delta is None:
            continue
        if not math.isfinite(figure.delta):
            broken.append(f"has no finite {title}")
            continue
        decided += figure.delta_interval is not None
        verdict = figure.verdict(metric)
        if verdict != "same" and abs(figure.delta) >= LITTLE * abs((figure.value or 0.0) - figure.delta):
            (better if verdict == "better" else worse).append((metric, figure.delta, figure.delta_interval or (0, 0)))
    more = (*(f"worse {_amount(*one)}" for one in worse[1:]), *(f"better {_amount(*one)}" for one in better))
    if broken:
        return "loses", broken[0], (*broken[1:], *(f"worse {_amount(*one)}" for one in worse[:1]), *more)
    if worse:
        metric, delta, interval = worse[0]
        if metric.better == "higher" and metric.unit.startswith("points"):
            return "loses", f"loses {_range(metric, delta, interval, f' points of {plain(metric.title)}')}", more
        return "loses", f"loses accuracy: worse {_amount(*worse[0])}", more
    if not decided:
        return "open", "cannot be told from chance, as no metric has an interval", more
    return "keeps", f"keeps the accuracy of {base}", more


def _amount(metric: MetricWords, delta: float, interval: Interval) -> str:
    return _range(metric, delta, interval, "", f"{plain(metric.title)} by ")


def _range(metric: MetricWords, delta: float, interval: Interval, after: str, before: str = "") -> str:
    """ "6.11 points of AUC@30 (95 %: 3.12 to 9.24)"."""
    low, high = (number(end, metric.digits) for end in sorted(map(abs, interval)))
    return f"{before}{number(abs(delta), metric.digits)}{after} (95 %: {low} to {high})"


def _size(document: Document, index: int, names: Sequence[str]) -> str:
    """ " at 11.90 MB, 1.5x smaller than fp32 ORT"."""
    size, ratio = document.candidates[index].file_size, document.compression(index)
    if not size:
        return ""
    words = f" at {megabytes(size)}"
    return words if ratio is None else f"{words}, {times(ratio[1])} {plain(names[ratio[0]])}"


def times(ratio: float) -> str:
    """ "3.1x smaller than"."""
    if ratio > 1.005:
        return f"{number(ratio, 2 if ratio < 1.095 else 1)}x smaller than"
    return f"{number(1 / ratio, 2 if ratio > 0.913 else 1)}x larger than" if ratio < 0.995 else "as large as"


def _failing(document: Document, index: int) -> Iterator[tuple[str, float]]:
    own, pair = document.candidates[index].reference, document.own_parity(index)
    if own is None or own.floor_db is None or pair is None:
        return
    for name, noise in pair.outputs.items():
        value = noise.get("sqnr_db")
        if value is not None and not value >= own.floor_db:
            yield plain(name), value


def _listed(names: Sequence[str]) -> str:
    *first, last = map(plain, names)
    return f"{', '.join(first)} and {last}" if first else last
