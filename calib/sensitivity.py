"""How much each part of the network suffers from a coarse format, alone: what a bit budget is spent by."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain

import torch
from torch import Tensor, nn

from qvggt.calib.budget import Choice, Unit
from qvggt.calib.calibrate import calibrate_stages_, fold_for_, quantized_stages, round_rest_
from qvggt.calib.half import half_products
from qvggt.calib.recipe import Recipe
from qvggt.calib.stream import Stream
from qvggt.device import device_of
from qvggt.errors import QvggtError
from qvggt.formats.linear_format import Activation, Format, LinearFormat
from qvggt.formats.table import DEFAULT, FLOAT32
from qvggt.journal import Journal
from qvggt.models.block import Block
from qvggt.models.family import family_of
from qvggt.models.network import Network, module_at
from qvggt.predictions import VALUES
from qvggt.progress import bar
from qvggt.quant.model import check_overrides, scheme_convs, scheme_linears
from qvggt.quant.scheme import Scheme

Outputs = list[dict[str, Tensor]]


def find_units(model: Network, parts: tuple[str, ...], by: str) -> list[Unit]:
    """The units of `parts`, in the order they run: one per part, or one per transformer block and per dense head."""
    if by not in ("part", "block"):
        raise QvggtError(f"--budget-by {by!r}: expected part or block")
    family, units = family_of(model), list[Unit]()
    for part in map(family.part, parts):
        roots = {path: root for path in part.roots if (root := module_at(model, path)) is not None}
        if by == "part":
            units += [Unit(part.name, tuple(f"{path}.*" for path in roots), family.name)] if roots else []
            continue
        paths = list(roots)
        if not part.convs:  # lists of blocks, which take turns
            lengths = {path: len(list(root.children())) for path, root in roots.items()}
            paths = [f"{p}.{i}" for i in range(max(lengths.values(), default=0)) for p in roots if i < lengths[p]]
        units += [Unit(path, (f"{path}.*",), family.name) for path in paths]
    return units


def unit_scheme(unit: Unit, bits: str, activation: Activation) -> Scheme:
    """Everything float but one unit."""
    overrides = tuple((pattern, bits) for pattern in unit.patterns)
    return Scheme(FLOAT32.name, activation, (), overrides, family=unit.family)


def weight_bytes(model: nn.Module, scheme: Scheme) -> int:
    """Bytes of the weights a scheme quantizes and of their scales, in an exported file; what stays float
    counts nothing."""
    return sum(format.stored_bytes(weight.shape) for weight, format in _layers(model, scheme))


def unit_choice(model: nn.Module, unit: Unit, bits: str, activation: Activation, damage: float) -> Choice:
    """The choice with its bytes and cost; where the format leaves the unit alone, those of fp32."""
    layers: list[tuple[Tensor, Format]] = [*_layers(model, unit_scheme(unit, bits, activation))]
    if not layers:
        layers = [(weight, FLOAT32) for weight, _ in _layers(model, unit_scheme(unit, DEFAULT, activation))]
    cost = sum((weight.numel() * format.cost for weight, format in layers), 0.0)
    return Choice(bits, sum(format.stored_bytes(weight.shape) for weight, format in layers), cost, damage)


def unit_layers(model: nn.Module, unit: Unit) -> int:
    """Linears and convolutions of a unit."""
    return len(_layers(model, unit_scheme(unit, DEFAULT, "dynamic")))


def quick(recipe: Recipe) -> Recipe:
    """A recipe without its slow steps: no learning, rounding to nearest."""
    return recipe.replace(name=f"{recipe.name} without learning", epochs=0, rounding="rtn")


@torch.no_grad()
def network_outputs(model: Network, batches: Sequence[Tensor]) -> Outputs:
    """Camera, depth and point outputs of each sequence, on the CPU."""
    passes = (model(images.to(device_of(model))) for images in batches)
    return [{name: value.cpu() for name, value in outputs.items() if name in VALUES} for outputs in passes]


def output_error(reference: Outputs, outputs: Outputs) -> float:
    """Squared error over squared size, pooled over the sequences, mean over the outputs."""
    ratios = []
    for name in reference[0]:
        noise = sum(float((a[name] - b[name]).double().square().sum()) for a, b in zip(reference, outputs, strict=True))
        signal = sum(float(a[name].double().square().sum()) for a in reference)
        ratios.append(noise / max(signal, 1e-30))
    return sum(ratios) / len(ratios)


@dataclass(frozen=True)
class Trial:
    """How copies of a model are calibrated to see what a scheme does to them.

    batches: image sequences [S, 3, H, W] in [0, 1]. memory: bytes of tokens held in RAM.
    """

    recipe: Recipe
    batches: Sequence[Tensor]
    seed: int = 0
    memory: int = 2 << 30


class Trunk:
    """A float model folded once, with the stream of its tokens, from which schemes are tried. Tensors of the model that
    no fold changes are shared."""

    def __init__(self, model: Network, trial: Trial) -> None:
        self.trial = trial
        self.network = copy.deepcopy(model)
        fold_for_(self.network, trial.recipe, trial.seed)
        self._start()

    def _start(self) -> None:
        self.tokens, self.stage = Stream.start(self.network, self.trial.batches, self.trial.memory), 0

    @torch.no_grad()
    def before(self, stage: int) -> Stream:
        """A copy of the float stream before a stage; what the last one has passed is not run again."""
        if stage < self.stage:
            self._start()
        for at in family_of(self.network).stages(self.network.config)[self.stage : stage]:
            if at.enters:
                self.tokens.enter(self.network, at)
            block = self.network.get_submodule(at.path)
            assert isinstance(block, Block)
            with half_products(self.trial.recipe.bf16, device_of(block)):
                self.tokens.advance(at, block, self.trial.recipe.frame_shapes)
        self.stage = stage
        return self.tokens.copy()


def quantized_copy(trunk: Trunk, scheme: Scheme) -> Network:
    """The folded model under a scheme, which shares with the trunk what stays float: as `calibrate_` makes it."""
    trial, tensors = trunk.trial, chain(trunk.network.parameters(), trunk.network.buffers())
    network = copy.deepcopy(trunk.network, {id(tensor): tensor for tensor in tensors})
    check_overrides(network, scheme)
    if numbers := quantized_stages(network, scheme):
        calibrate_stages_(network, scheme, trial.recipe, trunk.before(numbers[0]), numbers[0], trial.seed)
    round_rest_(network, scheme, trial.batches)
    return network


def measure_units(
    model: Network,
    units: Sequence[Unit],
    ladder: Sequence[str],
    activation: Activation,
    trial: Trial,
    *,
    journal: Journal | None = None,
    progress: bool = True,
) -> dict[str, list[Choice]]:
    """Unit name -> its choices on the `ladder`, with the error of the network's outputs when it alone is quantized.

    The trial's `batches` are calibrated and measured on. `journal` keeps every figure and gives back those it has.
    Choices with equal formats (convolutions have 8-bit activations in all) are measured once.
    """
    journal = journal or Journal(None, {}, "search")
    reference: Outputs | None = None
    trunk: Trunk | None = None
    table: dict[str, list[Choice]] = {}
    with bar(total=len(units) * len(ladder), desc="sensitivity", unit="choice", shown=progress) as moved:
        for unit in units:
            choices: list[Choice] = []
            seen: set[tuple[LinearFormat, ...]] = set()
            for bits in ladder:
                moved.update()
                scheme = unit_scheme(unit, bits, activation)
                formats = _formats(model, scheme)
                if formats in seen:
                    continue
                seen.add(formats)
                damage = 0.0
                if formats:
                    key = f"{unit.name} {bits}"
                    if key not in journal.values:
                        reference = reference or network_outputs(model, trial.batches)
                        trunk = trunk or Trunk(model, trial)
                        network = quantized_copy(trunk, scheme)
                        journal.add(key, output_error(reference, network_outputs(network, trial.batches)))
                    damage = float(journal.values[key])
                choices.append(unit_choice(model, unit, bits, activation, damage))
            table[unit.name] = choices
    return table


def make_drop(
    model: Network,
    scheme_of: Callable[[dict[str, Choice]], Scheme],
    trial: Trial,
    score: Callable[[Network], float],
    journal: Journal,
) -> Callable[[dict[str, Choice]], float]:
    """What `cheapest_within` measures: `score` of the model quantized as an assignment says; kept in `journal`."""

    @cache
    def trunk() -> Trunk:
        return Trunk(model, trial)

    def drop(assignment: dict[str, Choice]) -> float:
        scheme = scheme_of(assignment)
        key = scheme.to_json()
        if key not in journal.values:
            quantizes = bool(_formats(model, scheme))
            network = quantized_copy(trunk(), scheme) if quantizes else model
            journal.add(key, score(network))
        return float(journal.values[key])

    return drop


def _layers(model: nn.Module, scheme: Scheme) -> list[tuple[Tensor, LinearFormat]]:
    """Weight and format of every float layer the scheme quantizes."""
    linears = [(m.weight, f) for _, m, f in scheme_linears(model, scheme)]
    return linears + [(m.weight, f) for _, m, f in scheme_convs(model, scheme)]


def _formats(model: nn.Module, scheme: Scheme) -> tuple[LinearFormat, ...]:
    return tuple(format for _, format in _layers(model, scheme))
