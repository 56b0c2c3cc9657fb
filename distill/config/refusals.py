"""What a method cannot honour of a schedule, in one sentence, with or without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from distill.config.groups import plain

ZERO = ("mixup", "cutmix", "label_smoothing")  # keys that 0 switches off


def refuse_keys(name: str, refuses: Mapping[str, str], schedule: Mapping[str, Any]) -> None:
    """Raise ValueError where a schedule sets a key that the method `name` refuses (key: why)."""
    further = {"cutmix": refuses["mixup"]} if "mixup" in refuses else {}
    for key, why in {**refuses, **further}.items():
        if key == "last_batch" and schedule.get(key) in ("keep", "merge"):
            raise ValueError(f"method={name} takes whole batches alone, {why}: give schedule.last_batch=drop, or null")
        if key != "last_batch" and schedule.get(key):
            by_rule = " (schedule=bit sets it)" if key == "mixup" and schedule.get("rule") else ""
            remedy = f"set schedule.{key}=0." if key in ZERO else f"leave schedule.{key} null"
            raise ValueError(f"method={name} cannot honour schedule.{key}={schedule[key]}{by_rule}: {why}; {remedy}")


def check_refusals(cfg: DictConfig) -> None:
    """Raise ValueError where the schedule asks for what about.refuses of the method's YAML says it cannot honour."""
    if OmegaConf.select(cfg, "method.about.refuses", default=None):
        refuse_keys(str(cfg.method.name), plain(cfg, "method.about.refuses"), plain(cfg, "schedule"))
