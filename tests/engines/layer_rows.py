"""Lines in the form of the builder's layer table."""

from __future__ import annotations

from collections.abc import Sequence


def operand(name: str, dims: Sequence[int], dtype: str = "Float") -> str:
    shape = ",".join(map(str, dims))
    text = f"Name: {name}, Dimensions: [{shape}], Strides: [1], StrideOrder: [0], Datatype: {dtype}, Format: (Linear)"
    return f"{{ {text} }}"


def gemm(
    path: str,
    inputs: Sequence[str],
    constants: Sequence[str],
    outputs: Sequence[str] = (),
    kind: str = "gemm",
    metadata: str | None = None,
) -> str:
    """A row of the product of `path`; metadata by default names its MatMul and its DequantizeLinear."""
    if metadata is None:
        metadata = f"[ONNX Layer: {path}/MatMul][ONNX Layer: {path}/DequantizeLinear]"
    lists = (
        f"{word}: [{', '.join(v)}]" for word, v in (("Inputs", inputs), ("Constants", constants), ("Outputs", outputs))
    )
    name = f"{path}/MatMul_U1_myl0_4"
    return f"Name: {name}, LayerType: {kind}, {', '.join(lists)}, TacticName: __stub, StreamId: 0, Metadata: {metadata}"
