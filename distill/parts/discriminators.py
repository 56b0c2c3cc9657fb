"""Nets that learn to tell a student's outputs from a teacher's, and what every adversarial method sets for them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from distill.losses import full_precision


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Three linear layers with leaky ReLUs between them."""
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.LeakyReLU(0.2),
        nn.Linear(hidden, hidden),
        nn.LeakyReLU(0.2),
        nn.Linear(hidden, outputs),
    )


def critic_of_maps(channels: int, hidden: int) -> nn.Sequential:
    """Map [B,C,H,W] of any size to scores [B,1]."""
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(hidden, hidden, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(hidden, 1),
    )


def own_optimizer(lr: float) -> dict[str, Any]:
    """Overrides that give a discriminator Adam at a constant rate, whatever the student's schedule is."""
    return {
        "name": "adam",
        "lr": lr,
        "weight_decay": 0.0,
        "decay": "constant",
        "milestones": [],
        "warmup_epochs": 0,
    }


@full_precision
def real_or_fake(scores: Tensor, real: bool) -> Tensor:
    """Binary cross-entropy of scores [B] with "this is the teacher's" (real) or "this is the student's"."""
    return F.softplus(-scores).mean() if real else F.softplus(scores).mean()
