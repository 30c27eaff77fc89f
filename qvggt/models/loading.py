"""Weights in and out of a network: strict, lean loading and reproducible saving."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from qvggt.errors import QvggtError
from qvggt.models.family import DEFAULT, ModelConfig, find_family
from qvggt.models.network import Network
from qvggt.tensor_file import FLOATS, Entry, TensorFile, open_tensors, write_tensors

Predicting = Literal["predicting"]  # in place of names of heads: those that compute some of `qvggt.predictions.OUTPUTS`
SHOWN = 3  # keys listed of each kind of mismatch


def load_weights(
    path: Path,
    *,
    config: ModelConfig | None = None,
    heads: tuple[str, ...] | Predicting | None = None,
    check_finite: bool = False,
) -> Network:
    """The model of a weights file; see `qvggt.hub.loading.load_model`."""
    file = open_tensors(path)
    known = config or stored_config(file)
    chosen = known or config_of(file)
    family = find_family(chosen.family)
    if heads is not None:
        predicting = tuple(name for name in family.predicting_heads if name in chosen.heads)
        there = held_heads(file, chosen)
        here = tuple(name for name in predicting if name in there) or predicting  # none: named as absent below
        names = here if heads == "predicting" else tuple(heads)
        chosen = chosen.replace(heads=names)  # refuses an unknown head
        chosen = chosen.replace(heads=tuple(head.name for head in family.heads if head.name in names))
    with torch.device("meta"):
        model = family.build(chosen)
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    check_entries(file, expected, chosen, assumed=known is None)
    state = dict(file.floats(expected))
    if check_finite:
        refuse_nonfinite(file.path, state)
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(False).eval()


def save_model(
    model: Network, path: str | Path, metadata: Mapping[str, str] | None = None, *, dtype: torch.dtype | None = None
) -> None:
    """Write weights and config to a safetensors file that `load_model` reads back; atomic, reproducible bytes.

    metadata: further text entries (provenance); "config" and "format" are taken. dtype: storage type, for instance
    torch.float16 to ship; by default each tensor's own. Raises QvggtError when a finite weight does not fit `dtype`
    or `path` cannot be written.
    """
    taken = {"format": "pt", "family": model.config.family, "config": model.config.to_json()}
    if metadata is not None and taken.keys() & metadata.keys():
        raise ValueError(f"metadata must not hold the keys {', '.join(taken)}")
    if dtype is not None and dtype not in FLOATS:
        raise ValueError(f"dtype {dtype} cannot store weights, expected one of {', '.join(map(str, FLOATS))}")
    state = model.state_dict()
    if dtype is not None:
        state = {key: tensor.to(dtype) for key, tensor in state.items()}
        refuse_nonfinite(path, state, f"as {dtype}; store it wider")
    write_tensors(path, state, {**(metadata or {}), **taken})


def stored_config(file: TensorFile) -> ModelConfig | None:
    """Config from the file's metadata, else from "qvggt_config" in a config.json beside it, else None.

    "family" beside either says which model family's it is.
    """
    if "config" in file.metadata:
        family = file.metadata.get("family", DEFAULT)
        return parse_config(f"{file.path} metadata key 'config'", file.metadata["config"], family)
    beside = file.path.with_name("config.json")
    if not beside.is_file():
        return None
    try:
        values = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise QvggtError(
            f"{beside}: no readable JSON, expected an object; mend or remove it, or pass config="
        ) from error
    if not isinstance(values, dict) or "qvggt_config" not in values:
        return None  # another library's description of the same weights
    family = str(values.get("qvggt_family", DEFAULT))
    return parse_config(f"{beside} key 'qvggt_config'", json.dumps(values["qvggt_config"]), family)


def config_of(file: TensorFile) -> ModelConfig:
    """The stored config, else that of the network a file without one is taken for."""
    return stored_config(file) or find_family().assumed[1]


def held_heads(file: TensorFile, config: ModelConfig) -> tuple[str, ...]:
    """The config's heads of which the file holds anything: fine-tuning may have left some out."""
    heads = (head for head in find_family(config.family).heads if head.name in config.heads)
    return tuple(head.name for head in heads if any(key.startswith(f"{head.path}.") for key in file.entries))


def parse_config(origin: str, text: str, family: str) -> ModelConfig:
    try:
        found = find_family(family)
        return found.config(json.loads(text))
    except QvggtError as error:
        raise QvggtError(f"{origin}: {error}") from error
    except ValueError as error:
        expected = f"expected {found.title}Config.to_json()"
        raise QvggtError(f"{origin}: not a {found.title} config, {expected}; pass config=") from error


def check_entries(
    file: TensorFile, expected: Mapping[str, tuple[int, ...]], config: ModelConfig, assumed: bool
) -> None:
    """Raise one QvggtError unless the file holds exactly `expected`, apart from heads the config leaves out."""
    family = find_family(config.family)
    prefix = {head.name: f"{head.path}." for head in family.heads}
    others = tuple(path for head, path in prefix.items() if head not in config.heads)
    held: dict[str, Entry] = {key: entry for key, entry in file.entries.items() if not key.startswith(others)}
    absent = [head for head in config.heads if not any(key.startswith(prefix[head]) for key in held)]
    wanted = {key: shape for key, shape in expected.items() if not key.startswith(tuple(prefix[h] for h in absent))}
    missing = [key for key in wanted if key not in held]
    unexpected = [key for key in held if key not in expected]
    misshaped = [
        f"{key} expected {list(shape)} got {list(held[key].shape)}"
        for key, shape in wanted.items()
        if key in held and held[key].shape != shape
    ]
    faults = [
        f"{len(items)} {kind} ({summary(items)})"
        for kind, items in (("missing", missing), ("unexpected", unexpected), ("mis-shaped", misshaped))
        if items
    ]
    if faults:
        remedy = "pass the matching config="
        if assumed:
            remedy = f"it carries no config, so {family.assumed[0]} was assumed: pass config="
        raise QvggtError(f"{file.path}: keys do not match the model: {', '.join(faults)}; {remedy}, or another file")
    if absent:
        rest = tuple(head for head in config.heads if head not in absent)
        raise QvggtError(
            f"{file.path}: holds no {' and no '.join(absent)} head, expected {', '.join(config.heads)}; "
            f"load without: heads={rest!r}"
        )


def summary(items: list[str]) -> str:
    more = f"; and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return "; ".join(items[:SHOWN]) + more


def refuse_nonfinite(path: str | Path, state: Mapping[str, Tensor], context: str = "; get the file again") -> None:
    for key in nonfinite(state):
        raise QvggtError(f"{path}: {key} holds NaN or infinity{context}")


def nonfinite(state: Mapping[str, Tensor]) -> Iterable[str]:
    """Keys of the tensors with a NaN or infinity; the extremes show either without a second tensor."""
    for key, tensor in state.items():
        if tensor.numel() and not all(bound.isfinite() for bound in tensor.aminmax()):
            yield key
