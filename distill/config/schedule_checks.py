"""Keys of a schedule that could not be honoured beside its others, or beside the run's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.config.groups import suggestion_or
from distill.config.net_names import is_known, nearest_nets
from distill.config.scheduled import INIT_RULES


def check_schedule(schedule: Mapping[str, Any]) -> None:
    """Raise ValueError for keys of a schedule that could not be honoured beside its others."""
    _check_models("lr_scales has a share", schedule.get("lr_scales") or {})
    check_inits(schedule.get("inits") or {})
    optimizer = schedule.get("optimizer") or {}
    asked = [key for key in ("momentum_start", "damped") if schedule.get(key) not in (None, False)]
    if asked and (optimizer.get("name") != "sgd" or not optimizer.get("momentum") or optimizer.get("nesterov")):
        raise ValueError(f"schedule.{asked[0]} is for SGD with a momentum and without Nesterov: leave it null")
    if (schedule.get("momentum_start") is None) != (schedule.get("momentum_epochs") is None):
        raise ValueError("schedule.momentum_start and schedule.momentum_epochs belong together: give both or neither")
    if schedule.get("restart") and not (schedule.get("decay", "step") == "step" and schedule.get("milestones")):
        raise ValueError("schedule.restart starts the optimiser anew at milestones, and there are none: leave it null")
    if schedule.get("rule") and schedule.get("last_batch") not in (None, "auto"):
        raise ValueError("schedule.last_batch: the rule draws its batches, and no image is left over: leave it null")
    _check_recipe(schedule)
    if schedule.get("lr_min") and schedule.get("decay") not in ("cosine", "linear"):
        raise ValueError("schedule.lr_min is where decay=cosine and decay=linear end: leave it null")
    if (schedule.get("lr_min") or 0) > (schedule.get("lr") or 0):
        raise ValueError(f"schedule.lr_min={schedule['lr_min']} is where the rate ends: give less than schedule.lr")


def _check_recipe(schedule: Mapping[str, Any]) -> None:
    """Raise ValueError for keys of the recipe that are nothing without another."""
    needs = {"clip_mode": "clip_grad", "ema_warmup": "ema", "ema_export": "ema", "warmup_lr": "warmup_epochs"}
    for key, other in needs.items():
        if schedule.get(key) is not None and not schedule.get(other):
            raise ValueError(f"schedule.{key} is nothing without schedule.{other}: give both, or leave it null")
    if schedule.get("bce_threshold") is not None and schedule.get("loss") != "bce":
        raise ValueError("schedule.bce_threshold belongs to schedule.loss=bce: leave it null")
    if schedule.get("no_decay") and not (schedule.get("optimizer") or {}).get("weight_decay"):
        raise ValueError("schedule.no_decay: there is no decay to spare weights: set schedule.optimizer.weight_decay")
    if (schedule.get("accumulate") or 1) > (schedule.get("batch_size") or 1):
        raise ValueError(f"schedule.accumulate={schedule['accumulate']}: a batch has no so many images: lower it")


def check_inits(inits: Mapping[str, Any]) -> None:
    """Raise ValueError for a rule that there is not, or for a net that there is not."""
    _check_models("inits has a rule", inits)
    if unknown := [str(rule) for rule in inits.values() if rule is not None and rule not in INIT_RULES]:
        raise ValueError(f"schedule.inits: there is no rule '{unknown[0]}': choose from {', '.join(INIT_RULES)}")


def _check_models(what: str, by_model: Mapping[str, Any]) -> None:
    """Raise ValueError for a net that there is not, among those that a key of the schedule names."""
    if unknown := [name for name in map(str, by_model) if not is_known(name)]:
        hint = suggestion_or(nearest_nets(unknown[0]), "ours start with cifar_, others are timm's")
        raise ValueError(f"schedule.{what} for '{unknown[0]}', and there is no such model: {hint}")
