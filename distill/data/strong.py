"""A second, strongly augmented view of every batch: AutoAugment's CIFAR policy, in groups on the device.

Cubuk et al., CVPR 2019, arXiv:1805.09501, table 7, with the magnitudes of torchvision's AutoAugment.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.data.arrays import ArraySource, seeded
from distill.method import Batch

STREAM = 0x57  # tells this generator's keys from those of the source's own plan

Operation = tuple[str, float, int]  # name, probability, magnitude 0..9 (0 where there is none to choose)
POLICY: tuple[tuple[Operation, Operation], ...] = (
    (("Invert", 0.1, 0), ("Contrast", 0.2, 6)),
    (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
    (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, 0), ("Equalize", 0.9, 0)),
    (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
    (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, 0), ("Equalize", 0.5, 0)),
    (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
    (("Equalize", 0.3, 0), ("AutoContrast", 0.4, 0)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
    (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, 0)),
    (("Equalize", 0.2, 0), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.2, 0), ("Equalize", 0.6, 0)),
    (("Color", 0.9, 9), ("Equalize", 0.6, 0)),
    (("AutoContrast", 0.8, 0), ("Solarize", 0.2, 8)),
    (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, 0)),
    (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, 0), ("Solarize", 0.8, 3)),
    (("Equalize", 0.8, 0), ("Invert", 0.1, 0)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 0)),
)
GEOMETRIC = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
UNSIGNED = ("Posterize", "Solarize", "AutoContrast", "Equalize", "Invert")


def matrix(name: str, level: int, sign: int, size: int) -> list[list[float]]:
    """Return the 2x3 matrix that takes a pixel of the output to its place in the input; pixel (0,0) is at
    (.5,.5).
    """
    share = sign * level / 9
    if name in ("ShearX", "ShearY"):
        shear = 0.3 * share
        return [[1, shear, 0], [0, 1, 0]] if name == "ShearX" else [[1, 0, 0], [shear, 1, 0]]
    if name in ("TranslateX", "TranslateY"):
        shift = -int(150 / 331 * size * share)
        return [[1, 0, shift], [0, 1, 0]] if name == "TranslateX" else [[1, 0, 0], [0, 1, shift]]
    angle = math.radians(30 * share)
    cos, sin, centre = math.cos(angle), math.sin(angle), size / 2
    return [[cos, -sin, centre * (1 - cos + sin)], [sin, cos, centre * (1 - cos - sin)]]


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Sample images [n,C,H,W] at the places that matrices [n,2,3] give: the nearest pixel, 0 outside."""
    height, width = images.shape[2:]
    y = torch.arange(height, device=images.device) + 0.5
    x = torch.arange(width, device=images.device) + 0.5
    points = torch.stack([x.repeat(height), y.repeat_interleave(width), torch.ones_like(x).repeat(height)])
    place = torch.matmul(matrices, points).floor().long()
    column, row = place[:, 0], place[:, 1]
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    flat = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    picked = images.flatten(2).gather(2, flat[:, None].expand(-1, images.shape[1], -1))
    return (picked * inside[:, None]).view_as(images)


def sharpen(images: Tensor, factor: float) -> Tensor:
    """torchvision's adjust_sharpness of uint8 images [n,C,H,W], whose kernel would be copied from the host."""
    kernel = torch.full((images.shape[1], 1, 3, 3), 1 / 13, device=images.device)
    kernel[:, :, 1, 1] = 5 / 13
    made = images.float()
    blurred = F.conv2d(made, kernel, groups=images.shape[1]).round_()
    inner = made[:, :, 1:-1, 1:-1]  # a view: the border stays as it is
    inner.add_(blurred.sub_(inner), alpha=1 - factor)
    return made.clamp_(0, 255).to(images.dtype)


def colour(name: str, level: int, sign: int) -> Callable[[Tensor], Tensor]:
    """Return what an operation does to uint8 images [n,C,H,W]: torchvision's own where it does not wait for the
    device.
    """
    from torchvision.transforms.v2 import functional as tv

    factor = 1 + sign * torch.linspace(0, 0.9, 10)[level].item()
    made: dict[str, Callable[[Tensor], Tensor]] = {
        "Brightness": partial(tv.adjust_brightness, brightness_factor=factor),
        "Color": partial(tv.adjust_saturation, saturation_factor=factor),
        "Contrast": partial(tv.adjust_contrast, contrast_factor=factor),
        "Sharpness": partial(sharpen, factor=factor),
        "Posterize": partial(tv.posterize, bits=8 - round(level * 4 / 9)),
        "Solarize": partial(tv.solarize, threshold=255 * (1 - level / 9)),
        "AutoContrast": tv.autocontrast,
        "Equalize": tv.equalize,
        "Invert": tv.invert,
    }
    return made[name]


