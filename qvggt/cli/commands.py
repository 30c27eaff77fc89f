"""Jobs as commands: every field of a job is an argument or option, and the command does nothing but run the job."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer
from typer import Argument, Option

from qvggt.cli.terminal import Terminal
from qvggt.errors import QvggtError
from qvggt.jobs.job import Doc, Job, annotation, hints, job_values, leaves
from qvggt.mapping import Check, from_mapping

HELP: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "token_normalize_func": lambda word: {"force": "overwrite"}.get(word, word),  # the older name
}
Json = Annotated[Path | None, Option(metavar="FILE", help="Write the result there as JSON; - writes it to stdout.")]
Config = Annotated[Path | None, Option(metavar="FILE", help="Take the job from there; options given here win.")]
SaveConfig = Annotated[Path | None, Option(metavar="FILE", help="Write this call there for --config, and stop.")]
Quiet = Annotated[bool, Option("-q", "--quiet", help="Only results, warnings and errors.")]
Verbose = Annotated[bool, Option("-v", "--verbose", help="More about what is done.")]
SHARED = ("threads", "overwrite")
EXTRAS = ("json", "config", "save_config", "quiet", "verbose")


def application(cls: type[Job[Any]], *, group: bool = False) -> typer.Typer:
    """The command of a job; group: one that can have commands of its own below it."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings=HELP)
    function = command(cls)
    if group:
        app.callback(invoke_without_command=True, epilog=epilog(cls), context_settings=HELP)(function)
    else:
        app.command(epilog=epilog(cls), context_settings=HELP)(function)
    return app


def command(cls: type[Job[Any]]) -> Any:
    """A function with the job's fields as parameters, as typer reads them."""

    def function(context: typer.Context, **options: Any) -> None:
        if context.invoked_subcommand is not None:
            for name in given(context):
                raise QvggtError(f"{flag(cls, name)}: has no use before {context.invoked_subcommand}; leave it out")
            return
        run_job(job_of(cls, context, options), options, context.command_path)

    own = sorted(fields(cls), key=lambda field: field.name in SHARED)  # what all jobs have comes last
    parameters = [_parameter(cls, field) for field in own]
    names = {parameter.name for parameter in parameters}
    assert not names & set(EXTRAS), f"{cls.__name__}: {names & set(EXTRAS)} are options of every command"
    required = [field.name for field in fields(cls) if field.default is MISSING]

    def set_required(context: typer.Context, value: Path | None) -> Path | None:
        """What the file has of the parameters a call must have: typer then misses nothing."""
        if value is not None:
            values = job_values(value, cls.name)
            context.default_map = {name: values[name] for name in required if values.get(name)}
        return value

    config = Annotated[
        Path | None, Option(metavar="FILE", callback=set_required, is_eager=True, help=_option(Config).help)
    ]
    extras: dict[str, tuple[Any, Any]] = {
        "json": (Json, None),
        "config": (config, None),
        "save_config": (SaveConfig, None),
        "quiet": (Quiet, False),
        "verbose": (Verbose, False),
    }
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters += [
        inspect.Parameter(name, kind, annotation=hint, default=default) for name, (hint, default) in extras.items()
    ]
    first = inspect.Parameter("context", kind, annotation=typer.Context)
    function.__signature__ = inspect.Signature([first, *parameters])  # type: ignore[attr-defined]
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in (first, *parameters)}
    function.__doc__ = inspect.getdoc(cls)
    return function


def job_of(cls: type[Job[Any]], context: typer.Context, options: dict[str, Any]) -> Job[Any]:
    """The job a command line asks for: what --config says, replaced by what was given beside it."""
    values = {name: _value(cls, name, options[name]) for name in given(context) if name not in EXTRAS}
    if options["config"] is None:
        return cls(**values)
    stored = job_values(options["config"], cls.name)
    del stored["job"]
    return from_mapping(cls, stored | values, str(options["config"]))


def run_job(job: Job[Any], options: dict[str, Any], command: str) -> None:
    """Run it, say and write what the options ask for, and leave with 1 where a check failed."""
    from qvggt.jobs.places import check_new_file

    if options["quiet"] and options["verbose"]:
        raise QvggtError("-q and -v: contradict each other; give one of the two")
    if options["save_config"] is not None:
        check_new_file(options["save_config"], job.overwrite)
        typer.echo(f"{job.save(options['save_config'])}: {command} --config reads it", err=True)
        return
    json = options["json"]
    to_stdout = json is not None and str(json) == "-"
    if json is not None and not to_stdout:
        check_new_file(json, job.overwrite)
    console = Terminal(options["verbose"] - options["quiet"], to_stdout, None if to_stdout else json)
    try:
        result = job.run(console)
    except KeyboardInterrupt:
        console.warn(f"interrupted; {json} holds what was there" if console.saved else interrupted(job))
        raise
    if to_stdout:
        from qvggt.json_file import json_text

        sys.stdout.write(json_text(result.to_dict()))
    elif json is not None:
        console.say(f"result: {result.save(json)}")
    if not result.passed:
        raise typer.Exit(1)


