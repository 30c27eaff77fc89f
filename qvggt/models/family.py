"""What a model family says about its networks: the facts that everything outside its folder asks for.

Facts need no torch, as schemes and the help of commands ask for some; methods that take a network import what they use.
A family is one folder beside this file with a `description` module that holds FAMILY, and one line in `FAMILIES`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, Protocol

from qvggt.errors import QvggtError
from qvggt.predictions import OUTPUTS

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from qvggt.models.block import Block, Rope
    from qvggt.models.network import Network

FAMILIES = {"vggt": "qvggt.models.vggt.description"}  # name -> module that holds FAMILY
DEFAULT = "vggt"  # what a file means that names no family

LINEARS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
"""The linears of a transformer block (qvggt.models.block)."""

View = Literal["frame", "global"]


class ModelConfig(Protocol):
    """What every family's sizes have; `family` is its name."""

    @property
    def family(self) -> str: ...
    @property
    def img_size(self) -> int: ...
    @property
    def patch_size(self) -> int: ...
    @property
    def embed_dim(self) -> int: ...
    @property
    def num_heads(self) -> int: ...
    @property
    def mlp_ratio(self) -> int: ...
    @property
    def heads(self) -> tuple[str, ...]: ...
    def to_json(self) -> str: ...
    def replace(self, **changes: Any) -> Any: ...


