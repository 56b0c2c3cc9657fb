"""DOT: the distillation-oriented trainer (Zhao, Cui, Song, Liang, ICCV 2023, arXiv:2307.08436)."""

from __future__ import annotations

from typing import Any

from distill.method import Nets, Phase, Update
from distill.methods.kd import KD
from distill.parts.split_momentum import MomentumPart, SplitStepper

_TASK = "ce"  # the loss whose gradient is the task's; all others are distillation


class DotStepper(SplitStepper):
    """SGD with a momentum buffer for the task's gradient and another for distillation's.

    v_task <- (m - delta) v_task + g_task + wd theta;  v_kd <- (m + delta) v_kd + g_kd;
    theta -= lr (v_task + v_kd).
    """

    method = "dot"

    def parts(self, momentum: float, options: dict[str, Any]) -> list[MomentumPart]:
        delta = float(options.pop("dot_delta"))
        if not 0 <= momentum - delta <= momentum + delta < 1:
            raise ValueError(f"method.delta={delta} takes momentum {momentum} out of [0, 1): 0.075 is usual.")
        return [MomentumPart((_TASK,), momentum - delta, decays=True), MomentumPart((), momentum + delta)]


class DOT(KD):
    """KD's losses, minimised so that distillation's gradient keeps the larger momentum.

    Every parameter has both gradients here; the authors' rule for parameters with only one is not needed.
    """

    def __init__(self, *nets: *Nets, delta: float, **common: Any) -> None:
        super().__init__(*nets, **common)
        if not self.ce or not self.kd:
            raise ValueError(f"dot needs both losses, and method.ce={self.ce}, method.kd={self.kd}: use method=kd.")
        self.delta = delta

    def phases(self) -> list[Phase]:
        update = Update("student", self.loss, [self], optimizer={"dot_delta": self.delta}, stepper=DotStepper)
        return [Phase("distill", [update])]
