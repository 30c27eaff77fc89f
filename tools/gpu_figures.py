"""The figures of tools/gpu_proof.py, each a function of where it runs; called in that tool's worker process.

Every function returns a JSON-ready row; "said" is what the table shows beside latency and memory.
"""

from __future__ import annotations

import contextlib
import gc
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from cpu_candidates import RANDOM_1B
from gpu_lab import NARROW, Exported, Form, Lab, agreement, is_large, target_of, tiny_calibrated
from held_out import FRAMES, HELD_OUT_SEED, SIZE, drawn
from measuring import device_bytes, peak_bytes, seconds_within, stream_seconds, summary, wall_seconds
from torch import Tensor

from qvggt.calib.calibrate import fold_config
from qvggt.calib.half import half_products
from qvggt.calib.recipe import find_recipe
from qvggt.calib.reconstruct import calibrate_block
from qvggt.calib.rtn import quantize_rtn_
from qvggt.calib.stream import Stream, TokenStore
from qvggt.data.synthetic.scene import SceneConfig
from qvggt.device import exact
from qvggt.engines.compatibility import format_types, why_not
from qvggt.engines.engine_runner import EngineRunner
from qvggt.engines.torch_runner import DTYPES, TorchRunner, check_device
from qvggt.errors import QvggtError
from qvggt.eval.metrics import pose_auc
from qvggt.eval.pose import pairwise_errors
from qvggt.formats.table import find_format
from qvggt.geometry import decode_pose
from qvggt.hub.loading import load
from qvggt.models.block import Block
from qvggt.models.family import LINEARS, Stage, find_family
from qvggt.models.network import Network
from qvggt.models.vggt.config import VGGT_1B, VGGTConfig
from qvggt.models.vggt.network import VGGT
from qvggt.quant.scheme import Scheme
from qvggt.sqnr import sqnr_db

if TYPE_CHECKING:
    from gpu_proof import Setting

Row = dict[str, Any]
NETWORK = VGGT_1B.replace(heads=("camera", "point", "depth"))
SMALL = NETWORK.replace(
    img_size=56, embed_dim=64, vit_depth=1, aa_depth=2, num_heads=4, layer_scale=1.0, camera_trunk_depth=1,
    camera_num_heads=4, dpt_features=16, dpt_out_channels=(8, 16, 32, 32), dpt_layers=(0, 1, 1, 1),
)  # fmt: skip
FORMAT = "w4a8"  # that is calibrated, and that fake quant is timed in: the first choice on GPUs
SEQUENCES = 64  # of a whole calibration: what qvggt calibrate takes
SHEETS = {"H200": "h100", "H100": "h100", "A100": "a100", "5090": "rtx5090", "4090": "rtx4090", "3090": "rtx3090"}
SHEETS |= {"Orin": "orin", "": "h100"}  # part of a card's name -> --plan-device; "": a run in small
PIECES = 8  # weights of each shape that the int8 products take in turn, so that no cache holds them all
SCENES = 8


def config_of(setting: Setting) -> VGGTConfig:
    return SMALL if setting.small else NETWORK


def machine(setting: Setting) -> Row:
    """The card, its driver and the libraries; QvggtError where there is no such device."""
    if setting.device.startswith("cuda") and not torch.cuda.is_available():
        build = "" if torch.version.cuda else ", as it is built without CUDA"
        raise QvggtError(f"PyTorch {torch.__version__} sees no NVIDIA GPU{build}")
    device, facts = check_device(setting.device), _computer()
    if device.type == "cpu":
        return facts
    properties = torch.cuda.get_device_properties(device)
    return facts | {
        "card": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_bytes": properties.total_memory,
        "processors": properties.multi_processor_count,
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "tf32": {"products": torch.backends.cuda.matmul.allow_tf32, "cudnn": torch.backends.cudnn.allow_tf32},
    }


def _computer() -> Row:
    from qvggt.versions import PACKAGES, versions

    packages = versions((*PACKAGES, "tensorrt", "tensorrt-rtx"))
    return {"python": platform.python_version(), "cpus": os.cpu_count(), "versions": packages}


def _driver() -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "unknown"
    asked = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=20)
    return (done.stdout.splitlines() or ["unknown"])[0].strip()


