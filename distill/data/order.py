"""Which images come in which batch: how an epoch is cut up, and the order in which its images are shown."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import distill.parallel as parallel


def steps_for(count: int, batch_size: int, drop_last: bool) -> int:
    """Batches an epoch. ValueError when the batch size is not positive, or when no batch would be left."""
    if batch_size < 1:
        raise ValueError(f"schedule.batch_size is {batch_size}: give a whole number of at least 1")
    steps = count // batch_size if drop_last else -(-count // batch_size)
    if steps < 1:
        raise ValueError(f"{count} training images make no batch of {batch_size}: lower schedule.batch_size")
    return steps


def cut_up(count: int, batch_size: int, last_batch: str) -> tuple[int, int]:
    """(steps, end): batches an epoch of `count` images, and where the last one ends, which may be smaller or larger.

    last_batch: keep, drop or merge what is left over; auto keeps it unless it would give a process a single image, of
    which a BatchNorm knows no spread, and merges it into the batch before. Raises ValueError as `steps_for` does, and
    for a kept rest of fewer images than processes.
    """
    steps = steps_for(count, batch_size, last_batch == "drop")
    rest = count - (steps - 1) * batch_size
    if last_batch == "drop" or steps == 1 or rest >= batch_size:
        return steps, min(steps * batch_size, count)
    merged = last_batch == "merge" or (last_batch == "auto" and rest < 2 * parallel.world())
    if rest < parallel.world() and not merged:
        what = f"an epoch of {count} images ends in a batch of {rest}, which {parallel.world()} processes cannot share"
        raise ValueError(f"{what}: give schedule.last_batch=merge or drop, or leave it null")
    return steps - merged, count


def part_of_epoch(source: Any, step: int) -> slice:
    """The places in an epoch of a step's images."""
    first = step * source.batch_size
    return slice(first, source.end if step == source.steps - 1 else first + source.batch_size)


def size_of_step(source: Any, step: int) -> int:
    """How many images the batch of a step has."""
    places = part_of_epoch(source, step)
    return int(places.stop - places.start)


def order_of(source: Any, generator: torch.Generator) -> tuple[Tensor, bool]:
    """The images of an epoch [P], in the order in which a source shows them, and whether each comes once.

    With repeats r a draw of N / r images is shown r times in succession, each time in another view: an epoch is as
    long as without (repeated augmentation, Hoffer et al., CVPR 2020, arXiv:1901.09335; timm's RepeatAugSampler).
    """
    if source.classes:
        return source.classes.order(source.steps, generator), False
    if source.drawn:
        return torch.randint(len(source.split), (source.steps * source.batch_size,), generator=generator), False
    order = torch.randperm(len(source.split), generator=generator)
    if source.repeats == 1:
        return order, True
    return order.repeat_interleave(source.repeats)[: len(order)], False


def times_shown(repeats: int, per_class: int, drawn: int) -> int:
    """`repeats`. Raises ValueError beside batches whose images are chosen in another way."""
    if repeats > 1 and (per_class or drawn):
        how = "a method chooses the classes of its batches" if per_class else "batches are drawn with replacement"
        raise ValueError(f"schedule.repeats={repeats}: {how}: leave schedule.repeats null")
    return repeats
