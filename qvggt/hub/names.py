"""Where weights come from: the shipped tiny model, a local file or directory, or the Hugging Face Hub."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from qvggt.errors import QvggtError
from qvggt.hub.client import fetch, look_up, offline_by_environment
from qvggt.tensor_shards import INDEX, SHARD, is_index, weight_files, whole_of

ALIASES = {"vggt-1b": "facebook/VGGT-1B"}
TINY = "weights/tiny/model.safetensors"  # inside the package
NAMES = ("model.safetensors", "model.pt")
TRIED = (NAMES[0], f"model{INDEX}", NAMES[1], "vggt_1B_commercial.pt")  # in this order, in a directory and on the Hub
SUFFIXES = (".safetensors", ".pt", ".pth")
LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)  # no part that starts with a dot: ./x is a path


def check_repository(repository: str) -> None:
    """QvggtError unless it reads owner/name."""
    if not HUB_ID.fullmatch(repository) or repository.count("/") != 1:
        raise QvggtError(f"{repository}: no valid Hub id; expected owner/name")


def check_licence(licence: str) -> None:
    """QvggtError unless it looks like a licence id of the Hub."""
    if not LICENCE.fullmatch(licence):
        raise QvggtError(f"licence {licence!r}: expected a Hub licence id such as apache-2.0, cc-by-nc-4.0 or other")


def find_weights(source: str | Path, *, revision: str | None = None, offline: bool = False) -> Path:
    """Path of the weights file that `source` names.

    In this order: "tiny" (shipped with the package), "vggt-1b" (facebook/VGGT-1B on the Hub), an existing file, an
    existing directory with model.safetensors, model.pt or one other weights file, a Hub id `owner/name` with the same
    (downloaded to the Hub cache with its config.json; `revision` is a branch, tag or commit). Of weights in shards it
    is their index. `offline`, or HF_HUB_OFFLINE=1, reads the cache only. A `Path` is always local. Raises QvggtError
    when nothing is found, or when the Hub cannot be reached.
    """
    repository = hub_id(source)
    if repository is not None:
        return find_on_hub(repository, revision, offline or offline_by_environment())
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
    """The Hub repository that `source` names, or None when it is local."""
    if not isinstance(source, str) or source == "tiny":
        return None
    if source in ALIASES:
        return ALIASES[source]
    # a missing weights/model.pt, or a name in a folder that is here, is a typing error and no repository
    local = source.lower().endswith((*SUFFIXES, INDEX)) or Path(source).exists() or Path(source).parent.is_dir()
    if local or not HUB_ID.fullmatch(source):
        return None
    return source


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
    """The name of the weights among those of a folder or repository: a usual one, or the only one there is."""
    there = [name for name in files if name.lower().endswith(SUFFIXES) and not SHARD.fullmatch(name)]
    there += [name for name in files if is_index(Path(name))]
    usual = [name for name in TRIED if name in there]
    if usual or len(there) == 1:
        return (usual or there)[0]
    several = f", but {', '.join(sorted(there)[:4])}" if there else ""
    raise QvggtError(f"{place}: holds neither {' nor '.join(NAMES)}{several}; {advice}")


def find_on_hub(repository: str, revision: str | None, offline: bool) -> Path:
    if fetch(repository, "quant.json", revision, offline) is not None:
        raise QvggtError(
            f"{repository}: is a calibrated checkpoint; get it with `qvggt pull {repository} -o FOLDER` and pass FOLDER"
        )
    found = next(filter(None, (fetch(repository, name, revision, offline) for name in TRIED)), None)
    if found is None and not offline:
        held = look_up(repository, revision)
        assert held is not None
        plain = [name for name in held.files if "/" not in name]
        name = choose(plain, f"{repository} on the Hub", "download the weights file by hand and pass its path")
        found = fetch(repository, name, revision, offline)
    if found is None:
        raise QvggtError(f"{repository}: not in the Hub cache and offline; run once online, or pass a local path")
    fetch(repository, "config.json", revision, offline)  # lands beside the weights
    for shard in weight_files(found)[1:]:
        if fetch(repository, shard.name, revision, offline) is None:
            raise QvggtError(f"{repository}: {shard.name} is missing, which {found.name} names; run once online")
    return found
