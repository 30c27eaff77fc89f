"""qvggt-calibrate: float checkpoint + images -> calibrated checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from qvggt.cli.common import DEFAULT_PARTS, application, check_output, given_options
from qvggt.cli.options import Offline, Overrides, Parts, Revision
from qvggt.errors import QvggtError
from qvggt.formats.table import DEFAULT, choices_text

if TYPE_CHECKING:
    from qvggt.calib.recipe import Recipe

app, main = application()

EPILOG = """
\b
Examples:
  qvggt-calibrate tiny --bits w4a4 --data outputs/scenes -o outputs/tiny-w4a4
  qvggt-calibrate tiny --bits w8a8 --recipe rtn -o outputs/tiny-w8a8-rtn
  qvggt-calibrate facebook/VGGT-1B --bits w4a4 --data /data/co3d --plan -o w4a4
  qvggt-calibrate tiny --bits w4a4 --data outputs/scenes --budget 0.5% --budget-by block -o outputs/tiny-mixed
  qvggt-calibrate facebook/VGGT-1B --bits w4a4 --data /data/co3d --select --sequences 20 --clusters 5 -o w4a4

An interrupted run goes on where it was when the same command is given again.
"""


@app.command(epilog=EPILOG)
def calibrate(
    context: typer.Context,
    model: Annotated[str, Argument(help="tiny, vggt-1b, a .safetensors/.pt file, a folder with one, or a Hub id.")],
    output: Annotated[Path, Option("-o", "--output", help="Checkpoint directory to write.")],
    bits: Annotated[str, Option(help=f"{choices_text()}.")] = DEFAULT,
    act: Annotated[str, Option(help="dynamic: one scale per token. static: one per tensor.")] = "dynamic",
    data: Annotated[
        Path | None,
        Option(help="Co3D-format folder (its train split is used), or one folder of images per sequence."),
    ] = None,
    recipe: Annotated[str, Option(help="qvggt (ours), or a baseline: rtn, smoothquant, quarot, quantvggt.")] = "qvggt",
    annotations: Annotated[Path | None, Option(help="Folder of the .jgz files. [DATA/annotations]")] = None,
    sequences: Annotated[int, Option(min=1, help="Training sequences to use.")] = 64,
    frames: Annotated[int, Option(min=1, help="Frames per sequence.")] = 4,
    select: Annotated[
        bool, Option("--select", help="Choose the sequences: no noise, diverse; needs a pass over the pool.")
    ] = False,
    clusters: Annotated[int, Option(min=1, help="--select: clusters that the sequences are spread over.")] = 8,
    class_mode: Annotated[str, Option(help="Categories to draw from: apple, five, more or all.")] = "all",
    pool: Annotated[int | None, Option(min=1, help="--select: sequences of each category to look at. [all]")] = None,
    scheme: Annotated[
        Path | None,
        Option(help="A saved scheme, or a checkpoint with one; instead of --bits and --parts."),
    ] = None,
    budget: Annotated[
        str | None,
        Option(help="Largest drop, e.g. 0.5%: parts get more bits than --bits until it holds."),
    ] = None,
    budget_by: Annotated[str, Option(help="--budget: bits per part or per block.")] = "part",
    size: Annotated[str | None, Option(help="HxW of the images in pixels. [model's own]")] = None,
    parts: Parts = DEFAULT_PARTS,
    override: Overrides = None,
    rounding: Annotated[str | None, Option(help="rtn or gptq. [the recipe's]")] = None,
    propagation: Annotated[
        str | None, Option(help="Inputs a block is calibrated on: float or quantized. [the recipe's]")
    ] = None,
    fc2: Annotated[str | None, Option(help="Online rotation of fc2: none or kronecker. [the recipe's]")] = None,
    epochs: Annotated[int | None, Option(min=0, help="Learning passes; 0 = none. [the recipe's; 0 at 8 bits]")] = None,
    memory: Annotated[float, Option(min=0.1, help="GB of tokens kept in RAM before they spill to disk.")] = 2.0,
    import_quantvggt: Annotated[
        Path | None, Option(help="Folder of released QuantVGGT parameters to import instead (with --bits).")
    ] = None,
    plan: Annotated[bool, Option("--plan", help="Measure a dry run, print time and memory, and stop.")] = False,
    seed: Annotated[int, Option(min=0, help="Seed of frames, rotations and batches.")] = 0,
    revision: Revision = None,
    offline: Offline = False,
    force: Annotated[bool, Option(help="Replace an existing calibrated checkpoint.")] = False,
) -> None:
    """Quantize a checkpoint: fold rotations and smoothing, learn clips block by block, round the weights."""
    from qvggt.cli.imports import import_released

    if import_quantvggt is not None:
        return import_released(import_quantvggt, model, output, bits, given_options(context), revision, offline, force)
    from qvggt.calib.block_journal import BlockJournal
    from qvggt.calib.budget import parse_budget
    from qvggt.calib.calibrate import calibrate_, report_table
    from qvggt.calib.recipe import RECIPES, find_recipe
    from qvggt.calib.rtn import quantize_rtn_
    from qvggt.cli.budget import NOTE, SCORED, BudgetSearch, check_options, read_scheme, search_budget
    from qvggt.cli.pool import selection_config, training_images
    from qvggt.cli.source import load_source, parse_size, scheme_of
    from qvggt.data.class_modes import check_mode
    from qvggt.data.registry import Question
    from qvggt.models.family import family_of
    from qvggt.quant.checkpoint import DESCRIPTION, Provenance, save_calibrated
    from qvggt.quant.model import check_overrides
    from qvggt.versions import versions

    given = given_options(context)
    check_options(scheme, budget, bits, act, given)
    limit = None if budget is None else parse_budget(budget)
    wanted = read_scheme(scheme) if scheme is not None else scheme_of(bits, act, parts, override or [])
    chosen = adjusted(find_recipe(recipe), rounding, propagation, fc2, epochs)
    plain = chosen == RECIPES["rtn"]
    check_output(output, force)
    needs_data = wanted.needs_ranges or not plain or limit is not None
    if needs_data and data is None:
        raise QvggtError(
            f"--recipe {recipe} --act {act} --parts {parts} needs --data, a folder with training images "
            "(qvggt-scenes makes one); only --recipe rtn --act dynamic without dpt does without"
        )
    check_mode(class_mode)
    check_selection(select, needs_data, given)
    source = load_source(model, revision, offline, calibrated=False)
    network = source.network
    check_overrides(network, wanted)
    height, width = parse_size(size, network)
    chooser = None
    if select:
        chooser = selection_config(
            sequences, clusters, class_mode, seed, len(family_of(network).rounds(network.config))
        )
    if plan:
        _print_plan(network.config, wanted, chosen, sequences, frames, height, width, memory)
        return
    measured, tried = (output.with_name(f".{output.name}.{kind}.jsonl") for kind in ("pool", "budget"))
    job: dict[str, Any] = {"source": source.sha256, "versions": versions()}
    calibration: dict[str, Any] = {"recipe": chosen.to_dict(), "seed": seed}
    training, notes = None, dict[str, str]()
    if data is not None and needs_data:
        count = pool if select else sequences + (SCORED if limit is not None else 0)
        # of the training split: never what an evaluation sees
        asked = Question(data, "train", frames, None, count, seed=seed, annotations=annotations, class_mode=class_mode)
        training = training_images(asked, (height, width), sequences, network, chooser, measured, job)
        listing, notes = training.record()
        calibration |= listing
    images, searched, store = None if training is None else training.images, None, None
    if limit is not None:
        assert training is not None
        about = {**job, **calibration}
        search = BudgetSearch(limit, budget_by, wanted, chosen, seed, int(memory * 1e9), tried, about)
        searched = search_budget(search, network, training.images, training.pool)
        wanted = searched.scheme
    if plain:
        layers = quantize_rtn_(network, wanted, images, None if images is None else len(images))
    else:
        assert images is not None
        whole = {**job, "scheme": wanted.to_dict(), **calibration}
        store = BlockJournal(output.with_name(f".{output.name}.unfinished"), whole)
        if store.finished():
            typer.echo(f"going on after {store.finished()} finished blocks ({store.folder})")
        reports = calibrate_(network, wanted, chosen, images, seed, journal=store, memory=int(memory * 1e9))
        layers = report_table(reports)
    drop = None
    if searched is not None:
        drop = searched.metric.drop(network)
        calibration["budget"], notes[NOTE] = searched.note(drop)
    provenance = Provenance({"name": source.name, "sha256": source.sha256}, calibration, versions(), layers)
    save_calibrated(output, network, wanted, provenance, replace=force, notes=notes)
    for file in (measured, tried):
        file.unlink(missing_ok=True)
    if store is not None:
        store.remove()
    typer.echo(f"{output}: {wanted.label} by recipe {recipe} ({DESCRIPTION} has the per-layer table)")
    if drop is not None and limit is not None:
        typer.echo(f"budget: drop {drop:.2%} of {limit:.2%}")
        if drop > limit:
            typer.echo(f"budget MISSED: the calibrated checkpoint drops by {drop:.2%}", err=True)
            raise typer.Exit(1)


def check_selection(select: bool, needs_data: bool, given: tuple[str, ...]) -> None:
    """QvggtError for options of --select without it, and for --select where no images are used."""
    if select and not needs_data:
        raise QvggtError("--select: --recipe rtn --act dynamic uses no images to choose; leave it out")
    for option in ("clusters", "pool"):
        if option in given and not select:
            raise QvggtError(f"--{option} belongs to --select; add that or leave --{option} out")


def adjusted(
    recipe: Recipe, rounding: str | None, propagation: str | None, fc2: str | None, epochs: int | None
) -> Recipe:
    """The recipe with the options the user gave; QvggtError for a word that is none."""
    words = {
        "rounding": (rounding, ("rtn", "gptq")),
        "propagation": (propagation, ("float", "quantized")),
        "fc2": (fc2, ("none", "kronecker")),
    }
    for option, (value, allowed) in words.items():
        if value is not None and value not in allowed:
            raise QvggtError(f"--{option} {value!r}: expected {' or '.join(allowed)}")
    online = None if fc2 is None else "fc2" if fc2 == "kronecker" else "none"
    given = {"rounding": rounding, "propagation": propagation, "online": online}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if epochs is not None:
        changes |= {"epochs": epochs, "learn": epochs > 0, "learn_all": True}
    return recipe.replace(**changes)


def _print_plan(
    config: Any, scheme: Any, recipe: Recipe, sequences: int, frames: int, height: int, width: int, memory: float
) -> None:
    from qvggt.calib.plan import make_plan
    from qvggt.rotation.cost import CostTable

    plan = make_plan(config, scheme, recipe, sequences, frames, height, width)
    typer.echo(f"{sequences} sequences of {frames} frames, {height}x{width}, recipe {recipe.name}, {scheme.label}")
    for line in plan.lines(int(memory * 1e9)):
        typer.echo(line)
    typer.echo("multiply-adds of the calibrated network, per block:")
    typer.echo(CostTable(config, recipe.online != "none").to_markdown(height, width))
