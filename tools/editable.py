"""Put the editable install of qvggt before folders of that name: run by `make setup` in the new environment.

setuptools' finder for editable installs comes last, so in a folder that holds the clone, `import qvggt` would find the
clone's own folder as a namespace package without content. A .pth file, which Python reads at start-up, moves the
finder to the front. A wheel needs none of this: a package wins over a namespace.
"""

from __future__ import annotations

import argparse
import sysconfig
from pathlib import Path

NAME = "qvggt_editable_first.pth"  # read after setuptools' own, which begins with an underscore
LINE = (
    "import sys; sys.meta_path.sort(key=lambda f: not getattr(f, '__module__', '').startswith('__editable___qvggt'))\n"
)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    path = Path(sysconfig.get_path("purelib")) / NAME
    path.write_text(LINE, encoding="utf-8")


if __name__ == "__main__":
    main()
