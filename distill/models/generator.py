"""Generators of images from noise, sized from the data, for data-free and adversarial methods."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Generator(nn.Module):
    """Noise [B,Z] to images [B,C,S,S] in normalised units.

    A linear map to `first` channels at a quarter of the side, then twice: BatchNorm, nearest-neighbour doubling, 3x3
    convolution (`DoublingConv2d`); a last convolution and the modules `last`, by default tanh and a BatchNorm without
    affine parameters, so that images have mean 0 and variance 1 as training images have (DAFL, arXiv:1904.01186). eps
    is that of the BatchNorms of the blocks. Sides that 4 does not divide are cut to size.
    """

    def __init__(
        self,
        latent: int,
        channels: int,
        size: int,
        width: int = 128,
        *,
        first: int | None = None,
        eps: float = 1e-5,
        last: Sequence[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.latent, self.size, self.start, self.width = latent, size, -(-size // 4), first or width
        self.project = nn.Linear(latent, self.width * self.start**2)
        self.first = nn.BatchNorm2d(self.width)
        self.middle = _block(self.width, width, eps)
        self.upper = _block(width, width // 2, eps)
        last = [nn.Tanh(), nn.BatchNorm2d(channels, affine=False)] if last is None else last
        self.last = nn.Sequential(nn.Conv2d(width // 2, channels, 3, padding=1), *last)

    def forward(self, noise: Tensor) -> Tensor:
        x = self.project(noise).view(len(noise), self.width, self.start, self.start)
        x = self.first(x.contiguous(memory_format=torch.channels_last))
        return self.last(self.upper(self.middle(x))[:, :, : self.size, : self.size]).float()

    @torch.no_grad()
    def restart(self) -> None:
        """Draw every weight anew as CMI does (arXiv:2105.08584): N(0, 0.02^2), N(1, 0.02^2) in BatchNorm; biases 0."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.BatchNorm2d) and module.weight is not None:
                module.weight.normal_(float(isinstance(module, nn.BatchNorm2d)), 0.02)
                if module.bias is not None:
                    module.bias.zero_()


class DoublingConv2d(nn.Conv2d):
    """Nearest-neighbour doubling and a 3x3 convolution of it with a border of 1: [B,C,S,S] to [B,D,2S,2S].

    As one transposed convolution of stride 2 it has 4 products a pixel and channel instead of 9: two of the three rows
    of weights meet the same row of x, and so do columns; the sums of their weights are the 4x4 kernel.
    """

    def forward(self, x: Tensor) -> Tensor:
        kernel = F.pad(self.weight.flip(2, 3), (1, 1, 1, 1))
        kernel = kernel[:, :, 1:] + kernel[:, :, :-1]
        kernel = kernel[:, :, :, 1:] + kernel[:, :, :, :-1]
        return F.conv_transpose2d(x, kernel.transpose(0, 1), self.bias, stride=2, padding=1)


class Pixels(nn.Module):
    """Maps [B,C,S,S] to pixels in 0..1 by a sigmoid, and to normalised units by the data's mean and std a channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x.float().sigmoid() - self.mean) / self.std

    def rounded(self, images: Tensor) -> Tensor:
        """Return normalised images as uint8 pixels, as a PNG file holds them; fractions are cut off."""
        return ((images * self.std + self.mean).clamp(0, 1) * 255).to(torch.uint8)

    def normalised(self, pixels: Tensor) -> Tensor:
        """Return uint8 pixels [B,C,S,S] in normalised units."""
        return ((pixels.float() / 255 - self.mean) / self.std).contiguous(memory_format=torch.channels_last)


def _block(inputs: int, outputs: int, eps: float) -> nn.Sequential:
    norm = nn.BatchNorm2d(outputs, eps)
    return nn.Sequential(DoublingConv2d(inputs, outputs, 3, padding=1), norm, nn.LeakyReLU(0.2, inplace=True))
