"""Contrastive representation distillation (Tian, Krishnan, Isola, ICLR 2020, arXiv:1910.10699)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill import parallel
from distill.data import DataInfo
from distill.losses import full_precision
from distill.method import Batch, Losses, Method
from distill.models import FeatureNet, Outputs

EPS = 1e-7


@full_precision
def nce_loss(positive: Tensor, negative: Tensor, total: int) -> Tensor:
    """Noise-contrastive loss of normalised scores (paper eq. 18-19; the authors' ContrastLoss).

    positive [B] and negative [B,M] are exp(e.m / tau) / Z; the noise is uniform over `total` memory slots, so
    h = P / (P + M/N): -(1/B) sum_i [log h(positive) + sum_m log(1 - h(negative))].
    """
    noise = negative.shape[1] / total
    log_positive = torch.log(positive / (positive + noise + EPS))
    log_negative = torch.log(noise / (negative + noise + EPS))
    return -(log_positive.sum() + log_negative.sum()) / positive.shape[0]


class NegativeSampler(nn.Module):
    """Draws, for each sample, memory slots of the other classes, uniformly.

    Without replacement, unless the other classes hold fewer slots than asked for (as the authors' data set does).
    Slots are sorted by class once, so that "not this class" is a shift: position p of the complement of a class that
    fills [first, first + size) is slot p, or p + size from `first` on. All randomness comes from torch's generators.
    """

    slots: Tensor  # [N] memory slots sorted by class
    sizes: Tensor  # [K] slots of each class
    first: Tensor  # [K] where each class begins in `slots`

    def __init__(self, labels: Tensor, num_classes: int, count: int) -> None:
        super().__init__()
        sizes = torch.bincount(labels, minlength=num_classes)
        if bool((sizes == len(labels)).any()):
            raise ValueError("crd needs training images of at least two classes: its negatives are of other classes.")
        self.count = count
        self.total = len(labels)
        self.register_buffer("slots", torch.argsort(labels, stable=True), persistent=False)
        self.register_buffer("sizes", sizes, persistent=False)
        self.register_buffer("first", torch.cumsum(sizes, 0) - sizes, persistent=False)
        self.replace = count > int((self.total - sizes).min())

    def forward(self, labels: Tensor) -> Tensor:
        """Return slots [B,count] whose labels differ from `labels` [B]."""
        size, first = self.sizes[labels][:, None], self.first[labels][:, None]
        position = self._positions(self.total - size)
        return self.slots[position + size * (position >= first)]

    def _positions(self, limits: Tensor) -> Tensor:
        if self.replace:
            uniform = torch.rand(len(limits), self.count, device=limits.device)
            return (uniform * limits).long().clamp_(max=limits - 1)
        if limits.device.type == "cpu":
            return self._subsets_on_cpu(limits)
        keys = torch.rand(len(limits), self.total, device=limits.device)
        beyond = torch.arange(self.total, device=limits.device) >= limits
        return keys.masked_fill_(beyond, 2.0).topk(self.count, largest=False, sorted=False).indices

    def _subsets_on_cpu(self, limits: Tensor) -> Tensor:
        generator = np.random.default_rng(int(torch.randint(2**62, ())))
        rows = [generator.choice(n, self.count, replace=False, shuffle=False) for n in limits.flatten().tolist()]
        return torch.from_numpy(np.stack(rows))


class Memory(nn.Module):
    """One bank of unit vectors [N,D], a slot for every training image, and its normaliser Z."""

    bank: Tensor  # [N,D]
    z: Tensor  # scalar; 0 until the first batch sets it

    def __init__(self, total: int, dim: int) -> None:
        super().__init__()
        bound = (3 / dim) ** 0.5
        self.register_buffer("bank", torch.empty(total, dim).uniform_(-bound, bound))
        self.register_buffer("z", torch.zeros(()))

    def scores(self, embedding: Tensor, slots: Tensor, tau: float) -> Tensor:
        """Return exp(e.m / tau) / Z for slots [B,1+M] of embeddings [B,D].

        One product with the whole bank and a gather: the same values and gradients as gathering [B,1+M,D] vectors
        first, at a fraction of the memory traffic. Z is fixed by the first batch: N times the mean score.
        """
        score = torch.exp((embedding @ self.bank.T).gather(1, slots) / tau)
        self.z.copy_(torch.where(self.z > 0, self.z, parallel.mean(score.detach().mean()) * len(self.bank)))
        return score / self.z.clone()

    def update(self, index: Tensor, embedding: Tensor, momentum: float) -> None:
        """Move the slots `index` [B] towards `embedding` [B,D] and back to the unit sphere."""
        mixed = momentum * self.bank[index] + (1 - momentum) * embedding.to(self.bank.dtype)
        self.bank[index] = F.normalize(mixed, dim=1)


class CRD(Method):
    """Each net's embedding is contrasted with the other net's memory bank; the sample itself is the positive.

    Deviations from the authors' code: negatives are drawn on the device instead of by the loader; banks and
    both normalisers are saved with every checkpoint.
    """

    def __init__(
        self,
        student: FeatureNet,
        teachers: Sequence[FeatureNet],
        data: DataInfo,
        *,
        ce: float = 1.0,
        kd: float = 0.0,
        temperature: float = 4.0,
        weight: float = 0.8,
        dim: int = 128,
        negatives: int = 16384,
        tau: float = 0.07,
        momentum: float = 0.5,
    ) -> None:
        super().__init__(student, teachers, data, ce=ce, kd=kd, temperature=temperature)
        self.weight, self.tau, self.momentum = weight, tau, momentum
        self.embed_student = nn.Linear(student.embedding_dim, dim)
        self.embed_teacher = nn.Linear(self.teacher.embedding_dim, dim)
        self.memory_student = Memory(data.num_train, dim)
        self.memory_teacher = Memory(data.num_train, dim)
        self.sampler = NegativeSampler(data.labels, data.num_classes, negatives)
        self._seen: tuple[Tensor, Tensor, Tensor] | None = None

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        contrast = self.contrast(student.embedding, teacher.embedding, batch)
        return {"crd": self.weight * contrast}

    def contrast(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """Return the two-sided loss of embeddings [B,Ds] and [B,Dt]; banks are updated after the step."""
        with torch.autocast(student.device.type, enabled=False):
            e_s = F.normalize(self.embed_student(student.float()), dim=1)
            e_t = F.normalize(self.embed_teacher(teacher.float()), dim=1)
            slots = torch.cat([batch.index[:, None], self.sampler(batch.labels)], dim=1)
            self._seen = (batch.index, e_s.detach(), e_t.detach())
            return self._side(e_s, self.memory_teacher, slots) + self._side(e_t, self.memory_student, slots)

    def _side(self, embedding: Tensor, memory: Memory, slots: Tensor) -> Tensor:
        score = memory.scores(embedding, slots, self.tau)
        return nce_loss(score[:, 0], score[:, 1:], len(memory.bank))

    def after_step(self) -> None:
        if self._seen is None:
            return
        index, e_s, e_t = (parallel.gathered(part) for part in self._seen)
        self.memory_student.update(index, e_s, self.momentum)
        self.memory_teacher.update(index, e_t, self.momentum)
        self._seen = None
