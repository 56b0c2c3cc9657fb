"""Residual knowledge distillation (Gao, Wang, Wu et al. 2020, arXiv:2002.09168)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill.batch import Batch
from distill.losses import full_precision
from distill.method import Losses, Method, Nets, Phase, Update
from distill.models import Outputs, build


@full_precision
def mimic_loss(student: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of embeddings [B,D], over images and dimensions."""
    return (student - target).square().mean()


class Together(nn.Module):
    """Student and assistant as one net: inputs [B,C,H,W] to the logits [B,K] of the sum of their embeddings."""

    def __init__(self, nets: Sequence[nn.Module], embeds: Sequence[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.nets, self.embeds, self.head = nn.ModuleList(nets), nn.ModuleList(embeds), head

    def forward(self, inputs: Tensor) -> Tensor:
        parts = [embed(net(inputs).embedding) for net, embed in zip(self.nets, self.embeds, strict=True)]
        logits: Tensor = self.head(torch.stack(parts).sum(0))
        return logits


class ResidualKD(Method):
    """The student mimics the teacher (eq. 1); then an assistant learns what the student missed (eq. 2).

    Phase "student": ce x CE + kd x KL + weight x |r(e_s) - e_t|^2. Phase "assistant", with the student frozen:
    weight x |a(e_a) - (e_t - r(e_s))|^2 + CE of a linear head on r(e_s) + a(e_a). Deviations from the paper: the
    embeddings, each behind a linear map to the teacher's width, stand for the last feature maps; the assistant is
    a whole net (`assistant`, by default of the student's architecture) instead of a part split off from it; and
    the student alone is evaluated and saved, the two together being reported beside it.
    """

    def __init__(
        self, *nets: *Nets, weight: float, assistant: str | None, assistant_epochs: int | None, **common: Any
    ) -> None:
        student, _, _ = nets
        super().__init__(*nets, **common)
        self.weight, self.assistant_epochs = weight, assistant_epochs
        self.assistant = (
            build(assistant, student.num_classes, in_chans=student.in_chans, size=student.size, inits=student.inits)
            if assistant
            else student.twin()
        )
        self.assistant.classifier.requires_grad_(False)  # only its embedding is read
        width = self.teacher.embedding_dim
        self.embed_student = nn.Linear(student.embedding_dim, width)
        self.embed_assistant = nn.Linear(self.assistant.embedding_dim, width)
        self.head = nn.Linear(width, student.num_classes)

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        return {"mimic": self.weight * mimic_loss(self.embed_student(student.embedding), teacher.embedding)}

    def assist(self, batch: Batch) -> Losses:
        """Loss of the second phase."""
        with torch.no_grad():
            known = self.embed_student(self.student(batch.inputs).embedding)
        missed = self.embed_assistant(self.assistant(batch.inputs).embedding)
        logits = self.head(known + missed)
        residual = mimic_loss(missed, self.teach(batch).embedding - known)
        return {"residual": self.weight * residual, **self.supervised(logits.float(), batch, weight=1.0)}

    def phases(self) -> list[Phase]:
        first = Update("student", self.loss, [self.student, self.embed_student])
        second = Update("assistant", self.assist, [self.assistant, self.embed_assistant, self.head])
        return [
            Phase("student", [first]),
            Phase("assistant", [second], self.assistant_epochs, evaluates=False),
        ]

    def reported(self) -> dict[str, nn.Module]:
        nets, embeds = [self.student, self.assistant], [self.embed_student, self.embed_assistant]
        return {"student+assistant": Together(nets, embeds, self.head)}
