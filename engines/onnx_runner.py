"""ONNX Runtime behind the Runner interface."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from qvggt.engines.external_data import check_external_data
from qvggt.engines.runner import Predictions, Runner
from qvggt.errors import QvggtError
from qvggt.files import file_sha256
from qvggt.quant.scheme import Scheme

INPUT = "images"


class OnnxRunner(Runner):
    """An exported file under ONNX Runtime.

    QvggtError when the file is missing, damaged, reaches outside its folder, or does not have the interface
    `images` [1, frames, 3, H, W] float32.
    """

    def __init__(
        self,
        path: str | Path,
        providers: tuple[str, ...] = ("CPUExecutionProvider",),
        threads: int | None = None,
        label: str | None = None,
    ) -> None:
        ort = _onnxruntime()
        self.path = Path(path)
        self.label = label or self.path.stem
        model, self.data = check_external_data(self.path)
        self.metadata = {p.key: p.value for p in model.metadata_props}
        missing = [p for p in providers if p not in ort.get_available_providers()]
        if missing:
            available = ", ".join(ort.get_available_providers())
            raise QvggtError(f"ONNX Runtime has no {missing[0]} here (has {available}); pip install 'qvggt[gpu]'")
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        # AVX2 kernels without VNNI would saturate 16-bit sums of 8-bit products
        options.add_session_config_entry("session.x64quantprecision", "1")
        # fused 4-bit weight-only products would otherwise round activations to 8 bits on the way
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        try:
            self.session = ort.InferenceSession(str(self.path), options, providers=list(providers))
        except Exception as error:
            first = str(error).strip().splitlines()[0]
            raise QvggtError(f"{self.path}: ONNX Runtime refuses it: {first}") from error
        inputs = {i.name: i for i in self.session.get_inputs()}
        shape = inputs[INPUT].shape if INPUT in inputs else []
        if list(inputs) != [INPUT] or len(shape) != 5 or shape[0] != 1 or shape[2] != 3:
            found = {name: list(i.shape) for name, i in inputs.items()}
            raise QvggtError(f"{self.path}: expected one input images [1, frames, 3, H, W], got {found}")
        if not all(isinstance(side, int) for side in shape[3:]):
            raise QvggtError(f"{self.path}: expected a fixed image size, got {shape[3:]}; export with qvggt-export")
        self.size = (shape[3], shape[4])
        self.outputs = [o.name for o in self.session.get_outputs()]
        unknown = sorted(set(self.outputs) - set(Predictions.__dataclass_fields__))
        if unknown:
            raise QvggtError(f"{self.path}: unknown output {unknown[0]!r}; expected a model written by qvggt-export")

    @property
    def scheme(self) -> Scheme | None:
        """The scheme in the file's metadata, None if it carries none."""
        text = self.metadata.get("qvggt.scheme")
        return None if text is None else Scheme.from_json(text)

    def __call__(self, images: Tensor) -> Predictions:
        self.check(images)
        return Predictions.from_outputs(self.run(images.numpy()))

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """images float32 [S, 3, H, W] -> the file's outputs by name, with their batch axis."""
        return dict(zip(self.outputs, self.session.run(None, {INPUT: images[None]}), strict=True))

    def describe(self) -> dict[str, Any]:
        files = [self.path, *self.data]
        scheme = self.scheme
        return {
            "kind": "onnxruntime",
            "label": self.label,
            "file": str(self.path),
            "sha256": file_sha256(self.path),
            "data": {str(p): file_sha256(p) for p in self.data},
            "bytes": sum(p.stat().st_size for p in files),
            "scheme": None if scheme is None else scheme.to_dict(),
            "source": json.loads(self.metadata.get("qvggt.source", "null")),
            "providers": self.session.get_providers(),
            "versions": {"onnxruntime": _onnxruntime().__version__},
        }

    def close(self) -> None:
        del self.session


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise QvggtError("ONNX Runtime is not installed; pip install onnxruntime (or 'qvggt[gpu]')") from error
    return onnxruntime
