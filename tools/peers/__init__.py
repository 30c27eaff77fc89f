"""Other quantization tools, one file each: what `tools/bench_peers.py` puts beside ours.

A file is imported by our interpreter for its `PEER`, and by the tool's own, through `peers.worker`, to run it.
So nothing here imports qvggt, and the tools are imported inside functions.
"""
