"""Which options an optimiser has, without torch: what is not among them is refused and not ignored."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from omegaconf import DictConfig

from distill.config.groups import plain

OPTIMIZER_OPTIONS = {  # of torch's own; further names are timm's, which knows their options
    "sgd": ("momentum", "dampening", "nesterov", "weight_decay"),
    "adam": ("betas", "eps", "amsgrad", "weight_decay"),
    "adamw": ("betas", "eps", "amsgrad", "weight_decay"),
}


def takes_option(optimizer: str, key: str) -> bool:
    """Whether an optimiser has an option; of timm's, whose own options they know, it is asked of SGD's two alone."""
    if optimizer in OPTIMIZER_OPTIONS:
        return key in OPTIMIZER_OPTIONS[optimizer]
    if key == "momentum":
        from timm.optim import get_optimizer_info  # imports torch

        with contextlib.suppress(ValueError):
            return get_optimizer_info(optimizer).has_momentum
    return key != "nesterov"


def check_option(optimizer: str, key: str) -> None:
    """Raise ValueError for an option that an optimiser does not have."""
    if not takes_option(optimizer, key):
        takes = ", ".join(OPTIMIZER_OPTIONS.get(optimizer, ("its own",)))
        raise ValueError(f"the optimiser {optimizer} has no option {key}: it takes {takes}")


def check_typed_options(cfg: DictConfig, keys: Iterable[str]) -> None:
    """Raise ValueError for a key of the command line that gives the schedule's optimiser what it does not have.

    Those of SGD that stand in the schedule's file are no option of the user's: another optimiser leaves them out.
    """
    optimizer = str(plain(cfg, "schedule.optimizer.name") or "sgd")
    for key in keys:
        option = key.removeprefix("schedule.optimizer.")
        if option not in (key, "name"):
            check_option(optimizer, option)
