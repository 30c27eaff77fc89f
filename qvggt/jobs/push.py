"""Push: a calibrated checkpoint or an exported ONNX file to the Hugging Face Hub, with a model card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from qvggt.errors import QvggtError
from qvggt.files import check_file, read_object
from qvggt.hub.licence import check_licence
from qvggt.hub.names import check_repository
from qvggt.jobs.job import Doc, Job, Place, Result
from qvggt.progress import Console
from qvggt.quant.scheme import DESCRIPTION

if TYPE_CHECKING:
    from qvggt.hub.sharing import Bundle


@dataclass(frozen=True)
class PushResult(Result):
    """What is in the repository now. files: name -> bytes, but for the card's. commit, url: None with card_only."""

    repository: str
    files: Mapping[str, int]
    card: str = field(repr=False)
    commit: str | None = None
    url: str | None = None

    def to_dict(self, folder: Path | None = None) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class PushJob(Job[PushResult]):
    """Upload a checkpoint or ONNX file to the Hub.

    A calibrated checkpoint goes there as quant.json and model.safetensors, with a generated model card.
    """

    name: ClassVar[str] = "push"
    examples: ClassVar[tuple[str, ...]] = (
        "qvggt push outputs/tiny-w4a4 me/tiny-w4a4 --metrics outputs/eval.json",
        "qvggt push outputs/tiny-w4a4 me/tiny-w4a4 --card-only",
        "qvggt push outputs/tiny-w4a4.onnx me/tiny-w4a4-onnx --public",
    )
    more: ClassVar[str] = "Log in first with `hf auth login`, or set HF_TOKEN. HF_ENDPOINT names another Hub."

    checkpoint: Annotated[Place, Doc("Calibrated checkpoint directory, or an .onnx file.", argument=True)]
    repository: Annotated[str, Doc("Hub id OWNER/NAME; made when it is not there.", argument=True)]
    _: KW_ONLY
    metrics: Annotated[Place | None, Doc("Report of `qvggt eval --json` on this very file, for the card.")] = None
    licence: Annotated[str | None, Doc("Hub licence id of the model. [that of the source, where it is known]")] = None
    public: Annotated[bool, Doc("Let everybody see it; without it a new repository is private.")] = False
    branch: Annotated[str | None, Doc("Branch to write, made when it is not there. [main]")] = None
    card_only: Annotated[bool, Doc("Print the model card and stop; no network.")] = False
    overwrite: Annotated[bool, Doc("Write to a repository that holds other files too.")] = False

    @property
    def onnx(self) -> bool:
        """Whether it is an ONNX file that is pushed."""
        return Path(self.checkpoint).suffix.lower() == ".onnx"

    def check(self) -> None:
        check_repository(self.repository)
        if self.licence is not None:
            check_licence(self.licence)

    def prepare(self) -> None:
        if self.onnx:
            check_file(Path(self.checkpoint), "an ONNX file of qvggt export")
        else:
            check_file(Path(self.checkpoint) / DESCRIPTION, "a calibrated checkpoint")
        self._report()

    def execute(self, console: Console) -> PushResult:
        from qvggt.hub.card import model_card
        from qvggt.hub.sharing import checkpoint_bundle, push

        what, report = Path(self.checkpoint), self._report()
        if self.onnx:
            bundle = onnx_bundle(what, self.repository, report, self.licence)
        else:
            bundle = checkpoint_bundle(what, self.repository, metrics=report, licence=self.licence)
        card = model_card(bundle.facts)
        if self.card_only:
            console.result(card.removesuffix("\n"))
            return PushResult(self.repository, bundle.facts.files, card)
        pushed = push(bundle, public=self.public, branch=self.branch, replace=self.overwrite)
        total = sum(bundle.facts.files.values())
        console.result(f"{pushed.repository}: {', '.join(pushed.files)} ({total / 1e6:.2f} MB)")
        console.result(f"commit {pushed.commit.id}: {pushed.commit.url}")
        return PushResult(self.repository, bundle.facts.files, card, pushed.commit.id, pushed.commit.url)

    def _report(self) -> dict[str, Any] | None:
        return None if self.metrics is None else read_object(Path(self.metrics), "a report of qvggt eval --json")


def onnx_bundle(path: Path, repository: str, metrics: Mapping[str, Any] | None, licence: str | None) -> Bundle:
    """An .onnx file, its external data and its parity report, of a trunk its heads too; QvggtError for a file that is
    damaged or not ours."""
    from qvggt.engines.network_file import file_scheme
    from qvggt.files import file_sha256
    from qvggt.hub.card import CardFacts
    from qvggt.hub.sharing import ONNX_FILE, Bundle
    from qvggt.onnx_view.file import network_files, open_onnx
    from qvggt.quant.checkpoint import Provenance

    opened = open_onnx(path)
    source, scheme = opened.metadata.source, file_scheme(opened.metadata)
    if source is None:
        raise QvggtError(f"{path}: carries no qvggt.source, so it is no file of qvggt export; export it again")
    report = path.with_name(path.name + ".parity.json")
    heads = [p for file in network_files(path)[1:] for p in (file, *open_onnx(file).data)]
    files = {p.name: p for p in (path, *opened.data, *heads, *([report] if report.is_file() else []))}
    odd = [name for name in files if not ONNX_FILE.fullmatch(name)]
    if odd:
        raise QvggtError(f"{path}: cannot push a file named {odd[0]!r}; expected letters, digits, - _ . and NAME.onnx")
    sizes = {name: p.stat().st_size for name, p in files.items()}
    provenance = Provenance(source=source)
    facts = CardFacts("onnx", repository, path.name, file_sha256(path), sizes, scheme, provenance, metrics, licence)
    return Bundle(facts, files)
