"""Type-check the package as it installs: export/, engines/, calib/ and eval/ are qvggt.* (see pyproject.toml).

mypy cannot follow setuptools' package-dir, so a folder of links with the installed layout is staged under build/.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAGE = ROOT / "build" / "typecheck"
ROOMS = ("export", "engines", "calib", "eval")


def stage() -> None:
    """(Re)make the links; stale ones of removed modules go away."""
    package = STAGE / "qvggt"
    package.mkdir(parents=True, exist_ok=True)
    for link in package.iterdir():
        link.unlink()
    for source in (ROOT / "qvggt").iterdir():
        if source.name != "__pycache__":
            (package / source.name).symlink_to(source)
    for room in ROOMS:
        (package / room).symlink_to(ROOT / room)


def main() -> int:
    stage()
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "-p", "qvggt"]
    environment = {**os.environ, "MYPYPATH": str(STAGE)}
    return subprocess.run(command, cwd=STAGE, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
