"""Generators of images from noise."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from distill.models.generator import DoublingConv2d


@pytest.mark.parametrize("size", [(1, 1), (3, 4)])
def test_doubling_convolutions_are_a_convolution_of_what_is_doubled(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ours = DoublingConv2d(3, 5, 3, padding=1, dtype=torch.float64)
    plain = nn.Conv2d(3, 5, 3, padding=1, dtype=torch.float64)
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    results = ours(x), plain(F.interpolate(x, scale_factor=2))
    assert torch.allclose(*results, atol=1e-12)
    toward = torch.randn_like(results[0])
    found, wanted = (
        torch.autograd.grad(y, [x, *net.parameters()], toward) for y, net in zip(results, (ours, plain), strict=True)
    )
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-12)
