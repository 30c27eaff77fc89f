"""The pages of documentation as calls: what stands in for what cannot be had here, and what cannot be run at all."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

NOT_RUN = {  # start of a line, or a part of one behind "...": why it is not run
    "git clone": "needs the network; this is the clone",
    "make setup": "made the environment this test runs in; a fresh clone is tried by hand",
    "PIP_EXTRA_INDEX_URL": "needs PyTorch's own package index",
    "pip install": "needs the network; tests/test_docs.py checks that the extra is there",
    "source ": "the commands are called in the environment that runs the tests",
    "make demo": "is the qvggt deploy of docs/commands.md, which is run",
    "make test": "is this suite",
    "make lint": "is what .ci/run does",
    "make mutation": "hours",
    "make gpu-proof": "needs an NVIDIA GPU; tests/tools/test_gpu_proof.py drives its branches",
    "make docs": "most of a minute; tests/test_docs.py builds the site",
    "QVGGT_GPU_MODEL": "needs an NVIDIA GPU",
    "python tools/": "minutes to hours; tests/tools runs the tools in small",
    "... polygraphy ": "tests/export/test_polygraphy.py runs them",
    "cmake ": "tests/test_examples.py builds it where ONNX Runtime's headers are",
    "convert ": "ImageMagick; tests/test_examples.py writes such images",
    "build/cpp/run_onnx": "tests/test_examples.py runs it",
    "docker ": "no Docker here: the images were built nowhere, and the page says so",
    "sh outputs/trt10-w8a8.plan.trtexec.sh": "needs trtexec; tests/engines/test_trtexec.py runs a stand-in",
    "qvggt demo": "serves until Ctrl-C; tests/cli/test_demo_command.py opens the page",
    "qvggt push": "needs an account; tests/cli/test_share_commands.py pushes to a local Hub",
    "qvggt pull": "needs the network; tests/cli/test_share_commands.py pulls from a local Hub",
    "... .plan --backend tensorrt": "needs the tensorrt wheel and a GPU",
    "... --engine outputs/vggt-w4a8.engine": "needs a GPU to run an engine on",
    "... /usr/share/doc/opencv-doc": "needs Debian's opencv-doc; the same call is run on photographs and on a video",
}
PYTHON_NOT_RUN = {
    "import ray": "needs Ray and a cluster; tests/eval/test_merging.py merges shards",
    "runner.run_device(": "needs an NVIDIA GPU; tests/engines/test_engine_runner.py runs it on a fake one",
}
AS_PRINTED = ("tutorial.md",)  # nothing but names is put in another's place
NAMES = (  # what cannot be had here -> what stands for it
    (r"facebook/VGGT-1B|\bvggt-1b\b", "tiny"),
    (r"/data/co3d_anno", "outputs/scenes/annotations"),
    (r"/data/co3d(?= |$)", "outputs/scenes"),
    (r"--device cuda", "--device cpu"),
    (r" --open\b", ""),
)
SMALLER = (  # the same with less work
    (r"--cc 8\.6,8\.9,12\.0", "--cc 8.9"),
    (r"(eval .*)--(fast|shard) ", r"\1--min-frames 8 --\2 "),
    (r"^qvggt scenes (.*)--train 64 --test 32", r"qvggt scenes \1--train 2 --test 2"),
    (r"^qvggt calibrate (?!.*--recipe)", "qvggt calibrate --recipe quarot "),
    (r"^(qvggt calibrate (?!.*--sequences).*)", r"\1 --sequences 2"),
    (r"--sequences 20", "--sequences 2"),
    (r"--clusters 5", "--clusters 1"),
    (r"--frames (1:8:32|1:4:8)", "--frames 1:2:2"),
    (r"^(qvggt export (?!.*--parity-s).*)", r"\1 --parity-sequences 0"),
    (r"^qvggt export ", "qvggt export --parity-frames 1,2 "),
    (r"^(qvggt eval (?!merge|report)(?!.*--(root|scenes)).*)", r"\1 --scenes 2"),
    (r"--scenes 22", "--scenes 2"),
    (r"^(qvggt eval (?!merge|report)(?!.* --frames ).*)", r"\1 --frames 2"),
    (r"--format w8a8,w4a4 --baselines rtn", "--format w8a8"),
    (r"^qvggt deploy ", "qvggt deploy --recipe quarot --sequences 2 --test-sequences 2 --frames 2 "),
    (r"--max-images 12", "--max-images 3"),
)
REPEATED = {"--shard 1/4 --records part1.jsonl": [f"--shard {n}/4 --records part{n}.jsonl" for n in (1, 2, 3, 4)]}
"""Part of a line -> what it is for each machine that the page speaks of."""

WRITES = ("-o", "--output", "--json", "--html", "--records", "--store", "--triton", "--save-config")


@dataclass(frozen=True)
class Block:
    """page: its name. language: as the fence says. text: inside the fence."""

    page: str
    language: str
    text: str

    def lines(self) -> list[str]:
        """Command lines, continued ones joined, without comments."""
        joined = self.text.replace("\\\n", " ").splitlines()
        return [line for line in (shlex.join(shlex.split(line, comments=True)) for line in joined) if line]


def blocks(page: Path) -> list[Block]:
    found = re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    return [Block(page.name, *one) for one in found]


BLOCKS = [block for page in PAGES for block in blocks(page)]
CALLS = [(b.page, line) for b in BLOCKS if b.language == "bash" for line in b.lines() if line.startswith("qvggt")]


def reason(text: str, table: dict[str, str] = NOT_RUN) -> str | None:
    """Why a line is not run; None for one that is."""
    return next((why for key, why in table.items() if matches(key, text)), None)


def matches(key: str, text: str) -> bool:
    return key[4:] in text if key.startswith("... ") else text.startswith(key)


def stand_ins(line: str, page: str = "") -> list[str]:
    """What is run for a line of a page: with stand-ins, and, but for AS_PRINTED, with less work."""
    for pattern, put in (*NAMES, *(() if page in AS_PRINTED else SMALLER)):
        line = re.sub(pattern, put, line)
    for part, each in REPEATED.items():
        if part in line:
            return [line.replace(part, one) for one in each]
    return [line]


def written(line: str) -> list[str]:
    """Paths a call writes to; a plan writes nothing."""
    words = shlex.split(line)
    if "--plan" in words:
        return []
    return [path for word, path in pairwise(words) if word in WRITES and path != "-"]


def written_by_python(code: str) -> list[str]:
    """Paths that a Python block names where it writes."""
    return re.findall(r"""(?:\.(?:save|page)\(|export_onnx\(\w+, |path=)"([^"]+)\"""", code)
