"""Short names of candidates, for columns and dots; the legend of the page has the full ones."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath

from qvggt.eval.html.document import Candidate
from qvggt.eval.html.text import plain

LONGEST = 15
PARTS = re.compile(r"(?<=\w)([+@])")  # what follows in a scheme are names of parts
RUNTIMES = {
    "pytorch": "PyTorch",
    "pytorch fake quant": "PyTorch",
    "onnxruntime": "ORT",
    "openvino": "OpenVINO",
    "tensorrt": "TensorRT",
    "trtexec": "TensorRT",
    "rtx": "TRT-RTX",
}


def short_names(candidates: Sequence[Candidate]) -> list[str]:
    """Format and runtime, such as "w4a4 ORT"; numbered where several would be called the same."""
    names = [_short(candidate) for candidate in candidates]
    counts, seen = Counter(names), Counter[str]()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(f"{name} {seen[name]}" if counts[name] > 1 else name)
    return unique


def _short(candidate: Candidate) -> str:
    """The file's name stands for a format nobody knows, the label for a candidate that tells nothing."""
    scheme = (candidate.scheme or "").replace("-dynamic", "")
    if not scheme or scheme.startswith("unknown"):
        scheme = PurePath(candidate.file).stem if candidate.file else candidate.label
    usual, more, _ = PARTS.split(scheme, 1) if PARTS.search(scheme) else (scheme, "", "")
    runtime = RUNTIMES.get(candidate.kind or "", candidate.kind or "")
    return f"{plain(usual, LONGEST)}{more} {plain(runtime, LONGEST)}".strip()
