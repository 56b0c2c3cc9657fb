"""Distillation with the reused teacher classifier, SimKD (Chen et al., CVPR 2022, arXiv:2203.14001)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision, pool_to
from distill.method import Losses, Method, Nets, Phase, Update
from distill.models import FeatureNet
from distill.parts.grown import GrownModel, GrownNet
from distill.parts.probing import is_signed, probe_outputs
from distill.parts.products import rows
from distill.parts.stages import used_parameters


@full_precision
def simkd_loss(projected: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of the projected student's and the teacher's last maps [B,C,H,W] (eq. 2)."""
    return F.mse_loss(rows(projected), rows(teacher))


class Projector(nn.Sequential):
    """1x1, 3x3 and 1x1 convolutions with BatchNorm and ReLU, `factor` times narrower inside; pools maps
    beyond `size`.

    The last ReLU is left out for teachers whose last map has negative entries.
    """

    def __init__(self, student: int, teacher: int, factor: int, size: Sequence[int], *, signed: bool) -> None:
        middle = max(teacher // factor, 1)
        super().__init__(
            nn.Conv2d(student, middle, 1, bias=False), nn.BatchNorm2d(middle), nn.ReLU(),
            nn.Conv2d(middle, middle, 3, padding=1, bias=False), nn.BatchNorm2d(middle), nn.ReLU(),
            nn.Conv2d(middle, teacher, 1, bias=False), nn.BatchNorm2d(teacher),
            nn.Identity() if signed else nn.ReLU(),
        )  # fmt: skip
        self.size = (size[0], size[1])

    def forward(self, input: Tensor) -> Tensor:
        pooled = input if tuple(input.shape[2:]) == self.size else F.adaptive_avg_pool2d(input, self.size)
        return super().forward(pooled)


class ReusedModel(GrownModel):
    """Student backbone, projector and the teacher's layers behind its last map: inputs [B,C,H,W] -> logits [B,K]."""

    def __init__(
        self,
        student: FeatureNet,
        projector: Projector,
        teacher: FeatureNet,
        head: nn.ModuleDict,
        unused: set[str],
    ) -> None:
        super().__init__(student, unused)
        self.projector, self.head = projector, head
        self.num_classes = teacher.num_classes
        self._teacher = (teacher,)  # in a tuple: of its parameters only those in `head` are ours

    @property
    def teacher(self) -> FeatureNet:
        """The net whose classifier is reused."""
        return self._teacher[0]

    def forward_features(self, inputs: Tensor) -> Tensor:
        """inputs [B,C,H,W] -> the projected map [B,C_t,H',W']."""
        return self.projector(self.last_map(inputs))

    def finish(self, feature: Tensor) -> Tensor:
        return self.teacher.classify(feature)

    def classifier(self) -> nn.Module:
        return self.teacher.classifier


class SimKD(Method):
    """The student's backbone learns the teacher's last map through a projector; no labels, no logits. The net
    that is evaluated and exported is backbone + projector + the teacher's own classifier (section 3.2),
    larger than the student.

    `ce` and `kd`, 0 in the paper, act on that net's logits. Maps of different sizes are pooled to the
    smaller.
    """

    def __init__(self, *nets: *Nets, weight: float, factor: int, **common: Any) -> None:
        student, _, _ = nets
        super().__init__(*nets, **common)
        teacher, self.weight = self.teacher, weight
        self.refuses = self.refused({"ce": self.ce})
        if student.num_classes != teacher.num_classes:
            raise ValueError(
                f"simkd reuses the teacher's classifier, but {teacher.name} knows {teacher.num_classes} "
                f"classes and the data has {student.num_classes}: take a teacher of these, or method=crd."
            )
        (channels, *size), (width, *target) = student.shapes[-1], teacher.shapes[-1]
        size = [min(pair) for pair in zip(size, target, strict=True)]
        seen = probe_outputs(teacher).features[-1]
        if factor > width:
            raise ValueError(f"method.factor={factor} leaves none of {width} channels of {teacher.name}: 2 is usual.")
        self.projector = Projector(channels, width, factor, size, signed=is_signed(seen))
        self.head = self._teacher_head(seen)
        unused = self._freeze_unused()
        there = seen.device  # the teacher is on the run's device before all the rest
        model = ReusedModel(student.to(there), self.projector.to(there), teacher, self.head, unused)
        self._deployed = (
            GrownNet(model, name=f"{student.name}+{teacher.name}", size=student.size, in_chans=student.in_chans),
        )

    @classmethod
    def refused(cls, settings: Mapping[str, Any]) -> Mapping[str, str]:
        unread = {"label_smoothing": "it reads no labels unless method.ce is above 0"}
        return {} if settings.get("ce") else unread

    def _teacher_head(self, feature: Tensor) -> nn.ModuleDict:
        """The teacher's modules behind its last map [1,C,H,W], frozen, by their names."""
        teacher = self.teacher
        try:
            used = used_parameters(teacher.model, lambda: teacher.classify(feature))
        except ValueError as error:
            raise ValueError(
                f"simkd cannot reuse the classifier of {teacher.name} on a map like its last, "
                f"{teacher.shapes[-1]} ({str(error).rstrip('.')}): take method=srrl."
            ) from error
        owners = sorted({name.rpartition(".")[0] for name in used})
        return nn.ModuleDict(
            {name.replace(".", "_"): teacher.model.get_submodule(name) for name in owners}
        ).requires_grad_(False)

    def _freeze_unused(self) -> set[str]:
        """Freeze and name what the student has behind its last map: nothing here trains or evaluates it."""
        model = self.student.model
        used = used_parameters(model, lambda: self.student(self.student.probe()).features[-1])
        unused = {name for name, _ in model.named_parameters()} - used
        for name in unused:
            model.get_parameter(name).requires_grad_(False)
        return unused

    def loss(self, batch: Batch) -> Losses:
        """MSE of maps; `ce` and `kd` of the deployed net's logits where asked for."""
        student, teacher = self.student(batch.inputs), self.teach(batch)
        projected, target = pool_to(self.projector(student.features[-1]), teacher.features[-1])
        logits = self.teacher.classify(projected if self.ce or self.kd else projected.detach())
        losses = {"simkd": self.weight * simkd_loss(projected, target)} | self.supervised(logits, batch)
        if self.kd:
            losses["kd"] = self.kd * self.soft_targets(logits, teacher.logits)
        return losses

    def phases(self) -> list[Phase]:
        return [Phase("distill", [Update("student", self.loss, [self.student, self.projector])])]

    def deployed(self) -> FeatureNet:
        net = self._deployed[0]
        net.renormalize_as(self.student)
        return net
