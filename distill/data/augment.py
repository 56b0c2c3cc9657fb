"""What is done to crops before they are normalised: rotation, RandAugment, Cutout. Drawn on the CPU, done by batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

import distill.data.pil as pil
from distill.config import DataSpec

Boxes = Callable[[int, Generator], Tensor]  # (count, generator) -> [count,4] int64: first and last row, column


class Stage(NamedTuple):
    """One operation an image for a whole epoch, the positions of each step sorted by group."""

    rows: Tensor  # [N] on the device: places in the batch, sorted
    levels: Tensor  # [N] float32 on the device, in the order of rows: of operations on colours
    matrices: Tensor  # [N,6] int32 on the device, in the order of rows: of moves
    counts: list[list[int]]  # a row a step: how many are of each of pil.OPERATION_GROUPS

    def __call__(self, images: Tensor, step: int, first: int) -> None:
        """Change images [B,C,H,W] in place; `first` is the position of the first of them."""
        for name, count in zip(pil.OPERATION_GROUPS, self.counts[step], strict=True):
            part = slice(first, first + count)
            rows, first = self.rows[part], first + count
            if count and name == pil.MOVE:
                images[rows] = pil.warp(images[rows], self.matrices[part])
            elif count and name != pil.IDENTITY:
                images[rows] = pil.operate(name, images[rows], self.levels[part])


class Epoch:
    """All that is drawn for an epoch; call it with the pixels of a step."""

    def __init__(
        self, batch_size: int, turns: Tensor | None, stages: list[Stage], boxes: Tensor | None, fill: Tensor
    ) -> None:
        self.batch_size, self.turns, self.stages, self.boxes, self.fill = batch_size, turns, stages, boxes, fill

    def __call__(self, pixels: Tensor, step: int) -> Tensor:
        """The pixels uint8 [B,H,W,C] of a step (0-based) as they are to be seen."""
        first = step * self.batch_size
        part = slice(first, first + len(pixels))
        images = pixels.permute(0, 3, 1, 2).contiguous()
        if self.turns is not None:
            images = pil.warp(images, self.turns[part])
        for stage in self.stages:
            stage(images, step, first)
        images = images.permute(0, 2, 3, 1).contiguous()
        return pil.blanked(images, self.boxes[part], self.fill) if self.boxes is not None else images


class Augment:
    """What images of size x size undergo beside crop and flip, drawn for each position of an epoch.

    rotate: degrees by which they turn at most, either way. operations: how many of FixMatch's RandAugment, drawn with
    replacement, magnitudes uniform (Sohn et al., NeurIPS 2020). boxes: draws a box an image, blanked by fill [C].
    """

    def __init__(
        self, size: int, *, rotate: float = 0.0, operations: int = 0, boxes: Boxes | None = None, fill: Any = (0,)
    ) -> None:
        self.size, self.rotate, self.operations, self.boxes = size, rotate, operations, boxes
        self.fill = torch.tensor(fill, dtype=torch.uint8)

    def epoch(
        self, generator: Generator, count: int, batch_size: int, device: torch.device, steps: int | None = None
    ) -> Epoch:
        """Draw for `count` positions in batches of batch_size; steps: where the last batch is larger, how many."""
        turns = None
        if self.rotate:
            degrees = (2 * torch.rand(count, generator=generator, dtype=torch.float64) - 1) * self.rotate
            turns = pil.fixed(pil.rotations(degrees, self.size)).to(device)
        stages = [self._stage(generator, count, batch_size, device, steps) for _ in range(self.operations)]
        boxes = self.boxes(count, generator).to(device) if self.boxes else None
        return Epoch(batch_size, turns, stages, boxes, self.fill.to(device))

    def _stage(
        self, generator: Generator, count: int, batch_size: int, device: torch.device, steps: int | None
    ) -> Stage:
        drawn = torch.randint(len(pil.RANGES), (count,), generator=generator)
        share = torch.rand(count, generator=generator, dtype=torch.float64)
        return staged(drawn, share, self.size, batch_size, device, steps)


def staged(
    drawn: Tensor, share: Tensor, size: int, batch_size: int, device: torch.device, steps: int | None = None
) -> Stage:
    """Operations numbered `drawn` [N] at magnitudes low + share [N] (high - low), sorted for the steps on the CPU."""
    low, high = torch.tensor(list(pil.RANGES.values()), dtype=torch.float64)[drawn].unbind(1)
    magnitudes = low + share * (high - low)
    group = torch.tensor([pil.OPERATION_GROUPS.index(pil.MOVE if name in pil.MOVES else name) for name in pil.RANGES])[
        drawn
    ]
    steps = steps or -(-len(drawn) // batch_size)
    step = (torch.arange(len(drawn)) // batch_size).clamp(max=steps - 1)
    sorter = step * len(pil.OPERATION_GROUPS) + group
    order = torch.argsort(sorter, stable=True)
    counts = torch.bincount(sorter, minlength=steps * len(pil.OPERATION_GROUPS)).view(steps, len(pil.OPERATION_GROUPS))
    rows = (torch.arange(len(drawn)) - step * batch_size)[order]
    matrices = pil.fixed(pil.moves(drawn, magnitudes, size))[order]
    levels = pil.levels(drawn, magnitudes)[order]
    return Stage(rows.to(device), levels.to(device), matrices.to(device), counts.tolist())


def square(side: int, size: int) -> Boxes:
    """Cutout (DeVries and Taylor 2017): a square of `side` pixels about a pixel drawn anywhere, cut at the edges."""

    def boxes(count: int, generator: Generator) -> Tensor:
        first = torch.randint(size, (count, 2), generator=generator) - side // 2
        y, x = first.unbind(1)
        return torch.stack([y, y + side - 1, x, x + side - 1], dim=1)

    return boxes


def square_up_to(share: float, size: int) -> Boxes:
    """Cutout as FixMatch's RandAugment has it: the square's side is drawn up to a share of the image's, its centre from
    1 to the image's side (np.random.uniform(w)); its last row and column are filled too, as PIL draws a rectangle.
    """

    def boxes(count: int, generator: Generator) -> Tensor:
        side, y, x = torch.rand(3, count, generator=generator, dtype=torch.float64)
        side, y, x = share * size * side, size - (size - 1) * y, size - (size - 1) * x
        first = [(centre - side / 2).clamp(min=0).floor() for centre in (y, x)]
        last = [(start + side).clamp(max=size).floor() for start in first]
        return torch.stack([first[0], last[0], first[1], last[1]], dim=1).long()

    return boxes


def of(spec: DataSpec, size: int, chans: int, mean: tuple[float, ...]) -> Augment | None:
    """What dataset.rotate, randaugment and cutout ask for; None where they ask for nothing. Raises ValueError."""
    rotate, operations, side = spec.rotate, spec.randaugment, spec.cutout
    if not (rotate or operations or side):
        return None
    if not 0 <= rotate <= 180 or not math.isfinite(rotate):
        raise ValueError(f"dataset.rotate is {rotate}: give the degrees of the largest turn, from 0 to 180")
    if operations != int(operations) or operations < 0:
        raise ValueError(f"dataset.randaugment is {operations}: give how many operations an image sees, such as 2")
    if operations and chans not in (1, 3):
        raise ValueError(f"dataset.randaugment is for images of 1 or 3 channels, and these have {chans}: leave it null")
    if side != int(side) or not 0 <= side <= 2 * size:
        raise ValueError(f"dataset.cutout is {side}: give the side of the square in pixels, such as {size // 2}")
    boxes = square(int(side), size) if side else None
    fill = [round(255 * value) for value in mean]
    return Augment(size, rotate=float(rotate), operations=int(operations), boxes=boxes, fill=fill)
