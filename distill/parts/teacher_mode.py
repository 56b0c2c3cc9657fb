"""A frozen teacher whose BatchNorms use the batch's statistics, as some authors' loops leave theirs in train mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from distill.batch import Batch
from distill.method import Method
from distill.models import FeatureNet, Outputs
from distill.models.reading import evaluating, frozen_statistics
from distill.parts.choice import check_choice

_MODES = ("train", "eval")


class TeacherMode(Method):
    """A method whose teacher is asked in `teacher_mode`.

    "train": its BatchNorms use the batch's statistics, and its running ones stay as they are. The net itself answers
    then: no copy with folded BatchNorms, and no cache. "eval": as every other method asks.
    """

    teacher_mode = "eval"

    def set_teacher_mode(self, mode: str) -> None:
        """Choose how the teacher is asked; ValueError for what is no mode."""
        check_choice("teacher_mode", mode, _MODES)
        self.teacher_mode = mode

    def teach(self, batch: Batch, teacher: FeatureNet | None = None) -> Outputs:
        if self.teacher_mode == "eval":
            return super().teach(batch, teacher)
        net = teacher or self.teacher
        with torch.no_grad(), self.in_teacher_mode(net):
            return net.read(batch.views.get("teacher", batch.inputs))

    @contextmanager
    def in_teacher_mode(self, net: FeatureNet) -> Iterator[None]:
        """Have a frozen net compute in `teacher_mode`, and leave its own mode and statistics as they are."""
        if self.teacher_mode == "eval":
            yield
            return
        with evaluating(net), frozen_statistics(net):
            net.train()
            yield
