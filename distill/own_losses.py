"""What a user's own method would say at its first steps, before a teacher is trained for it."""

from __future__ import annotations

import logging
from typing import Any

import torch

from distill.config import RunSpec
from distill.config.own_code import own_line
from distill.data import DataInfo
from distill.files import one_line
from distill.method import Losses, MalformedLosses
from distill.rehearsal import Rehearsal

log = logging.getLogger(__name__)
_MACS, _SECONDS = 1e9, 15.0  # of a step, and of all that is computed
_MISTAKES = (AttributeError, NameError, TypeError)  # of code, whatever the images


def check_losses(spec: RunSpec, info: DataInfo) -> None:
    """Raise ValueError where the losses of an own method are no named scalars, or its code is wrong, as steps of each
    phase on a few images say. What may be true of such images alone is told: another error, a loss that is not finite,
    as a mean over those that the teacher knows, or one that trains nothing.
    """
    if str(spec.method.node["_target_"]).startswith("distill."):  # ours are tested
        return
    given: dict[str, Any] = {"device": torch.device("cpu"), "precision": "fp32", "macs": _MACS, "limit": _SECONDS}
    try:
        with torch.random.fork_rng(devices=[]):
            own = Rehearsal(spec, info, info.num_train, **given)
            for begun in map(own.begun, own.method.phases()):
                for _ in range(2):  # a gradient that is not finite shows in the second
                    begun.step()
                    _tell_of(begun.losses)
    except MalformedLosses:
        raise
    except Exception as error:
        where = own_line(error)
        why = f"a step of method={spec.method.name} ends in {type(error).__name__}: {one_line(error)}{where}"
        if where and isinstance(error, _MISTAKES):
            raise ValueError(f"{why}: mend it; distill check-method {spec.method.name} asks for more") from error
        log.log(logging.WARNING if where else logging.DEBUG, "%s, for images and nets drawn at random", why)


def _tell_of(losses: Losses) -> None:
    """Log losses that are not finite, and those among others from which no gradient comes."""
    trains_some = any(loss.requires_grad for loss in losses.values())  # those of schedule.accumulate are sums of parts
    for name, loss in losses.items():
        if not loss.isfinite():
            log.warning("the loss '%s' is %s for images and nets drawn at random: a run for which it is ends there "
                        "(exit code 3)", name, loss.item())  # fmt: skip
        elif trains_some and not loss.requires_grad:
            log.warning("the loss '%s' has no gradient, for it is detached or a constant: it is logged and trains "
                        "nothing", name)  # fmt: skip
