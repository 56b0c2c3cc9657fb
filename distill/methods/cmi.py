"""Contrastive model inversion (Fang et al., IJCAI 2021, arXiv:2105.08584)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.data import DataInfo
from distill.losses import full_precision, kl_div
from distill.method import Batch, Losses, Phase, Update
from distill.models import FeatureNet, Outputs
from distill.parts.datafree import Afresh, BatchNormInputs, DataFree, Pool


@full_precision
def contrast_loss(local: Tensor, whole: Tensor, others: Tensor, tau: float) -> Tensor:
    """InfoNCE: each row of local [B,D] should find its own row of whole [B,D] among these and others [M,D]
    (eq. 6).

    All rows are brought to unit length first.
    """
    local, whole, others = (F.normalize(rows, dim=1) for rows in (local, whole, others))
    scores = local @ torch.cat([whole, others]).T / tau
    return F.cross_entropy(scores, torch.arange(len(local), device=local.device))


def random_view(images: Tensor, low: float) -> Tensor:
    """Return one square crop of each image [B,C,S,S], of `low` to 100 % of its side, at full size again."""
    scale = low + (1 - low) * torch.rand(len(images), 1, device=images.device)
    shift = (1 - scale) * (2 * torch.rand(len(images), 2, device=images.device) - 1)
    zero = torch.zeros_like(scale)
    theta = torch.stack(
        [torch.cat([scale, zero, shift[:, :1]], 1), torch.cat([zero, scale, shift[:, 1:]], 1)], 1
    )
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


class Latents(nn.Module):
    """One trainable noise vector an image [B,Z]."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.randn(count, width))


class CMI(DataFree):
    """A pool of images that grows by a batch a step, each unlike the earlier ones; the student learns from
    the pool.

    A step of the loop is one round of algorithm 1: a fresh generator and fresh latent codes are optimised
    together for `generator_steps`, by bn x statistics + certainty x CE(z_t, y) - adversarial x KL(p_t ||
    p_s) + contrast x InfoNCE, the best images go into the pool, and the student takes `student_steps` steps
    of T^2 KL on draws from it. The contrast compares the spatial means of the inputs of all BatchNorm
    layers, through a trained head, with a bank of earlier ones. Deviations: views are crops, without flips;
    the head's optimiser restarts with the generator's.
    """

    best: Tensor
    bank: Tensor

    def __init__(
        self,
        student: FeatureNet,
        teachers: Sequence[FeatureNet],
        data: DataInfo,
        *,
        kd: float = 1.0,
        temperature: float = 20.0,
        latent: int = 256,
        batch_size: int = 256,
        steps: int = 1,
        generator_steps: int = 200,
        student_steps: int = 400,
        pool: int = 51200,
        adversarial: float = 0.5,
        bn: float = 1.0,
        certainty: float = 1.0,
        contrast: float = 0.8,
        tau: float = 0.1,
        dim: int = 128,
        negatives: int = 4096,
        optimizer: Mapping[str, Any] | None = None,
        generator_optimizer: Mapping[str, Any] | None = None,
    ) -> None:
        sizes: dict[str, Any] = dict(latent=latent, batch_size=batch_size, steps=steps)
        super().__init__(student, teachers, data, kd=kd, temperature=temperature, **sizes)
        if pool < batch_size:
            raise ValueError(
                f"method.pool={pool} images must hold a batch of method.batch_size={batch_size}."
            )
        self.generator_steps, self.student_steps = generator_steps, student_steps
        self.adversarial, self.bn, self.certainty = adversarial, bn, certainty
        self.contrast, self.tau, self.negatives = contrast, tau, negatives
        self.optimizer = dict(optimizer or {})
        self.generator_optimizer = dict(
            generator_optimizer or {"name": "adam", "lr": 0.001, "decay": "constant"}
        )
        self.seen = BatchNormInputs(self.teacher, "cmi")
        width = sum(norm.num_features for norm in self.seen.norms)
        self.generator, self.latents = self.new_generator(), Latents(batch_size, latent)
        self.head = nn.Sequential(nn.Linear(width, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.pool = Pool(pool, student)
        self.register_buffer("bank", torch.zeros(pool, width))
        self.register_buffer("best", torch.full((), torch.inf))

    def instances(self, images: Tensor) -> tuple[Outputs, Tensor]:
        """Return the teacher's outputs and the means [B,W] of each image in its BatchNorm layers."""
        with self.seen:
            outputs = self.teacher(images)
        return outputs, torch.cat(
            [x.flatten(2).mean(2) if x.dim() > 2 else x for x in self.seen.inputs], 1
        ).float()

    def generator_loss(self, batch: Batch) -> Losses:
        images = self.generator(self.latents.codes)
        whole = random_view(images, 0.8)
        teacher, features = self.instances(whole)
        losses = {
            "bn": self.bn * self.seen.loss(),
            "certainty": self.certainty * F.cross_entropy(teacher.logits, batch.labels),
        }
        if self.adversarial:
            doubt = kl_div(self.ask(whole, train=False).logits, teacher.logits)
            losses["adversarial"] = -self.adversarial * doubt
        if self.contrast:
            losses["contrast"] = self.contrast * self.diversity(images, features)
        self.keep(images, features, batch.labels, torch.stack(list(losses.values())).sum())
        return losses

    def diversity(self, images: Tensor, features: Tensor) -> Tensor:
        local = self.instances(random_view(images, 0.5))[1]
        past = (self.pool.filled - self.batch_size).clamp(min=0)  # this round's own slots come last
        back = (torch.rand(self.negatives, device=past.device) * past).long()
        others = self.head(self.bank[(self.pool.next - 1 - back) % len(self.bank)])
        return contrast_loss(self.head(local), self.head(features), others, self.tau)

    @torch.no_grad()
    def keep(self, images: Tensor, features: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Put images and features into the pool where they are the best of their round so far."""
        slots, better = self.pool.slots(len(labels)), loss.detach() < self.best
        self.best.copy_(torch.minimum(self.best, loss.detach()))
        self.pool.write(torch.where(better, images, self.pool.images[slots]), labels)
        self.bank[slots] = torch.where(better, features, self.bank[slots])

    def student_loss(self, batch: Batch) -> Losses:
        return self.learn(batch, self.pool.draw(self.batch_size)[0])[0]

    @torch.no_grad()
    def after_step(self) -> None:
        """Go on to the next round: new slots, a new generator, new codes."""
        self.pool.advance(self.batch_size)
        self.best.fill_(torch.inf)
        self.generator.restart()
        self.latents.codes.normal_()

    def phases(self) -> list[Phase]:
        made = [self.generator, self.latents, self.head]
        optimizer = self.generator_optimizer
        generator = Update("generator", self.generator_loss, made, optimizer, self.generator_steps, Afresh)
        student = Update("student", self.student_loss, [self.student], self.optimizer, self.student_steps)
        return [Phase("distill", [generator, student], source=self.noise)]
