"""Pure functions that two or more methods share, each with its paper and equation.

Shape letters: B batch, K classes, D embedding width, C channels, H W map size, T temperature.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

P = ParamSpec("P")
R = TypeVar("R")


def _single(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16):
        return value.float()
    if isinstance(value, list | tuple):
        return type(value)(_single(item) for item in value)
    return value


def full_precision(loss: Callable[P, R]) -> Callable[P, R]:
    """Run a loss outside autocast, with half-precision arguments (and lists of them) cast to fp32."""

    @wraps(loss)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        cast = [_single(value) for value in args]
        device = next((value.device.type for value in _flat(cast)), "cpu")
        with torch.autocast(device, enabled=False):
            return loss(*cast, **{name: _single(value) for name, value in kwargs.items()})  # type: ignore[arg-type]

    return wrapper


def _flat(values: Any) -> list[Tensor]:
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _flat(value)
    return found


@full_precision
def kl_div(student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """KL(teacher || student) of tempered softmaxes, summed over classes, mean over the batch ("batchmean").

    Both [B,K]; the factor T^2 is left to the caller. torch's default reduction would divide by K as well.
    """
    log_student = F.log_softmax(student_logits / temperature, dim=1)
    log_teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


@full_precision
def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Soft-target loss T^2 KL(p_t^T || p_s^T) of [B,K] logits (Hinton et al. 2015, arXiv:1503.02531, section 2.1)."""
    return kl_div(student_logits, teacher_logits, temperature) * temperature**2


def pool_to(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool the larger of two maps [B,C,H,W] adaptively to the size of the smaller, each side on its own."""
    size = (min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3]))
    pooled = (x if tuple(x.shape[2:]) == size else F.adaptive_avg_pool2d(x, size) for x in (a, b))
    return tuple(pooled)  # type: ignore[return-value]
