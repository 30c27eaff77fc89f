"""Export: checkpoint -> verified ONNX."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from qvggt.errors import QvggtError
from qvggt.export.precision import check_fused, float_type
from qvggt.formats.attention import SHORTEST
from qvggt.formats.linear_format import LinearFormat
from qvggt.formats.table import DEFAULT, choices, choices_text
from qvggt.jobs.gpus import Capabilities, check_gpus, emulated, runs_on
from qvggt.jobs.job import Doc, Job, Place, Result, Source
from qvggt.jobs.lint import LintResult, lint_file
from qvggt.jobs.options import (
    FAMILY,
    PATCH,
    Backend,
    Block,
    File,
    FrameSeed,
    Offline,
    Overrides,
    Parts,
    Revision,
    Threads,
    TorchDevice,
)
from qvggt.jobs.places import check_file_place, check_folder, check_new_file
from qvggt.jobs.source import check_source, image_size, is_calibrated, load_source, scheme_of
from qvggt.jobs.words import frame_count, frame_profile, sides
from qvggt.mapping import at_least
from qvggt.models.family import FAMILIES, find_family
from qvggt.onnx_view.halves import GROUP, heads_path
from qvggt.progress import Console
from qvggt.quant.scheme import Scheme
from qvggt.target import INT4_BLOCKS, Target

if TYPE_CHECKING:
    import torch

    from qvggt.export.exporter import ExportConfig
    from qvggt.jobs.gate import Parity
    from qvggt.jobs.gate_memory import Fit
    from qvggt.models.network import Network
    from qvggt.quant.handle import Model

LARGE = 100_000_000  # parameters: above, 4 frames take minutes a sequence on a CPU
GATE_SEQUENCES = 48
WORDS = tuple(FAMILY.exportable)


@dataclass(frozen=True)
class ExportResult(Result):
    """The files written and what was proven about them. data: weights beside the graph, of large models. heads: the
    second file of --split-heads. bytes: of all. parity: None when it was not measured."""

    path: Path
    data: Path | None
    bytes: int
    scheme: str
    target: str
    precision: str
    lint: LintResult = field(repr=False)
    parity: Parity | None = None
    heads: Path | None = None

    @property
    def passed(self) -> bool:
        return self.lint.passed and (self.parity is None or self.parity.passed)

    def to_dict(self, folder: Path | None = None) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "data": None if self.data is None else str(self.data),
            "heads": None if self.heads is None else str(self.heads),
            "bytes": self.bytes,
            "scheme": self.scheme,
            "target": self.target,
            "precision": self.precision,
            "passed": self.passed,
            "report": None if self.parity is None else str(self.parity.report),
            "lint": self.lint.to_dict(folder),
            "parity": None if self.parity is None else self.parity.to_dict(),
        }


@dataclass(frozen=True)
class ExportJob(Job[ExportResult]):
    """Write a checkpoint as ONNX, and prove the file.

    The file has standard Q/DQ nodes; the proof is that it computes what the PyTorch fake-quant reference computes.

    The file is linted (qvggt lint). The gate runs ONNX Runtime on the CPU: every part of the file alone, on what the
    reference sees there, to float noise; every output end to end and camera AUC@30 on a set of scenes, within bounds
    (docs/gate.md). Exit code 1 when one of them fails, 2 for a mistake in the call.
    """

    name: ClassVar[str] = "export"
    examples: ClassVar[tuple[str, ...]] = ("qvggt export tiny --bits w4a4 --frames 1:8:32 -o outputs/tiny-w4a4.onnx",)

    model: Annotated[
        Source,
        Doc(
            "tiny, vggt-1b, a .safetensors/.pt file, a folder with one, a Hub id, or a calibrated checkpoint.",
            argument=True,
        ),
    ]
    output: Annotated[Place, Doc("File to write, ending in .onnx.", ("-o", "--output"))]
    _: KW_ONLY
    format: Annotated[
        str | None,
        Doc(
            f"{choices_text()}. [that of a calibrated checkpoint, else {DEFAULT}]",
            ("--bits", "--format"),
            words=choices,
        ),
    ] = None
    act: Annotated[
        Literal["dynamic", "static"] | None,
        Doc("dynamic (one scale per token) or static (per tensor; needs --calib). [dynamic]"),
    ] = None
    frames: Annotated[
        tuple[int, int, int],
        Doc("min:opt:max frame counts for engine builders.", parse=frame_profile, default="1:8:32"),
    ] = (1, 8, 32)
    size: Annotated[
        tuple[int, int] | None,
        Doc(f"HxW in pixels, multiples of {PATCH}. [model's own square]", parse=sides, metavar="HxW"),
    ] = None
    outputs: Annotated[
        tuple[str, ...] | None, Doc(f"Any of {', '.join(WORDS)}. [those the model has]", comma=True, words=WORDS)
    ] = None
    target: Annotated[
        Literal["cpu", "tensorrt"],
        Doc("cpu: row scales inside the products. tensorrt: overflow-safe products, fp16 (docs/storage.md)."),
    ] = "cpu"
    backend: Backend = "rtx"
    compute_capabilities: Capabilities = ()
    storage: Annotated[
        Literal["int4", "int8"] | None,
        Doc("How 4-bit weights of integer products are stored: int4 or int8. [int8 for --backend tensorrt, else int4]"),
    ] = None
    precision: Annotated[
        Literal["fp32", "fp16", "bf16"] | None,
        Doc(
            "Float type of what is not quantized; inputs and outputs stay fp32. "
            "[that of --bits if it is one, else fp32 for cpu and fp16 for tensorrt]"
        ),
    ] = None
    parts: Parts = None
    overrides: Overrides = ()
    block: Block = None
    calib: Annotated[Place | None, Doc("Co3D-format folder whose train split gives --act static its ranges.")] = None
    data: Annotated[Place | None, Doc("Co3D-format folder for the accuracy gate (test split). [generated scenes]")] = (
        None
    )
    fused_attention: Annotated[
        bool, Doc("ONNX Runtime's and OpenVINO's attention operator: less memory, cpu target, fp32.")
    ] = False
    split_heads: Annotated[
        bool,
        Doc(
            f"Dense heads in a second file, OUTPUT.heads.onnx, which runs on {GROUP} frames at a time: memory for many "
            "frames (docs/storage.md)."
        ),
    ] = False
    parity_sequences: Annotated[
        int | None,
        Doc(f"Sequences of the accuracy gate; 0 skips it. [{GATE_SEQUENCES}, or 0 above 100 M parameters]"),
        at_least(0),
    ] = None
    parity_frames: Annotated[
        tuple[Annotated[int, at_least(1)], ...] | None,
        Doc(
            "Frame counts of the end-to-end comparison, comma-separated. [1,2,5,8, as far as memory is free]",
            comma=True,
            parse=frame_count,
        ),
    ] = None
    parity_size: Annotated[
        tuple[int, int] | None,
        Doc(
            "HxW of that comparison: the same network is exported at that size for as long as it takes, and compared "
            "with the file. [the file's own, where two frames fit into memory]",
            parse=sides,
            metavar="HxW",
        ),
    ] = None
    parity: Annotated[bool, Doc("Run the parity gate after writing.", ("--check/--no-check",))] = True
    report: Annotated[Place | None, Doc("Where to write the parity report. [OUTPUT.parity.json]")] = None
    device: TorchDevice = "cpu"
    seed: FrameSeed = 0
    revision: Revision = None
    file: File = None
    offline: Offline = False
    threads: Threads = None

    @property
    def report_path(self) -> Path:
        """Of the parity report."""
        output = Path(self.output)
        return output.with_name(output.name + ".parity.json") if self.report is None else Path(self.report)

    @property
    def made_for(self) -> Target:
        """QvggtError where target and backend contradict each other."""
        return Target.of(self.target, self.backend)

    def scheme(self) -> Scheme:
        """What float weights are rounded to."""
        held = getattr(self.model, "network", None)
        family = FAMILY.name if held is None else held.config.family
        return scheme_of(self.format, self.act, self.parts, self.overrides, family, self.block)

    def check(self) -> None:
        if Path(self.output).suffix != ".onnx":
            raise QvggtError(f"{self.output}: expected a file name ending in .onnx")
        frame_profile(":".join(map(str, self.frames)))
        if self.parity_frames == ():
            frame_count("")
        _check_words(self.outputs)
        _check_blocks(self.scheme(), self.made_for)
        self._check_gpus(self.scheme())
        precision = float_type(self.precision, self.scheme(), self.target)
        if self.fused_attention:
            check_fused(self.target, precision)

    def _check_gpus(self, scheme: Scheme) -> None:
        check_gpus(self.compute_capabilities, scheme, self.made_for, self.made_for.stores_int8(self.storage))

    def prepare(self) -> None:
        check_new_file(Path(self.output), self.overwrite)
        if self.split_heads:
            check_new_file(heads_path(self.output), self.overwrite)
        if self.report is None:
            check_file_place(self.report_path)  # goes with its file
        else:
            check_new_file(self.report_path, self.overwrite)
        check_source(self.model, self.revision)
        for folder in (self.calib, self.data):
            if folder is not None:
                check_folder(Path(folder), "a folder in Co3D format")
        if self.calib is None and not is_calibrated(self.model) and self.scheme().needs_ranges:
            raise QvggtError(
                "--act static and the part dpt need --calib: a Co3D-format folder to observe activation ranges on"
            )

    def execute(self, console: Console) -> ExportResult:
        from qvggt.engines.torch_runner import check_device
        from qvggt.export.exporter import ExportConfig
        from qvggt.quant.attention import floating
        from qvggt.quant.model import settled, short_attentions

        device = check_device(self.device)
        source = load_source(self.model, self.revision, self.offline)
        height, width = image_size(self.size, source.network)
        network, scheme = self._quantized(source, height, width, device, console)
        self._check_gpus(scheme)  # of a calibrated checkpoint, which names its own formats
        heads, able = network.config.heads, find_family(scheme.family).exportable
        outputs = self.outputs or tuple(word for word, head in able.items() if head.name in heads)
        floats = float_type(self.precision, scheme, self.target)
        config = ExportConfig(
            height,
            width,
            outputs,
            self.frames,
            self.made_for,
            floats,
            self.fused_attention,
            self.split_heads,
            storage=self.storage,
        )
        if note := emulated(scheme, self.made_for):
            console.warn(f"note: {note}")
        short = []
        if self.target == "tensorrt":
            short = short_attentions(network, (height, width), self.frames[0])
        if short:
            console.warn(
                f"note: attention stays floating point in {len(short)} blocks (first {short[0]}): at {height}x{width} "
                f"and {self.frames[0]} frames or more their sequences may have fewer than {SHORTEST} tokens, which "
                "TensorRT does not fuse in fp8; larger images or more frames (--frames) have them"
            )
        with floating(network, short):
            return self._proven(source, network, settled(network, scheme), config, device, console)

    def _proven(
        self,
        source: Model,
        network: Network,
        scheme: Scheme,
        config: ExportConfig,
        device: torch.device,
        console: Console,
    ) -> ExportResult:
        """The files, linted and compared with the network."""
        from qvggt.device import placed
        from qvggt.export.exporter import export_onnx
        from qvggt.jobs.gate import Gate, run_gate

        output, (height, width), floats = Path(self.output), (config.height, config.width), config.precision
        fit = self._fit(network, (height, width), console) if self.parity else None
        about = {"name": source.name, "sha256": source.sha256}
        written = export_onnx(network, scheme, config, output, about)
        if self.report is None:
            self.report_path.unlink(missing_ok=True)  # is about the file that was replaced
        files = [output] if written.heads is None else [output, written.heads]
        console.result(
            f"{' and '.join(map(str, files))}: {scheme.label}, target {self.made_for.label}, {floats.value}, "
            f"{height}x{width}, "
            f"{written.bytes / 1e6:.2f} MB"
        )
        if needs := runs_on(scheme, self.made_for):
            console.result(f"runs on GPUs of {needs} (docs/tensorrt.md)")
        lint = lint_file(output, self.made_for, self.compute_capabilities)
        lint.tell(console.warn, console)
        console.result(f"lint: {lint.summary} for {self.made_for.label}")
        parity = None
        if fit is not None:
            large = sum(p.numel() for p in network.state_dict().values()) > LARGE
            sequences = (0 if large else GATE_SEQUENCES) if self.parity_sequences is None else self.parity_sequences
            data = None if self.data is None else Path(self.data)
            report = self.report_path
            gate = Gate(output, report, *fit.size, fit.frames, data, sequences, self.seed, floats)
            with twin(config, output, fit.size) as (smaller, place):
                if smaller is not None:
                    export_onnx(network, scheme, smaller, place, about)
                    gate = replace(gate, twin=place)
                with placed(network, device):
                    parity = run_gate(gate, network, scheme, console)
        else:
            console.result("parity: not measured (--no-check)")
        facts = (written.bytes, scheme.label, self.target, floats.value)
        return ExportResult(output, written.data, *facts, lint, parity, written.heads)

    def _fit(self, network: Network, size: tuple[int, int], console: Console) -> Fit:
        """Frames and size of the gate, found and checked before anything is written."""
        from qvggt.jobs.gate_memory import FRAMES, GateNeeds, fit_gate

        if self.parity_size is not None:
            image_size(self.parity_size, network)
        needs = GateNeeds.of(network, size, self.fused_attention, GROUP if self.split_heads else None)
        fit = fit_gate(needs, network.config.patch_size, self.parity_frames, self.parity_size)
        asked = self.parity_frames is not None or fit.frames == FRAMES
        (console.detail if asked and fit.size == size else console.say)(f"parity: {fit}")
        return fit

    def _quantized(
        self, source: Model, height: int, width: int, device: torch.device, console: Console
    ) -> tuple[Network, Scheme]:
        """The network to write: that of a calibrated model as it is, float weights rounded to nearest."""
        from qvggt.data.reading import read_images
        from qvggt.data.registry import Question
        from qvggt.device import placed
        from qvggt.jobs.rounding import round_to_nearest

        found = source.scheme
        if found is None:
            scheme = self.scheme()
            images = None
            if scheme.needs_ranges:
                assert self.calib is not None  # prepare has seen to that
                question = Question(Path(self.calib), "train", frames=4, max_sequences=16, seed=self.seed)
                images = read_images(question, height, width, console.say)
            ours = source is not self.model or not (scheme.quantizes or scheme.overrides)  # or nothing changes
            with placed(source.network, device):
                network = round_to_nearest(source, scheme, images, seed=self.seed, in_place=ours).network
            return network.cpu(), scheme  # a copy stayed where it was made
        parts = None if self.parts is None else set(self.parts)
        named = self.format if self.block is None else self.scheme().bits
        if (
            named not in (None, found.bits)
            or self.act not in (None, found.activation)
            or parts not in (None, set(found.parts))
            or self.overrides
        ):
            raise QvggtError(
                f"{source.name}: is calibrated as {found.label}; leave out --bits, --act, --parts and --override, "
                "or calibrate anew"
            )
        return source.network, found


def _check_blocks(scheme: Scheme, target: Target) -> None:
    """QvggtError for a weight-only format in blocks that the target does not take."""
    base = scheme.base
    size = base.weight.granularity.size if isinstance(base, LinearFormat) and base.activation is None else None
    if target is Target.TENSORRT_10 and size is not None and all(size % block for block in INT4_BLOCKS):
        raise QvggtError(
            f"blocks of {size}: TensorRT takes INT4 weights in blocks of 64 or 128; give --block 128 or 64, or leave "
            "--backend out for TensorRT-RTX"
        )


@contextmanager
def twin(config: ExportConfig, output: Path, size: tuple[int, int]) -> Iterator[tuple[ExportConfig | None, Path]]:
    """The config of an export at another size, None where it is the file's own, and a place for it until the end."""
    from qvggt.export.storage import staging

    if size == (config.height, config.width):
        yield None, output
        return
    with staging(output) as folder:
        yield replace(config, height=size[0], width=size[1]), folder / output.name


def _check_words(words: tuple[str, ...] | None) -> None:
    """QvggtError unless these are outputs of some family; which, the network says."""
    known = [word for name in FAMILIES for word in find_family(name).exportable]
    if words == ():
        raise QvggtError(f"no output chosen: expected a subset of {', '.join(known)}")
    for word in words or ():
        if word not in known:
            raise QvggtError(f"unknown output {word!r}: expected a subset of {', '.join(known)}")
