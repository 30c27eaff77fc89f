"""Pages of the site that are not in docs/: README.md as its start, CHANGELOG.md, the licence, and pdoc's reference.

A hook of mkdocs (`hooks` in mkdocs.yml): they join the site as files, so that its strict mode checks links to them too.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from tempfile import TemporaryDirectory
from typing import Any

from qvggt.jobs.chain import ROOMS

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}
TEXTS = ("LICENSE", "NOTICE")
SCRIPT = Path(__file__).parent / "site" / "iframe-worker.js"
REFERENCE = "reference"


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=moved((ROOT / source).read_text(encoding="utf-8"))))
    for name in TEXTS:
        files.append(File.generated(config, f"{name}.txt", content=(ROOT / name).read_text(encoding="utf-8")))
    files.append(File.generated(config, f"assets/{SCRIPT.name}", abs_src_path=str(SCRIPT)))
    for path, content in reference().items():
        files.append(File.generated(config, f"{REFERENCE}/{path}", content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    return moved(markdown)


def moved(text: str) -> str:
    """Links as they are on GitHub -> as they are on the site."""
    text = re.sub(r"(\]\(|src=\")docs/", r"\1", text).replace("](../CHANGELOG.md", "](changelog.md")
    text = text.replace("](CHANGELOG.md", "](changelog.md").replace("](../README.md", "](index.md")
    return re.sub(r"\]\((?:\.\./)?(LICENSE|NOTICE)\)", r"](\1.txt)", text)


def reference() -> dict[str, bytes]:
    """pdoc's pages: relative path -> content."""
    import pdoc

    with TemporaryDirectory() as folder:
        pdoc.pdoc(*modules(), output_directory=Path(folder))
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def modules() -> list[str]:
    """Every module by its installed name: pdoc skips what a package with __all__ does not list."""
    rooms = [f"qvggt{room}" for room in ROOMS]
    inside = [walk_packages(import_module(room).__path__, f"{room}.") for room in rooms]
    return [*rooms, *(found.name for room in inside for found in room)]
