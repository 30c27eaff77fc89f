"""Run by a peer's own interpreter: `python -m peers.worker PEER VARIANT REQUEST.json` with tools/ in
PYTHONPATH writes what the request asks for.

The last line it prints is JSON: seconds and the versions used, or the error. It needs nothing of qvggt.
"""

from __future__ import annotations

import json
import sys
import time
from importlib import import_module, metadata

from peers.adapter import Peer, Request


def main(peer_module: str, variant_name: str, request_path: str) -> int:
    with open(request_path, encoding="utf-8") as file:
        fields = json.load(file)
    fields |= {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
    peer: Peer = import_module(f"peers.{peer_module}").PEER
    variant = next(v for v in peer.variants if v.name == variant_name)
    began, error = time.perf_counter(), None
    try:
        variant.quantize(Request(**fields))
    except Exception as caught:  # a tool's own classes; its error is a result
        lines = [line for line in str(caught).splitlines() if line.strip()] or [""]
        error = f"{type(caught).__name__}: {lines[0]}"[:300]
    versions = {}
    for package in (peer.package, "onnxruntime", "onnxruntime-gpu", "openvino", "torch"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    print(json.dumps({"seconds": time.perf_counter() - began, "error": error, "versions": versions}))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
