"""Methods that train their teacher themselves, because they need it as it was on its way (ESKD, RCO)."""

from __future__ import annotations

from typing import Any

from distill.batch import Batch
from distill.method import Losses, Method, Nets, Phase, Update
from distill.parts.choice import check_one_view


class Guided(Method):
    """A first phase trains `guide`, a fresh net of the teacher's architecture, by the run's schedule.

    The guide is part of the state, so the phase resumes like any other. Of the teacher that was given only
    the architecture is used: teacher.weights=none spares its training.
    """

    def __init__(self, *nets: *Nets, teacher_epochs: int, **common: Any) -> None:
        super().__init__(*nets, **common)
        if teacher_epochs < 0:
            raise ValueError(f"method.teacher_epochs is {teacher_epochs}: epochs cannot be negative.")
        if teacher_epochs:
            check_one_view(type(self).__name__.lower(), "the teacher that it trains", self.data)
        self.teacher_epochs = teacher_epochs
        self.guide = self.teacher.twin()

    def guide_loss(self, batch: Batch) -> Losses:
        """Loss of the first phase."""
        return self.labels_alone(batch, self.guide)

    def guide_phase(self) -> Phase:
        """Return the phase that trains the guide."""
        update = Update("teacher", self.guide_loss, [self.guide])
        return Phase("teacher", [update], self.teacher_epochs, evaluates=False)
