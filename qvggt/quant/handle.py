"""A model as Python programs hold it: the network, what it came from, and its scheme once it is quantized."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from qvggt.errors import QvggtError
from qvggt.models.loading import save_model
from qvggt.models.network import Network
from qvggt.quant.checkpoint import Provenance, save_calibrated
from qvggt.quant.model import quantized_convs, quantized_linears
from qvggt.quant.scheme import Scheme


@dataclass(frozen=True)
class Model:
    """What `qvggt.load` and `qvggt.quantize` return.

    network: a torch module in eval mode on the CPU, without gradients. name, sha256: the weights file it came from.
    scheme: None for float weights. provenance: of a quantized model, what goes into its quant.json.
    """

    network: Network
    name: str
    sha256: str
    scheme: Scheme | None = None
    provenance: Provenance = field(default_factory=Provenance)

    @property
    def size(self) -> int:
        """Side in pixels of the square images the model was made for."""
        return self.network.config.img_size

    @property
    def layers(self) -> Mapping[str, Mapping[str, float | None]]:
        """Path of each quantized linear or block -> its error figures; empty for float weights."""
        return self.provenance.layers

    def __repr__(self) -> str:
        config, network = self.network.config, self.network
        values = sum(tensor.numel() for tensor in network.parameters())
        linears = [module for _, module in quantized_linears(network)]
        convs = [module for _, module in quantized_convs(network)]
        values += sum(linear.codes.numel() for linear in linears) + sum(conv.codes.numel() for conv in convs)
        lines = [
            f"Model {self.name} (sha256 {self.sha256[:12]})",
            f"{config.family}, {values / 1e6:.1f} M weights, made for {self.size}x{self.size} pixels, "
            f"heads {', '.join(config.heads)}",
        ]
        if self.scheme is None:
            return "\n  ".join([*lines, "float weights"])
        quantized = f"{len(linears)} linears" + (f" and {len(convs)} convolutions" if convs else "")
        lines.append(f"{self.scheme.label}: {quantized} quantized, parts {', '.join(self.scheme.parts)}")
        about = self.provenance.calibration
        recipe, frames = about.get("recipe"), about.get("frames")
        words = [f"recipe {recipe['name']}"] if isinstance(recipe, Mapping) and "name" in recipe else []
        words += [f"calibrated on {len(frames)} sequences"] if isinstance(frames, Mapping) and frames else []
        return "\n  ".join([*lines, *([", ".join(words)] if words else [])])

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """images float32 [S, 3, H, W], RGB in [0, 1] -> output name -> tensor [1, S, ...] as the network gives it."""
        import torch

        with torch.inference_mode():
            return self.network(images)

    def save(self, path: str | Path, *, replace: bool = False) -> Path:
        """Write it, atomically: float weights to a .safetensors file, a quantized model to a checkpoint directory.

        replace: an existing checkpoint directory may be replaced. Returns `path`. QvggtError when it cannot be written.
        """
        path = Path(path)
        if self.scheme is not None:
            save_calibrated(path, self.network, self.scheme, self.provenance, replace=replace)
        elif path.suffix != ".safetensors":
            raise QvggtError(f"{path}: float weights go into a file, expected a name ending in .safetensors")
        else:
            save_model(self.network, path)
        return path
