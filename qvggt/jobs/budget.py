"""Which part gets which format so that a drop stays in budget: the search of a calibration, and its record."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qvggt.data.image_set import ImageSet
from qvggt.data.sequence import Frames, Sequence, first_sequences
from qvggt.errors import QvggtError
from qvggt.models.family import family_of
from qvggt.predictions import CAMERAS
from qvggt.progress import Console
from qvggt.quant.scheme import Scheme

if TYPE_CHECKING:
    from qvggt.calib.budget import Choice, Unit
    from qvggt.calib.recipe import Recipe
    from qvggt.models.network import Network

NOTE = "budget.json"  # in the checkpoint folder
MEASURED = 8  # calibration sequences the sensitivities are measured on
SCORED = 64  # sequences that the drop is measured on
FEWEST = 8  # sequences apart from the calibration ones that a drop is measured on; else the calibration ones are taken


@dataclass(frozen=True)
class Metric:
    """What must not drop. name: for people. base: of the float model. drop: relative, of a quantized one."""

    name: str
    base: float | None
    sequences: int
    drop: Callable[[Network], float]


@dataclass(frozen=True)
class BudgetSearch:
    """A search: the largest drop (0.005 = half a percent), units (`part` or `block`), and all it depends on."""

    limit: float
    by: str
    scheme: Scheme
    recipe: Recipe
    seed: int
    memory: int
    store: Path
    job: dict[str, Any]


@dataclass(frozen=True)
class BudgetResult:
    """The scheme, the record that goes into the checkpoint, and what the calibrated model is to be judged by."""

    scheme: Scheme
    record: dict[str, Any]
    metric: Metric

    def note(self, drop: float) -> tuple[dict[str, Any], str]:
        """What goes into quant.json, and the text of `NOTE`; `drop`: of the calibrated model."""
        about = {"file": NOTE, "limit": self.record["limit"], "metric": self.metric.name, "drop": drop}
        return about, json.dumps({**self.record, "drop": drop}, indent=1) + "\n"


def search_budget(
    search: BudgetSearch, model: Network, images: ImageSet[Frames], pool: tuple[Frames, ...], console: Console
) -> BudgetResult:
    """The cheapest mixture whose drop fits, printed; the float `model` is left as it is.

    images: calibrated on. pool: sequences to measure the drop on, as far as they are no calibration ones.
    Sensitivities and drops are measured with the recipe's quick form (no learning, rounding to nearest) and kept in
    `search.store`, so that an interrupted search goes on. Deterministic. QvggtError when nothing fits.
    """
    from qvggt.calib.budget import cheapest_within, frontier, mixed_scheme
    from qvggt.calib.sensitivity import Trial, find_units, make_drop, measure_units, quick
    from qvggt.journal import Journal

    base = search.scheme
    ladder = base.base.ladder
    units = find_units(model, base.parts, search.by)
    if not units:
        raise QvggtError("--budget: no part of this model is to be quantized; name some with --parts")
    scored = score_images(pool, images, SCORED, console)
    about = {"limit": search.limit, "by": search.by, "scheme": base.to_dict(), "scored": scored.listing()}
    journal = Journal(search.store, {**search.job, **about}, "budget search")
    if journal.values:
        console.say(f"going on after {len(journal.values)} measured choices ({search.store})")
    metric = make_metric(model, scored, console)
    few = [batch for batch, _ in zip(images, range(MEASURED), strict=False)]
    trial = Trial(quick(search.recipe), few, search.seed, search.memory)
    table = measure_units(model, units, ladder, base.activation, trial, journal=journal)

    def scheme_of(assignment: dict[str, Choice]) -> Scheme:
        return mixed_scheme(units, assignment, base.bits, base.activation, base.parts)

    drop = make_drop(model, scheme_of, trial, metric.drop, journal)
    chosen, fitting = cheapest_within(frontier(table), drop, search.limit)
    scheme = scheme_of(chosen)
    rows = [_row(model, unit, chosen[unit.name], table[unit.name]) for unit in units]
    record = {
        "format": 1,
        "limit": search.limit,
        "metric": metric.name,
        "sequences": metric.sequences,
        "float": metric.base,
        "by": search.by,
        "drop_before_learning": fitting,
        "scheme": scheme.to_dict(),
        "units": rows,
    }
    result = BudgetResult(scheme, record, metric)
    print_budget(result, console)
    return result


def make_metric(model: Network, images: ImageSet[Frames], console: Console) -> Metric:
    """AUC@30 where the sequences have poses and two frames, else the relative error of the network's outputs."""
    posed = [s for s in images.sequences if isinstance(s, Sequence) and len(s.frame_indices) > 1]
    if posed and len(posed) == len(images) and CAMERAS in family_of(model).outputs(model.config):
        base = _auc(model, images, posed)
        if base > 0:
            return Metric("AUC@30", base, len(posed), lambda network: (base - _auc(network, images, posed)) / base)
        console.say("budget: AUC@30 of the float model is 0, so the error of the outputs is taken")
    from qvggt.calib.sensitivity import network_outputs, output_error

    batches = list(images)
    reference = network_outputs(model, batches)

    def error(network: Network) -> float:
        return math.sqrt(output_error(reference, network_outputs(network, batches)))

    return Metric("relative error of the outputs", None, len(batches), error)


