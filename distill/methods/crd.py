"""Contrastive representation distillation (Tian, Krishnan, Isola, ICLR 2020, arXiv:1910.10699)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import distill.parallel as parallel
from distill.batch import Batch
from distill.method import Losses, Method, Nets
from distill.models import Outputs
from distill.parts.memory_bank import MemoryBank
from distill.parts.products import product

EPS = 1e-7
REFUSES_MIXUP = "its memory holds an embedding of each training image, and a mixed image is none of them"
BANKS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class NegativeSampler(nn.Module):
    """Draws, for each sample, memory slots of the other classes, uniformly.

    Without replacement, unless the other classes hold fewer slots than asked for (as the authors' data set does).
    Slots are sorted by class and laid end to end twice, so that those not of a class are the N - size that follow
    its last one. All randomness comes from torch's generators.
    """

    slots: Tensor  # [2N] memory slots sorted by class, twice
    sizes: Tensor  # [K] slots of each class
    ends: Tensor  # [K] where each class ends in `slots`

    def __init__(self, labels: Tensor, num_classes: int, count: int) -> None:
        super().__init__()
        if count < 1:
            raise ValueError(f"method.negatives is {count}: a sample is contrasted with one negative or more.")
        sizes = torch.bincount(labels, minlength=num_classes)
        if bool((sizes == len(labels)).any()):
            raise ValueError("crd needs training images of at least two classes: its negatives are of other classes.")
        self.count = count
        self.total = len(labels)
        self.register_buffer("slots", torch.argsort(labels, stable=True).repeat(2), persistent=False)
        self.register_buffer("sizes", sizes, persistent=False)
        self.register_buffer("ends", torch.cumsum(sizes, 0), persistent=False)
        self.replace = count > int((self.total - sizes).min())

    def forward(self, labels: Tensor) -> Tensor:
        """Return slots [B,count] whose labels differ from `labels` [B]."""
        position = self._positions(self.total - self.sizes[labels][:, None]).add_(self.ends[labels][:, None])
        return self.slots.expand(len(labels), -1).gather(1, position)

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


class NCE(torch.autograd.Function):
    """Noise-contrastive loss of embeddings [B,D] and slots [B,1+M] of a bank [N,D], the positive first.

    Paper eq. 18-19 as in the authors' ContrastLoss: P(m) = exp(e.m / tau) / Z, noise n = M/N uniform over the slots,
    -(1/B) sum_i [log P/(P + n + EPS) of the positive + sum_m log n/(P + n + EPS) of the negatives]. Z is fixed by the
    first batch: N times the mean score. With a = P / (n + EPS) a positive adds log(1 + a) - log a, a negative
    log(1 + a) and a constant; the derivative by e.m / tau is a / (1 + a), less 1 for the positive.

    One product with the whole bank and a gather give the values of gathering [B,1+M,D] vectors, at a fraction of the
    memory traffic. Loss and gradient are computed at once, in two buffers of [B,1+M] and the product's own.
    """

    @staticmethod
    def forward(ctx: Any, embedding: Tensor, bank: Tensor, z: Tensor, slots: Tensor, tau: float) -> Tensor:
        dense = product(embedding, bank.T)
        a = dense.gather(1, slots).div_(tau).exp_()
        z.copy_(torch.where(z > 0, z, parallel.mean(a.mean()) * len(bank)))
        batch, negatives = len(slots), slots.shape[1] - 1
        noise = negatives / len(bank)
        a.div_(z * (noise + EPS))
        buffer = a.log1p()
        loss = (buffer.sum() - a[:, 0].log().sum()) / batch + negatives * math.log1p(EPS / noise)
        if ctx.needs_input_grad[0]:
            a.div_(torch.add(a, 1, out=buffer))
            a[:, 0] -= 1
            slope = product(dense.zero_().scatter_add_(1, slots, a), bank)
            ctx.save_for_backward(slope.div_(tau * batch))
        return loss

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None, None, None]:  # type: ignore[override]
        (slope,) = ctx.saved_tensors
        return outer * slope, None, None, None, None


class Memory(MemoryBank):
    """A bank of unit vectors [N,D], a slot for every training image, and its normaliser Z.

    `dtype` float32 or bfloat16: how the bank is kept and multiplied. bfloat16 rounds its values, and the embeddings
    that meet them, to 8 bits; sums and what updates the bank stay fp32.
    """

    z: Tensor  # scalar; 0 until the first batch sets it

    def __init__(self, total: int, dim: int, dtype: str = "float32") -> None:
        if dtype not in BANKS:
            raise ValueError(f"method.bank={dtype} is no type of a memory bank: use {' or '.join(BANKS)}.")
        bound = (3 / dim) ** 0.5
        super().__init__(torch.empty(total, dim).uniform_(-bound, bound).to(BANKS[dtype]))
        self.register_buffer("z", torch.zeros(()))

    def nce_loss(self, embedding: Tensor, slots: Tensor, tau: float) -> Tensor:
        """Return the NCE loss of embeddings [B,D] and slots [B,1+M], the positive first; the first call sets Z."""
        return NCE.apply(embedding, self.bank, self.z, slots, tau)

    def update(self, index: Tensor, embedding: Tensor, momentum: float) -> None:
        """Move the slots `index` [B] towards `embedding` [B,D] and back to the unit sphere."""
        mixed = momentum * self[index].to(embedding.dtype) + (1 - momentum) * embedding
        self.write(index, F.normalize(mixed, dim=1))


class CRD(Method):
    """Each net's embedding is contrasted with the other net's memory bank; the sample itself is the positive.

    Deviations from the authors' code: negatives are drawn on the device instead of by the loader, and without
    replacement on ImageNet too, where 16,384 of theirs have about a hundred twice; banks and both normalisers are
    saved with every checkpoint.
    """

    refuses = {"mixup": REFUSES_MIXUP}

    def __init__(
        self, *nets: *Nets, weight: float, dim: int, negatives: int, tau: float, momentum: float, bank: str,
        **common: Any
    ) -> None:
        student, _, data = nets
        super().__init__(*nets, **common)
        self.weight, self.tau, self.momentum = weight, tau, momentum
        self.embed_student = nn.Linear(student.embedding_dim, dim)
        self.embed_teacher = nn.Linear(self.teacher.embedding_dim, dim)
        self.memory_student = Memory(data.num_train, dim, bank)
        self.memory_teacher = Memory(data.num_train, dim, bank)
        self.sampler = NegativeSampler(data.classes, data.num_classes, negatives)
        self._seen: tuple[Tensor, Tensor, Tensor] | None = None

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        contrast = self.contrast(student.embedding, teacher.embedding, batch)
        return {"crd": self.weight * contrast}

    def contrast(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """Return the two-sided loss of embeddings [B,Ds] and [B,Dt]; banks are updated after the step."""
        with torch.autocast(student.device.type, enabled=False):
            e_s = F.normalize(self.embed_student(student.float()), dim=1)
            e_t = F.normalize(self.embed_teacher(teacher.float()), dim=1)
            slots = torch.cat([batch.index[:, None], self.sampler(batch.classes)], dim=1)
            self._seen = (batch.index, e_s.detach(), e_t.detach())
            sides = ((self.memory_teacher, e_s), (self.memory_student, e_t))
            return torch.stack([memory.nce_loss(e, slots, self.tau) for memory, e in sides]).sum()

    def after_step(self) -> None:
        if self._seen is None:
            return
        index, e_s, e_t = self._seen
        self.memory_student.update(index, e_s, self.momentum)
        self.memory_teacher.update(index, e_t, self.momentum)
        self._seen = None
