"""What folding changes in the modules themselves: enough to load a folded checkpoint, without any value."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import nn

from qvggt.errors import QvggtError
from qvggt.models.block import Block, LayerScale
from qvggt.models.family import LINEARS, family_of
from qvggt.models.fold_config import FoldConfig
from qvggt.models.network import Network, module_at

MARK = "_fold_config"  # beside the parameters, so that a deep copy keeps it
REFOLDABLE = "_refoldable"  # the marked fold only changed the basis of the streams: another one may follow


def applied_fold(model: Network) -> FoldConfig | None:
    """How `fold_` or `fold_structure_` treated the model, None when neither did."""
    return model.__dict__.get(MARK)


def mark_(model: Network, config: FoldConfig, refoldable: bool = False) -> None:
    """Record a fold. The structure an earlier one left (its linears, no LayerScales) stays part of the record."""
    earlier = applied_fold(model)
    if earlier is not None:
        residual, layer_scale = config.residual or earlier.residual, config.layer_scale or earlier.layer_scale
        config = dataclasses.replace(config, residual=residual, layer_scale=layer_scale)
    model.__dict__[MARK], model.__dict__[REFOLDABLE] = config, refoldable


def blocks(model: Network) -> Iterator[tuple[str, Block]]:
    """(path, block) of every transformer block, those of the heads too."""
    for path, module in model.named_modules():
        if isinstance(module, Block):
            yield path, module


def check_foldable(model: Network) -> None:
    """Raise QvggtError unless the model is as built, or as `rotate_streams_` left it, with float linears."""
    done, refoldable = applied_fold(model), model.__dict__.get(REFOLDABLE, False)
    if done is not None and not refoldable:
        raise QvggtError(f"model: already folded with {done}, expected an unfolded one; load it again")
    for added in family_of(model).added(model.config):
        if module_at(model, added.path) is not None and not refoldable:
            raise QvggtError(f"model: {added.path} exists, expected an unfolded model; load it again")
    for path, block in blocks(model):
        for name in ("ls1", "ls2"):
            if not isinstance(block.get_submodule(name), LayerScale) and not refoldable:
                raise QvggtError(f"model: {path}.{name} is no LayerScale, expected an unfolded model; load it again")
        for name in LINEARS:
            linear = type(block.get_submodule(name)).__name__
            if linear != "Linear":
                raise QvggtError(f"model: {path}.{name} is a {linear}, expected Linear; fold before quantizing")


def add_rotations_(model: Network) -> list[nn.Linear]:
    """Give the model the linears a rotated one has, where they are missing; returns the new ones, uninitialised."""
    like, made = next(model.parameters()), []
    for added in family_of(model).added(model.config):
        if module_at(model, added.path) is None:
            linear = nn.utils.skip_init(nn.Linear, added.width, added.width, device=like.device, dtype=like.dtype)
            assert isinstance(linear, nn.Linear)
            parent, _, name = added.path.rpartition(".")
            setattr(model.get_submodule(parent), name, linear.requires_grad_(like.requires_grad).train(model.training))
            made.append(linear)
    return made


def fold_structure_(model: Network, config: FoldConfig) -> None:
    """Give the model the modules of a folded one, to be filled from a state dict; works on the meta device.

    LayerScales become identities and the rotations' linears appear, without values. Raises QvggtError as `fold_` does.
    """
    check_foldable(model)
    if config.layer_scale:
        for _, block in blocks(model):
            block.ls1, block.ls2 = nn.Identity(), nn.Identity()
    if config.residual:
        with torch.no_grad():
            add_rotations_(model)
    mark_(model, config)
