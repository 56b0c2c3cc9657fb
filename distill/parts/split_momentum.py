"""SGD that keeps a momentum buffer for each part of the losses, as DOT and DeepKD train."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distill.config import OptimizerSpec
from distill.engine import eager_optimizers
from distill.engine.optim import Stepper, grouped


@dataclass(frozen=True)
class MomentumPart:
    """Losses whose gradient has a momentum of its own. losses: their names, or () for all that no other part names."""

    losses: tuple[str, ...]
    momentum: float
    decays: bool = False  # whether the weight decay is added to this part's gradient


class SplitStepper(Stepper, ABC):
    """v_i <- m_i v_i + g_i for each part i of the losses, then theta -= lr sum_i v_i; a backward pass a part.

    The buffers of all parts but the first belong to parameters that share their memory with the model's, in further
    groups of one torch SGD, so that state, learning rate and fp16 scaling are the optimiser's own. `clip_grad` clips
    each part's gradient. Subclasses say which `parts` there are.
    """

    method = "this method"

    def __init__(self, modules: Iterable[nn.Module], schedule: OptimizerSpec, **options: Any) -> None:
        super().__init__(modules, schedule, **options)
        twins = [pair for held in self.gradients[1:] for pair in zip(self.parameters, held, strict=True)]
        self.heads |= {id(twin) for p, twin in twins if id(p) in self.heads}

    @abstractmethod
    def parts(self, momentum: float, options: dict[str, Any]) -> list[MomentumPart]:
        """Return the parts, for the schedule's momentum; what the method set is popped from `options`."""

    def new_optimizer(self, options: dict[str, Any]) -> torch.optim.Optimizer:
        if options.pop("name", "sgd") != "sgd":
            raise ValueError(
                f"{self.method} splits SGD's momentum: set schedule.optimizer.name=sgd, or use method=kd."
            )
        if self.schedule.momentum_start is not None or self.schedule.damped:
            raise ValueError(
                f"{self.method} splits a momentum that stays: leave schedule.momentum_start and damped null."
            )
        momentum = float(options.pop("momentum", 0.0))
        self.split = self.parts(momentum, options)
        others = [[nn.Parameter(p.detach()) for p in self.parameters] for _ in self.split[1:]]
        self.gradients = [self.parameters, *others]
        groups = [
            {**shared, "params": own, "momentum": part.momentum} | ({} if part.decays else {"weight_decay": 0.0})
            for part, held in zip(self.split, self.gradients, strict=True)
            for shared, own in self._alike(held)
        ]
        return eager_optimizers.SGD(groups, **{"momentum": momentum, "lr": self.rate, "fused": True, **options})

    def _alike(self, held: list[nn.Parameter]) -> list[tuple[dict[str, Any], list[nn.Parameter]]]:
        """A part's parameters by what the schedule has for them: their share of the rate, and whether they decay."""
        own = {id(p): twin for p, twin in zip(self.parameters, held, strict=True)}
        return [(group, [own[id(p)] for p in group["params"]]) for group in grouped(self.groups())]

    def backward(self, losses: Mapping[str, Tensor]) -> None:
        """Leave each part's gradients in its own parameters, the first part's in the model's."""
        named = {name for part in self.split for name in part.losses}
        for part, held in reversed(list(zip(self.split, self.gradients, strict=True))):
            own = [loss for name, loss in losses.items() if (name in part.losses if part.losses else name not in named)]
            last = held is self.parameters
            self.differentiate(own, again=not last)
            if not last:
                for parameter, twin in zip(self.parameters, held, strict=True):
                    twin.grad, parameter.grad = parameter.grad, None
