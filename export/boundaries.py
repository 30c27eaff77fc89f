"""Where a file and its reference meet: tensors of the file that are what a module of the reference is given or returns.

Found by the names of nodes, `<module path>/<operator>`. A tensor that is missed makes a segment longer, and one that is
taken for another makes good files fail; neither lets a broken file pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qvggt.models.block import Block
from qvggt.models.dpt import DPTHead
from qvggt.models.family import family_of
from qvggt.models.network import Network
from qvggt.models.token_types import current_types
from qvggt.onnx_view.graph import Model, Scope
from qvggt.onnx_view.halves import level_name
from qvggt.onnx_view.segment import Use, find_uses, unfollowed
from qvggt.quant.conv import QuantConv2d
from qvggt.quant.linear import QuantLinear

LINEARS = (nn.Linear, QuantLinear)
CONVS = (nn.Conv2d, nn.ConvTranspose2d, QuantConv2d)
DECADES = 5  # of the probe: largest values of 1 to 1e-4, around the roots of every epsilon of a norm

Call = tuple[str, int]  # a module path, and which call of the module in one pass
See = Callable[[str, Tensor, Tensor], None]


@dataclass(frozen=True)
class Boundaries:
    """Tensors of a file by the call that is given or returns them.

    cores: uses of quantized linears and convolutions without what centers their input. layers: indices of the nodes of
    all linears and convolutions. entries: calls of blocks whose input no layer or block returns and nobody else reads.
    """

    inputs: Mapping[Call, str]
    outputs: Mapping[Call, str]
    cores: Mapping[Call, Use]
    layers: frozenset[int]
    entries: frozenset[Call]

    @classmethod
    def of(cls, file: Model, reference: Network) -> Boundaries:
        scope, modules = file.scopes[0], dict(reference.named_modules())
        # the weights of float ones may hold what the network does to images before them
        stems = {path for path in family_of(reference).stems if not isinstance(modules.get(path), QuantConv2d)}
        inputs: dict[Call, str] = {}
        outputs: dict[Call, str] = {}
        layers = set[int]()

        def keep(use: Use, output: str | None) -> None:
            if use.input is not None and use.path not in stems:
                inputs[use.path, use.call] = use.input
            if output is not None:
                outputs[use.path, use.call] = output

        for use in find_uses(file, _paths(reference, CONVS), deep=False):
            layers |= {node.index for node in use.nodes}
            keep(use, None if use.output is None else unfollowed(scope, use.output))
        for use in find_uses(file, _paths(reference, LINEARS)):
            layers |= {node.index for node in use.nodes}
            keep(use, use.output)
        blocks = list(find_uses(file, _paths(reference, (Block,))))
        for use in blocks:
            keep(use, use.output)
        quantized = find_uses(file, _paths(reference, (QuantLinear, QuantConv2d)), deep=False)
        cores = {(use.path, use.call): use for use in quantized}
        returned = set(outputs.values())
        entries = (use for use in blocks if use.input not in {None, *returned} and _only_reader(scope, use))
        return cls(inputs, outputs, cores, frozenset(layers), frozenset((use.path, use.call) for use in entries))

    @property
    def tensors(self) -> set[str]:
        ends = {end for use in self.cores.values() for end in (use.input, use.output) if end is not None}
        return {*self.inputs.values(), *self.outputs.values(), *ends}


def _only_reader(scope: Scope, use: Use) -> bool:
    mine = {node.index for node in use.nodes}
    return all(node.index in mine for node in scope.consumers(use.input or ""))


def _paths(network: Network, kinds: tuple[type[nn.Module], ...]) -> list[str]:
    return [path for path, module in network.named_modules() if isinstance(module, kinds)]


@contextmanager
def watched(bounds: Boundaries, reference: Network, see: See, probe: bool = False) -> Iterator[None]:
    """During a pass of the reference, see(tensor of the file, what is made, what is passed on) for every boundary.

    The two differ in a probe alone, where each layer and block passes on what it made with every token brought to a
    largest value between 1 and 1e-4, and the first blocks get such tokens: what normal tokens hide shows on small ones.
    """
    calls: Counter[str] = Counter()
    blocks = 0

    def before(path: str, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        call = path, calls[path]
        passed = _shrunk(inputs[0], blocks) if probe and call in bounds.entries else inputs[0]
        if call in bounds.inputs:
            see(bounds.inputs[call], inputs[0], passed)
        if call in bounds.cores and isinstance(module, QuantLinear) and module.types:
            _see_core(see, bounds.cores[call].input, module.centered(inputs[0]))
        return passed, *inputs[1:]

    def after(path: str, module: nn.Module, _inputs: Any, made: Tensor) -> Tensor:
        nonlocal blocks
        call = path, calls[path]
        calls[path] += 1
        blocks += isinstance(module, Block)
        if call not in bounds.outputs:
            return made
        passed = _shrunk(made, blocks) if probe else made
        if call in bounds.cores and isinstance(module, QuantLinear) and module.kind_bias is not None:
            _see_core(see, bounds.cores[call].output, made - module.kind_bias[current_types()].to(made.dtype))
        see(bounds.outputs[call], made, passed)
        return passed

    def levels(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        for layer, tokens in inputs[0].items():
            see(level_name(layer), tokens, tokens)

    paths = {path for path, _ in (*bounds.inputs, *bounds.outputs)}
    with ExitStack() as stack:
        for path, module in reference.named_modules():
            if path in paths:
                stack.callback(module.register_forward_pre_hook(_at(path, before)).remove)
                stack.callback(module.register_forward_hook(_at(path, after)).remove)
            elif isinstance(module, DPTHead):
                stack.callback(module.register_forward_pre_hook(levels).remove)
        yield


def _at(path: str, hook: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *given: hook(path, *given)


def _see_core(see: See, tensor: str | None, value: Tensor) -> None:
    if tensor is not None:
        see(tensor, value, value)


def _shrunk(made: Tensor, first: int) -> Tensor:
    """Every token of [..., L, C], or every pixel of a map [N, C, H, W], with another largest value: the same for the
    input and the branches of a block, whose sum is as small then, and others in the next."""
    tokens = made.movedim(1, -1) if made.dim() == 4 else made
    powers = (torch.arange(tokens.shape[-2], device=made.device) + first) % DECADES
    small = tokens / tokens.abs().amax(-1, keepdim=True).clamp_min(1e-20) * 10.0 ** -powers.to(made.dtype)[:, None]
    return small.movedim(-1, 1).contiguous() if made.dim() == 4 else small
