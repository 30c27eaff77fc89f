"""Calibrated checkpoints and exported ONNX files, to the Hugging Face Hub and back.

Only names on an allow list travel, in either direction: nothing that is pickled, nothing outside the folder. A pulled
checkpoint is loaded by the rules of `load_calibrated` before it gets its final name.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvggt.errors import QvggtError
from qvggt.files import atomic_directory
from qvggt.hub.card import CardFacts, Kind, model_card
from qvggt.hub.client import Commit, commit, fetch, look_up, offline_by_environment
from qvggt.hub.names import check_repository
from qvggt.quant.checkpoint import DESCRIPTION, WEIGHTS, load_calibrated

CARD = "README.md"
CHECKPOINT_FILES = (DESCRIPTION, WEIGHTS)
ONNX_FILE = re.compile(r"[\w-][\w.-]*\.onnx(\.data|\.parity\.json)?", re.ASCII)
HUB_OWN = (".gitattributes", CARD)  # the Hub's, and ours to overwrite


@dataclass(frozen=True)
class Bundle:
    """Files to push, and the card that goes with them."""

    facts: CardFacts
    files: Mapping[str, Path]


@dataclass(frozen=True)
class Pushed:
    """What a push did: the commit, and the names that are in the repository now."""

    repository: str
    commit: Commit
    files: tuple[str, ...]


@dataclass(frozen=True)
class Pulled:
    """What a pull wrote: where, and the commit it is (40 hex digits)."""

    folder: Path
    commit: str
    kind: Kind
    files: tuple[str, ...]


def checkpoint_bundle(
    folder: str | Path, repository: str, *, metrics: Mapping[str, Any] | None = None, licence: str | None = None
) -> Bundle:
    """The files of a calibrated checkpoint, loaded once to prove that it is whole."""
    folder = Path(folder)
    loaded = load_calibrated(folder)
    files = {name: folder / name for name in CHECKPOINT_FILES}
    sizes = {name: path.stat().st_size for name, path in files.items()}
    facts = CardFacts(
        "checkpoint", repository, WEIGHTS, loaded.sha256, sizes, loaded.scheme, loaded.provenance, metrics, licence
    )
    return Bundle(facts, files)


def push(bundle: Bundle, *, public: bool = False, branch: str | None = None, replace: bool = False) -> Pushed:
    """Upload in one commit; the repository is made when it is not there. Uses the network.

    A new repository is private unless it is to be `public`, and one that is public is written to with that alone. An
    existing repository is only written to when it holds nothing but files of such a bundle, or with `replace`, which
    deletes nothing of other people's files either: only names a bundle may have are replaced or removed.
    """
    repository = bundle.facts.repository
    check_repository(repository)
    if offline_by_environment():
        raise QvggtError(f"{repository}: HF_HUB_OFFLINE is set, but a push needs the network; unset it")
    card = model_card(bundle.facts).encode()
    state = look_up(repository, missing_ok=True)
    held = () if state is None else state.files
    if state is not None and not (state.private or public):
        raise QvggtError(f"{repository}: is public; add --public to publish there, or choose another repository")
    foreign = [name for name in held if name not in HUB_OWN and not _ours(name)]
    if foreign and not replace:
        raise QvggtError(
            f"{repository}: holds other files ({', '.join(foreign[:3])}); choose another repository, or --overwrite"
        )
    stale = [name for name in held if _ours(name) and name not in bundle.files]
    made = commit(
        repository,
        {**bundle.files, CARD: card},
        f"{bundle.facts.model} {bundle.facts.sha256[:12]} by qvggt",
        create=state is None,
        private=not public,
        branch=branch,
        parent=None if state is None or branch is not None else state.commit,
        delete=stale if branch is None else (),
    )
    return Pushed(repository, made, (*bundle.files, CARD))


def pull(
    repository: str,
    folder: str | Path,
    *,
    revision: str | None = None,
    offline: bool = False,
    replace: bool = False,
    check_onnx: Callable[[Path], None] | None = None,
) -> Pulled:
    """Download a pushed checkpoint or ONNX file, check it, and give it its name `folder`; nothing is left on failure.

    offline (or HF_HUB_OFFLINE=1): from the Hub cache only. check_onnx: called with every .onnx file before that;
    without it a repository of ONNX files is refused. replace: an earlier pull (of the same kind) may be replaced.
    """
    check_repository(repository)
    offline = offline or offline_by_environment()
    names = _listing(repository, revision, offline)
    kind: Kind = "checkpoint" if DESCRIPTION in names else "onnx"
    chosen = [
        name for name in names if (name in CHECKPOINT_FILES if kind == "checkpoint" else ONNX_FILE.fullmatch(name))
    ]
    models = [name for name in chosen if name.endswith(".onnx")]
    if kind == "onnx" and (check_onnx is None or not models):
        raise QvggtError(f"{repository}: holds no calibrated checkpoint ({DESCRIPTION}); check its file list")
    marker = DESCRIPTION if kind == "checkpoint" else models[0]
    commits: set[str] = set()
    with atomic_directory(folder, replace=replace, marker=marker) as temporary:
        for name in [*chosen, *(n for n in names if n == CARD)]:
            cached = fetch(repository, name, revision, offline)
            if cached is None:
                raise QvggtError(f"{repository}: {name} is {'not in the Hub cache' if offline else 'gone'}; pull again")
            commits.add(cached.parent.name)  # the cache keeps one folder per commit
            shutil.copyfile(cached, temporary / name)
        if len(commits) != 1:
            raise QvggtError(f"{repository}: was changed during the download; pull again, or pin --revision")
        try:
            if kind == "checkpoint":
                load_calibrated(temporary)
            for name in models:
                assert check_onnx is not None
                check_onnx(temporary / name)
        except QvggtError as error:
            raise QvggtError(str(error).replace(str(temporary), repository)) from error
    return Pulled(Path(folder), commits.pop(), kind, tuple(chosen))


def _listing(repository: str, revision: str | None, offline: bool) -> tuple[str, ...]:
    """File names of the repository; offline: those of a checkpoint that are in the cache."""
    if not offline:
        state = look_up(repository, revision)
        assert state is not None
        return state.files
    names = (*CHECKPOINT_FILES, CARD)
    held = tuple(name for name in names if fetch(repository, name, revision, offline=True) is not None)
    if not set(CHECKPOINT_FILES) <= set(held):
        raise QvggtError(f"{repository}: no calibrated checkpoint in the Hub cache and offline; pull it once online")
    return held


def _ours(name: str) -> bool:
    return name in CHECKPOINT_FILES or ONNX_FILE.fullmatch(name) is not None
