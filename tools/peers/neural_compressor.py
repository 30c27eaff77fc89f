"""Intel Neural Compressor. From 3.0 on it has no quantizer for ONNX files; where an older one is installed, it runs."""

from __future__ import annotations

from functools import partial
from typing import Any

from peers.adapter import Peer, Request, Variant


def post_training(request: Request, approach: str) -> None:
    from neural_compressor import PostTrainingQuantConfig, quantization

    arrays = request.arrays()

    class Loader:
        batch_size = 1

        def __iter__(self) -> Any:
            return (({request.input: array}, 0) for array in arrays)

    left = {name: {"weight": {"dtype": ["fp32"]}, "activation": {"dtype": ["fp32"]}} for name in request.others}
    config = PostTrainingQuantConfig(approach=approach, op_name_dict=left if request.nodes is not None else None)
    quantization.fit(request.model, config, calib_dataloader=Loader()).save(request.output)


PEER = Peer(
    "neural-compressor",
    "neural_compressor",
    "neural-compressor",
    (
        Variant("static", "w8a8", partial(post_training, approach="static")),
        Variant("dynamic", "w8a8", partial(post_training, approach="dynamic"), dynamic=True),
    ),
)
