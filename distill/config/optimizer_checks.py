"""The optimisers of a composed configuration: the schedule's, and those that a method's YAML gives its own updates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from omegaconf import DictConfig

from distill.config.groups import did_you_mean, plain
from distill.config.optimizer_options import (
    OPTIMIZER_OPTIONS,
    check_optimizer,
    check_option,
    check_value,
    takes_option,
)
from distill.config.rules import RULES, check_rule
from distill.config.schedule_spec import OptimizerSpec
from distill.torchrun import processes

RATE_KEYS = tuple(each.name for each in fields(OptimizerSpec) if each.name != "optimizer")
"""Of any schedule, and of an update's own optimiser."""
SGDS_OWN = ("name", "momentum", "nesterov")  # what another optimiser of a schedule leaves out: see engine.optim


def check_optimizers(cfg: DictConfig) -> None:
    """Raise ValueError for an optimiser that does not exist, an option that it lacks or a value that cannot be."""
    schedule = plain(cfg, "schedule.optimizer") or {}
    if not isinstance(schedule.get("name"), str) or not schedule["name"]:
        given = schedule.get("name")
        setting = f"schedule.optimizer.name={given}" if given is not None else "schedule.optimizer.name has no value"
        raise ValueError(f"{setting}: name an optimiser, such as sgd, adam or adamw")
    check_optimizer(schedule["name"])
    for key, value in schedule.items():
        if key not in SGDS_OWN and value is not None:
            check_option(schedule["name"], key)
        check_value(schedule["name"], key, value, f"schedule.optimizer.{key}")
    _check_draws("schedule.optimizer", schedule["name"], schedule)
    bare = not schedule.get("momentum") or schedule.get("dampening")
    if bare and schedule.get("nesterov") and schedule["name"] == "sgd":
        raise ValueError("schedule.optimizer.nesterov=true needs a momentum above 0 and no dampening")
    for key, own in plain(cfg, "method").items():
        if key.endswith("optimizer") and isinstance(own, Mapping):
            _check_own(f"method.{key}", own, schedule["name"])


def _check_own(label: str, own: Mapping[str, Any], schedules: str) -> None:
    """An update's own optimiser: keys of a schedule, a name, and options of the optimiser of that name."""
    name = str(own.get("name") or schedules)
    check_optimizer(name)
    for key, value in own.items():
        if key in RATE_KEYS:
            if value is not None and f"schedule.{key}" in RULES:
                check_rule(f"{label}.{key}", value, RULES[f"schedule.{key}"])
        elif key != "name":
            if name in OPTIMIZER_OPTIONS and key not in OPTIMIZER_OPTIONS[name]:
                _unknown(label, key, name)
            check_option(name, key)
            check_value(name, key, value, f"{label}.{key}")
    if name != schedules:  # else it has the schedule's options beside its own
        _check_draws(label, name, own)


def _check_draws(label: str, name: str, given: Mapping[str, Any]) -> None:
    """Raise ValueError for an optimiser whose steps draw (kron) where each of several processes would draw its own."""
    if processes() > 1 and takes_option(name, "deterministic") and not given.get("deterministic"):
        what = f"{label}.name={name} draws numbers in its steps, in each process others, and so would its weights be"
        raise ValueError(f"{what}: give +{label}.deterministic=true, another optimiser, or one process")


def _unknown(label: str, key: str, name: str) -> None:
    takes = ("name", *OPTIMIZER_OPTIONS[name], *RATE_KEYS)
    raise ValueError(f"{label} has no key '{key}': {did_you_mean(key, takes)} ({name} takes {', '.join(takes[1:])})")
