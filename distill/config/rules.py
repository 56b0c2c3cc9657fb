"""What single values of a configuration may be: a rule a key, without torch."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import Any

Rule = tuple[Callable[[Any], bool], str]
_COUNT: Rule = (lambda value: value >= 1, "must be at least 1")
_WHOLE: Rule = (lambda value: value >= 1 and value == int(value), "must be a whole number, at least 1")
_NOT_NEGATIVE: Rule = (lambda value: 0 <= value < float("inf"), "must not be negative")
_POSITIVE: Rule = (lambda value: 0 < value < float("inf"), "must be above 0")


def _one_of(*names: str) -> Rule:
    return (lambda value: str(value).lower() in names, f"must be one of {', '.join(names)}")


RULES: dict[str, Rule] = {
    "seed": _NOT_NEGATIVE,
    "threads": _COUNT,
    "log_every": _COUNT,
    "save_minutes": _NOT_NEGATIVE,
    "device": (
        lambda value: re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", str(value)) is not None,
        "must be one of auto, cpu, cuda, cuda:0, cuda:1, ...",
    ),
    "precision": _one_of("auto", "fp32", "bf16", "fp16"),
    "compile": _one_of("auto", "true", "false"),
    "cuda_graphs": _one_of("auto", "true", "false"),
    "schedule.epochs": _COUNT,
    "schedule.batch_size": _COUNT,
    "schedule.lr": _POSITIVE,
    "schedule.gamma": _POSITIVE,
    "schedule.milestones": (lambda value: all(0 < epoch < float("inf") for epoch in value), "must be a list of epochs"),
    "schedule.warmup_epochs": _NOT_NEGATIVE,
    "schedule.init_epochs": _NOT_NEGATIVE,
    "schedule.mixup": _NOT_NEGATIVE,
    "schedule.label_smoothing": (lambda value: 0 <= value < 1, "must be in [0, 1)"),
    "schedule.decay": _one_of("step", "exponential", "cosine", "linear", "constant"),
    "schedule.lr_min": _NOT_NEGATIVE,
    "schedule.clip_grad": _POSITIVE,
    "schedule.momentum_start": (lambda value: 0 <= value < 1, "must be in [0, 1)"),
    "schedule.momentum_epochs": _COUNT,
    "schedule.max_norm": _POSITIVE,
    "schedule.optimizer.momentum": (lambda value: 0 <= value < 1, "must be in [0, 1)"),
    "schedule.optimizer.weight_decay": _NOT_NEGATIVE,
    "student.lr_scale": _POSITIVE,
    "teacher.seed": _NOT_NEGATIVE,
    "teacher.cache": _one_of("auto", "off", "false", "logits", "embedding"),
    "method.ce": _NOT_NEGATIVE,
    "method.kd": _NOT_NEGATIVE,
    "method.weight": _NOT_NEGATIVE,
    "method.temperature": _POSITIVE,
    "dataset.pad": _NOT_NEGATIVE,
    "dataset.pad_mode": _one_of("zeros", "reflect"),
    "dataset.rotate": (lambda value: 0 <= value <= 180, "are degrees: it must be in [0, 180]"),
    "dataset.randaugment": _WHOLE,
    "dataset.cutout": _WHOLE,
    "dataset.holdout": (lambda value: 0 <= value < 1, "is a fraction of the images: it must be in [0, 1)"),
    "tracking.mode": _one_of("online", "offline", "tensorboard", "off"),
}
RULES |= {f"teacher.{key}": RULES[key] for key in RULES if key.startswith("dataset.") and key != "dataset.holdout"}


def check_rule(key: str, value: Any, rule: Rule) -> None:
    """Raise ValueError for a value of `key` that its rule does not allow; null passes, true is no number."""
    valid, words = rule
    fine = value is None
    with contextlib.suppress(TypeError):
        fine = fine or (valid(value) and (not isinstance(value, bool) or valid(str(value))))
    if not fine:
        raise ValueError(f"{key}={value}: {key} {words}")
