"""Train one of the small VGGTs that benches use, from the scene generator alone.

    python tools/train_model.py tiny --out outputs/tiny --minutes 98 --workers 2
    python tools/train_model.py small --minutes 200 --workers 1 --scenes 4000 --hold 0.28 --grown-from tiny

`tiny` (70 x 70 pixels) ships with the package; `small` has twice its width, 140 x 140 pixels and richer scenes, and may
start from a trained tiny one (tools/training/growth.py), which saves the hours until matching across views emerges.

Renders the training and held-out scenes (once), trains for a fixed wall-clock budget with one single-threaded
process per worker (gradients averaged), checkpoints every few minutes (a second run resumes, with more --minutes if
you like, as long as the rate has not begun to fall), and writes `model.safetensors` (fp16), `train_log.jsonl` and
`metrics.json` into --out. Nothing is shared between scenes, so the model has to match across views; held-out seeds are
disjoint from the training seeds.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.distributed as dist
import typer
from held_out import HELD_OUT_SEED, scene_config, score
from reporting import start, write_json
from scene_split import load_split, render_split
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from training.batches import Draw, loader
from training.forward import Taps, aggregate, cameras
from training.growth import grow, grown
from training.losses import Auxiliary, attention_loss, camera_loss, dense_loss
from training.optimizer import build, initialise, set_rate

from qvggt.data.synthetic.scene import SceneConfig
from qvggt.files import atomic_write
from qvggt.hub.loading import load_model
from qvggt.models.loading import save_model
from qvggt.models.vggt.config import VGGTConfig
from qvggt.models.vggt.network import VGGT

TINY = VGGTConfig(
    img_size=70, embed_dim=128, vit_depth=2, aa_depth=4, num_heads=2, layer_scale=0.3, camera_trunk_depth=2,
    camera_num_heads=4, dpt_features=32, dpt_out_channels=(32, 32, 32, 32), dpt_layers=(0, 1, 2, 3),
    dpt_head_channels=16, heads=("camera", "point", "depth"),
)  # fmt: skip


SMALL = grown(TINY)


@dataclass(frozen=True)
class Setting:
    """A model to train and the scenes it is trained on."""

    config: VGGTConfig
    scenes: SceneConfig


SETTINGS = {name: Setting(model, scene_config(model.img_size)) for name, model in (("tiny", TINY), ("small", SMALL))}


@dataclass(frozen=True)
class Recipe:
    """Everything the result depends on, apart from the machine's speed (the budget is wall-clock)."""

    model: str
    grown_from: str | None
    minutes: float
    workers: int
    scenes: int
    held_out: int
    images_per_worker: int = 64
    rate: float = 2e-3
    dense_from: float = 0.4
    dense_sequences: int = 6
    narrow_until: float = 0.1
    medium_until: float = 0.3
    hold: float = 0.0  # share of the budget before the rate begins to fall
    seed: int = 0


# a grown network has matched before: far views sooner, smaller steps
GROWN: dict[str, Any] = {"narrow_until": 0.04, "medium_until": 0.12, "images_per_worker": 48, "rate": 1.5e-3}


def stage(recipe: Recipe, progress: float, rng: np.random.Generator) -> tuple[int, int]:
    """(frames, azimuth window) of the next step: near views first, then 2 to all frames of a scene."""
    total = SETTINGS[recipe.model].scenes.frames
    if progress < recipe.narrow_until:
        return 4, int(rng.choice([4, 5])) * total // 8
    if progress < recipe.medium_until:
        return 4, int(rng.choice([4, 5, 6, 8])) * total // 8
    frames = [2, 3, 4, 4, 4, 6, 8] if total == 8 else [2, 3, 4, 4, 4, 4, 6, 8, 10, 16]
    return int(rng.choice(frames)), int(rng.choice([5, 8, 8])) * total // 8


def identity(recipe: Recipe) -> str:
    """What a run has to agree in to go on with another's state."""
    return json.dumps(dataclasses.asdict(dataclasses.replace(recipe, minutes=0)))


