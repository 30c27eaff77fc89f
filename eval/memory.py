"""Peak memory of a candidate, in a process that opens it alone: in one process candidates share arenas."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qvggt.errors import QvggtError

PROBE = "qvggt.eval.memory_probe"


@dataclass(frozen=True)
class Memory:
    """Bytes. peak_rss: most resident memory of the process; rss_before: with libraries loaded, before it opened the
    candidate; device: in use on the GPU after the run beyond what was before (None on the CPU)."""

    peak_rss: int
    rss_before: int
    device: int | None


def measure_memory(source: str, options: Mapping[str, Any], frames: int, height: int, width: int) -> Memory:
    """Open `source` as `engines.opening.open_runner(source, **options)` does, run `frames` grey images twice, report.

    QvggtError when the process fails.
    """
    request = {"source": source, "options": dict(options), "shape": [frames, 3, height, width]}
    done = subprocess.run(
        [sys.executable, "-m", PROBE], input=json.dumps(request), capture_output=True, text=True, check=False
    )
    try:
        return Memory(**json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, ValueError, TypeError) as error:
        raise QvggtError(
            f"{source}: peak memory was not measured, its process ended with code {done.returncode}: "
            f"{(done.stderr.strip().splitlines() or ['no message'])[-1][:200]}"
        ) from error
