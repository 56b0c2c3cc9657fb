"""Where crops come from: a border around images, images brought to another size, and all crops as windows on them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def bordered(images: Tensor, pad: int, mode: str) -> Tensor:
    """Images [N,H,W,C] with `pad` more pixels on each side: zeros, or reflect, the edge itself not repeated.

    Raises ValueError for another mode, and for a reflection of more pixels than there are.
    """
    if mode == "zeros":
        return F.pad(images, (0, 0, pad, pad, pad, pad)).contiguous()
    if mode != "reflect":
        raise ValueError(f"dataset.pad_mode is {mode!r}: it is zeros or reflect")
    for axis, side in ((1, images.shape[1]), (2, images.shape[2])):
        if pad >= side:
            raise ValueError(f"dataset.pad is {pad}, and images of {side} pixels reflect {side - 1} at most")
        place = torch.arange(-pad, side + pad, device=images.device).abs()
        images = images.index_select(axis, torch.minimum(place, 2 * (side - 1) - place))
    return images.contiguous()


def resized_to(images: Tensor, side: int) -> Tensor:
    """Images uint8 [B,H,W,C] as [B,side,side,C], bilinear and antialiased; as they are where they have that size.

    PIL rounds after each axis, this once: a value may differ by 1 of 255.
    """
    if images.shape[1:3] == (side, side):
        return images
    planes = images.permute(0, 3, 1, 2).float()
    made = F.interpolate(planes, (side, side), mode="bilinear", antialias=True, align_corners=False)
    return made.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def windows(images: Tensor, side: int) -> Tensor:
    """[N,P,Q,side,side,C], every crop of contiguous images [N,H,W,C], as a view; P = H - side + 1, Q = W - side + 1."""
    count, height, width, channels = images.shape
    image, row, column, channel = images.stride()
    shape = (count, height - side + 1, width - side + 1, side, side, channels)
    return images.as_strided(shape, (image, row, column, row, column, channel))