# calibration


def calibration(setting: Setting, group: str, frames: int, bf16: bool) -> Row:
    """One block of VGGT-1B's width, random weights and tokens: of 1 and 3 sequences without learning and of 3 with one
    epoch; a whole calibration's seconds, which learns nothing, are extrapolated from them. bf16: as --bf16 has it."""
    config, family, device = config_of(setting), find_family(), torch.device(setting.device)
    stages = family.stages(config)
    stage = next(stage for stage in stages if stage.group == group)
    scheme = Scheme(FORMAT)
    recipe = find_recipe("qvggt").replace(bf16=bf16)
    formats = {n: f for n in LINEARS if (f := scheme.format(f"{stage.path}.{n}")) is not None}
    block = _block(config, stage).to(device)
    side, generator = config.img_size, torch.Generator().manual_seed(0)
    ropes, tokens = family.positions(config, side, side), family.tokens(config, side, side)

    def stream(count: int, length: int = frames) -> Stream:
        found = Stream(TokenStore(16 << 30, pinned=device.type == "cuda"), [], [])
        for _ in range(count):
            found.append(torch.randn(length, tokens, config.embed_dim, generator=generator), ropes)
        return found

    def seconds(of: Stream, learn: bool) -> float:
        """With the float block's outputs, as `calibrate_` makes them once for every block."""
        _wait(setting.device)
        start, how = time.perf_counter(), recipe.replace(epochs=int(learn))
        with half_products(bf16, device):
            goals = of.through(stage, block)
        calibrate_block(block, stage, formats, goals, of, how, 0)
        _wait(setting.device)
        return time.perf_counter() - start

    with exact(device):
        one, three = stream(1), stream(3)
        seconds(stream(1, 1), True)  # loads kernels
        with peak_bytes(setting.device) as memory:
            single, several, learned = seconds(one, False), seconds(three, False), seconds(three, True)
    each, epoch = max(0.0, several - single) / 2, max(0.0, learned - several) / 3
    whole = max(0.0, single - each) + SEQUENCES * each
    alike = sum(other.view == stage.view for other in stages)
    hours = alike * whole / 3600
    more = {"frames": frames, "seconds": {"1 sequence": single, "3": several, "3, one epoch": learned}}
    more |= {"sequence_s": each, "epoch_s": epoch, "block_s": whole, "blocks": alike, "hours": hours}
    said = f"{FORMAT}: {several:.1f} s of 3 sequences, {3 * epoch:.1f} s more to learn from them; {SEQUENCES}: "
    return {**more, **memory, "said": f"{said}{whole:.0f} s, {hours:.2f} h of all {alike} such blocks"}


def planned(setting: Setting, frames: int) -> Row:
    """What qvggt calibrate --plan-device says of the card from its data sheet, to be held against the figures above;
    H100's stands for other cards of its generation and, in small, for none."""
    from qvggt.calib.machine import find_machine
    from qvggt.calib.plan import Outline, make_plan

    card = "" if setting.small else torch.cuda.get_device_name(setting.device)
    name = next((name for part, name in SHEETS.items() if (part in card if part else not card)), None)
    if name is None:
        raise QvggtError(f"{card}: qvggt calibrate --plan-device has no data sheet of it")
    config, scheme = config_of(setting), Scheme(FORMAT)
    recipe, side = find_recipe("qvggt"), config.img_size
    outline = Outline(config, scheme, recipe, SEQUENCES, frames, side, side)
    plan = make_plan(outline, find_machine(name), progress=False)
    blocks = ", ".join(f"{group} block {low:.0f} to {high:.0f} s" for group, (low, high) in plan.seconds.items())
    low, high = plan.total_seconds
    said = f"{name}: {blocks}; {low / 3600:.1f} to {high / 3600:.1f} h in all"
    return {"machine": name, "block_s": plan.seconds, "total_s": plan.total_seconds, "said": said}


