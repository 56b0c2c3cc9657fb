"""Operations on uint8 images [n,C,H,W] in memory, each as PIL does it, which the papers' transforms were made of.

Places are 16.16 fixed-point numbers and the nearest pixel is taken; blends are cut off to whole numbers. Nothing
depends on how a device rounds, and nothing waits for it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

IDENTITY, MOVE = "Identity", "Move"
RANGES: dict[str, tuple[float, float]] = {  # FixMatch's operations, with the ranges of their magnitudes
    "AutoContrast": (0, 1),
    "Brightness": (0.05, 0.95),
    "Color": (0.05, 0.95),
    "Contrast": (0.05, 0.95),
    "Equalize": (0, 1),
    IDENTITY: (0, 1),
    "Posterize": (4, 8),
    "Rotate": (-30, 30),
    "Sharpness": (0.05, 0.95),
    "ShearX": (-0.3, 0.3),
    "ShearY": (-0.3, 0.3),
    "Solarize": (0, 256),
    "TranslateX": (-0.3, 0.3),
    "TranslateY": (-0.3, 0.3),
}
NUMBER = {name: k for k, name in enumerate(RANGES)}
MOVES = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")  # one operation, with another matrix each
OPERATION_GROUPS = (IDENTITY, MOVE, *(name for name in RANGES if name not in (*MOVES, IDENTITY)))


def fixed(matrices: Tensor) -> Tensor:
    """16.16 fixed-point [n,6] int32 of affine maps [n,6] float64, from a pixel's corner to that of its place."""
    a, b, c, d, e, f = matrices.unbind(1)
    centred = torch.stack([a, b, c + 0.5 * (a + b), d, e, f + 0.5 * (d + e)], dim=1)
    return (centred * 65536 + 0.5).floor().to(torch.int32)


def rotations(degrees: Tensor, size: int) -> Tensor:
    """Affine maps [n,6] float64 that turn images of size x size counter-clockwise by degrees [n] float64."""
    angle, centre = -torch.deg2rad(degrees), size / 2
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos, sin, centre * (1 - cos - sin), -sin, cos, centre * (1 + sin - cos)], dim=1)


def moves(drawn: Tensor, magnitudes: Tensor, size: int) -> Tensor:
    """Affine maps [n,6] float64 of the operations numbered `drawn` [n], by their magnitudes [n] float64; those that
    move nothing stay put.
    """
    made = torch.tensor([1.0, 0, 0, 0, 1, 0], dtype=torch.float64).repeat(len(drawn), 1)
    for name, column, unit in (("ShearX", 1, 1), ("ShearY", 3, 1), ("TranslateX", 2, size), ("TranslateY", 5, size)):
        made[:, column] += torch.where(drawn == NUMBER[name], magnitudes * unit, 0.0)
    return torch.where((drawn == NUMBER["Rotate"])[:, None], rotations(magnitudes, size), made)


def levels(drawn: Tensor, magnitudes: Tensor) -> Tensor:
    """Magnitudes [n] as `operate` takes them: whole bits for Posterize, for Solarize the least whole value that is
    inverted.
    """
    magnitudes = torch.where(drawn == NUMBER["Posterize"], magnitudes.floor(), magnitudes)
    return torch.where(drawn == NUMBER["Solarize"], magnitudes.ceil(), magnitudes).float()


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Images [n,C,H,W] sampled at the places that `fixed` matrices [n,6] give: the nearest pixel, 0 outside."""
    height, width = images.shape[2:]
    x = torch.arange(width, dtype=torch.int32, device=images.device)
    y = torch.arange(height, dtype=torch.int32, device=images.device)[:, None]
    a, b, c, d, e, f = matrices[:, :, None, None].unbind(1)
    column, row = (a * x + b * y + c) >> 16, (d * x + e * y + f) >> 16  # [n,H,W]
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    flat = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long().flatten(1)
    picked = images.flatten(2).gather(2, flat[:, None].expand(-1, images.shape[1], -1))
    return (picked * inside.flatten(1)[:, None]).view_as(images)


def grey(images: Tensor) -> Tensor:
    """Luma [n,1,H,W] of uint8 images [n,C,H,W] as PIL rounds it."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.to(torch.int32).split(1, dim=1)
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).to(torch.uint8)


