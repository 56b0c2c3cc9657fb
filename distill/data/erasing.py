"""Random erasing (Zhong et al., AAAI 2020, arXiv:1708.04896) of normalised images, as timm and DeiT do it: noise."""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor

from distill.batch import Batch

ERASING_STREAM = 0x5E  # tells these generators' keys from those of crops, flips and mixing
AREA, ASPECT, TRIES = (0.02, 1 / 3), (0.3, 1 / 0.3), 10  # of timm's RandomErasing


def erase(batch: Batch, share: float, generator: torch.Generator) -> None:
    """Overwrite one box of so many images (share: the probability of each) by normal noise, in all views alike.

    Boxes are drawn on the CPU; noise on the device, where it is the same for the same (seed, epoch, step).
    """
    size = batch.inputs.shape[-2:]
    boxes, noise = boxes_of(len(batch), share, size[0], size[1], generator), _device_generator(batch, generator)
    for image, *box in boxes:
        drawn: dict[tuple[int, ...], Tensor] = {}  # the same for teacher and student, which see the same image
        for view in (batch.inputs, *batch.views.values()):
            scale = view.shape[-2] / size[0], view.shape[-1] / size[1]
            top, left, height, width = (round(each * scale[k % 2]) for k, each in enumerate(box))
            shape = (view.shape[1], height, width)
            if shape not in drawn:
                drawn[shape] = torch.empty(shape, dtype=view.dtype, device=view.device).normal_(generator=noise)
            view[image, :, top : top + height, left : left + width] = drawn[shape]


def boxes_of(
    count: int, share: float, height: int, width: int, generator: torch.Generator
) -> list[tuple[int, int, int, int, int]]:
    """(image, top, left, height, width) of each image that has a box, each drawn from a seed of its own."""
    seeds = torch.randint(2**62, (count,), generator=generator).tolist()
    drawn = ((image, erased_box(share, height, width, random.Random(seed))) for image, seed in enumerate(seeds))
    return [(image, *box) for image, box in drawn if box is not None]


def erased_box(share: float, height: int, width: int, draw: random.Random) -> tuple[int, int, int, int] | None:
    """(top, left, height, width) of an image's box, with timm's draws in timm's order; None where it has none."""
    if draw.random() > share:
        return None
    for _ in range(TRIES):
        area = draw.uniform(*AREA) * height * width
        aspect = math.exp(draw.uniform(*map(math.log, ASPECT)))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if w < width and h < height:
            return draw.randint(0, height - h), draw.randint(0, width - w), h, w
    return None


def _device_generator(batch: Batch, generator: torch.Generator) -> torch.Generator:
    """A generator on the batch's device, seeded by one on the CPU."""
    made = torch.Generator(batch.inputs.device)
    return made.manual_seed(int(torch.randint(2**62, (), generator=generator)))