def _block(config: VGGTConfig, stage: Stage) -> Block:
    """As a calibration meets it, its LayerScale folded away."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block = find_family().block(config, stage)
    if fold_config(find_recipe("qvggt"), 0) is not None:
        block.ls1, block.ls2 = torch.nn.Identity(), torch.nn.Identity()
    return block.requires_grad_(False)


# the int8 products


def int8_products(setting: Setting, frames: int) -> Row:
    """The four linears of a block of VGGT-1B over the tokens of so many frames: PyTorch's int8 product of codes, which
    gives int32, against its bf16 linear. Nothing is quantized or scaled back: a ceiling."""
    config = config_of(setting)
    rows, width = frames * find_family().tokens(config, config.img_size, config.img_size), config.embed_dim
    hidden = config.mlp_ratio * width
    shapes = {"qkv": (width, 3 * width), "proj": (width, width), "fc1": (width, hidden), "fc2": (hidden, width)}
    found, totals = {}, {"int8": 0.0, "bf16": 0.0}
    with peak_bytes(setting.device) as memory:
        for name, (inputs, outputs) in shapes.items():
            products = _products(rows, inputs, outputs, setting.device)
            times = {t: np.array(seconds_within(setting.seconds / 8, p, setting.device)) for t, p in products.items()}
            least = {kind: float(np.median(seconds)) / PIECES for kind, seconds in times.items()}
            found[name] = {f"{kind}_s": value for kind, value in least.items()}
            found[name] |= {"int8_tops": 2 * rows * inputs * outputs / least["int8"] / 1e12}
            totals = {kind: totals[kind] + least[kind] for kind in totals}
    ratio = totals["bf16"] / totals["int8"]
    said = f"one block: int8 {totals['int8'] * 1e3:.2f} ms, bf16 {totals['bf16'] * 1e3:.2f} ms, {ratio:.2f}x"
    return {"tokens": rows, "linears": found, "block_s": totals, "ratio": ratio, **memory, "said": said}


def _products(rows: int, inputs: int, outputs: int, device: str) -> dict[str, Callable[[], None]]:
    """Kind -> a function that multiplies with PIECES weights in turn."""
    generator = torch.Generator(device).manual_seed(0)
    codes = partial(torch.randint, -127, 128, generator=generator, dtype=torch.int8, device=device)
    x8, w8 = codes((rows, inputs)), [codes((outputs, inputs)) for _ in range(PIECES)]
    x16, w16 = x8.to(torch.bfloat16), [w.to(torch.bfloat16) for w in w8]

    def int8() -> None:
        for weight in w8:
            torch._int_mm(x8, weight.t())

    def bf16() -> None:
        for weight in w16:
            F.linear(x16, weight)

    return {"int8": int8, "bf16": bf16}


# VGGT-1B in PyTorch


def _built(config: VGGTConfig) -> VGGT:
    """With seeded random weights, on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return VGGT(config).requires_grad_(False).eval()


@lru_cache(maxsize=1)
def _network(config: VGGTConfig, quantized: bool) -> VGGT:
    model = _built(config)
    if quantized:
        quantize_rtn_(model, Scheme(FORMAT, overrides=NARROW), progress=False)
    return model


def baseline(setting: Setting, kind: str, frames: int) -> Row:
    """One forward pass on random images that lie on the device already. kind: fp32, bf16 (autocast, heads in fp32) or
    "fake quant", which computes in fp32."""
    config, device = config_of(setting), torch.device(setting.device)
    model = _network(config, kind == "fake quant").to(device)
    generator = torch.Generator().manual_seed(frames)
    images = torch.rand(frames, 3, config.img_size, config.img_size, generator=generator).to(device)
    float_type = DTYPES.get(kind)
    autocast = torch.autocast(device.type, dtype=float_type) if float_type else contextlib.nullcontext()
    weights = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    with torch.inference_mode(), autocast, peak_bytes(setting.device) as memory:
        figures = summary(seconds_within(setting.seconds, lambda: model(images), setting.device))
    said = f"{frames / figures['p50_s']:.1f} frames/s, {figures['calls']} calls"
    return {"frames": frames, **figures, **memory, "weight_bytes": weights, "said": said}


# the tiny model, here and there