def score_images(pool: tuple[Frames, ...], images: ImageSet[Frames], count: int, console: Console) -> ImageSet[Frames]:
    """Up to `count` sequences of a pool that are not calibrated on, the categories taking turns; the calibration ones
    where too few are left."""
    used = {s.key for s in images.sequences}
    rest = first_sequences(tuple(s for s in pool if s.key not in used), count)
    if len(rest) < FEWEST:
        console.say(
            f"budget: the drop is measured on the {len(images)} calibration sequences, too few others are there"
        )
        return images
    return ImageSet(rest, images.height, images.width)


def print_budget(result: BudgetResult, console: Console) -> None:
    """The table of what got which bits."""
    record = result.record
    console.say("| part | layers | bits | MB | error alone |")
    console.say("|---|---:|---|---:|---:|")
    for row in record["units"]:
        damage = "0" if row["damage"] == 0 else f"{math.sqrt(row['damage']):.2%}"
        console.say(f"| {row['unit']} | {row['layers']} | {row['bits']} | {row['bytes'] / 1e6:.2f} | {damage} |")
    total = sum(row["bytes"] for row in record["units"])
    least, most = (sum(row[key] for row in record["units"]) for key in ("least_bytes", "float_bytes"))
    console.say(
        f"{total / 1e6:.2f} MB of weights and scales (all at {record['scheme']['bits']}: {least / 1e6:.2f}, "
        f"fp32: {most / 1e6:.2f})"
    )
    console.result(
        f"{record['metric']} on {record['sequences']} sequences: drop {record['drop_before_learning']:.2%} before "
        f"learning, budget {record['limit']:.2%}"
    )


def _row(model: Network, unit: Unit, choice: Choice, choices: list[Choice]) -> dict[str, Any]:
    from qvggt.calib.sensitivity import unit_layers

    return {
        "unit": unit.name,
        "layers": unit_layers(model, unit),
        "bits": choice.bits,
        "bytes": choice.bytes,
        "damage": choice.damage,
        "least_bytes": min(c.bytes for c in choices),
        "float_bytes": max(c.bytes for c in choices),
        "choices": [asdict(c) for c in choices],
    }


def _auc(network: Network, images: ImageSet[Frames], posed: list[Sequence]) -> float:
    """AUC@30 in points."""
    import torch

    from qvggt.device import device_of
    from qvggt.eval.metrics import pose_auc
    from qvggt.eval.pose import pairwise_errors
    from qvggt.geometry import decode_pose

    errors, device = [], device_of(network)
    with torch.no_grad():
        for sequence, batch in zip(posed, images, strict=True):
            encoding = network(batch.to(device))[CAMERAS].cpu().double()
            extrinsics, _ = decode_pose(encoding, images.height, images.width)
            errors.append(pairwise_errors(extrinsics[0], sequence.extrinsics))
    return 100 * pose_auc(errors)[30]
