"""What nets show of places: patch tokens or a last stage's map, and how the places of two nets are matched."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.models import FeatureNet, Outputs
from distill.models.reading import evaluating


def patch_map(outputs: Outputs) -> Tensor:
    """[B,D,H,W]: patch tokens behind the last norm where a net has them, in their places, else the last stage's map."""
    last, tokens = outputs.features[-1], outputs.tokens
    height, width = last.shape[2:]
    if tokens is None or tokens.shape[1] != height * width:
        return last
    return tokens.transpose(1, 2).unflatten(2, (height, width))


def patch_shape(net: FeatureNet) -> tuple[int, int, int]:
    """(D, H, W) of a net's `patch_map`. Raises ValueError for a net without maps."""
    if not net.shapes:
        raise ValueError(f"{net.name} has no maps, whose places could be compared: take a method such as method=rkd")
    with torch.no_grad(), evaluating(net):
        _, channels, height, width = patch_map(net(net.probe())).shape
    return channels, height, width


def at_positions(patches: Tensor, like: Tensor) -> Tensor:
    """Patches [B,D,h,w] as rows [B,N,D] at the N places of another map [B,C,H,W] (bilinear)."""
    if patches.shape[2:] != like.shape[2:]:
        patches = F.interpolate(patches, like.shape[2:], mode="bilinear", align_corners=False)
    return patches.flatten(2).transpose(1, 2)


def truncated(layer: nn.Linear) -> nn.Linear:
    """A linear layer with weights from a normal of spread 0.02, cut off at 2, and biases at zero."""
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer
