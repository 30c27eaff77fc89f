"""NNCF: Intel's quantizer for OpenVINO."""

from __future__ import annotations

from functools import partial
from typing import Any

from peers.adapter import EVERYTHING, LINEARS, Peer, Request, Variant


def static(request: Request, transformer: bool) -> None:
    import nncf
    import openvino

    arrays = request.arrays()
    options: dict[str, Any] = {"model_type": nncf.ModelType.TRANSFORMER} if transformer else {}
    if request.nodes is not None:
        options["ignored_scope"] = nncf.IgnoredScope(names=list(request.others), validate=False)
    data = nncf.Dataset([{request.input: array} for array in arrays])
    made = nncf.quantize(openvino.Core().read_model(request.model), data, subset_size=len(arrays), **options)
    openvino.save_model(made, request.output, compress_to_fp16=False)


def weights(request: Request) -> None:
    import nncf
    import openvino

    options: dict[str, Any] = {}
    if request.nodes is not None:
        options["ignored_scope"] = nncf.IgnoredScope(names=list(request.others), validate=False)
    made = nncf.compress_weights(
        openvino.Core().read_model(request.model), mode=nncf.CompressWeightsMode.INT4_SYM, group_size=32, ratio=1.0,
        all_layers=True, **options,
    )  # fmt: skip
    openvino.save_model(made, request.output, compress_to_fp16=False)


BOTH = (LINEARS, EVERYTHING)
PEER = Peer(
    "nncf",
    "nncf",
    "nncf",
    (
        Variant("default", "w8a8", partial(static, transformer=False), runtime="openvino", scopes=BOTH),
        Variant("transformer", "w8a8", partial(static, transformer=True), runtime="openvino", scopes=BOTH),
        Variant("weights 32", "w4a16", weights, runtime="openvino", scopes=BOTH),
    ),
)
