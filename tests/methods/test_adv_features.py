"""adv-features: a critic of feature maps."""

from __future__ import annotations

import torch

from distill.parts.discriminators import critic_of_maps


def test_critic_of_maps_takes_any_size() -> None:
    critic = critic_of_maps(3, 4)
    assert critic(torch.zeros(2, 3, 1, 1)).shape == critic(torch.zeros(2, 3, 7, 5)).shape == (2, 1)
