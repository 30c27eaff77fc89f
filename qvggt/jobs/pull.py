"""Pull: a calibrated checkpoint or an exported ONNX file from the Hugging Face Hub, checked."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from qvggt.hub.names import check_repository
from qvggt.jobs.job import Doc, Job, Place, Result
from qvggt.jobs.options import Revision
from qvggt.jobs.places import check_new_folder
from qvggt.progress import Console


@dataclass(frozen=True)
class PullResult(Result):
    """What was written. commit: 40 hex digits; files: names in the folder."""

    repository: str
    output: Path
    commit: str
    kind: Literal["checkpoint", "onnx"]
    files: tuple[str, ...]

    def to_dict(self, folder: Path | None = None) -> dict[str, Any]:
        return {
            "repository": self.repository,
            "output": str(self.output),
            "commit": self.commit,
            "kind": self.kind,
            "files": list(self.files),
        }


@dataclass(frozen=True)
class PullJob(Job[PullResult]):
    """Download and check what qvggt push uploaded.

    A checkpoint is loaded, an ONNX file opened. Only the files of such an upload are taken; nothing is unpickled and
    nothing is run.
    """

    name: ClassVar[str] = "pull"
    examples: ClassVar[tuple[str, ...]] = (
        "qvggt pull me/tiny-w4a4 -o outputs/tiny-w4a4",
        "qvggt pull me/tiny-w4a4 -o outputs/tiny-w4a4 --revision 0123abc",
    )

    repository: Annotated[str, Doc("Hub id OWNER/NAME.", argument=True)]
    output: Annotated[Place, Doc("Directory to write.", ("-o", "--output"))]
    _: KW_ONLY
    revision: Revision = None
    offline: Annotated[bool, Doc("Never use the network: the Hub cache only.")] = False
    overwrite: Annotated[bool, Doc("Replace an earlier pull of the same kind.")] = False

    def check(self) -> None:
        check_repository(self.repository)

    def prepare(self) -> None:
        check_new_folder(Path(self.output), self.overwrite, "an earlier pull")

    def execute(self, console: Console) -> PullResult:
        from qvggt.hub.sharing import pull

        pulled = pull(
            self.repository,
            self.output,
            revision=self.revision,
            offline=self.offline,
            replace=self.overwrite,
            check_onnx=check_onnx,
        )
        console.result(f"{self.output}: {', '.join(pulled.files)} of {self.repository} at commit {pulled.commit}")
        return PullResult(self.repository, pulled.folder, pulled.commit, pulled.kind, pulled.files)


def check_onnx(path: Path) -> None:
    """QvggtError for a damaged model, or external data that is missing or leaves the folder."""
    from qvggt.onnx_view.file import open_onnx

    open_onnx(path)