class Actions:
    """The policy's operations as numbered actions: 0 is none; those from `first_colour` on change colours
    alone.
    """

    def __init__(self, size: int) -> None:
        keys = {(n, m, s) for pair in POLICY for n, _, m in pair for s in signs(n)}
        moves = sorted(key for key in keys if key[0] in GEOMETRIC)
        colours = sorted(key for key in keys if key[0] not in GEOMETRIC)
        number = {key: k + 1 for k, key in enumerate([*moves, *colours])}
        self.first_colour = len(moves) + 1
        self.colours = [colour(*key) for key in colours]
        self.matrices = torch.tensor([[[1.0, 0, 0], [0, 1, 0]], *(matrix(*key, size) for key in moves)])
        self.table = torch.tensor(
            [[[number[n, m, s] for s in (signs(n) * 2)[:2]] for n, _, m in pair] for pair in POLICY]
        )
        self.chance = torch.tensor([[p for _, p, _ in pair] for pair in POLICY])

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return two actions a position [count,2]: a pair of the policy, its signs, and whether each happens.
        """
        pair = torch.randint(len(POLICY), (count,), generator=generator)
        sign = torch.randint(2, (count, 2), generator=generator)
        happens = torch.rand((count, 2), generator=generator) < self.chance[pair]
        return self.table[pair].gather(2, sign[:, :, None]).squeeze(2) * happens


def signs(name: str) -> tuple[int, ...]:
    """Return the signs that an operation's magnitude takes."""
    return (1,) if name in UNSIGNED else (1, -1)


class Stage(NamedTuple):
    """One of the two operations for a whole epoch, the positions of each step sorted by group."""

    rows: Tensor  # [N] on the device: places in the batch
    actions: Tensor  # [N] on the device, in the order of rows
    counts: list[list[int]]  # a row a step: how many are untouched, moved, and in each colour's group


class StrongSource:
    """The batches of an ArraySource, with views["strong"]: another crop and flip, then AutoAugment.

    A pure function of (seed, epoch, step): all draws come from a generator keyed by seed and epoch, by
    position in the epoch. They are sorted into groups of one operation on the CPU, so that no step waits for
    the device and the source's own batches stay what they are. Raises ValueError for other sources and for
    channels other than 1 or 3.
    """

    def __init__(self, source: Any) -> None:
        if not isinstance(source, ArraySource):
            raise ValueError(
                "the strong view is made of images that lie on the device: use a data set such as "
                "dataset=cifar100, or a method with one view, such as method=dkd."
            )
        if source.info.in_chans not in (1, 3):
            raise ValueError(
                f"AutoAugment knows grey and colour images, and those of {source.info.name} have "
                f"{source.info.in_chans} channels: set dataset.in_chans=3 or use one view, as method=dkd."
            )
        self.source, self.steps = source, source.steps
        self.actions = Actions(source.info.size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch (1-based) from step `start` on."""
        source, size = self.source, self.source.batch_size
        count = min(len(source.split), source.steps * size)
        generator = seeded(source.seed, epoch, STREAM)
        crops = torch.randint(2 * source.pad + 1, (count, 2), generator=generator)
        flips = torch.randint(2, (count, 1), generator=generator) * int(source.flip)
        drawn = self.actions.draw(count, generator)
        device = source.split.images.device
        draws, matrices = torch.cat([crops, flips], dim=1).to(device), self.actions.matrices.to(device)
        stages = [self._sorted(drawn[:, stage], device) for stage in range(2)]
        for batch in source.epoch(epoch, start):
            first = batch.step * size
            images = self._crop(batch.index, draws[first : first + len(batch.index)])
            for stage in stages:
                self._apply(images, stage, batch.step, matrices)
            batch.views["strong"] = source.normalise(images.permute(0, 2, 3, 1).contiguous())
            yield batch

    def _sorted(self, actions: Tensor, device: torch.device) -> Stage:
        positions, groups = torch.arange(len(actions)), 2 + len(self.actions.colours)
        step = positions // self.source.batch_size
        colours = actions - self.actions.first_colour
        group = torch.where(colours < 0, (actions > 0).long(), colours + 2)
        order = torch.argsort(step * groups + group, stable=True)
        counts = torch.bincount(step * groups + group, minlength=self.steps * groups).view(self.steps, groups)
        rows = (positions - step * self.source.batch_size)[order]
        return Stage(rows.to(device), actions[order].to(device), counts.tolist())

    def _crop(self, index: Tensor, draws: Tensor) -> Tensor:
        """Return crops [B,C,H,W] uint8 of images `index` [B]; draws [B,3] are dy, dx, flip."""
        images = self.source.crops[index, draws[:, 0], draws[:, 1]]
        images = torch.where(draws[:, 2].bool()[:, None, None, None], images.flip(2), images)
        return images.permute(0, 3, 1, 2).contiguous()

    def _apply(self, images: Tensor, stage: Stage, step: int, matrices: Tensor) -> None:
        first = step * self.source.batch_size
        for group, count in enumerate(stage.counts[step]):
            rows = stage.rows[first : first + count]
            if count and group == 1:
                images[rows] = warp(images[rows], matrices[stage.actions[first : first + count]])
            elif count and group > 1:
                images[rows] = self.actions.colours[group - 2](images[rows])
            first += count