def interrupted(job: Job[Any]) -> str:
    """What is kept of an interrupted job, and how to go on."""
    kept = [str(path) for path in job.unfinished() if path.exists()]
    if not kept:
        return "interrupted; nothing was kept, and what was there before is as it was"
    return f"interrupted; kept {', '.join(kept)}: the same command goes on from there (delete it to start anew)"


def given(context: typer.Context) -> tuple[str, ...]:
    """Names of the parameters the user wrote on the command line, rather than left at their defaults."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return tuple(name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE")


def flag(cls: type[Job[Any]], name: str) -> str:
    """The option that gives a field."""
    doc = None if name in EXTRAS else annotation(hints(cls)[name], Doc)
    return doc.flags[-1] if doc is not None and doc.flags else f"--{_dashed(name)}"


def epilog(cls: type[Job[Any]]) -> str | None:
    """Examples, then what else is to know."""
    if not cls.examples:
        return None
    lines = "\n".join(f"  {example}" for example in cls.examples)
    return f"\b\nExamples:\n{lines}\n" + (f"\n{cls.more}" if cls.more else "")


def _parameter(cls: type[Job[Any]], field: Any) -> inspect.Parameter:
    hint = hints(cls)[field.name]
    doc = annotation(hint, Doc)
    assert doc is not None, f"{cls.__name__}.{field.name}: has no Doc"
    kinds = [leaf for leaf in leaves(hint) if leaf is not type(None)]
    options: dict[str, Any] = {"help": doc.help, "metavar": doc.metavar, "hidden": doc.hidden}
    if doc.argument and doc.metavar is None:
        options["metavar"] = field.name.upper()
    if (check := annotation(hint, Check)) is not None and kinds[0] in (int, float):
        options |= {"min": check.low, "max": check.high}
    if doc.words:
        options["autocompletion"] = _completion(doc)
    default = None if field.default is MISSING else field.default
    if default == ():
        default = None
    elif default is not None and (doc.parse or doc.comma):
        default = doc.default or ",".join(map(str, default))
    kind: Any = _type(kinds, doc)
    if field.default is MISSING:
        default = inspect.Parameter.empty
    elif default is None:
        kind = kind | None if not isinstance(kind, str) else kind
    make: Any = Argument if doc.argument else Option
    flags = () if doc.argument else doc.flags or _flags(field, kinds)
    if doc.argument:
        options.pop("hidden")
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[kind, make(*flags, **options)], default=default
    )


def _flags(field: Any, kinds: list[Any]) -> tuple[str, ...]:
    name = f"--{_dashed(field.name)}"
    return (f"{name}/--no-{_dashed(field.name)}",) if kinds == [bool] and field.default is True else (name,)


def _type(kinds: list[Any], doc: Doc) -> Any:
    if doc.comma:
        return str
    first = kinds[0]
    if get_origin(first) is Sequence or (get_origin(first) is tuple and get_args(first)[1:] == (...,)):
        inner = str if doc.parse else _type(list(leaves(get_args(first)[0])), Doc(""))
        return list[inner]  # type: ignore[valid-type]
    if doc.parse is not None or first is Any:
        return str
    return Path if Path in kinds else first


def _value(cls: type[Job[Any]], name: str, value: Any) -> Any:
    """What the command line gave, as the field wants it."""
    doc = annotation(hints(cls)[name], Doc)
    assert doc is not None
    parse = doc.parse or (lambda item: item)
    if doc.comma:
        return tuple(dict.fromkeys(parse(word.strip()) for word in value.split(",") if word.strip()))
    return tuple(parse(item) for item in value) if isinstance(value, list | tuple) else parse(value)


def _completion(doc: Doc) -> Any:
    def complete(incomplete: str) -> list[str]:
        words = doc.words() if callable(doc.words) else doc.words
        head, comma, word = incomplete.rpartition(",") if doc.comma else ("", "", incomplete)
        return [head + comma + found for found in words if found.startswith(word)]

    return complete


def _option(hint: Any) -> Any:
    return get_args(hint)[1]


def _dashed(name: str) -> str:
    return name.replace("_", "-")
