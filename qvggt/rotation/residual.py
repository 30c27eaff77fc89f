"""Rotation of the residual streams, invisible to LayerNorm (DESIGN 3.1).

Every function works in the type of its arguments; run them under `in_float64`. Rows are tokens: a rotated stream is
x' = x Q with Q orthogonal and Q 1 = 1, so that LayerNorm without affine gives n(x') = n(x) Q.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from qvggt.models.block import Block, LayerScale
from qvggt.models.family import ResidualStream
from qvggt.models.network import Network

Layer = nn.Linear | nn.Conv2d  # a 1x1 convolution reads tokens as a linear does, and patches write them


def fold_affine_(norm: nn.LayerNorm, readers: Sequence[Layer]) -> None:
    """W' = W diag(gamma) and b' = b + W beta for all readers of a norm, whose own affine becomes 1, 0.

    The norm keeps its two parameters: smoothing puts 1/s there later, and the checkpoint's names stay the same.
    """
    gamma, beta = norm.weight.data, norm.bias.data
    for reader in readers:
        if reader.bias is None:
            raise AssertionError("a reader without a bias cannot take the norm's beta")
        weight = reader.weight.data.flatten(1)  # [out, in]
        reader.bias.data = reader.bias.data + weight @ beta
        reader.weight.data = (weight * gamma).view_as(reader.weight.data)
    norm.weight.data, norm.bias.data = torch.ones_like(gamma), torch.zeros_like(beta)


def rotate_reader_(reader: Layer, q: Tensor) -> None:
    """W' = W Q: reads x Q as it read x."""
    reader.weight.data = (reader.weight.data.flatten(1) @ q).view_as(reader.weight.data)


def rotate_writer_(writer: Layer, q: Tensor) -> None:
    """W' = Q^T W and b' = b Q: writes y Q instead of y."""
    writer.weight.data = (q.T @ writer.weight.data.flatten(1)).view_as(writer.weight.data)
    if writer.bias is not None:
        writer.bias.data = writer.bias.data @ q


def rotate_vectors_(vectors: nn.Parameter, q: Tensor) -> None:
    """Tokens and embeddings [..., D] that live in the stream."""
    vectors.data = vectors.data @ q


def fold_layer_scale_(block: Block) -> None:
    """W' = diag(g) W and b' = b * g for proj and fc2; both LayerScales become identities."""
    for name, linear in (("ls1", block.attn.proj), ("ls2", block.mlp.fc2)):
        scale = block.get_submodule(name)
        if isinstance(scale, LayerScale):
            linear.weight.data = scale.gamma.data[:, None] * linear.weight.data
            linear.bias.data = linear.bias.data * scale.gamma.data
            block.set_submodule(name, nn.Identity())


def rotate_block_(block: Block, q: Tensor) -> None:
    """One block on the rotated stream; its LayerScales must be folded before."""
    for norm, reader, writer in (
        (block.norm1, block.attn.qkv, block.attn.proj),
        (block.norm2, block.mlp.fc1, block.mlp.fc2),
    ):
        fold_affine_(norm, [reader])
        rotate_reader_(reader, q)
        rotate_writer_(writer, q)


def set_identity_(linear: nn.Linear) -> None:
    linear.weight.data = torch.eye(linear.in_features).to(linear.weight.data)
    linear.bias.data = torch.zeros_like(linear.bias.data)


def layer_at(network: Network, path: str) -> Layer:
    layer = network.get_submodule(path)
    assert isinstance(layer, nn.Linear | nn.Conv2d), f"{path}: neither a linear nor a convolution"
    return layer


def stream_ends(network: Network, stream: ResidualStream) -> list[nn.Module | nn.Parameter]:
    """Everything outside the blocks that rotating the stream changes."""
    paths = [*stream.writers, *(path for reader in stream.readers for path in (*reader.layers, reader.norm) if path)]
    parts = [network.get_submodule(path) for path in dict.fromkeys(paths)]
    return [*parts, *(network.get_parameter(path) for path in stream.vectors)]


def rotate_ends_(network: Network, stream: ResidualStream, q: Tensor) -> None:
    """Where the stream begins and where something other than its blocks reads it.

    A reader gets n(x) with each stretch in the stream's basis rotated by q; blockdiag(q, q, ...) fixes the ones vector
    as q does, so that LayerNorm over all stretches commutes with it. A linear from one stream to the next is a reader
    of the first and a writer of the second: W' = q2^T W diag(gamma) q1. Positions that are resized over the grid of
    patches rotate as any other vectors.
    """
    for path in stream.writers:
        rotate_writer_(layer_at(network, path), q)
    for path in stream.vectors:
        rotate_vectors_(network.get_parameter(path), q)
    for reader in stream.readers:
        layers = [layer_at(network, path) for path in reader.layers]
        if reader.norm is not None:
            norm = network.get_submodule(reader.norm)
            assert isinstance(norm, nn.LayerNorm)
            fold_affine_(norm, layers)
        basis = torch.block_diag(*(q if rotated else torch.eye(len(q)).to(q) for rotated in reader.rotated))
        for layer in layers:
            rotate_reader_(layer, basis)
