"""Generators of images from noise, sized from the data, for data-free and adversarial methods."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Generator(nn.Module):
    """Noise [B,Z] to images [B,C,S,S] in normalised units.

    A linear map to a quarter of the side, then twice: BatchNorm, nearest-neighbour doubling, 3x3
    convolution; tanh and a BatchNorm without affine parameters, so that images have mean 0 and variance 1
    as training images have (DAFL, arXiv:1904.01186, and its successors). Sides that 4 does not divide are
    cut to size.
    """

    def __init__(self, latent: int, channels: int, size: int, width: int = 128) -> None:
        super().__init__()
        self.latent, self.size, self.start, self.width = latent, size, -(-size // 4), width
        self.project = nn.Linear(latent, width * self.start**2)
        self.first = nn.BatchNorm2d(width)
        self.middle = _block(width, width)
        self.upper = _block(width, width // 2)
        self.last = nn.Sequential(
            nn.Conv2d(width // 2, channels, 3, padding=1), nn.Tanh(), nn.BatchNorm2d(channels, affine=False)
        )

    def forward(self, noise: Tensor) -> Tensor:
        x = self.first(self.project(noise).view(len(noise), self.width, self.start, self.start))
        for block in (self.middle, self.upper):
            x = block(F.interpolate(x, scale_factor=2))
        return self.last(x[:, :, : self.size, : self.size]).float()

    @torch.no_grad()
    def restart(self) -> None:
        """Give every parameter and statistic a fresh start, drawn from torch's global generator."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.BatchNorm2d):
                module.reset_parameters()


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2))
