"""Attention on codes: what TensorRT-RTX makes of it, what it costs in noise and in accuracy.

    python tools/bench_attention.py -o docs/results/attention.json            # everything, rows that are there are kept
    python tools/bench_attention.py --parts noise                             # of forms, builds, noise, accuracy

forms: small graphs (tests/export/lint/attention_graphs.py), built. builds: a frame and a global block of VGGT-1B's
widths at 518x518, random weights, with attention in fp16 and in FP8: the builder's own figures, for SM89 and SM120; no
GPU is needed and nothing is run on one. noise: signal over noise of an attention's outputs for made-up logits.
accuracy: cameras of the tiny model on held-out scenes, as tools/bench_accuracy.py has them; frames of 70x70 pixels have
30 tokens, too few for a kernel, so that rows "all blocks" are of what larger images have.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer
from bench_accuracy import model_makers
from bench_accuracy import scheme_of as named_scheme
from held_out import CALIBRATION_SEED, HELD_OUT_SEED, Yardstick, images_of, scenes_in
from reporting import start, write_json
from torch import Tensor

from qvggt.calib.calibrate import calibrate_
from qvggt.calib.recipe import find_recipe
from qvggt.engines.build_config import BuildConfig
from qvggt.engines.builder import build_engine, read_source
from qvggt.engines.layer_report import layer_report
from qvggt.errors import QvggtError
from qvggt.export.exporter import ExportConfig, export_onnx
from qvggt.export.lint import lint_model
from qvggt.export.precision import Precision
from qvggt.formats.attention import FORMATS, AttentionFormat
from qvggt.formats.float_grid import E4M3
from qvggt.formats.grid import IntegerGrid
from qvggt.models.family import family_of
from qvggt.models.vggt.config import VGGT_1B
from qvggt.models.vggt.network import VGGT
from qvggt.onnx_view.file import open_onnx
from qvggt.onnx_view.network_facts import network_facts
from qvggt.quant.attention import AttentionRange
from qvggt.quant.model import quantize_
from qvggt.quant.scheme import Scheme
from qvggt.sqnr import decibels
from qvggt.target import Target
from qvggt.versions import versions

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "export" / "lint"))

CAPABILITIES = ("8.9", "12.0")
COUNTS = (1, 8, 32)  # frames
KEYS = (1374, 10992, 43968)  # of 1, 8 and 32 frames at 518x518
SPREADS = (1.0, 3.0, 6.0)  # standard deviations of the logits
QUERIES, WIDTH = 512, 64
Row = dict[str, Any]


@dataclass(frozen=True)
class Int8Attention(AttentionFormat):
    """What no runtime has for these lengths: integer codes, clipped at the largest values."""

    @property
    def probability_scale(self) -> float:
        return 1 / self.grid.highest

    def scale(self, amax: float) -> float:
        return amax / self.grid.highest


@dataclass(frozen=True)
class UnitScale(AttentionFormat):
    """FP8 with the softmax output as it is."""

    @property
    def probability_scale(self) -> float:
        return 1.0


TRIED = {
    "fp8": AttentionFormat("fp8", E4M3),
    "fp8 all blocks": AttentionFormat("fp8", E4M3, 1),
    "int8 all blocks": Int8Attention("int8", IntegerGrid(8), 1),
}
NOISY = {"fp8_db": TRIED["fp8"], "int8_db": TRIED["int8 all blocks"], "unit_scale_db": UnitScale("fp8", E4M3)}
ACCURACY = (  # format of the linears, of attention
    ("w8a8-dynamic", "fp16"),
    ("w8a8-dynamic", "fp8"),
    ("w8a8-dynamic", "fp8 all blocks"),
    ("fp8-static", "fp16"),
    ("fp8-static", "fp8 all blocks"),
    ("w8a8-dynamic", "int8 all blocks"),
    ("fp8-static", "fp8"),
)


def forms() -> Iterator[Row]:
    """Of every small graph: what lint says, and whether the builder made one kernel of it."""
    from attention_graphs import FORMS as GRAPHS  # type: ignore
    from check_lint import built_rows

    for name, form in GRAPHS.items():
        with TemporaryDirectory() as folder:
            path = Path(folder) / "graph.onnx"
            path.write_bytes(form.model().SerializeToString())
            facts = network_facts(open_onnx(path, strict=False))
            report = layer_report(facts, built_rows(path, facts, Path(folder)))
            rules = sorted({finding.rule for finding in lint_model(path)})
        found = [verdict.found for verdict in report.quantized_attentions]
        yield {"form": name, "fused": report.fused_attentions == 1, "found": found, "lint": rules}


def blocks(attention: str, path: Path) -> None:
    """A patch encoder's, a frame and a global block of VGGT-1B, with the camera head's smallest, as a file."""
    torch.manual_seed(0)
    sizes = VGGT_1B.replace(vit_depth=1, aa_depth=1, dpt_layers=(0,) * 4, camera_trunk_depth=1, camera_iters=1)
    network = VGGT(sizes.replace(heads=("camera",))).requires_grad_(False).eval()
    scheme = Scheme("w8a8", attention=attention)
    stages = family_of(network).stages(network.config)
    quantize_(network, scheme, attention_ranges={f"{s.path}.attn": AttentionRange(4.0, 4.0, 4.0, 1374) for s in stages})
    side = network.config.img_size
    config = ExportConfig(side, side, ("pose",), target=Target.TENSORRT, precision=Precision.FP16)
    export_onnx(network, scheme, config, path)


def builds(known: set[tuple[Any, ...]]) -> Iterator[Row]:
    """Of every attention format, frame count and compute capability."""
    with TemporaryDirectory(dir="outputs") as folder:
        for attention in ("fp16", "fp8"):
            asked = [(n, cc) for n in COUNTS for cc in CAPABILITIES if (attention, n, cc) not in known]
            path = Path(folder) / f"{attention}.onnx"
            if asked:
                blocks(attention, path)
            for frames, capability in asked:
                config = BuildConfig(frames=(1, frames, frames), compute_capabilities=(capability,))
                engine = path.with_suffix(".engine")
                built = build_engine(read_source(path), engine, config, shown=False)
                facts, report = built.manifest.build, built.report
                yield {
                    "attention": attention,
                    "frames": frames,
                    "capability": capability,
                    "scratch_bytes": facts["activation_bytes"],
                    "weight_bytes": facts["weight_bytes"],
                    "engine_bytes": engine.stat().st_size,
                    "build_seconds": facts["seconds"],
                    "builder": built.manifest.backend_version,
                    "fused": report.fused_attentions,
                    "attentions": report.attentions,
                    "fp8": sum(verdict.passed for verdict in report.quantized_attentions),
                    "kernels": report.kernels,
                    "summary": report.summary,
                    "passed": report.passed,
                }


@torch.no_grad()
def noise() -> Iterator[Row]:
    """dB of the outputs of one head for Gaussian logits and values (with and without a common mean of the values)."""
    for spread in SPREADS:
        for keys in KEYS:
            random = torch.Generator().manual_seed(0)
            q, k, v = (torch.randn(n, WIDTH, generator=random) for n in (QUERIES, keys, keys))
            q = q * spread  # of q k^T over the root of the width
            for mean in (0.0, 1.0):
                exact = outputs(q.double(), k.double(), v.double() + mean)
                row: Row = {"spread": spread, "keys": keys, "mean": mean}
                row["largest"] = float((q @ k.T * WIDTH**-0.5).softmax(-1).amax(-1).median())
                for name, format in NOISY.items():
                    got = outputs(q, k, v + mean, format)
                    row[name] = round(decibels(float(exact.square().sum()), float((got - exact).square().sum())), 2)
                yield row


def outputs(q: Tensor, k: Tensor, v: Tensor, format: AttentionFormat | None = None) -> Tensor:
    """softmax(q k^T / 8) v, on a format's grid where there is one."""
    q, k = q * WIDTH**-0.25, k * WIDTH**-0.25
    if format is not None:
        scales = [format.scale(float(x.abs().max())) for x in (q, k, v)]
        q, k, v = (format.grid.round(x, s) * s for x, s in zip((q, k, v), scales, strict=True))
    weights = (q @ k.T).softmax(-1)
    if format is not None:
        weights = format.grid.round(weights, format.probability_scale) * format.probability_scale
    return weights @ v


