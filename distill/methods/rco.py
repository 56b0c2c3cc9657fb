"""Route-constrained optimisation, RCO (Jin et al., ICCV 2019, arXiv:1904.09149)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from distill.batch import Batch
from distill.method import Nets, Phase, Update
from distill.models import FeatureNet, Outputs
from distill.parts.guided import Guided


class RCO(Guided):
    """The student follows the teacher's own way: it is taught by checkpoints of the teacher, early to late.

    The teacher is trained inside the run and copied at the epochs of `route`, by default `anchors` equal
    steps that end with the trained teacher (the paper's equal epoch interval). The student's epochs are
    divided evenly among the copies, in one phase under one schedule of the learning rate.
    """

    def __init__(self, *nets: *Nets, anchors: int, route: Sequence[int], **common: Any) -> None:
        super().__init__(*nets, **common)
        self.route = list(route) or even_route(self.teacher_epochs, anchors)
        if sorted(set(self.route)) != self.route or self.route[0] < 1 or self.route[-1] > self.teacher_epochs:
            raise ValueError(
                f"method.route is {self.route}: name rising epochs up to teacher_epochs, {self.teacher_epochs}."
            )
        self.copies = nn.ModuleList(self.teacher.twin() for _ in self.route).requires_grad_(False)
        self.on_route = False

    def end_route(self) -> None:
        """Begin the student's phase: the guide is done."""
        self.on_route = False

    def enter_route(self) -> None:
        """Begin the teacher's phase."""
        self.on_route = True

    def after_epoch(self) -> None:
        if self.on_route and self.epoch in self.route:
            self.copies[self.route.index(self.epoch)].load_state_dict(self.guide.state_dict())

    def anchor(self) -> FeatureNet:
        """Return the copy that teaches in the current epoch of the student's phase."""
        copy = self.copies[(self.epoch - 1) * len(self.copies) // self.epochs]
        assert isinstance(copy, FeatureNet)
        return copy

    def teach(self, batch: Batch, teacher: FeatureNet | None = None) -> Outputs:
        return super().teach(batch, teacher or self.anchor())

    def phases(self) -> list[Phase]:
        first = self.guide_phase()
        first.begin = self.enter_route
        update = Update("student", self.loss, [self.student])
        return [first, Phase("distill", [update], begin=self.end_route)]

    def reported(self) -> dict[str, nn.Module]:
        return {f"teacher_{epoch}": net for epoch, net in zip(self.route, self.copies, strict=True)}


def even_route(epochs: int, anchors: int) -> list[int]:
    """Return `anchors` equally spaced epochs that end with the last; fewer where there are fewer epochs.

    Raises ValueError without an epoch or an anchor.
    """
    if epochs < 1 or anchors < 1:
        raise ValueError(
            f"method.teacher_epochs is {epochs} and method.anchors {anchors}: rco needs at least 1 of both."
        )
    return sorted({-(-epochs * (k + 1) // anchors) for k in range(anchors)})
