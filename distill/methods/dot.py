"""DOT: the distillation-oriented trainer (Zhao, Cui, Song, Liang, ICCV 2023, arXiv:2307.08436)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill.data import DataInfo
from distill.engine import eager_optimizers
from distill.engine.optim import Stepper
from distill.method import Phase, Update
from distill.methods.kd import KD
from distill.models import FeatureNet

TASK = "ce"  # the loss whose gradient is the task's; all others are distillation


class DotStepper(Stepper):
    """SGD with a momentum buffer for the task's gradient and another for distillation's.

    v_task <- (m - delta) v_task + g_task + wd theta;  v_kd <- (m + delta) v_kd + g_kd;
    theta -= lr (v_task + v_kd). Two backward passes a step.

    The second buffer belongs to parameters that share their memory with the first's, in a second group of
    one torch SGD, so that state, learning rate and fp16 scaling are the optimiser's own. `clip_grad` clips
    each of the two gradients.
    """

    def new_optimizer(self, options: dict[str, Any]) -> torch.optim.Optimizer:
        if options.pop("name", "sgd") != "sgd":
            raise ValueError("dot splits SGD's momentum: set schedule.optimizer.name=sgd, or use method=kd.")
        if self.schedule.get("momentum_start") is not None or self.schedule.get("damped"):
            raise ValueError("dot splits a momentum that stays: leave schedule.momentum_start and damped null.")
        momentum, delta = float(options.pop("momentum", 0.0)), float(options.pop("dot_delta"))
        if not 0 <= momentum - delta <= momentum + delta < 1:
            raise ValueError(f"method.delta={delta} takes momentum {momentum} out of [0, 1): 0.075 is usual.")
        self.twins = [nn.Parameter(p.detach()) for p in self.parameters]
        self.gradients = [self.parameters, self.twins]
        task = {"params": self.parameters, "momentum": momentum - delta}
        distill = {"params": self.twins, "momentum": momentum + delta, "weight_decay": 0.0}
        rest = {"momentum": momentum, "lr": self.rate, "fused": True, **options}
        return eager_optimizers.SGD([task, distill], **rest)

    def backward(self, losses: Mapping[str, Tensor]) -> None:
        """Leave the distillation's gradients in the twins and the task's in the parameters."""
        distillation = torch.stack([loss for name, loss in losses.items() if name != TASK]).sum()
        self.scaler.scale(distillation).backward(retain_graph=True)
        for parameter, twin in zip(self.parameters, self.twins, strict=True):
            twin.grad, parameter.grad = parameter.grad, None
        self.scaler.scale(losses[TASK]).backward()


class DOT(KD):
    """KD's losses, minimised so that distillation's gradient keeps the larger momentum.

    Every parameter has both gradients here; the authors' rule for parameters with only one is not needed.
    """

    def __init__(
        self,
        student: FeatureNet,
        teachers: Sequence[FeatureNet],
        data: DataInfo,
        *,
        ce: float = 0.1,
        kd: float = 0.9,
        temperature: float = 4.0,
        standardize: bool = False,
        delta: float = 0.075,
    ) -> None:
        weights = {"ce": ce, "kd": kd, "temperature": temperature}
        super().__init__(student, teachers, data, **weights, standardize=standardize)
        if not ce or not kd:
            raise ValueError(f"dot needs both losses, and method.ce={ce}, method.kd={kd}: use method=kd.")
        self.delta = delta

    def phases(self) -> list[Phase]:
        update = Update("student", self.loss, [self], optimizer={"dot_delta": self.delta}, stepper=DotStepper)
        return [Phase("distill", [update])]
