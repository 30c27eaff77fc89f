"""The one module that talks to the Hugging Face Hub: a file down, a repository's state, a commit up.

Every failure of the client is a QvggtError of one line. The access token (HF_TOKEN, or that of `hf auth login`) is
read by the client itself and never part of a message.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from qvggt.errors import QvggtError
from qvggt.files import line

FORBIDDEN = (401, 403)
CONFLICT = (409, 412)  # the branch moved between our look and our commit
BY_HAND = "check network and disk, or download it by hand and pass its path"


@dataclass(frozen=True)
class Repository:
    """State of a repository at one revision: the commit (40 hex digits), the names of its files, and who sees it."""

    commit: str
    files: tuple[str, ...]
    private: bool = False


@dataclass(frozen=True)
class Commit:
    """What a push made: its id (40 hex digits) and its page."""

    id: str
    url: str


def offline_by_environment() -> bool:
    """Whether HF_HUB_OFFLINE asks for no network."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def fetch(repository: str, name: str, revision: str | None, offline: bool) -> Path | None:
    """Path in the Hub cache of one file of a repository; None when it is not there (offline: not in the cache)."""
    hub = client(repository)
    with translated(repository, f"{name} could not be downloaded", BY_HAND, revision):
        try:
            return Path(hub.hf_hub_download(repository, name, revision=revision, local_files_only=offline))
        except hub.errors.LocalEntryNotFoundError as error:  # not cached; online this means that the network failed
            if offline:
                return None
            raise ConnectionError(line(error.__cause__ or error)) from error
        except hub.errors.EntryNotFoundError:
            return None


def look_up(repository: str, revision: str | None = None, *, missing_ok: bool = False) -> Repository | None:
    """What a repository holds; None when there is none and `missing_ok` (a private one of others looks so too)."""
    hub = client(repository)
    with translated(repository, "could not be looked up", "check the network", revision):
        try:
            info = hub.HfApi().model_info(repository, revision=revision)
        except hub.errors.GatedRepoError:
            raise
        except hub.errors.RepositoryNotFoundError:
            if missing_ok:
                return None
            raise
        files = tuple(sibling.rfilename for sibling in info.siblings or ())
        return Repository(str(info.sha), files, bool(info.private))


def cached_files(repository: str, revision: str | None) -> tuple[str, ...]:
    """Sorted names of a repository's files that are in the Hub cache; () for none."""
    hub = client(repository)
    with translated(repository, "could not be looked up in the Hub cache", "check the disk", revision):
        try:
            folder = Path(hub.snapshot_download(repository, revision=revision, local_files_only=True))
        except hub.errors.LocalEntryNotFoundError:
            return ()
        return tuple(sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()))


def commit(
    repository: str,
    files: Mapping[str, Path | bytes],
    message: str,
    *,
    create: bool,
    private: bool = True,
    branch: str | None = None,
    parent: str | None = None,
    delete: Iterable[str] = (),
) -> Commit:
    """Upload `files` (name in the repository -> content) and delete others, in one commit: all of it or nothing.

    create: make the repository first. parent: commit the branch must be at, else QvggtError. A branch that is not
    there is made.
    """
    hub = client(repository)
    with translated(repository, "could not be written", "check network and quota", branch, writing=True):
        api = hub.HfApi()
        if create:
            api.create_repo(repository, private=private, exist_ok=True)
        if branch is not None:
            api.create_branch(repository, branch=branch, exist_ok=True)
        operations: list[Any] = [
            hub.CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
            for name, content in files.items()
        ]
        operations += [hub.CommitOperationDelete(name) for name in delete]
        made = api.create_commit(repository, operations, commit_message=message, revision=branch, parent_commit=parent)
        return Commit(str(made.oid), str(made.commit_url))


def client(repository: str) -> ModuleType:
    """The huggingface_hub package, its `errors` loaded; QvggtError where it is not installed."""
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise QvggtError(f"{repository}: needs the huggingface_hub package; pip install huggingface_hub") from error
    return huggingface_hub


@contextmanager
def translated(
    repository: str, failed: str, remedy: str, revision: str | None, *, writing: bool = False
) -> Iterator[None]:
    """Turn whatever the client raises into a QvggtError: "`repository`: `failed` (why); `remedy`"."""
    errors = client(repository).errors
    at = f" at revision {revision!r}" if revision else ""
    right = "log in with `hf auth login` and a token that may write" if writing else "`hf auth login`"

    def complaint(error: Exception) -> str:
        status = getattr(getattr(error, "response", None), "status_code", None)
        match error:
            case errors.RevisionNotFoundError():
                return f"no revision {revision!r} on the Hub; check the branch, tag or commit"
            case errors.GatedRepoError():
                return "access is restricted; accept its terms on its Hub page, then log in with `hf auth login`"
            case errors.RepositoryNotFoundError():
                return f"no such repository on the Hub{at}, or it is private; check the name, or {right}"
            case errors.HFValidationError():
                return f"no valid Hub id ({shown(error)}); expected owner/name"
            case errors.HfHubHTTPError() if status in FORBIDDEN:
                return f"{failed} (HTTP {status}, not allowed); {right}"
            case errors.HfHubHTTPError() if status in CONFLICT and writing:
                return f"{failed} (it was changed meanwhile); run the command again"
        return f"{failed} ({shown(error)}); {remedy}"

    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)  # its hints would break our one line
    try:
        yield
    except QvggtError:
        raise
    except Exception as error:  # the client's network errors have no common base across its versions
        raise QvggtError(f"{repository}: {complaint(error)}") from error
    finally:
        logger.setLevel(level)


def shown(error: BaseException) -> str:
    """The first line of an error, without the token should a server echo it."""
    import huggingface_hub

    text, token = str(error), huggingface_hub.get_token()
    return line(Exception(text.replace(token, "***") if token else text)) if text.strip() else type(error).__name__
