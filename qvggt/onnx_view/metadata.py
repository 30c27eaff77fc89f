"""What an exported file says of itself: the `qvggt.*` metadata, written and read in this one place.

Nodes are named after the module they come from, `<module path>/<operator>`, and a module that is used several times has
`.iter.<n>` in the names of each use. So a file that lists its quantized modules is read without guessing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from onnx import ModelProto

from qvggt.errors import QvggtError
from qvggt.files import line
from qvggt.onnx_view.halves import Half

PREFIX = "qvggt."
_KEYS = (
    "version family config linears scheme source size frames outputs target backend precision attention semantics half "
    "pair attentions"
)
KEYS = frozenset(_KEYS.split())
FRAMES = re.compile(r"([0-9]{1,9}):([0-9]{1,9}):([0-9]{1,9})")
ITERATION = re.compile(r"\.iter\.(\d+)(?=\.)")


def written(**values: Any) -> dict[str, str]:
    """The entries of a new file: texts as they are, everything else as JSON, nothing for None."""
    assert values.keys() <= KEYS, f"no metadata of ours: {', '.join(values.keys() - KEYS)}"
    return {
        PREFIX + key: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for key, value in values.items()
        if value is not None
    }


def module_path(node: str) -> str:
    """The module that a node of an exported file belongs to: "camera_head.iter.2.trunk.0.attn.qkv/MatMul" ->
    "camera_head.trunk.0.attn.qkv"."""
    return ITERATION.sub("", node.rpartition("/")[0] or node)


@dataclass(frozen=True)
class Metadata:
    """The `qvggt.*` entries of the file at `path`, none for a file of another exporter.

    Each property is None where the file does not say, and raises QvggtError where what it says is damaged.
    """

    entries: Mapping[str, str] = field(default_factory=dict)
    path: Path | None = None

    @classmethod
    def of(cls, proto: ModelProto, path: Path | None) -> Metadata:
        entries = ((entry.key, entry.value) for entry in proto.metadata_props)
        texts = ((key, value) for key, value in entries if isinstance(key, str) and isinstance(value, str))
        return cls({key: value for key, value in texts if key.startswith(PREFIX)}, path)

    def text(self, key: str) -> str | None:
        assert key in KEYS
        return self.entries.get(PREFIX + key)

    def check(self) -> None:
        """QvggtError for damaged entries, whoever will need them."""
        _ = self.source, self.config, self.linears, self.attentions, self.half

    def damaged(self, key: str, why: str) -> QvggtError:
        return QvggtError(f"{self.path or 'model'}: metadata {PREFIX}{key}{why}; export again")

    def _object(self, key: str) -> dict[str, Any] | None:
        text = self.text(key)
        try:
            value = None if text is None else json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self.damaged(key, f" is no JSON ({line(error)})") from error
        if text is not None and not isinstance(value, dict):
            raise self.damaged(key, f" is a {type(value).__name__}, expected a JSON object")
        return value

    @property
    def source(self) -> dict[str, Any] | None:
        """Name and sha256 of the checkpoint."""
        return self._object("source")

    @property
    def config(self) -> dict[str, Any] | None:
        """Sizes of the model, as its family reads them."""
        return self._object("config")

    @cached_property
    def linears(self) -> dict[str, str] | None:
        """Module path -> name of the number format of every quantized linear and convolution in the file."""
        return self._formats("linears")

    @cached_property
    def attentions(self) -> dict[str, str] | None:
        """Module path -> name of the number format of every quantized attention in the file."""
        return self._formats("attentions")

    def _formats(self, key: str) -> dict[str, str] | None:
        formats = self._object(key)
        if not all(isinstance(name, str) for name in (formats or {}).values()):
            raise self.damaged(key, ": expected the name of a format for every module path")
        return formats

    @property
    def half(self) -> Half | None:
        """Of which network in two files this is a half; None for a whole one."""
        text = self.text("half")
        if text is not None and text not in [half.value for half in Half]:
            raise self.damaged("half", f" {text!r}: expected one of {', '.join(half.value for half in Half)}")
        return None if text is None else Half(text)

    @property
    def bits(self) -> str | None:
        """The name of the format that the scheme starts from."""
        try:
            scheme = self._object("scheme")
        except QvggtError:  # whoever reads the scheme says so
            return None
        return None if scheme is None or not isinstance(scheme.get("bits"), str) else str(scheme["bits"])

    @property
    def frames(self) -> tuple[int, int, int] | None:
        """(min, opt, max) frames the file was made for; None as well for no such numbers, since any will do."""
        match = FRAMES.fullmatch(self.text("frames") or "")
        low, opt, high = map(int, match.groups()) if match else (0, 0, 0)
        return (low, opt, high) if 1 <= low <= opt <= high else None

    def module_of(self, node: str) -> str:
        """The module path a node is named after; the node's name itself in a file of another exporter."""
        return module_path(node) if self.entries else node

    def call_of(self, node: str) -> int:
        """Which call of that module a node belongs to: 2 of "camera_head.iter.2.trunk.0.attn.qkv/MatMul"."""
        found = ITERATION.search(node)
        return 0 if found is None else int(found[1])
