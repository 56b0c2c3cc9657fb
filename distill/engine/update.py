"""What a phase trains, and one update of a step: on the whole batch, or on parts whose gradients are added up."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

import distill.parallel as parallel
from distill.batch import Batch
from distill.engine.meter import ROW_KEYS
from distill.engine.optim import Stepper
from distill.method import Losses, MalformedLosses, Method, Phase, Update, loss_dict


def take_step(
    method: Method,
    update: Update,
    stepper: Stepper,
    batch: Batch,
    autocast: Callable[[], AbstractContextManager[Any]],
    parts: int = 1,
    full: int = 0,
) -> Losses:
    """Take one step of an update, and return its losses.

    parts: into how many a batch of `full` images is cut (schedule.accumulate), see `parts_of`: the gradient is that of
    the mean over the whole batch, for losses that are means over images, and nets whose BatchNorm does not see which
    images come together.
    """
    if parts == 1:
        losses = _losses(update, batch, autocast)
        stepper.step(losses)
        return losses
    stepper.begin()
    total: dict[str, Tensor] = {}
    counted: list[tuple[Tensor, Tensor]] = []
    for part in parts_of(batch, parts, full):
        method.counted = None
        losses = _losses(update, part, autocast)
        weighted = {name: loss * (len(part.inputs) / len(batch.inputs)) for name, loss in losses.items()}
        stepper.backward(weighted)
        total = {name: total.get(name, 0.0) + loss.detach() for name, loss in weighted.items()}
        counted += [method.counted] if method.counted else []
    stepper.take()
    if counted:
        logits, labels = zip(*counted, strict=True)
        method.counted = torch.cat(logits), torch.cat(labels)
    return total


def _losses(update: Update, batch: Batch, autocast: Callable[[], AbstractContextManager[Any]]) -> Losses:
    """An update's losses. Raises MalformedLosses as `checked` does, and where none has a gradient."""
    with autocast():
        losses = checked(update.loss(batch))
    if not any(loss.requires_grad for loss in losses.values()):
        raise MalformedLosses(f"the loss '{next(iter(losses))}' has no gradient, and trains nothing: it is detached")
    return losses


def checked(losses: Losses) -> Losses:
    """The losses of a step. Raises MalformedLosses where they are no named scalars, or there is none."""
    for name, loss in loss_dict(losses).items():
        if not isinstance(loss, Tensor) or loss.shape:
            what = f"a tensor of shape {list(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise MalformedLosses(f"the loss '{name}' is {what}, not a tensor that holds one number: take its mean")
        if name in ROW_KEYS or name.endswith("_accuracy"):
            raise MalformedLosses(f"a loss is called '{name}', which means something else in metrics.jsonl: rename it")
    if not losses:
        raise MalformedLosses("the method has no loss with these weights, and trains nothing: set one of them above 0")
    return losses


def joined(losses: Losses, more: Losses) -> Losses:
    """Both. Raises MalformedLosses for a name that both have, of which one would hide the other."""
    if twice := losses.keys() & more.keys():
        remedy = "give that of the second another name"
        raise MalformedLosses(f"two updates of a phase have a loss '{min(twice)}': {remedy}")
    return {**losses, **more}


def parts_of(batch: Batch, count: int, full: int = 0) -> list[Batch]:
    """The batch in `count` parts that differ by one image at most; as many as it has images, where those are fewer.

    full: images of a whole batch; a smaller one, as an epoch's last, has fewer parts of the same size, and none of a
    single image, of which a BatchNorm knows no spread, unless all have one. 0: this one is whole.
    """
    size, whole = len(batch.inputs), parallel.whole_size(batch)
    least = size if parallel.world() == 1 else parallel.smallest_part()  # all have as many parts: they meet in each
    if whole < full:
        alone = full < 2 * count * parallel.world()
        count = min(-(-whole * count // full), least if alone else max(least // 2, 1))
    count = min(count, least)
    edges = [size * k // count for k in range(count + 1)]
    return [batch.only(slice(first, end)) for first, end in pairwise(edges)]


def train_mode(method: Method, phase: Phase) -> None:
    """Put what the phase trains in train mode, and everything else, frozen parts of it included, in eval mode."""
    method.eval()
    for update in phase.updates:
        for module in update.trains:
            module.train()
            for part in module.modules():
                parameters = list(part.parameters())
                if parameters and not any(p.requires_grad for p in parameters):
                    part.eval()


def begin_reading(what: Any, name: str, *args: Any) -> None:
    """Let workers go to work on what will be asked for next, where `what` has a method of that name."""
    if begin := getattr(what, name, None):
        begin(*args)
