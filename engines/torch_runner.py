"""PyTorch runner: float models, and the fake-quant reference of a calibrated checkpoint."""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from qvggt.engines.registry import RunnerOptions
from qvggt.engines.runner import Array, ModelFile, NetworkSizes, Runner, versions
from qvggt.errors import QvggtError
from qvggt.hub.loading import load_model
from qvggt.hub.names import find_weights
from qvggt.models.dpt import FRAMES_PER_CHUNK
from qvggt.models.family import check_size, family_of
from qvggt.models.network import Network
from qvggt.quant.checkpoint import DESCRIPTION, WEIGHTS, is_calibrated, load_calibrated
from qvggt.quant.handle import Model
from qvggt.quant.scheme import Scheme

if TYPE_CHECKING:
    from qvggt.engines.registry import Source

DTYPES = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}


class TorchRunner(Runner):
    """Runs a network on `device`. float_type "fp16" or "bf16": the aggregator under autocast, as VGGT's users run it;
    the heads stay fp32.

    scheme: that of a fake-quant model, None for a float one. files: where the weights came from, for `describe`.
    """

    held = ("model",)

    def __init__(
        self,
        model: Network,
        label: str,
        float_type: str = "fp32",
        *,
        scheme: Scheme | None = None,
        files: tuple[ModelFile, ...] = (),
        device: str = "cpu",
    ) -> None:
        if float_type not in DTYPES:
            raise QvggtError(f"float type: expected one of {', '.join(DTYPES)}, got {float_type!r}")
        self.label, self.float_type, self.scheme, self.files = label, float_type, scheme, files
        self.device = str(check_device(device))
        self.model: Network | None = model.eval().to(self.device)
        self.native_size = model.config.img_size
        family = family_of(model)
        self.outputs, self.trunk = family.outputs(model.config), family.trunk

    @property
    def precision(self) -> str:
        """In words."""
        if self.scheme is not None and self.scheme.quantizes:
            return f"fake quant in {self.float_type}"
        return "float, fp32" if self.float_type == "fp32" else f"float, {self.float_type} {self.trunk}, fp32 heads"

    @property
    def scheme_label(self) -> str:
        return self.float_type if self.scheme is None else self.scheme.label

    def _run(self, images: Array) -> dict[str, Array]:
        outputs = self.compute(images)
        return {name: outputs[name] for name in self.outputs}

    def compute(self, images: Array, *more: Array) -> dict[str, Array]:
        """What the network makes of images [S, 3, H, W] and what else it takes, by name, with their leading [1, S]."""
        assert self.model is not None
        check_size(images.shape[2], images.shape[3], self.model.config.patch_size)
        dtype = DTYPES[self.float_type]
        autocast = (
            contextlib.nullcontext() if dtype is None else torch.autocast(torch.device(self.device).type, dtype=dtype)
        )
        with torch.inference_mode(), autocast:
            tensors = (torch.from_numpy(np.ascontiguousarray(values)).to(self.device) for values in (images, *more))
            return {name: value.float().cpu().numpy() for name, value in self.model(*tensors).items()}

    def network_sizes(self) -> NetworkSizes | None:
        if self.model is None:
            return None
        return NetworkSizes(family_of(self.model).memory(self.model.config), True, FRAMES_PER_CHUNK)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "pytorch" if self.scheme is None else "pytorch fake quant",
            **self._facts(),
            "float_type": self.float_type,
            "precision": self.precision,
            "providers": [self.device],
            "versions": versions(torch=torch.__version__),
        }


def check_device(device: str) -> torch.device:
    """A device this machine has; QvggtError otherwise."""
    try:
        parsed = torch.device(device)
    except RuntimeError as error:
        raise QvggtError(f"device {device!r}: expected cpu, cuda or cuda:N") from error
    if parsed.type not in ("cpu", "cuda"):
        raise QvggtError(f"device {device!r}: expected cpu, cuda or cuda:N")
    if parsed.type == "cuda" and (parsed.index or 0) >= torch.cuda.device_count():
        raise QvggtError(f"device {device!r}: PyTorch sees {torch.cuda.device_count()} CUDA devices; use cpu")
    return parsed


def usual_type(device: str) -> str:
    """What float weights are run in unless asked otherwise: fp32 on the CPU; on a GPU, as VGGT's own scripts do, bf16
    where it has instructions for it (compute capability 8 and later), else fp16."""
    on = check_device(device)
    if on.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.get_device_capability(on) >= (8, 0) else "fp16"


def open_torch(source: Source, options: RunnerOptions) -> TorchRunner:
    """As `open_runner` has it."""
    if not isinstance(source, str | Path):
        if options.revision is not None:
            raise QvggtError(f"{source.name}: is in memory, which has no revision; leave it out")
        return of_model(source, float_type=options.precision, device=options.device or "cpu")
    hub: dict[str, Any] = {"revision": options.revision, "offline": options.offline}
    return open_model(source, float_type=options.precision, device=options.device or "cpu", **hub)


def of_model(model: Model, *, float_type: str | None = None, device: str = "cpu") -> TorchRunner:
    """A runner for a model in memory, without files to tell of; on another device than the CPU it runs a copy."""
    scheme = model.scheme
    if scheme is not None and float_type is not None:
        raise QvggtError(f"{model.name}: is quantized, which takes no {float_type!r}; leave it out")
    network = model.network if check_device(device).type == "cpu" else copy.deepcopy(model.network)
    name = Path(model.name).name if Path(model.name).exists() else model.name
    return TorchRunner(
        network, *named(name, network, scheme, float_type or usual_type(device)), scheme=scheme, device=device
    )


def named(name: str, network: Network, scheme: Scheme | None, float_type: str) -> tuple[str, str]:
    """Label and float type, which is the scheme's where there is one."""
    if scheme is None:
        words = "fp32" if float_type == "fp32" else f"float ({float_type} {family_of(network).trunk})"
        return f"torch {words} {name}", float_type
    return f"{'fake-quant' if scheme.quantizes else 'torch'} {scheme.label} {name}", scheme.float_type


def open_model(
    source: str | Path,
    *,
    float_type: str | None = None,
    device: str = "cpu",
    revision: str | None = None,
    offline: bool = False,
) -> TorchRunner:
    """A runner for "tiny", "vggt-1b", a weights file, a Hub id, or a calibrated checkpoint directory.

    The track head is left out: no output of it is evaluated. float_type (default: `usual_type` of the device) is for
    float weights; a calibrated checkpoint has its scheme's. QvggtError as `load_model` and `load_calibrated` raise it.
    """
    usual = usual_type(device)
    name = Path(source).name if Path(source).exists() else str(source)
    if is_calibrated(source):
        if (given := revision or float_type) is not None:
            raise QvggtError(f"{source}: is a calibrated checkpoint, which takes no {given!r}; leave it out")
        loaded = load_calibrated(source)
        scheme, folder = loaded.scheme, Path(source)
        weights = ModelFile(str(folder / WEIGHTS), loaded.sha256, (folder / WEIGHTS).stat().st_size)
        files = weights, ModelFile.of(folder / DESCRIPTION)
        return TorchRunner(
            loaded.model, *named(name, loaded.model, scheme, usual), scheme=scheme, files=files, device=device
        )
    path = find_weights(source, revision=revision, offline=offline)
    model = load_model(path, heads="predicting")
    return TorchRunner(
        model, *named(name, model, None, float_type or usual), files=(ModelFile.of(path),), device=device
    )
