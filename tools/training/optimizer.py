"""Muon on the matrices of the transformer blocks, AdamW on everything else."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

_MATRICES = ("attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight", "poseLN_modulation.1.weight")


def build(modules: Iterable[nn.Module], lr: float) -> list[torch.optim.Optimizer]:
    """Optimizers whose groups carry `peak`, the learning rate at the top of the schedule."""
    matrices: list[Tensor] = []
    decayed: list[Tensor] = []
    plain: list[Tensor] = []
    for module in modules:
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            if name.endswith(_MATRICES):
                matrices.append(parameter)
            elif parameter.dim() < 2 or "token" in name or "pos_embed" in name:
                plain.append(parameter)
            else:
                decayed.append(parameter)
    muon = torch.optim.Muon(matrices, lr=lr, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
        lr=lr,
        betas=(0.9, 0.98),
        fused=True,
    )
    for optimizer in (muon, adam):
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return [muon, adam]


def set_rate(optimizers: list[torch.optim.Optimizer], progress: float, hold: float = 0.0, warmup: float = 0.03) -> None:
    """Linear warm-up, constant until `progress` (in [0, 1]) is `hold`, then cosine to zero."""
    fallen = max(0.0, progress - hold) / max(1 - hold, 1e-9)
    factor = progress / warmup if progress < warmup else 0.5 * (1 + math.cos(math.pi * min(1.0, fallen)))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * max(factor, 1e-4)


def initialise(model: nn.Module, generator: torch.Generator) -> None:
    """Truncated normal 0.02; attention that starts by comparing like with like (W_k = W_q, W_proj = W_v^T)."""
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02, generator=generator)
                nn.init.zeros_(module.bias)
            elif name.endswith("patch_embed.proj"):
                nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5, generator=generator)
        for name, parameter in model.named_parameters():
            if "token" in name or "pos_embed" in name:
                parameter.normal_(std=0.02, generator=generator)
            elif name.endswith("gamma"):
                parameter.fill_(0.1 if "camera_head" in name else 1.0 if "patch_embed" in name else 0.3)
        for name, module in model.named_modules():
            if name.endswith("attn") and "camera_head" not in name:
                _mimetic(module, generator)


def _mimetic(attention: nn.Module, generator: torch.Generator) -> None:
    qkv, proj = attention.qkv.weight, attention.proj.weight
    dim = proj.shape[0]
    query = torch.randn(dim, dim, generator=generator) * dim**-0.5
    value = torch.linalg.qr(torch.randn(dim, dim, generator=generator))[0] * 0.7
    qkv[:dim].copy_(query)
    qkv[dim : 2 * dim].copy_(query)
    qkv[2 * dim :].copy_(value)
    proj.copy_(value.T)