def average_gradients(parameters: list[Tensor], extra: Tensor) -> Tensor:
    """Mean over workers of all gradients (in place) and of `extra` (returned)."""
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([g.reshape(-1) for g in grads] + [extra.to(grads[0])])
    if dist.get_world_size() > 1:
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
    offset = 0
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = flat[offset : offset + grad.numel()].view_as(grad)
        offset += grad.numel()
    return flat[offset:].cpu()


def work(rank: int, recipe: Recipe, out: Path, rendezvous: str, device: torch.device) -> None:
    """One of the processes that train together; they meet at the file `rendezvous`."""
    if device.type == "cpu":
        torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=recipe.workers)
    try:
        train(rank, recipe, out, device)
        dist.barrier()
    finally:
        dist.destroy_process_group()


def train(rank: int, recipe: Recipe, out: Path, device: torch.device) -> None:
    """From the state in `out`, or from the start, to the end of the budget; the first rank writes the model."""
    held_out = load_split(out / "held_out")
    config = SETTINGS[recipe.model].config
    generator = torch.Generator().manual_seed(recipe.seed)
    auxiliary = Auxiliary(config.embed_dim, config.aa_depth)
    if recipe.grown_from is None:
        model = VGGT(config)
        initialise(model, generator)
    else:
        model = grow(load_model(recipe.grown_from), generator).requires_grad_(True)
    initialise(auxiliary, generator)
    model, auxiliary = model.to(device), auxiliary.to(device)
    optimizers = build([model, auxiliary], recipe.rate)
    parameters = [p for m in (model, auxiliary) for p in m.parameters()]
    state_file, made_by = out / "state.pt", identity(recipe)
    stateful: list[Any] = [model, auxiliary, *optimizers]
    step, elapsed, samples = 0, 0.0, 0
    if state_file.exists():
        saved = torch.load(state_file, weights_only=True, map_location=device)
        falls = recipe.hold < 1 and saved["elapsed"] > 60 * recipe.hold * saved["minutes"]
        if saved["recipe"] != made_by or (falls and saved["minutes"] != recipe.minutes):
            raise typer.BadParameter(
                f"{state_file} is of another recipe, or its rate has begun to fall; choose another --out or delete it"
            )
        for each, state in zip(stateful, saved["states"], strict=True):
            each.load_state_dict(state)
        step, elapsed, samples = saved["step"], saved["elapsed"], saved["samples"]
    budget = recipe.minutes * 60
    last_log = last_score = last_save = last = time.monotonic()
    running: dict[str, float] = {}

    def wanted() -> Iterator[Draw]:
        """The batches of the steps from here on; a GPU asks for some before their turn."""
        for ahead in itertools.count(step):
            frames, window = stage(recipe, elapsed / budget, np.random.default_rng([recipe.seed, ahead]))
            yield Draw((recipe.seed, ahead, rank + 1), max(4, recipe.images_per_worker // frames), frames, window)

    batches = iter(loader(out / "train", wanted(), device))
    while elapsed < budget:
        progress = elapsed / budget
        draw, batch = next(batches)
        batch = batch.to(device)
        set_rate(optimizers, progress, recipe.hold)
        taps = Taps()
        levels = aggregate(model, batch.images, taps)
        special = config.patch_start
        parts = {
            "camera": 5 * camera_loss(cameras(model, levels[config.aa_depth - 1][:, :, 0]), batch.pose),
            "geometry": auxiliary.geometry_loss(levels[config.aa_depth - 1][:, :, special:], batch),
            "descriptor": 0.3 * auxiliary.descriptor_loss(taps, batch, special),
            "attention": 0.3 * attention_loss(taps, batch, special),
        }
        if progress >= recipe.dense_from:
            # the DPT heads cost as much as the rest: a few frames a step are enough for them
            rng = np.random.default_rng((*draw.seed, 1))
            some = rng.permutation(draw.sequences)[: recipe.dense_sequences]
            frame = rng.integers(0, draw.frames, len(some))
            parts["dense"] = dense_loss(model, levels, batch, torch.from_numpy(some), torch.from_numpy(frame))
        for parameter in parameters:
            parameter.grad = None
        torch.stack(list(parts.values())).sum().backward()
        now = time.monotonic()
        # the clock is averaged too: every worker must take the same schedule, step for step
        mean = average_gradients(parameters, torch.tensor([now - last, *(float(v.detach()) for v in parts.values())]))
        last = now
        elapsed += float(mean[0])
        step += 1
        samples += draw.sequences * recipe.workers
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, 1.0))
        if np.isfinite(norm):
            for optimizer in optimizers:
                optimizer.step()
        for name, value in zip(parts, mean[1:].tolist(), strict=True):
            running[name] = 0.98 * running.get(name, value) + 0.02 * value
        if rank == 0 and now - last_log > 30:
            last_log = now
            line = {"minutes": round(elapsed / 60, 2), "step": step, "samples": samples, "grad": round(norm, 3)}
            line.update({k: round(v, 4) for k, v in running.items()})
            if now - last_score > 600:
                last_score = now
                line.update(score(model, held_out, min(64, len(held_out)), 4))
            with open(out / "train_log.jsonl", "a") as log:
                log.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
        if rank == 0 and (now - last_save > 180 or elapsed >= budget):
            last_save = now
            saved = {"recipe": made_by, "minutes": recipe.minutes, "states": [each.state_dict() for each in stateful]}
            saved |= {"step": step, "elapsed": elapsed, "samples": samples}
            with atomic_write(state_file) as temporary:
                torch.save(saved, temporary)
    if rank == 0:
        provenance = {"recipe": json.dumps(dataclasses.asdict(recipe)), "steps": str(step), "samples": str(samples)}
        save_model(model, out / "model.safetensors", provenance, dtype=torch.float16)
        print(f"wrote {out / 'model.safetensors'} after {step} steps, {samples} sequences", flush=True)


