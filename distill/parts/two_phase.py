"""Methods that first give the student the teacher's maps, and then train it on labels (FSP, AB)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from distill.batch import Batch
from distill.method import Losses, Method, Nets, Phase, Update
from distill.models import Outputs
from distill.parts.stages import used_parameters

CONSTANT: dict[str, Any] = {"decay": "constant", "milestones": []}
"""Schedule of a first phase: the run's learning rate, not lowered."""


class InitThenTrain(Method):
    """`match` alone for `init_epochs`, and then labels.

    In the first phase everything behind the last stage's map stays as it is, in eval mode, as in the authors' code of
    the CRD tables. A WRN's last BatchNorm is part of that, although its output is the pre-activation that is matched.

    In the second phase `match` counts with `weight`, 0 in the papers; the teacher then runs only for soft
    targets.
    """

    key: ClassVar[str]

    def __init__(self, *nets: *Nets, weight: float, init_epochs: int, **common: Any) -> None:
        super().__init__(*nets, **common)
        if not weight and not init_epochs:
            raise ValueError(
                f"{self.key} would never be used: set method.init_epochs or method.weight above 0."
            )
        if not (weight or self.ce or self.kd):
            raise ValueError(f"{self.key}: with ce=0 and kd=0 nothing is left for the second phase: set method.weight")
        self.weight, self.init_epochs = weight, init_epochs
        self.fixed: list[nn.Parameter] = []

    def match(self, student: Outputs, teacher: Outputs) -> Tensor:
        """Return the unweighted loss between the two nets' maps."""
        raise NotImplementedError

    def adapters(self) -> list[nn.Module]:
        """Return what is trained with the student wherever `match` is."""
        return []

    def match_only(self, batch: Batch) -> Losses:
        """Loss of the first phase."""
        return {self.key: self.match(self.student(batch.inputs), self.teach(batch))}

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        return {self.key: self.weight * self.match(student, teacher)} if self.weight else {}

    def loss(self, batch: Batch) -> Losses:
        if self.weight or self.kd:
            return super().loss(batch)
        return self.supervised(self.student(batch.inputs).logits, batch)

    def freeze_tail(self) -> None:
        """Fix the student's parameters behind its last map; modules of nothing else are then in eval mode."""
        net = self.student
        used = used_parameters(net.model, lambda: net.read(net.probe()).features[-1])
        self.fixed = [p for name, p in net.model.named_parameters() if name not in used and p.requires_grad]
        for parameter in self.fixed:
            parameter.requires_grad_(False)

    def release_tail(self) -> None:
        """Train the whole student again."""
        for parameter in self.fixed:
            parameter.requires_grad_(True)

    def phases(self) -> list[Phase]:
        both = [self.student, *self.adapters()]
        init = Phase(
            "init", [Update("init", self.match_only, both)], self.init_epochs, dict(CONSTANT), evaluates=False,
            begin=self.freeze_tail,
        )  # fmt: skip
        second = Update("student", self.loss, both if self.weight else [self.student])
        distill = Phase("distill", [second], begin=self.release_tail)
        return [init, distill] if self.init_epochs else [distill]