def accuracy(known: set[tuple[Any, ...]], models: str, scenes: int, pool: int, folder: Path) -> Iterator[Row]:
    """Of the default recipe with every pair of formats, on the tiny model and its copy with outlier channels."""
    FORMATS.update(TRIED)
    split = scenes_in(folder / "held_out", HELD_OUT_SEED, scenes)
    training = scenes_in(folder / f"calibration_{pool}", CALIBRATION_SEED, pool)
    calibration = [images_of(training, index) for index in range(pool)]
    makers = model_makers("tiny", calibration)
    yardsticks: dict[str, Yardstick] = {}
    for (bits, attention), model in itertools.product((("fp32", "fp16"), *ACCURACY), models.split(",")):
        if (model, bits, attention) in known:
            continue
        if model not in yardsticks:
            yardsticks[model] = Yardstick(makers[model](), split)
        network = makers[model]()
        if bits != "fp32":
            scheme = replace(named_scheme(bits), attention=attention)
            calibrate_(network, scheme, find_recipe("qvggt"), calibration, progress=False)
        yield {"model": model, "linears": bits, "attention": attention, **yardsticks[model].row(network)}


def main(
    parts: Annotated[str, typer.Option(help="Of forms, builds, noise, accuracy.")] = "forms,builds,noise,accuracy",
    models: Annotated[str, typer.Option(help="Of plain, channels.")] = "plain,channels",
    scenes: Annotated[int, typer.Option(min=2)] = 256,
    calibration_scenes: Annotated[int, typer.Option(min=1)] = 32,
    folder: Annotated[Path, typer.Option(help="Of the scenes.")] = Path("outputs/bench_accuracy"),
    output: Annotated[Path, typer.Option("-o", "--output", help="JSON to write.")] = Path("outputs/attention.json"),
) -> None:
    """Run what is asked for and not in the file yet."""
    torch.set_num_threads(1)
    report: Row = json.loads(output.read_text()) if output.is_file() else {}
    report |= {"versions": versions(), "scenes": scenes, "calibration_scenes": calibration_scenes}
    done = report.setdefault("builds", [])
    measured = report.setdefault("accuracy", [])
    built = {(row["attention"], row["frames"], row["capability"]) for row in done}
    scored = {(row["model"], row["linears"], row["attention"]) for row in measured}
    works: dict[str, Callable[[], Iterator[Row]]] = {
        "forms": forms,
        "builds": lambda: builds(built),
        "noise": noise,
        "accuracy": lambda: accuracy(scored, models, scenes, calibration_scenes, folder),
    }
    for part in parts.split(","):
        if part not in works:
            raise QvggtError(f"{part!r}: expected some of {', '.join(works)}")
        rows = report[part] if part in ("builds", "accuracy") else []
        report[part] = rows
        for row in works[part]():
            rows.append(row)
            print(json.dumps(row), flush=True)
            write_json(output, report, told=False)


if __name__ == "__main__":
    start(main)
