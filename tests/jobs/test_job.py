"""Jobs as values: what their fields accept, and that JSON gives back the same job."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvggt.errors import QvggtError
from qvggt.jobs.job import JOBS, Doc, Job, Place, Result, Source, annotation, find_job, hints, read_job
from qvggt.jobs.lint import LintJob
from qvggt.jobs.scenes import ScenesJob
from qvggt.mapping import at_least
from qvggt.progress import Console


@dataclasses.dataclass(frozen=True)
class Nothing(Result):
    def to_dict(self, folder: Path | None = None) -> dict[str, Any]:
        return {}


@dataclasses.dataclass(frozen=True)
class ToyJob(Job[Nothing]):
    """A toy."""

    name: ClassVar[str] = "toy"
    model: Annotated[Source, Doc("A model.", argument=True)]
    _: dataclasses.KW_ONLY
    place: Annotated[Place | None, Doc("A place.")] = None
    count: Annotated[int | None, Doc("How many."), at_least(1)] = None
    word: Annotated[Literal["a", "b"], Doc("A word.")] = "a"
    pair: Annotated[tuple[int, int], Doc("Two.")] = (1, 2)
    threads: Annotated[int | None, Doc("Threads.")] = None

    def check(self) -> None:
        if self.word == "b" and self.count is None:
            raise QvggtError("--word b: needs --count")

    def execute(self, console: Console) -> Nothing:
        import torch

        console.say(str(torch.get_num_threads()))
        return Nothing()


@pytest.mark.parametrize("name", JOBS)
def test_every_job_is_a_frozen_value_with_help_on_every_field(name: str) -> None:
    cls = find_job(name)
    assert cls.name == name
    assert cls.__doc__
    assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    for field, hint in hints(cls).items():
        doc = annotation(hint, Doc)
        assert doc is not None, f"{name}.{field}"
        assert doc.help
    required = [f for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING and not f.kw_only]
    assert all(f.default is not dataclasses.MISSING for f in dataclasses.fields(cls) if f.kw_only), required


@given(
    place=st.none() | st.text("abc/. é", min_size=1).map(Path),
    count=st.none() | st.integers(1, 9),
    word=st.sampled_from("a"),
    pair=st.tuples(st.integers(), st.integers()),
)
def test_json_gives_back_the_same_job(tmp_path_factory: pytest.TempPathFactory, **options: Any) -> None:
    from qvggt.mapping import from_mapping

    job = ToyJob("tiny", **options)
    values = json.loads(json.dumps(job.to_dict()))
    assert values.pop("job") == "toy"
    assert values.pop("qvggt")
    assert from_mapping(ToyJob, values, "toy.json") == job


def test_a_saved_job_is_read_back(tmp_path: Path) -> None:
    job = ScenesJob("out", train=3, size=(28, 42), overwrite=True)
    assert read_job(job.save(tmp_path / "job.json")) == job


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train": "3"}, "train: expected an integer, got str '3'"),
        ({"train": -1}, "train: expected 0 or more, got int '-1'"),
        ({"size": [28]}, "size: expected two integers"),
        ({"typo": 1}, "unknown key 'typo'"),
        ({"job": "lint"}, "unknown key"),
        ({"job": "nothing"}, r'job: expected "calibrate or export'),
        ({"family": "house"}, "family: expected one of random, room"),
    ],
)
def test_a_damaged_job_names_its_key(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = tmp_path / "job.json"
    path.write_text(json.dumps(ScenesJob("out").to_dict() | change))
    with pytest.raises(QvggtError, match=words) as caught:
        read_job(path)
    assert str(caught.value).startswith(str(path))


def test_python_callers_are_told_the_same() -> None:
    with pytest.raises(QvggtError, match="count: expected 1 or more, got int '0'"):
        ToyJob("tiny", count=0)
    with pytest.raises(QvggtError, match="word: expected one of a, b"):
        ToyJob("tiny", word="c")  # type: ignore[arg-type]
    with pytest.raises(QvggtError, match="--word b: needs --count"):
        ToyJob("tiny", word="b")
    with pytest.raises(QvggtError, match="model: expected a name or a path"):
        ToyJob(3)  # type: ignore[arg-type]


def test_text_and_path_are_the_same_place() -> None:
    assert ToyJob("tiny", place="a/b") == ToyJob("tiny", place=Path("a/b"))
    assert LintJob("m.onnx") == LintJob(Path("m.onnx"))


def test_a_model_in_memory_is_no_json(tmp_path: Path) -> None:
    class Held:
        network = None

    job = ToyJob(Held())  # type: ignore[arg-type]
    with pytest.raises(QvggtError, match="model: is a model in memory"):
        job.save(tmp_path / "job.json")
    assert list(tmp_path.iterdir()) == []


def test_threads_are_pinned_for_the_run_alone() -> None:
    import torch

    class Heard(Console):
        def say(self, text: str) -> None:
            assert text == "1"

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    ToyJob("tiny", threads=1).run(Heard())
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_changed_names_what_is_not_at_its_default() -> None:
    assert ToyJob("tiny", count=2).changed() == ("count",)


def test_a_file_becomes_part_of_the_hub_id(tmp_path: Path) -> None:
    """So a job that is written holds one name, and everything behind it knows of one."""
    evaluate, export = find_job("eval"), find_job("export")
    job = evaluate(models=("tiny", "a/b"), dataset="synthetic", file="deep/x.pt")
    assert (job.models, job.file) == (("tiny", "a/b:deep/x.pt"), None)
    assert read_job(job.save(tmp_path / "job.json")) == job
    assert job.candidates.sources()[1][0] == "a/b:deep/x.pt"
    assert export("vggt-1b", "m.onnx", file="model.pt").model == "vggt-1b:model.pt"
    with pytest.raises(QvggtError, match=r"--file x\.pt: goes with one Hub id, got a/b and c/d; write ID:FILE"):
        evaluate(models=("a/b", "c/d"), dataset="synthetic", file="x.pt")
    with pytest.raises(QvggtError, match=r"--file x\.pt: goes with a Hub id, got a/b:y\.pt"):
        export("a/b:y.pt", "m.onnx", file="x.pt")
    with pytest.raises(QvggtError, match=r"--file x\.zip: expected a file of the repository"):
        export("a/b", "m.onnx", file="x.zip")