@dataclass(frozen=True)
class Part:
    """Layers that a scheme names together.

    roots: module paths. Of lists of transformer blocks, whose linears belong to the part; or, with `convs`, of heads,
    whose convolutions of these names do. default: quantized unless the user says otherwise. Or a part is single layers:
    `layers`, paths of linears, and `stems`, of convolutions whose inputs stay floating point; they get the wide format
    whatever the scheme's.
    """

    name: str
    roots: tuple[str, ...] = ()
    convs: tuple[str, ...] = ()
    default: bool = False
    layers: tuple[str, ...] = ()
    stems: tuple[str, ...] = ()

    @property
    def single(self) -> bool:
        """Whether it is single layers."""
        return bool(self.layers or self.stems)

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Paths of its linears or convolutions, to match in full."""
        if self.single:
            return re.compile("|".join(map(re.escape, (*self.layers, *self.stems))))
        roots = "|".join(map(re.escape, self.roots))
        names = self.convs or LINEARS
        return re.compile(rf"({roots})\.{'' if self.convs else r'[0-9]+[.]'}({'|'.join(map(re.escape, names))})")

    @property
    def conv_paths(self) -> tuple[str, ...]:
        return (*(f"{root}.{name}" for root in self.roots for name in self.convs), *self.stems)


@dataclass(frozen=True)
class TokenLayout:
    """Tokens of a frame: `special` ones (class, camera, registers), then patches.

    first_apart: the first frame's special tokens are other constants than those of all other frames.
    """

    special: int
    first_apart: bool = False

    @property
    def types(self) -> int:
        """Types of tokens in such a stream: each special one, and all patches together."""
        return (2 if self.first_apart else 1) * self.special + 1


@dataclass(frozen=True)
class Stage:
    """One transformer block on the way of the tokens.

    view: "frame" sees the tokens of each frame alone, "global" those of all frames at once. group: stages of one group
    are alike but for their weights. stream: name of the residual stream it reads and writes. positions: which RoPE
    tables turn its queries and keys, of those the family's `positions` gives. enters: the tokens go through the
    family's `enter` before this stage.
    """

    path: str
    group: str
    view: View
    stream: str
    layout: TokenLayout
    positions: str | None = None
    enters: bool = False


@dataclass(frozen=True)
class Reader:
    """Layers outside the blocks that read a residual stream.

    norm: the LayerNorm before them, whose affine they can take; None where they read the stream itself. rotated: for
    each stretch of the stream's width in their input, whether it is in the stream's basis.
    """

    layers: tuple[str, ...]
    norm: str | None = None
    rotated: tuple[bool, ...] = (True,)


@dataclass(frozen=True)
class ResidualStream:
    """A residual stream: which layers outside the blocks write into it, which parameters [..., C] are tokens or
    embeddings in it, who reads it. Names seed its rotation. Its blocks are the stages of this stream."""

    name: str
    writers: tuple[str, ...]
    vectors: tuple[str, ...]
    readers: tuple[Reader, ...]


@dataclass(frozen=True)
class AddedLinear:
    """A square linear that only a rotated model has, the identity without rotation; applied once per patch or frame."""

    path: str
    width: int
    per: Literal["patch", "frame"]


@dataclass(frozen=True)
class Head:
    """A head: its name among a config's `heads`, its module, the names among OUTPUTS it computes, and the word of
    --outputs for them (None: no export)."""

    name: str
    path: str
    outputs: tuple[str, ...] = ()
    word: str | None = None


@dataclass(frozen=True)
class MemoryFacts:
    """The sizes that decide how much memory a pass takes.

    width of the tokens, width of an attention head, side of a patch in pixels, special tokens of a frame; features and
    head_channels of a dense head.
    """

    width: int
    head_width: int
    patch: int
    special: int
    features: int
    head_channels: int

    def tokens(self, height: int, width: int) -> int:
        """Of a frame of height x width pixels; a part of a patch counts as its share."""
        return height * width // self.patch**2 + self.special


class Family(ABC):
    """A family of networks. Sizes come as its config, modules as paths from the network."""

    name: str
    title: str  # for people
    patch_size: int  # of the published networks
    assumed: tuple[str, ModelConfig]  # name and sizes of the network a weights file without sizes is taken for
    parts: tuple[Part, ...]
    heads: tuple[Head, ...]  # in the order of a config
    trunk: str  # the module that takes images [B, S, 3, H, W] and runs all stages
    override_example: str  # a pattern of module paths, for help texts

    # facts that follow from those

    @property
    def part_names(self) -> tuple[str, ...]:
        return tuple(part.name for part in self.parts)

    @property
    def default_parts(self) -> tuple[str, ...]:
        return tuple(part.name for part in self.parts if part.default)

    def part(self, name: str) -> Part:
        return next(part for part in self.parts if part.name == name)

    @cached_property
    def convs(self) -> tuple[str, ...]:
        """Paths of all convolutions a scheme can quantize."""
        return tuple(path for part in self.parts for path in part.conv_paths)

    @cached_property
    def stems(self) -> tuple[str, ...]:
        """Those among `convs` whose inputs stay floating point."""
        return tuple(path for part in self.parts for path in part.stems)

    @property
    def exportable(self) -> dict[str, Head]:
        """Word of --outputs -> head, in the order of OUTPUTS."""
        ordered = sorted((head for head in self.heads if head.outputs), key=lambda head: OUTPUTS.index(head.outputs[0]))
        return {head.word: head for head in ordered if head.word is not None}

    @property
    def predicting_heads(self) -> tuple[str, ...]:
        """Names of the heads that compute some of OUTPUTS."""
        return tuple(head.name for head in self.heads if head.outputs)

    def outputs(self, config: ModelConfig) -> tuple[str, ...]:
        """The names among OUTPUTS that a network of these sizes computes, in their order."""
        computed = {name for head in self.heads if head.name in config.heads for name in head.outputs}
        return tuple(name for name in OUTPUTS if name in computed)

    def rounds(self, config: ModelConfig) -> list[tuple[Stage, Stage]]:
        """A stage that looks at each frame and the next, which looks at all of them, as often as there are such."""
        return [pair for pair in pairwise(self.stages(config)) if [s.view for s in pair] == ["frame", "global"]]

    # what each family defines, from sizes alone

    @abstractmethod
    def island(self, float_type: str) -> re.Pattern[str]:
        """Module paths that stay fp32 in a network of a half type, "fp16" or "bf16"; to match at their start."""

    @abstractmethod
    def config(self, values: object) -> ModelConfig:
        """Rebuild sizes from the mapping in their JSON; QvggtError names what is wrong."""

    @abstractmethod
    def stages(self, config: ModelConfig) -> tuple[Stage, ...]:
        """Every block that calibration learns one after the other, in the order they run."""

    @abstractmethod
    def streams(self, config: ModelConfig) -> tuple[ResidualStream, ...]:
        """The residual streams of the stages, in the order they run."""

    @abstractmethod
    def added(self, config: ModelConfig) -> tuple[AddedLinear, ...]:
        """What rotating those streams adds to the network."""

    @abstractmethod
    def tokens(self, config: ModelConfig, height: int, width: int) -> int:
        """Tokens of a frame of height x width pixels, the special ones too."""

    @abstractmethod
    def memory(self, config: ModelConfig) -> MemoryFacts: ...

    # what each family defines on networks

    @abstractmethod
    def build(self, config: ModelConfig) -> Network: ...

    @abstractmethod
    def block(self, config: ModelConfig, stage: Stage) -> Block:
        """A block of random weights as at that stage."""

    @abstractmethod
    def positions(
        self, config: ModelConfig, height: int, width: int, device: torch.device | None = None
    ) -> Mapping[str, Rope]:
        """RoPE tables of a frame of height x width pixels, by the name stages give."""

    @abstractmethod
    def embed(self, network: Network, images: Tensor) -> Tensor:
        """Images [S, 3, H, W] in [0, 1] -> tokens [S, P, C] before the first stage."""

    @abstractmethod
    def enter(self, network: Network, stage: Stage, tokens: Tensor) -> Tensor:
        """Tokens [S, P, C] of a sequence -> what a stage that `enters` gets of them."""

    @abstractmethod
    def last_tokens(self, network: Network, images: Tensor) -> Tensor:
        """Images [S, 3, H, W] in [0, 1] -> what the heads get of the last stages, [S, P, any]."""


@cache
def _load(module: str) -> Family:
    family = import_module(module).FAMILY
    assert isinstance(family, Family)
    return family


def find_family(name: str = DEFAULT) -> Family:
    """The family of a name; QvggtError for an unknown one."""
    if name not in FAMILIES:
        raise QvggtError(f"unknown model family {name!r}: expected one of {', '.join(FAMILIES)}; update qvggt")
    return _load(FAMILIES[name])


def family_of(network: Network) -> Family:
    return find_family(network.config.family)


def check_size(height: int, width: int, patch: int) -> None:
    """Raise QvggtError unless height x width (pixels) is a positive multiple of the patch size on both sides."""
    for name, value in (("height", height), ("width", width)):
        if value <= 0 or value % patch:
            raise QvggtError(
                f"image {name} {value} is not a positive multiple of the patch size {patch}; "
                f"nearest sizes: {max(patch, value // patch * patch)} and {(value // patch + 1) * patch}"
            )
