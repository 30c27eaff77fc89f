"""torchao: PyTorch's quantization of modules. A file for other runtimes is what torch.onnx.export makes of it."""

from __future__ import annotations

import re
import site
from functools import partial
from typing import Any

from peers.adapter import Peer, Request, Variant


def exported(request: Request, kind: str) -> None:
    """Quantize the linears of the pickled network by one of torchao's configurations, and export it."""
    for folder in request.packages:
        site.addsitedir(folder)
    import torch
    from torchao import quantization

    # a whole module, which bench_peers.py itself pickled a moment ago into a folder of its own
    model: Any = torch.load(request.network, weights_only=False)
    paths = None if request.nodes is None else {re.sub(r"/MatMul(_\d+)?$", "", name) for name in request.nodes}
    quantization.quantize_(
        model,
        getattr(quantization, kind)(),
        filter_fn=lambda module, path: isinstance(module, torch.nn.Linear) and (paths is None or path in paths),
    )
    example = torch.from_numpy(request.arrays()[0][0])
    torch.onnx.export(model.eval(), (example,), request.output, dynamo=True, input_names=[request.input])


PEER = Peer(
    "torchao",
    "torchao",
    "torchao",
    (
        Variant("int8 dynamic", "w8a8", partial(exported, kind="Int8DynamicActivationInt8WeightConfig"), dynamic=True),
        Variant("int4 weights", "w4a16", partial(exported, kind="IntxWeightOnlyConfig")),
    ),
)
