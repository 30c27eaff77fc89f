"""A job: all that a command or a Python call asks for, as one frozen value that reads and writes as JSON."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import KW_ONLY, MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Generic,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from qvggt import __version__
from qvggt.errors import QvggtError
from qvggt.files import atomic_write, read_object
from qvggt.lazy import function
from qvggt.mapping import Check, from_mapping, read_value
from qvggt.progress import Console, bars

if TYPE_CHECKING:
    from qvggt.quant.handle import Model

    Source = str | Path | Model
else:
    Source = Annotated[
        Any, Check("a name or a path", lambda value: isinstance(value, str | Path) or hasattr(value, "network"))
    ]
"""A model by name ("tiny", a file or folder, a Hub id); from Python also one in memory, which JSON cannot hold."""

Place = str | Path
"""A file or folder; the field of a job holds a Path whatever was given."""

R = TypeVar("R", bound="Result")
T = TypeVar("T")


@dataclass(frozen=True)
class Doc:
    """What the command line says of a field.

    help: one sentence; what applies without the option in square brackets. flags: in place of --NAME. metavar: what
    stands for the value. argument: given by position. parse(text): a value of the field, of each item where the option
    is repeated; QvggtError for text that is none. default: the default as one would type it, where it is parsed. comma:
    one text with commas for a tuple of words. words: what the shell completes, or a named function that
    tells (a lambda of a field knows no name of its module). hidden: of old names.
    """

    help: str
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    argument: bool = False
    parse: Callable[[str], Any] | None = None
    default: str | None = None
    comma: bool = False
    words: Sequence[str] | Callable[[], Sequence[str]] = ()
    hidden: bool = False


@dataclass(frozen=True)
class Result:
    """What a job comes to. Fields whose names begin with an underscore or that hold what JSON cannot are for Python."""

    @property
    def passed(self) -> bool:
        """Whether every check held: exit code 0 or 1 of the command."""
        return True

    @abstractmethod
    def to_dict(self, folder: Path | None = None) -> dict[str, Any]:
        """JSON-ready. folder: of the file it goes to, for paths that are kept relative to it."""

    def save(self, path: Place) -> Path:
        """Write it as strict JSON (non-finite numbers as the words nan, inf, -inf), atomically; returns the path."""
        from qvggt.json_file import write_json

        write_json(path, self.to_dict(Path(path).parent))
        return Path(path)


@dataclass(frozen=True)
class Job(ABC, Generic[R]):
    """A frozen value; making one checks every field's type and range, and that the fields go together.

    name: of the command. examples: command lines, for --help; a test parses them. more: text that follows them there.
    """

    name: ClassVar[str]
    examples: ClassVar[tuple[str, ...]] = ()
    more: ClassVar[str] = ""

    _: KW_ONLY
    overwrite: Annotated[bool, Doc("Replace outputs that are there already.")] = False

    def __post_init__(self) -> None:
        for field in fields(self):
            hint = hints(type(self))[field.name]
            value = getattr(self, field.name)
            if (isinstance(value, str | Path) or hasattr(value, "network")) and _many(hint):
                value = (value,)  # one item, from Python, for a list of them
            value = read_value(hint, value, field.name)
            object.__setattr__(self, field.name, _placed(hint, value))
        if (file := getattr(self, "file", None)) is not None:
            self._name_file(file)
        self.check()

    def _name_file(self, file: str) -> None:
        """Turn --file into a part of the Hub id it goes with, so that nothing else need know of it."""
        from qvggt.hub.names import hub_id, with_file

        field = "models" if hasattr(self, "models") else "model"
        given = getattr(self, field)
        models = given if field == "models" else (given,)
        on_hub = [model for model in models if isinstance(model, str) and hub_id(model) is not None]
        if len(on_hub) != 1:
            got = " and ".join(on_hub) or "none"
            raise QvggtError(f"--file {file}: goes with one Hub id, got {got}; write ID:FILE")
        named = tuple(with_file(model, file) if model in on_hub else model for model in models)
        object.__setattr__(self, field, named if field == "models" else named[0])
        object.__setattr__(self, "file", None)

    def check(self) -> None:
        """What the fields tell alone, in no time: QvggtError where they contradict each other."""

    def prepare(self) -> None:
        """What the disk tells, without a heavy import: QvggtError for what is missing, or a place that refuses."""

    @abstractmethod
    def execute(self, console: Console) -> R:
        """The work."""

    def unfinished(self) -> tuple[Path, ...]:
        """Where an interrupted run keeps what is done already."""
        return ()

    def run(self, console: Console | None = None) -> R:
        """Do it. QvggtError for a mistake of the user. What was interrupted goes on when it is run again."""
        console = console or Console()
        self.prepare()
        with ExitStack() as stack:
            stack.enter_context(bars(console.bars))
            if (threads := getattr(self, "threads", None)) is not None:
                from qvggt.threads import pinned

                stack.enter_context(pinned(threads))
            return self.execute(console)

    def changed(self) -> tuple[str, ...]:
        """Names of the fields that do not hold their defaults."""
        return tuple(f.name for f in fields(self) if f.default is not MISSING and getattr(self, f.name) != f.default)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `read_job` is the inverse. QvggtError for a job that holds a model in memory."""
        values = {field.name: _plain(getattr(self, field.name), field.name) for field in fields(self)}
        return {"job": self.name, "qvggt": __version__, **values}

    def save(self, path: Place) -> Path:
        """Write it for --config, atomically."""
        text = json.dumps(self.to_dict(), indent=1) + "\n"
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return Path(path)


