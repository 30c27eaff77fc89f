"""Where weights come from: the shipped tiny model, a local file or directory, or the Hugging Face Hub."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import resources
from pathlib import Path, PurePosixPath

from qvggt.errors import QvggtError
from qvggt.hub.client import cached_files, fetch, look_up, offline_by_environment
from qvggt.tensor_shards import INDEX, SHARD, is_index, weight_files, whole_of

ALIASES = {"vggt-1b": "facebook/VGGT-1B"}
TINY = "weights/tiny/model.safetensors"  # inside the package
NAMES = ("model.safetensors", "model.pt")
TRIED = (NAMES[0], f"model{INDEX}", NAMES[1], "vggt_1B_commercial.pt", "model_tracker_fixed_e20.pt")
"""In this order, in a directory and on the Hub."""
SUFFIXES = (".safetensors", ".pt", ".pth")
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)  # no part that starts with a dot: ./x is a path
HUB_FILE = re.compile(r"([\w-][\w.-]*/)*[\w-][\w.-]*\.(safetensors(\.index\.json)?|pt|pth)", re.ASCII)


def check_repository(repository: str) -> None:
    """QvggtError unless it reads owner/name."""
    if not HUB_ID.fullmatch(repository) or repository.count("/") != 1:
        raise QvggtError(f"{repository}: no valid Hub id; expected owner/name")


def find_weights(source: str | Path, *, revision: str | None = None, offline: bool = False) -> Path:
    """Path of the weights file that `source` names.

    In this order: "tiny" (shipped with the package), "vggt-1b" (facebook/VGGT-1B on the Hub), an existing file, an
    existing directory with model.safetensors, model.pt or one other weights file, a Hub id `owner/name` with the same
    (downloaded to the Hub cache with its config.json; `revision` is a branch, tag or commit), or `owner/name:FILE`
    where it holds several. Of weights in shards it is their index. `offline`, or HF_HUB_OFFLINE=1, reads the cache
    only. A `Path` is always local. Raises QvggtError when nothing is found, or when the Hub cannot be reached.
    """
    repository = hub_id(source)
    if repository is not None:
        file = str(source).partition(":")[2] or None
        return find_on_hub(repository, revision, offline or offline_by_environment(), file)
    if revision is not None:
        raise QvggtError(f"{source}: is local, but revision {revision!r} was given; leave it out, or pass a Hub id")
    if source == "tiny":
        return shipped_weights()
    path = Path(source).expanduser()
    if path.is_dir():
        return find_in_directory(path)
    if not path.exists():
        raise QvggtError(
            f"{source}: no such file or directory; expected a {', '.join(SUFFIXES)} file, a directory with "
            f"{' or '.join(NAMES)}, a Hub id such as facebook/VGGT-1B, or 'tiny'"
        )
    return whole_of(path)


def hub_id(source: str | Path) -> str | None:
    """The Hub repository that `source` names, with or without a file of it, or None when it is local."""
    if not isinstance(source, str) or source == "tiny":
        return None
    name, colon, file = source.partition(":")
    if colon and not HUB_FILE.fullmatch(file):
        return None
    if name in ALIASES:
        return ALIASES[name]
    # a missing weights/model.pt, or a name in a folder that is here, is a typing error and no repository
    local = name.lower().endswith((*SUFFIXES, INDEX)) or Path(source).exists() or Path(name).parent.is_dir()
    if local or not HUB_ID.fullmatch(name):
        return None
    return name


def with_file(source: str | Path, file: str) -> str:
    """`ID:FILE`; QvggtError where `source` is no Hub id, or `file` cannot be weights in a repository."""
    named = f"{source}:{file}"
    if not HUB_FILE.fullmatch(file):
        raise QvggtError(f"--file {file}: expected a file of the repository that ends in {', '.join(SUFFIXES)}")
    if hub_id(source) is None or ":" in str(source):
        raise QvggtError(f"--file {file}: goes with a Hub id, got {source}; leave it out, or name the file itself")
    return named


def shipped_weights() -> Path:
    path = Path(str(resources.files("qvggt").joinpath(TINY)))
    if not path.is_file():
        raise QvggtError(
            f"{path}: the tiny model is not in this installation; reinstall qvggt from a wheel or its repository"
        )
    return path


def find_in_directory(path: Path) -> Path:
    if (path / "quant.json").is_file():
        raise QvggtError(
            f"{path}: is a calibrated checkpoint (quant.json), expected a float model; pass its source model"
        )
    files = [file.name for file in path.iterdir() if file.is_file()]
    return path / choose(files, str(path), "pass the weights file itself")


def choose(files: Iterable[str], place: str, advice: str) -> str:
    """The name of the weights among those of a folder or repository: a usual one, or the only one there is, those in
    folders counting only where there is no other."""
    held = [PurePosixPath(name) for name in files]
    found = [p for p in held if p.name.lower().endswith(SUFFIXES) and not SHARD.fullmatch(p.name)]
    found += [p for p in held if is_index(Path(p))]
    there = [str(p) for p in found if len(p.parts) == 1] or [str(p) for p in found]
    usual = [name for name in TRIED if name in there]
    if usual or len(there) == 1:
        return (usual or there)[0]
    several = f", but {', '.join(sorted(there)[:4])}" if there else ""
    raise QvggtError(f"{place}: holds neither {' nor '.join(NAMES)}{several}; {advice}")


def find_on_hub(repository: str, revision: str | None, offline: bool, file: str | None = None) -> Path:
    """Weights of a repository: its file `file`, else a usual name or the only candidate; see `find_weights`."""

    def get(name: str) -> Path | None:
        return fetch(repository, name, revision, offline)

    if get("quant.json") is not None:
        raise QvggtError(
            f"{repository}: is a calibrated checkpoint; get it with `qvggt pull {repository} -o FOLDER` and pass FOLDER"
        )
    tried = TRIED if file is None else (file,)
    found, name = next(((path, name) for name in tried if (path := get(name)) is not None), (None, ""))
    if found is None and (held := _held(repository, revision, offline)):
        place = f"{repository} {'in the Hub cache' if offline else 'on the Hub'}"
        if file is not None:
            raise QvggtError(f"{place}: holds no {file}; there are {', '.join(held[:8])}")
        name = choose(held, place, f"name one with --file, or as {repository}:FILE")
        found = get(name)
    if found is None:
        raise QvggtError(f"{repository}: not in the Hub cache and offline; run once online, or pass a local path")
    beside = PurePosixPath(name).parent
    get(str(beside / "config.json"))
    for shard in weight_files(found)[1:]:
        if get(str(beside / shard.name)) is None:
            raise QvggtError(f"{repository}: {shard.name} is missing, which {found.name} names; run once online")
    return found


def _held(repository: str, revision: str | None, offline: bool) -> tuple[str, ...]:
    """Names of a repository's files, offline of those in the cache."""
    if offline:
        return cached_files(repository, revision)
    held = look_up(repository, revision)
    assert held is not None
    return held.files