def tiny(setting: Setting, name: str) -> Row:
    """What the device computes against the CPU in fp32 (a calibrated model: its fake quant), on generated scenes:
    outputs in dB, relative cameras in degrees, and AUC@30 against the truth on both sides."""
    source, float_type = ("tiny", name) if name in DTYPES else (Path(setting.checkpoints) / f"tiny-{name}", "fp32")
    if name not in DTYPES and not Path(source).is_dir():
        raise QvggtError(f"{source} is not there; make gpu-bundle writes it")
    scenes = [
        drawn(SceneConfig(height=SIZE, width=SIZE, family="random"), FRAMES, HELD_OUT_SEED + i) for i in range(SCENES)
    ]
    network = load(source).network
    runner = TorchRunner(network, name)
    expected = [runner.run_named(images.numpy()) for images, _ in scenes]
    runner = TorchRunner(network, name, float_type, device=setting.device)
    with _tf32(False):
        strict = [runner.run_named(images.numpy()) for images, _ in scenes]
    images = scenes[0][0].numpy()
    with peak_bytes(setting.device) as memory:
        usual = [runner.run_named(images.numpy()) for images, _ in scenes]
        figures = summary(_calls(setting, lambda: runner(images)))
    db, cameras = _decibels(expected, strict), _cameras(expected, strict, [truth for _, truth in scenes])
    worst, auc = min(db, key=lambda name: db[name]), (cameras["auc30"], cameras["auc30_cpu"])
    said = f"least {db[worst]:.1f} dB ({worst}), cameras at most {cameras['rotation_deg']:.3f} deg apart, "
    said += "AUC@30 {:.2f}, on the CPU {:.2f}".format(*auc)
    row = {"frames": FRAMES, **figures, **memory, "sqnr_db": db, "sqnr_db_tf32": _decibels(expected, usual)}
    return {**row, **cameras, "said": said}


def calibrated_here(setting: Setting) -> Row:
    """The tiny model calibrated on the device twice, and once on the CPU: the same bytes, and as near to the float
    model."""
    (first, once), (second, again), (cpu, there) = (
        tiny_calibrated(device, FORMAT, 1 if setting.small else 4) for device in (setting.device, setting.device, "cpu")
    )
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    same = all(torch.equal(*pair) for pair in pairs)
    scene = SceneConfig(height=SIZE, width=SIZE, family="random")
    images = [drawn(scene, FRAMES, HELD_OUT_SEED + i)[0] for i in range(SCENES)]

    def outputs(network: Network) -> list[dict[str, Any]]:
        with torch.inference_mode():
            return [{name: value.numpy() for name, value in network(batch).items()} for batch in images]

    expected = outputs(load("tiny").network)
    db, db_cpu = (_decibels(expected, outputs(network)) for network in (first, cpu))
    said = f"{FORMAT}: {again:.1f} s, on the CPU {there:.1f} s; {'the same' if same else 'other'} bytes again; "
    said += f"cameras {db['pose_enc']:.1f} dB, calibrated on the CPU {db_cpu['pose_enc']:.1f} dB"
    seconds = {"first": once, "again": again, "cpu": there}
    return {"seconds": seconds, "same_bytes": same, "sqnr_db": db, "sqnr_db_cpu": db_cpu, "said": said}


