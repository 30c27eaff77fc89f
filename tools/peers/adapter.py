"""What a peer is: a tool in an interpreter of its own that turns a float ONNX file and arrays into a quantized file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LINEARS, EVERYTHING = "linears", "everything"


@dataclass(frozen=True)
class Request:
    """model: the float ONNX file. calibration: .npz of arrays for its input, one a sequence. output: file to write.
    nodes: names of the MatMuls to quantize; None for what the tool does by default. others: names of its other MatMuls,
    Gemms and convolutions, for tools that take a list of what to leave alone. network: the same float model pickled,
    and packages: folders from which its classes are imported, for tools that work on modules."""

    model: str
    calibration: str
    output: str
    input: str
    nodes: tuple[str, ...] | None = None
    others: tuple[str, ...] = ()
    network: str = ""
    packages: tuple[str, ...] = ()

    def arrays(self) -> list[Any]:
        import numpy as np

        with np.load(self.calibration) as stored:
            return [stored[name] for name in stored]


@dataclass(frozen=True)
class Variant:
    """One way to use a tool. bits: as ours are called, for the comparison with ours of the same; dynamic: ranges at run
    time. runtime: that the file is for, onnxruntime or openvino. scopes: those the tool can do."""

    name: str
    bits: str
    quantize: Callable[[Request], None]
    dynamic: bool = False
    runtime: str = "onnxruntime"
    scopes: tuple[str, ...] = (LINEARS, EVERYTHING)

    @property
    def suffix(self) -> str:
        return ".xml" if self.runtime == "openvino" else ".onnx"


@dataclass(frozen=True)
class Peer:
    """module: whose presence tells that the tool is installed. package: its name on PyPI."""

    name: str
    module: str
    package: str
    variants: tuple[Variant, ...]


def reader(request: Request) -> Any:
    """The calibration arrays as ONNX Runtime's quantizer and those built on it read them."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rewind()

        def get_next(self) -> dict[str, Any] | None:
            return next(self.feeds, None)

        def rewind(self) -> None:
            self.feeds = iter([{request.input: array} for array in request.arrays()])

    return Reader()
