"""AMD Quark's ONNX quantizer."""

from __future__ import annotations

from functools import partial

from peers.adapter import Peer, Request, Variant, reader


def named(request: Request, name: str) -> None:
    """One of Quark's configurations by name, nothing changed but what is left alone."""
    from quark.onnx import ModelQuantizer
    from quark.onnx.quantization.config import Config, get_default_config

    config = get_default_config(name)
    if request.nodes is not None:
        config.nodes_to_exclude = list(request.others)
    ModelQuantizer(Config(global_quant_config=config)).quantize_model(request.model, request.output, reader(request))


PEER = Peer(
    "quark",
    "quark",
    "amd-quark",
    (
        Variant("INT8_TRANSFORMER_DEFAULT", "w8a8", partial(named, name="INT8_TRANSFORMER_DEFAULT")),
        Variant("INT8_TRANSFORMER_ACCURATE", "w8a8", partial(named, name="INT8_TRANSFORMER_ACCURATE")),
    ),
)
