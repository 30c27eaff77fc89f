"""The process `memory.measure_memory` starts: request as JSON on standard input, figures as JSON on standard output."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def peak_rss() -> int:
    """Most resident memory of this process so far, bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux ru_maxrss counts the process this one was forked from
        for text in status.read_text().splitlines():
            if text.startswith("VmHWM:"):
                return int(text.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes on Linux


def device_in_use() -> int | None:
    """Bytes in use on the first GPU, by whichever process; None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    return int(total - free)


def main() -> None:
    import numpy as np
    import torch

    from qvggt.engines.opening import open_runner
    from qvggt.engines.registry import kinds_of

    request = json.load(sys.stdin)
    if request["options"].get("threads") is not None:
        torch.set_num_threads(request["options"]["threads"])
    source, options = request["source"], request["options"]
    device = options.get("device") or kinds_of(source)[0].device
    images = np.full(request["shape"], 0.5, np.float32)
    used = device_in_use() if device.startswith("cuda") else None
    before = peak_rss()
    with open_runner(source, **request["options"]) as runner:
        for _ in range(2):  # arenas grow on the first pass
            runner(images)
        after = device_in_use() if device.startswith("cuda") else None
    grown = None if used is None or after is None else after - used
    print(json.dumps({"peak_rss": peak_rss(), "rss_before": before, "device": grown}))


if __name__ == "__main__":
    main()
