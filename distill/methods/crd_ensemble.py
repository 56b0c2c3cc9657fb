"""CRD from several teachers (Tian, Krishnan, Isola, ICLR 2020, arXiv:1910.10699, section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.batch import Batch
from distill.method import Losses, Nets
from distill.methods.crd import REFUSES_MIXUP, Memory, NegativeSampler
from distill.models import Outputs
from distill.parts.several import SeveralTeachers, kl_rows


class Critic(nn.Module):
    """The two embeddings and the two memory banks of one teacher and the student."""

    def __init__(self, student_dim: int, teacher_dim: int, dim: int, total: int, bank: str) -> None:
        super().__init__()
        self.embed_student, self.embed_teacher = nn.Linear(student_dim, dim), nn.Linear(teacher_dim, dim)
        self.memory_student, self.memory_teacher = Memory(total, dim, bank), Memory(total, dim, bank)

    def forward(self, student: Tensor, teacher: Tensor, slots: Tensor, tau: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return the two-sided loss of embeddings [B,Ds] and [B,Dt], and both unit vectors [B,dim], detached."""
        with torch.autocast(student.device.type, enabled=False):
            e_s = F.normalize(self.embed_student(student.float()), dim=1)
            e_t = F.normalize(self.embed_teacher(teacher.float()), dim=1)
            sides = ((self.memory_teacher, e_s), (self.memory_student, e_t))
            loss = torch.stack([memory.nce_loss(e, slots, tau) for memory, e in sides]).sum()
            return loss, e_s.detach(), e_t.detach()


class CRDEnsemble(SeveralTeachers):
    """ce x CE + weight x sum_m CRD(student, teacher m) + kd x (1/M) sum_m T^2 KL(p_m || p_s).

    Every teacher has its own critic: a pair of linear embeddings and a pair of memory banks. The negatives of a
    step are drawn once and serve all of them. The authors published no code for this.
    """

    refuses = {"mixup": REFUSES_MIXUP}

    def __init__(
        self, *nets: *Nets, ce: float, kd: float, temperature: float, weight: float, dim: int, negatives: int,
        tau: float, momentum: float, bank: str
    ) -> None:
        student, teachers, data = nets
        super().__init__(*nets, ce=ce, kd=kd, temperature=temperature, drop_last=False)
        self.weight, self.tau, self.momentum = weight, tau, momentum
        student_dim = student.embedding_dim
        self.critics = nn.ModuleList(Critic(student_dim, t.embedding_dim, dim, data.num_train, bank) for t in teachers)
        self.sampler = NegativeSampler(data.classes, data.num_classes, negatives)
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def learn(self, student: Outputs, teachers: Sequence[Outputs], batch: Batch) -> Losses:
        slots = torch.cat([batch.index[:, None], self.sampler(batch.classes)], dim=1)
        self._seen = []
        losses: Losses = {}
        for m, (critic, teacher) in enumerate(zip(self.critics, teachers, strict=True)):
            loss, e_s, e_t = critic(student.embedding, teacher.embedding, slots, self.tau)
            losses[f"crd_{m}"] = self.weight * loss
            self._seen.append((batch.index, e_s, e_t))
        if self.kd:
            losses["kd"] = self.kd * kl_rows(student.logits, [t.logits for t in teachers], self.temperature).mean()
        return losses

    def after_step(self) -> None:
        for critic, (index, e_s, e_t) in zip(self.critics, self._seen, strict=False):
            critic.memory_student.update(index, e_s, self.momentum)  # type: ignore[operator, union-attr]
            critic.memory_teacher.update(index, e_t, self.momentum)  # type: ignore[operator, union-attr]
        self._seen = []
