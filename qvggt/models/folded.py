"""What folding changes in the modules themselves: enough to load a folded checkpoint, without any value."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import nn

from qvggt.errors import QvggtError
from qvggt.models.block import Block, LayerScale
from qvggt.models.fold_config import FoldConfig
from qvggt.models.vggt.network import VGGT

MARK = "_fold_config"  # beside the parameters, so that a deep copy keeps it
REFOLDABLE = "_refoldable"  # the marked fold only changed the basis of the streams: another one may follow


def applied_fold(model: VGGT) -> FoldConfig | None:
    """How `fold_` or `fold_structure_` treated the model, None when neither did."""
    return model.__dict__.get(MARK)


def mark_(model: VGGT, config: FoldConfig, refoldable: bool = False) -> None:
    """Record a fold. The structure an earlier one left (its two linears, no LayerScales) stays part of the record."""
    earlier = applied_fold(model)
    if earlier is not None:
        residual, layer_scale = config.residual or earlier.residual, config.layer_scale or earlier.layer_scale
        config = dataclasses.replace(config, residual=residual, layer_scale=layer_scale)
    model.__dict__[MARK], model.__dict__[REFOLDABLE] = config, refoldable


def blocks(model: VGGT) -> Iterator[tuple[str, Block]]:
    """(path, block) of every transformer block: patch encoder, aggregator, camera trunk."""
    for path, module in model.named_modules():
        if isinstance(module, Block):
            yield path, module


def check_foldable(model: VGGT) -> None:
    """Raise QvggtError unless the model is as built, or as `rotate_streams_` left it, with float linears."""
    done, refoldable = applied_fold(model), model.__dict__.get(REFOLDABLE, False)
    if done is not None and not refoldable:
        raise QvggtError(f"model: already folded with {done.to_json()}, expected an unfolded one; load it again")
    if model.aggregator.patch_rotation is not None and not refoldable:
        raise QvggtError("model: aggregator.patch_rotation exists, expected an unfolded model; load it again")
    for path, block in blocks(model):
        for name in ("ls1", "ls2"):
            if not isinstance(block.get_submodule(name), LayerScale) and not refoldable:
                raise QvggtError(f"model: {path}.{name} is no LayerScale, expected an unfolded model; load it again")
        for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
            kind = type(block.get_submodule(name))
            if kind is not nn.Linear:
                raise QvggtError(f"model: {path}.{name} is a {kind.__name__}, expected Linear; fold before quantizing")


def add_rotations_(model: VGGT) -> tuple[nn.Linear, nn.Linear | None]:
    """The two matmuls a rotated model has, of the patch tokens and of the camera tokens; new ones are uninitialised."""
    patch = add_linear_(model, model.aggregator, "patch_rotation", model.config.embed_dim)
    if model.camera_head is None:
        return patch, None
    return patch, add_linear_(model, model.camera_head, "token_rotation", 2 * model.config.embed_dim)


def add_linear_(model: VGGT, parent: nn.Module, name: str, width: int) -> nn.Linear:
    """The square linear `name` of `parent`, made where it is missing."""
    present = getattr(parent, name)
    if isinstance(present, nn.Linear):
        return present
    like = model.aggregator.camera_token
    linear = nn.utils.skip_init(nn.Linear, width, width, device=like.device, dtype=like.dtype)
    if not isinstance(linear, nn.Linear):
        raise AssertionError("skip_init returns what it was given")
    setattr(parent, name, linear.requires_grad_(like.requires_grad).train(model.training))
    return linear


def fold_structure_(model: VGGT, config: FoldConfig) -> None:
    """Give the model the modules of a folded one, to be filled from a state dict; works on the meta device.

    LayerScales become identities and the two rotations appear, without values. Raises QvggtError as `fold_` does.
    """
    check_foldable(model)
    if config.layer_scale:
        for _, block in blocks(model):
            block.ls1, block.ls2 = nn.Identity(), nn.Identity()
    if config.residual:
        with torch.no_grad():
            add_rotations_(model)
    mark_(model, config)