def smooth(images: Tensor) -> Tensor:
    """Images [n,C,H,W] with each inner pixel the rounded mean of its 3 x 3 neighbours, itself counted five times."""
    whole, made = images.to(torch.int32), images.clone()
    rows = whole[:, :, :-2] + whole[:, :, 1:-1] + whole[:, :, 2:]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * whole[:, :, 1:-1, 1:-1]
    made[:, :, 1:-1, 1:-1] = ((2 * total + 13) // 26).to(torch.uint8)
    return made


def blend(images: Tensor, other: Tensor | int, share: Tensor) -> Tensor:
    """share [n] of the images [n,C,H,W] and the rest of `other`, cut off to whole numbers."""
    base = other.float() if isinstance(other, Tensor) else float(other)
    part = (images.float() - base).mul_(share[:, None, None, None])
    return part.add_(base).to(torch.uint8)


def _contrast(images: Tensor, share: Tensor) -> Tensor:
    """Blend with the grey of each image's own mean."""
    luma = grey(images).flatten(1)
    mean = (2 * luma.sum(1, dtype=torch.int32) + luma.shape[1]) // (2 * luma.shape[1])
    return blend(images, mean[:, None, None, None], share)


def autocontrast(images: Tensor) -> Tensor:
    """Stretch each channel to 0..255: the whole part of the quotient, of which PIL's floats may fall one short."""
    flat = images.flatten(2).to(torch.int32)
    low, high = flat.amin(2, keepdim=True), flat.amax(2, keepdim=True)
    stretched = 255 * (flat - low) // (high - low).clamp(min=1)
    return torch.where(high > low, stretched, flat).to(torch.uint8).view_as(images)


def equalize(images: Tensor) -> Tensor:
    """Make each channel's histogram as even as a map of its 256 values can."""
    flat = images.flatten(2).flatten(0, 1).long()  # [n*C,HW]
    ones = torch.ones_like(flat)
    counts = torch.zeros(len(flat), 256, dtype=torch.int64, device=flat.device).scatter_add_(1, flat, ones)
    step = (flat.shape[1] - counts.gather(1, flat.amax(1, keepdim=True))) // 255
    before = counts.cumsum(1) - counts
    table = ((before + step // 2) // step.clamp(min=1)).clamp_(max=255)
    made = torch.where(step > 0, table.gather(1, flat), flat)
    return made.to(torch.uint8).view_as(images)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the upper `bits` [n] of each value."""
    cut = (8 - bits)[:, None, None, None].to(torch.int32)
    return ((images.to(torch.int32) >> cut) << cut).to(torch.uint8)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert values of at least threshold [n]."""
    return torch.where(images.to(torch.int32) < threshold[:, None, None, None], images, 255 - images)


def operate(name: str, images: Tensor, level: Tensor) -> Tensor:
    """One of GROUPS that changes colours, on uint8 images [n,C,H,W]; level [n] as `levels` gives it."""
    made: dict[str, Callable[[], Tensor]] = {
        "AutoContrast": lambda: autocontrast(images),
        "Brightness": lambda: blend(images, 0, level),
        "Color": lambda: blend(images, grey(images), level),
        "Contrast": lambda: _contrast(images, level),
        "Equalize": lambda: equalize(images),
        "Posterize": lambda: posterize(images, level),
        "Sharpness": lambda: blend(images, smooth(images), level),
        "Solarize": lambda: solarize(images, level),
    }
    return made[name]()


def blanked(pixels: Tensor, boxes: Tensor, fill: Tensor) -> Tensor:
    """Pixels [B,H,W,C] with fill [C] in boxes [B,4]: first and last row, first and last column."""
    y, x = (torch.arange(side, device=pixels.device) for side in pixels.shape[1:3])
    top, bottom, left, right = boxes[:, :, None].unbind(1)
    rows, columns = (y >= top) & (y <= bottom), (x >= left) & (x <= right)
    return torch.where((rows[:, :, None] & columns[:, None])[..., None], fill, pixels)