JOBS: dict[str, str] = {
    "calibrate": "qvggt.jobs.calibrate:CalibrateJob",
    "export": "qvggt.jobs.export:ExportJob",
    "lint": "qvggt.jobs.lint:LintJob",
    "build": "qvggt.jobs.build:BuildJob",
    "eval": "qvggt.jobs.evaluate:EvaluateJob",
    "merge": "qvggt.jobs.report:MergeJob",
    "report": "qvggt.jobs.report:ReportJob",
    "reconstruct": "qvggt.jobs.reconstruct:ReconstructJob",
    "deploy": "qvggt.jobs.deploy:DeployJob",
    "demo": "qvggt.jobs.demo:DemoJob",
    "scenes": "qvggt.jobs.scenes:ScenesJob",
    "annotate": "qvggt.jobs.annotate:AnnotateJob",
    "push": "qvggt.jobs.push:PushJob",
    "pull": "qvggt.jobs.pull:PullJob",
}
"""Name -> class, imported when it is asked for."""


def find_job(name: str) -> type[Job[Any]]:
    """QvggtError lists the names there are."""
    if name not in JOBS:
        raise QvggtError(f"job {name!r}: expected one of {', '.join(JOBS)}")
    return function(JOBS[name])  # type: ignore[return-value]


def job_values(path: Place, name: str | None = None) -> dict[str, Any]:
    """The fields in a job's JSON file; QvggtError when it is no job, or not the one called `name`."""
    values = read_object(Path(path), "a job of --save-config")
    found = values.pop("job", None)
    values.pop("qvggt", None)
    if found not in JOBS or name not in (None, found):
        raise QvggtError(f'{path}: job: expected "{name or " or ".join(JOBS)}", got {found!r:.60}; give another file')
    return {"job": found, **values}


def read_job(path: Place) -> Job[Any]:
    """The job in a file that `Job.save` or --save-config wrote; QvggtError names the key at fault."""
    values = job_values(path)
    return from_mapping(find_job(values.pop("job")), values, str(path))


@cache
def hints(cls: type[Job[Any]]) -> dict[str, Any]:
    """Field -> its type with annotations."""
    found = get_type_hints(cls, include_extras=True)
    return {field.name: found[field.name] for field in fields(cls)}


def leaves(hint: Any) -> tuple[Any, ...]:
    """The types a field may have: unions and annotations taken apart."""
    if get_origin(hint) is Annotated:
        return leaves(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return tuple(leaf for option in get_args(hint) for leaf in leaves(option))
    return (hint,)


def annotation(hint: Any, kind: type[T]) -> T | None:
    """The first annotation of that class, however deep in a union."""
    if get_origin(hint) is Annotated:
        found = next((note for note in get_args(hint)[1:] if isinstance(note, kind)), None)
        return found if found is not None else annotation(get_args(hint)[0], kind)
    if get_origin(hint) in (Union, UnionType):
        return next((found for option in get_args(hint) if (found := annotation(option, kind)) is not None), None)
    return None


def _placed(hint: Any, value: Any) -> Any:
    """Places as paths, in sequences too."""
    if isinstance(value, str) and Path in leaves(hint):
        return Path(value)
    inner = [get_args(leaf)[0] for leaf in leaves(hint) if get_origin(leaf) is Sequence or get_args(leaf)[1:] == (...,)]
    return tuple(_placed(inner[0], item) for item in value) if inner and isinstance(value, tuple) else value


def _many(hint: Any) -> bool:
    """Whether a field holds any number of items and never one alone."""
    return all(get_origin(leaf) in (Sequence, tuple) for leaf in leaves(hint) if leaf is not NoneType)


def _plain(value: Any, name: str) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(item, name) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item, name) for key, item in value.items()}
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise QvggtError(f"{name}: is a model in memory, which JSON cannot hold; save it and name its folder")