def main(
    bed: Annotated[str, typer.Argument(help=f"Which model: {' or '.join(SETTINGS)}.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for scenes, checkpoints and the result (default: outputs/MODEL).")
    ] = None,
    minutes: Annotated[float, typer.Option(min=0.1, help="Wall-clock training budget.")] = 110,
    workers: Annotated[int, typer.Option(min=1, help="Data-parallel processes, one thread each.")] = 2,
    scenes: Annotated[int, typer.Option(min=8, help="Training scenes (seeds 0 .. N-1).")] = 16000,
    held_out: Annotated[int, typer.Option(min=1, help="Held-out scenes (seeds from 10000000).")] = 256,
    grown_from: Annotated[str | None, typer.Option(help="A trained model of half the width to start from.")] = None,
    device: Annotated[str, typer.Option(help="cpu, or cuda: one process, batches made on the CPU's cores.")] = "cpu",
    hold: Annotated[float, typer.Option(min=0, max=1, help="Share of the budget before the rate begins to fall.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of initialisation and batches.")] = 0,
) -> None:
    """Render, train, score. Interrupt at will: the same command resumes."""
    if bed not in SETTINGS:
        raise typer.BadParameter(f"unknown model {bed!r}: expected {' or '.join(SETTINGS)}")
    recipe = Recipe(
        bed, grown_from, minutes, workers, scenes, held_out, hold=hold, seed=seed, **(GROWN if grown_from else {})
    )
    out, config = out or Path("outputs") / bed, SETTINGS[bed].scenes
    render_split(config, range(HELD_OUT_SEED, HELD_OUT_SEED + held_out), out / "held_out", workers)
    render_split(config, range(scenes), out / "train", workers)
    # workers inherit these: one thread each, and freed tensors stay mapped instead of faulting in again
    os.environ.update(OMP_NUM_THREADS="1", MALLOC_MMAP_THRESHOLD_=str(1 << 32), MALLOC_TRIM_THRESHOLD_=str(1 << 33))
    if not (out / "model.safetensors").exists():
        with tempfile.TemporaryDirectory() as folder:
            spawn(work, (recipe, out, f"{folder}/meet", torch.device(device)), nprocs=workers)
    model = load_model(out / "model.safetensors")
    held = load_split(out / "held_out")
    counts = range(2, 9) if config.frames <= 8 else (2, 4, 8, 16)
    results = [score(model, held, held_out, frames) for frames in counts]
    for result in results:
        print(json.dumps(result))
    write_json(out / "metrics.json", {"recipe": dataclasses.asdict(recipe), "held_out": results}, told=False)


if __name__ == "__main__":
    start(main)
