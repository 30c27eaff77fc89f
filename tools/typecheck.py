"""Type-check the package as it installs (export/, engines/, calib/ and eval/ are qvggt.*), and the tools beside it.

mypy cannot follow setuptools' package-dir, so a folder of links with the installed layout is staged under build/.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAGE = ROOT / "build" / "typecheck"
TOOLS = ROOT / "tools"
HELPERS = (TOOLS, ROOT / "tests" / "robustness")  # what tools import by bare names
ROOMS = ("export", "engines", "calib", "eval")


def stage() -> None:
    """Bring the links up to date; only what changed is touched, so two runs at a time do not disturb each other."""
    package = STAGE / "qvggt"
    package.mkdir(parents=True, exist_ok=True)
    wanted = {source.name: source for source in (ROOT / "qvggt").iterdir() if source.name != "__pycache__"}
    wanted |= {room: ROOT / room for room in ROOMS}
    for link in package.iterdir():
        if wanted.get(link.name) != link.resolve():
            link.unlink()
    for name, source in wanted.items():
        if not (package / name).is_symlink():
            (package / name).symlink_to(source)


def tool_modules() -> list[str]:
    """mypy arguments that name every script and package of tools/."""
    scripts = sorted(path.stem for path in TOOLS.glob("*.py"))
    packages = sorted(path.parent.name for path in TOOLS.glob("*/__init__.py"))
    return [part for name in scripts for part in ("-m", name)] + [part for name in packages for part in ("-p", name)]


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()
    stage()
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "-p", "qvggt"]
    environment = {**os.environ, "MYPYPATH": os.pathsep.join(map(str, (STAGE, *HELPERS)))}
    return subprocess.run([*command, *tool_modules()], cwd=STAGE, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
