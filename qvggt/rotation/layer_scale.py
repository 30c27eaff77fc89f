"""LayerScale into the linear before it (DESIGN 3.1)."""

from __future__ import annotations

from torch import nn

from qvggt.models.block import Block, LayerScale


def fold_layer_scale_(block: Block) -> None:
    """W' = diag(g) W and b' = b * g for proj and fc2; both LayerScales become identities."""
    for name, linear in (("ls1", block.attn.proj), ("ls2", block.mlp.fc2)):
        scale = block.get_submodule(name)
        if isinstance(scale, LayerScale):
            linear.weight.data = scale.gamma.data[:, None] * linear.weight.data
            linear.bias.data = linear.bias.data * scale.gamma.data
            block.set_submodule(name, nn.Identity())
