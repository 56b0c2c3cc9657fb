"""Cross modal distillation for supervision transfer (Gupta, Hoffman, Malik, CVPR 2016, arXiv:1507.00448)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from distill.losses import full_precision
from distill.method import Nets
from distill.models import FeatureNet, Outputs
from distill.parts.heads import conv_regressor
from distill.parts.products import rows
from distill.parts.two_phase import InitThenTrain


@full_precision
def transfer_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of two maps [B,C,H,W] of one sample in two modalities (eq. 1)."""
    return F.mse_loss(rows(student), rows(teacher))


class CrossModalSupervision(InitThenTrain):
    """The student's map of its modality follows the teacher's map of the paired one, and is then tuned on
    labels.

    Phase 1 needs no labels; `stage` counts from 1, negative from the last. Nets of one architecture are
    compared as they are, as in the paper; others through a convolution. Give dataset.views.teacher and
    dataset.views.student: both see the same crop and flip of a sample.
    """

    key = "transfer"

    def __init__(self, *nets: *Nets, stage: int, **common: Any) -> None:
        student, _, _ = nets
        super().__init__(*nets, **common)
        self.of_student, self.of_teacher = (stage_index(net, stage) for net in (student, self.teacher))
        shape_s, shape_t = student.shapes[self.of_student], self.teacher.shapes[self.of_teacher]
        self.regressor = None if shape_s == shape_t else conv_regressor(shape_s, shape_t, relu=False)

    def match(self, student: Outputs, teacher: Outputs) -> Tensor:
        feature = student.features[self.of_student]
        if self.regressor is not None:
            feature = self.regressor(feature)
        return transfer_loss(feature, teacher.features[self.of_teacher])

    def adapters(self) -> list[nn.Module]:
        return [] if self.regressor is None else [self.regressor]


def stage_index(net: FeatureNet, stage: int) -> int:
    """The 0-based number of a stage; ValueError names the stages that a net has."""
    count = len(net.shapes)
    if not 1 <= abs(stage) <= count:
        raise ValueError(f"method.stage={stage} of {net.name} does not exist: it has 1 to {count}, or -1 to -{count}.")
    return stage - 1 if stage > 0 else count + stage