@contextlib.contextmanager
def _tf32(allowed: bool) -> Any:
    """cuDNN's convolutions take TF32 unless told not to, other products of PyTorch do not."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _decibels(expected: list[dict[str, Any]], found: list[dict[str, Any]]) -> dict[str, float]:
    """Of each output, all scenes together; 3000 for equal ones."""
    pairs = {name: [np.stack([one[name] for one in side]) for side in (expected, found)] for name in expected[0]}
    return {name: min(3000.0, sqnr_db(*pair)) for name, pair in pairs.items()}


def _cameras(expected: list[dict[str, Any]], found: list[dict[str, Any]], truths: list[Any]) -> Row:
    def decoded(outputs: dict[str, Any]) -> Tensor:
        return decode_pose(torch.from_numpy(outputs["pose_enc"]).double(), SIZE, SIZE)[0][0]

    apart = [pairwise_errors(decoded(b), decoded(a)) for a, b in zip(expected, found, strict=True)]
    auc = [
        100 * pose_auc([pairwise_errors(decoded(o), truth) for o, truth in zip(side, truths, strict=True)])[30]
        for side in (expected, found)
    ]
    rotation = max(float(np.max(errors.rotation_deg)) for errors in apart)
    return {"rotation_deg": rotation, "auc30_cpu": auc[0], "auc30": auc[1]}


# engines


@lru_cache(maxsize=1)
def _lab(setting: Setting, source: str) -> Lab:
    folder = Path(setting.files) / Path(source).name
    folder.mkdir(parents=True, exist_ok=True)
    if source == RANDOM_1B:
        return Lab(source, folder, lambda _name: _built(config_of(setting)), (1, 4, 10))
    return Lab(source, folder)


def _source(setting: Setting, model: str, form: Form) -> str:
    """The calibrated tiny model where it was brought along, else round to nearest."""
    own = Path(setting.checkpoints) / f"tiny-{form.bits}"
    return str(own) if model == "tiny" and own.is_dir() else model


def no_backend(setting: Setting) -> Row:
    raise QvggtError("neither tensorrt_rtx nor tensorrt is installed in this Python")


def engine(setting: Setting, model: str, bits: str, backend: str) -> Row:
    """Export and build; then parity with fake quant, latency and memory at each frame count. What was built is told
    also where the engine does not run: "run" holds the reason."""
    form = Form(bits)
    if setting.device.startswith("cuda"):
        capability = ".".join(map(str, torch.cuda.get_device_capability(setting.device)))
        if reason := why_not(backend, capability=capability, types=format_types(find_format(bits))):
            raise QvggtError(reason)
    lab = _lab(setting, _source(setting, model, form))
    start = time.perf_counter()
    exported = lab.exported(form, target_of(backend))
    written = time.perf_counter() - start
    capabilities = ("8.9",) if setting.device == "cpu" and backend == "rtx" else ()
    start = time.perf_counter()
    path = lab.engine(form, backend, capabilities)
    built = time.perf_counter() - start
    row: Row = {"export_s": written, "build_s": built, "engine_bytes": path.stat().st_size, "source": lab.source}
    said = f"built in {built:.0f} s, {row['engine_bytes'] / 1e6:.0f} MB"
    try:
        row |= _run(setting, lab, exported, path)
    except (QvggtError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        return {**row, "run": f"not run: {reason}", "said": f"{said}; not run: {reason}"}
    finally:
        exported.model.cpu()
    return {**row, "said": f"{said}, {row['parity']}"}


def counts_of(lab: Lab, model: Network) -> tuple[int, ...]:
    """Frame counts at which an engine is judged: a large reference takes its time."""
    return lab.frames[:1] if is_large(model) else lab.frames


def _run(setting: Setting, lab: Lab, exported: Exported, path: Path) -> Row:
    counts = counts_of(lab, exported.model)
    before = device_bytes() if setting.device.startswith("cuda") else 0
    with EngineRunner(path, setting.device) as runner:
        found = agreement(runner.run_named, exported, lab, counts, scenes=1 if len(counts) == 1 else 2)
        frames: Row = {}
        for count in lab.frames:
            images = lab.images(count).numpy()
            runner(images)
            calls = _calls(setting, partial(runner, images))
            launched = stream_seconds(partial(runner.compute, count), runner.gpu.stream, len(calls), 2)
            used = device_bytes() - before
            frames[str(count)] = {"call": summary(calls), "compute": summary(launched), "device_bytes": used}
        last = frames[str(lab.frames[-1])]
        parity = "parity holds" if found else f"parity fails ({found.failures()[0]})"
        described = runner.describe()
    figures = {"frames": lab.frames[-1], **last["compute"], "peak_bytes": last["device_bytes"], "by_frames": frames}
    return {**figures, "sqnr_db": found.sqnr_db(), "parity": parity, "runner": described}


def _calls(setting: Setting, call: Callable[[], object]) -> list[float]:
    """Wall seconds of calls that return when they are done."""
    once = wall_seconds(call, 1, 1)[0]
    return wall_seconds(call, max(3, min(100, int(setting.seconds / once))), 0)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def release() -> None:
    """Let go of what figures of one section share."""
    _network.cache_clear()
    _lab.cache_clear()
    empty()


def empty() -> None:
    """Give back what PyTorch holds of the GPU's memory and does not use."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
