"""Rounded weights of all blocks adapted together, end to end, with the float network as the teacher.

Blocks are calibrated one after the other, each on its own error. What the errors of all weights together make of the
outputs is no noise, it is much the same in every image, so codes, scales and biases can move until it is least:
gradients pass the rounding straight through. Activations stay floating point meanwhile: what their grids add is noise,
which weights can do little about, and which would drown the gradients. Images need no labels, so a few sequences become
many (`qvggt.calib.variations`). At the end every linear is a `QuantLinear` as before.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from qvggt.calib.block_journal import BlockJournal
from qvggt.calib.recipe import Recipe
from qvggt.calib.variations import varied
from qvggt.device import device_of
from qvggt.models.block import Block, Rope
from qvggt.models.family import LINEARS, Stage, family_of
from qvggt.models.network import Network
from qvggt.models.token_types import current_types, token_types, types_in
from qvggt.predictions import CAMERAS
from qvggt.progress import bar
from qvggt.quant.hadamard import named_seed
from qvggt.quant.linear import QuantLinear

BATCH = 4  # sequences a step
BYTES = 16  # of a weight that learns: itself, its gradient, two moments
JUDGED = 16  # sequences on which errors at the start are measured: what each counts from then on
WARM = 0.05  # of the steps, in which rates rise
SLOWER = 0.3  # rate of scales and biases to that of the weights
NEAR = 0.49  # of a code, which still rounds to it
KEEP = 50  # steps after which the state is kept
LEAST_SPREAD = 1e-3  # of a number of the cameras to the mean of all, below which it counts no more
TINY = 1e-8
CPU = torch.device("cpu")
STATE = "adaptation"
MOMENTS = ("exp_avg", "exp_avg_sq")


class AdaptableLinear(nn.Module):
    """A `QuantLinear` that learns its codes, scales and biases, on floating-point activations.

    All start where it is, in units of their own, so that one rate suits every linear of every network: weights codes,
    scales their logarithm, biases what a change of all weights of a row by a code does to inputs of 1.
    """

    def __init__(self, quantized: QuantLinear) -> None:
        super().__init__()
        self.quantized = quantized
        codes = quantized.codes.to(quantized.weight_scale.dtype)
        if quantized.latent is not None:  # on the side of a code where the weight was: what is near another goes first
            codes = codes + (quantized.latent - codes).clamp(-NEAR, NEAR)
        self.latent = nn.Parameter(codes)
        self.log_scale = nn.Parameter(torch.zeros_like(quantized.weight_scale))
        if quantized.format.weight.scale_grid is not None:
            self.log_scale.requires_grad_(False)  # scales that have a grid of their own stay on it
        start = self._start
        self.bias_step = None if start is None else nn.Parameter(torch.zeros_like(start))

    @property
    def _start(self) -> Tensor | None:
        return self.quantized.bias if self.quantized.kind_bias is None else self.quantized.kind_bias

    @property
    def scale(self) -> Tensor:
        return self.quantized.weight_scale * self.log_scale.exp()

    @property
    def bias(self) -> Tensor | None:
        """[out], or [types, out] of a linear that centers."""
        if self._start is None or self.bias_step is None:
            return None
        unit = self.quantized.weight_scale.mean(1) * math.sqrt(self.quantized.in_features)
        return self._start + self.bias_step * unit

    def codes(self, straight_through: bool = False) -> Tensor:
        return self.quantized.format.weight.grid.round(self.latent, 1.0, straight_through)

    def forward(self, x: Tensor) -> Tensor:
        quantized, bias = self.quantized, self.bias
        x = quantized.centered(x)
        x, along = (x, None) if quantized.transform is None else quantized.transform.split(x)
        y = F.linear(x, quantized.format.weight.dequantize(self.codes(straight_through=True), self.scale))
        if along is not None and quantized.branch is not None:
            y = y + along @ quantized.branch
        if bias is None:
            return y
        # bias[types] would add its gradients up in whatever order the threads come
        return y + (bias if quantized.kind_bias is None else F.embedding(current_types(), bias))

    @torch.no_grad()
    def finish(self) -> QuantLinear:
        """The `QuantLinear` it was made from, with what was learned."""
        quantized, bias = self.quantized, self.bias
        quantized.codes, quantized.latent = self.codes().to(quantized.codes.dtype), None
        quantized.weight_scale = self.scale
        if quantized.kind_bias is None:
            quantized.bias = bias
        else:
            quantized.kind_bias = bias
        return quantized


class _Watched(nn.Module):
    """The block of a stage, told the types of its tokens; what comes out of it is kept, what is inside is computed
    again for its gradients."""

    def __init__(self, block: Block, stage: Stage) -> None:
        super().__init__()
        self.block, self.stage = block, stage
        self.frames = 1  # of a sequence
        self.output: Tensor | None = None

    def forward(self, x: Tensor, rope: Rope | None = None) -> Tensor:
        types = types_in(self.stage.layout, x, self.frames, self.stage.view == "global")
        # where the network tells its blocks the types already, it does so to the block, inside

        def run(x: Tensor) -> Tensor:
            with token_types(types):  # here, as gradients may come on a thread of their own
                return self.block(x, rope)

        if torch.is_grad_enabled():
            output = checkpoint(run, x, use_reentrant=False, preserve_rng_state=False)
        else:
            output = run(x)
        self.output = output
        return output


class _Outputs(NamedTuple):
    """What is compared: the tokens [B*S, P, C] behind each stage, and the cameras [B, S, 9] of a network that tells
    them."""

    tokens: list[Tensor]
    cameras: Tensor | None


class _Trunk:
    """A network as far as it is compared: its stages, watched, and of its heads the one that tells cameras."""

    def __init__(self, network: Network) -> None:
        family, config = family_of(network), network.config
        cameras = tuple(head.name for head in family.heads if CAMERAS in head.outputs and head.name in config.heads)
        with torch.device("meta"):
            self.short = family.build(config.replace(heads=cameras))
        self.network, self.watched = network, list[_Watched]()
        for stage in family.stages(config):
            block = network.get_submodule(stage.path)
            assert isinstance(block, Block)
            self.watched.append(_Watched(block, stage))
            network.set_submodule(stage.path, self.watched[-1])
        for name, _ in list(self.short.named_children()):
            setattr(self.short, name, getattr(network, name))
        rounds = {stage.path for pair in family.rounds(config) for stage in pair}
        self.compared = [watched for watched in self.watched if watched.stage.path in rounds]

    def restore(self) -> None:
        """Give the network its blocks back."""
        for watched in self.watched:
            self.network.set_submodule(watched.stage.path, watched.block)

    def __call__(self, images: Tensor) -> _Outputs:
        """Of images [B, S, 3, H, W]."""
        for watched in self.watched:
            watched.frames = images.shape[1]
        cameras, count = self.short(images).get(CAMERAS), images.shape[:2].numel()
        tokens = [w.output.reshape(count, -1, w.output.shape[-1]) for w in self.compared if w.output is not None]
        for watched in self.watched:
            watched.output = None
        return _Outputs(tokens, cameras)


class _Yardstick:
    """Errors of outputs in units of those at the start. Of every compared stage, the patches count as much as its
    special tokens together, all stages together as much as the cameras."""

    def __init__(self, special: int) -> None:
        self.special = special
        self.spread = torch.empty(0)  # of each number of the cameras
        self.shares = torch.empty(0)  # of each error

    def errors(self, outputs: _Outputs, goals: _Outputs) -> Tensor:
        """Squared error over squared size of each special token and of all patches, stage by stage; then the error of
        the cameras, root mean square of a frame, so that a scene far off does not rule."""
        found = []
        for output, goal in zip(outputs.tokens, goals.tokens, strict=True):
            error, size = (x.square().mean((0, 2)) for x in (output - goal, goal))
            patches = error[self.special :].mean() / size[self.special :].mean().clamp_min(TINY)
            found += [error[: self.special] / size[: self.special].clamp_min(TINY), patches[None]]
        if outputs.cameras is not None and goals.cameras is not None:
            far = (outputs.cameras - goals.cameras).square() / self.spread
            found.append(far.mean(-1).add(TINY).sqrt().mean()[None])
        return torch.cat(found)

    def start(self, pairs: list[tuple[_Outputs, _Outputs]]) -> None:
        """Measure the errors of a network at the start: (its outputs, the goals) of some sequences."""
        known = [goal.cameras for _, goal in pairs if goal.cameras is not None]
        if known:
            spread = torch.cat([cameras.flatten(0, 1) for cameras in known]).var(0, unbiased=False)
            self.spread = spread.clamp_min(LEAST_SPREAD * float(spread.mean()) + TINY)
        errors = torch.stack([self.errors(*pair) for pair in pairs]).mean(0).clamp_min(TINY)
        stage = torch.tensor([1 / self.special] * self.special + [1.0]) / 2
        stages = len(pairs[0][0].tokens)
        shares = torch.cat([stage.repeat(stages) / stages, torch.ones(len(errors) - stages * len(stage))])
        self.shares = shares.to(errors) / errors


def sharing(network: Network) -> Network:
    """A copy that shares all tensors: a module replaced in one stays in the other."""
    return copy.deepcopy(network, {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())})


def adapt_(
    network: Network,
    teacher: Network,
    batches: Iterable[Tensor],
    recipe: Recipe,
    seed: int = 0,
    *,
    journal: BlockJournal | None = None,
    progress: bool = True,
) -> None:
    """Adapt the quantized linears of a network whose blocks are calibrated, in place, on its device, in `recipe.adapt`
    steps.

    teacher: the float network in the same basis. `batches`: image sequences [S, 3, H, W] in [0, 1], kept in memory as
    bytes. Deterministic for a seed. `journal`: the state is kept there now and then, and taken from there.
    """
    images = [(batch * 255).round().to(CPU, torch.uint8) for batch in batches]
    stages = family_of(network).stages(network.config)
    paths = [f"{stage.path}.{name}" for stage in stages for name in LINEARS]
    found = [(path, network.get_submodule(path)) for path in paths]
    linears = {path: AdaptableLinear(linear) for path, linear in found if isinstance(linear, QuantLinear)}
    for path, linear in linears.items():
        network.set_submodule(path, linear)
    student, master = _Trunk(network), _Trunk(teacher)
    try:
        _learn(student, master, _Steps(linears, recipe), images, seed, journal, progress)
    finally:
        student.restore()
        master.restore()
    for path, linear in linears.items():
        network.set_submodule(path, linear.finish())


class _Steps:
    """The learning: what learns, how fast, and how far it is."""

    def __init__(self, linears: Mapping[str, AdaptableLinear], recipe: Recipe) -> None:
        self.done, self.total, self.rate = 0, recipe.adapt, recipe.adapt_rate
        self.parameters = {f"{path}.{name}": p for path, m in linears.items() for name, p in m.named_parameters()}
        rates = {name: 1.0 if name.endswith(".latent") else SLOWER for name in self.parameters}
        groups = [
            {"params": [p for n, p in self.parameters.items() if rates[n] == r], "share": r} for r in (1.0, SLOWER)
        ]
        self.optimizer = torch.optim.Adam(groups, lr=self.rate, betas=(0.9, 0.99))

    def step(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        at = self.done / self.total
        rate = self.rate * min(1.0, (self.done + 1) / (WARM * self.total)) * (1 + math.cos(math.pi * at)) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        self.optimizer.step()
        self.done += 1

    def state(self) -> dict[str, Tensor]:
        tensors = dict[str, Tensor]()
        for name, parameter in self.parameters.items():
            moments = self.optimizer.state[parameter]
            tensors |= {name: parameter.detach()} | {f"{name}.{key}": moments[key] for key in MOMENTS}
        return tensors

    @torch.no_grad()
    def resume(self, done: int, tensors: Mapping[str, Tensor]) -> None:
        self.done = done
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[name])
            moments = {key: tensors[f"{name}.{key}"].to(parameter.device) for key in MOMENTS}
            self.optimizer.state[parameter] = {"step": torch.tensor(float(done)), **moments}


def _learn(
    student: _Trunk,
    teacher: _Trunk,
    steps: _Steps,
    images: list[Tensor],
    seed: int,
    journal: BlockJournal | None,
    progress: bool,
) -> None:
    device = device_of(student.network)
    yardstick = _Yardstick(student.compared[0].stage.layout.special)
    with torch.no_grad():
        judged = [_draw(images, BATCH, named_seed(seed, f"judged {i}")).to(device) for i in range(JUDGED // BATCH)]
        yardstick.start([(student(batch), teacher(batch)) for batch in judged])
    kept = None if journal is None else journal.kept(STATE)
    if kept is not None:
        steps.resume(*kept)
    with bar(total=steps.total, desc="adapt", unit="step", shown=progress) as moved:
        moved.update(steps.done)
        while steps.done < steps.total:
            batch = _draw(images, BATCH, named_seed(seed, f"step {steps.done}")).to(device)
            with torch.no_grad():
                goals = teacher(batch)
            steps.step((yardstick.errors(student(batch), goals) * yardstick.shares).sum())
            moved.update()
            if journal is not None and steps.done % KEEP == 0:
                journal.keep(STATE, steps.done, steps.state())


def _draw(images: list[Tensor], count: int, seed: int) -> Tensor:
    """The sequences of a step [count, S, 3, H, W]: of equal size, varied, S the same for all."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=generator).tolist()
    alike = [i for i in order if images[i].shape[-2:] == images[order[0]].shape[-2:]]
    chosen = [images[alike[i % len(alike)]] for i in range(count)]
    most = min(len(sequence) for sequence in chosen)
    least = min(most, max(2, (most + 1) // 2))
    frames = least + int(torch.randint(most - least + 1, (), generator=generator))
    return torch.stack([varied(sequence.float() / 255, frames, generator) for sequence in chosen])
