"""ONNX Runtime's own quantizer: static and dynamic 8 bits, 4-bit weights."""

from __future__ import annotations

from functools import partial

from peers.adapter import Peer, Request, Variant, reader


def static(request: Request) -> None:
    from onnxruntime.quantization import QuantFormat, quantize_static

    nodes = None if request.nodes is None else list(request.nodes)
    quantize_static(
        request.model, request.output, reader(request), quant_format=QuantFormat.QDQ, per_channel=True,
        nodes_to_quantize=nodes,
    )  # fmt: skip


def dynamic(request: Request) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    nodes = None if request.nodes is None else list(request.nodes)
    quantize_dynamic(
        request.model, request.output, per_channel=True, weight_type=QuantType.QInt8, nodes_to_quantize=nodes
    )


def nbits(request: Request, block: int, level: int | None) -> None:
    """level: `accuracy_level` of the operator, 4 computes in 8-bit integers."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    model = onnx.load(request.model)
    excluded = None if request.nodes is None else list(request.others)
    made = MatMulNBitsQuantizer(
        model, block_size=block, is_symmetric=True, accuracy_level=level, nodes_to_exclude=excluded
    )
    made.process()
    made.model.save_model_to_file(request.output)


PEER = Peer(
    "onnxruntime",
    "onnxruntime",
    "onnxruntime",
    (
        Variant("static", "w8a8", static),
        Variant("dynamic", "w8a8", dynamic, dynamic=True),
        Variant("MatMulNBits 32", "w4a16", partial(nbits, block=32, level=None)),
        Variant("MatMulNBits 32, level 4", "w4a16", partial(nbits, block=32, level=4)),
    ),
)
