"""Contrastive model inversion (Fang et al., IJCAI 2021, arXiv:2105.08584)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.batch import Batch
from distill.config import OptimizerSpec
from distill.config.optimizer_options import takes_option
from distill.engine.optim import Stepper, grouped, trainable
from distill.losses import full_precision
from distill.method import Losses, Nets, Phase, Update
from distill.models import Outputs
from distill.models.generator import Pixels
from distill.parts.datafree import BatchNormInputs, DataFree
from distill.parts.synthetic_images import CropFlip, RingBuffer, resized_crop

HEAD_BETAS = (0.9, 0.999)  # of Adam for the head; those of generator and codes are settings


@full_precision
def contrast_loss(local: Tensor, whole: Tensor, tau: float, count: int, valid: Tensor) -> Tensor:
    """InfoNCE of unit rows [M,D]: each local row should find the whole row of its own image among all (eq. 6).

    The first `count` rows are the images that are being made, the others those of earlier images, of which `valid`
    [M] says which there are yet. As in the authors' code the means of both parts are added, and gradients do not
    reach the whole rows.
    """
    scores = (local @ whole.detach().T / tau).masked_fill(~valid, -1e4)
    own = torch.arange(len(scores), device=scores.device)
    each = F.cross_entropy(scores, own, reduction="none")
    past = valid[count:].float()
    return each[:count].mean() + (each[count:] * past).sum() / past.sum().clamp(min=1)


@full_precision
def decision_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(p_t || p_s) of logits [B,K], a mean over B in which samples on whose class both nets disagree count 0."""
    each = F.kl_div(student.log_softmax(1), teacher.log_softmax(1), reduction="none", log_target=True).sum(1)
    return (each * (student.argmax(1) == teacher.argmax(1))).mean()


class Head(nn.Sequential):
    """Features [B,W] to unit vectors [B,D] that the contrast compares."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(super().forward(x).float(), dim=1)


class Rounds(Stepper):
    """Steps of generator, codes and head together; the moments of all but the head are forgotten before every batch,
    whose repeats are one optimisation of their own.
    """

    def __init__(self, modules: Iterable[nn.Module], schedule: OptimizerSpec, **options: Any) -> None:
        *made, head = modules
        self.forgotten, self._head = trainable(made), trainable([head])
        super().__init__([*made, head], schedule, **options)

    def groups(self) -> list[Any]:
        """Those of the head last, with betas of its own."""
        name, of_head = str(self.schedule.optimizer.get("name", "sgd")), {id(p) for p in self._head}
        own = {"betas": HEAD_BETAS} if takes_option(name, "betas") else {}
        found = grouped(super().groups())
        made = [{**group, "params": [p for p in group["params"] if id(p) not in of_head]} for group in found]
        head = [{**group, "params": [p for p in group["params"] if id(p) in of_head], **own} for group in found]
        return [group for group in (*made, *head) if group["params"]]

    def set_lr(self, step: int, steps: int, epochs: int) -> float:
        for parameter in self.forgotten:
            self.optimizer.state.pop(parameter, None)
        return super().set_lr(step, steps, epochs)


class Latents(nn.Module):
    """One trainable noise vector an image [B,Z]."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.randn(count, width))


class CMI(DataFree):
    """A pool of images that grows by a batch a step, each unlike the earlier ones; the student learns from the pool.

    A step of the loop is one round of algorithm 1: a fresh generator and fresh latent codes are optimised together
    for `generator_steps`, by bn x statistics + certainty x CE(z_t, y) - adversarial x KL(p_t || p_s) + contrast x
    InfoNCE; KL counts where both nets name one class. The best images go into the pool, and the student takes
    `student_steps` steps of T^2 KL on `student_batch` images of it, cropped and flipped as training images are. The
    contrast compares the spatial means of the inputs of all BatchNorm layers (features=stages: of the four stages),
    through a trained head, of a crop of each image and of all of it, with those of earlier images.
    """

    steps_alike = False  # how full the pool is, is counted on the host
    one_process = "a round makes one pool of images, and each process would make its own"

    best: Tensor  # loss of the best step of this round
    images: Tensor  # that it had
    means: Tensor  # and of what entered the teacher's layers: of their crops, and of all of them

    def __init__(
        self, *nets: *Nets, student_batch: int, generator_steps: int, student_steps: int, pool: int, pad: int,
        flip: bool, adversarial: float, bn: float, certainty: float, contrast: float, tau: float, dim: int,
        features: str, bank: int, negatives: int, optimizer: Mapping[str, Any], generator_optimizer: Mapping[str, Any],
        **common: Any
    ) -> None:
        student, _, data = nets
        super().__init__(*nets, **common)
        batch_size = self.batch_size
        if features not in ("batchnorm", "stages"):
            raise ValueError(f"method.features is {features!r}: it is batchnorm or stages.")
        if min(pool, bank) < batch_size:
            raise ValueError(
                f"method.pool={pool} and method.bank={bank} must hold a batch of method.batch_size={batch_size}."
            )
        self.generator_steps, self.student_steps = generator_steps, student_steps
        self.student_batch, self.features, self.flip = student_batch, features, flip
        self.adversarial, self.bn, self.certainty = adversarial, bn, certainty
        self.contrast, self.tau, self.negatives = contrast, tau, negatives
        self.optimizer, self.generator_optimizer = dict(optimizer), dict(generator_optimizer)
        self.seen, self.augment = BatchNormInputs(self.teacher, "cmi"), CropFlip(data, pad, flip)
        self.pixels = Pixels(data.mean, data.std)
        self.generator, self.latents = self.new_generator(last=[self.pixels]), Latents(batch_size, self.latent)
        self.generator.restart()
        shape, width = (student.in_chans, student.size, student.size), self.width()
        self.head, self.bank = Head(width, dim), RingBuffer(bank, 2 * width)
        self.pool = RingBuffer(pool, *shape, dtype=torch.uint8)
        self.register_buffer("images", torch.zeros(batch_size, *shape))
        self.register_buffer("means", torch.zeros(batch_size, 2 * width))
        self.register_buffer("best", torch.full((), torch.inf))
        self.drawn = 0  # batches of this round that the student has had

    def width(self) -> int:
        """Return the number of means that `instances` gives of an image."""
        if self.features == "batchnorm":
            return sum(norm.num_features for norm in self.seen.norms)
        if self.teacher.stem_shape is None:
            raise ValueError(f"method.features=stages reads what enters stages; {self.teacher.name} has no stem.")
        return self.teacher.stem_shape[0] + sum(self.teacher.channels[:-1])

    def instances(self, inputs: Tensor) -> tuple[Outputs, Tensor]:
        """Return the teacher's outputs and the means [B,W] of each image in what enters its layers."""
        with self.seen:
            outputs = self.teacher(inputs)
        maps = self.seen.inputs if self.features == "batchnorm" else [outputs.stem, *outputs.features[:-1]]
        return outputs, torch.cat([x.flatten(2).mean(2) if x.dim() > 2 else x for x in maps], 1).float()

    def generator_loss(self, batch: Batch) -> Losses:
        inputs = self.generator(self.latents.codes)
        shown = self.augment(inputs)
        teacher, whole = self.instances(shown)
        losses = {
            "bn": self.bn * self.seen.loss(),
            "certainty": self.certainty * F.cross_entropy(teacher.logits, batch.classes),
        }
        if self.adversarial:
            doubt = decision_divergence(self.student_forward(shown, train=False).logits, teacher.logits)
            losses["adversarial"] = -self.adversarial * doubt
        local = whole
        if self.contrast:
            local = self.instances(resized_crop(inputs, 0.25, self.flip))[1]
            losses["contrast"] = self.contrast * self.diversity(local, whole)
        self.keep(inputs, torch.cat([local, whole], 1), torch.stack(list(losses.values())).sum())
        return losses

    def diversity(self, local: Tensor, whole: Tensor) -> Tensor:
        """Return the contrast of means [B,W] of crops and whole images, those of earlier images added to both."""
        past, filled = self.bank.sample(self.negatives)
        past_local, past_whole = past.chunk(2, dim=1)
        rows = self.head(torch.cat([local, past_local, whole, past_whole]))
        valid = torch.cat([torch.ones_like(filled[:1]).expand(len(local)), filled])
        first, others = rows.chunk(2)
        return contrast_loss(first, others, self.tau, len(local), valid)

    @torch.no_grad()
    def keep(self, inputs: Tensor, means: Tensor, loss: Tensor) -> None:
        """Note inputs [B,C,S,S] and their means [B,2W] where they are the best of their round so far."""
        better = loss.detach() < self.best
        self.best.copy_(torch.minimum(self.best, loss.detach()))
        self.images.copy_(torch.where(better, inputs, self.images))
        self.means.copy_(torch.where(better, means, self.means))

    def student_loss(self, batch: Batch) -> Losses:
        if not self.drawn:
            self.end_round()
        rows = self.order[self.drawn * self.student_batch : (self.drawn + 1) * self.student_batch]
        self.drawn += 1
        return self.learn(self.augment(self.pixels.normalised(self.pool.rows[rows])))[0]

    def end_round(self) -> None:
        """Put the round's images into the pool, which is then shuffled as often as the student's steps go through it.

        How full the pool is follows from the number of the round, so nothing waits for the device.
        """
        self.pool.add(self.pixels.rounded(self.images))
        rounds = (self.epoch - 1) * self.steps + self.step + 1
        filled = min(rounds * self.batch_size, len(self.pool.rows))
        passes = -(-self.student_steps * self.student_batch // filled)
        device = self.pool.rows.device
        self.order = torch.cat([torch.randperm(filled, device=device) for _ in range(passes)])

    @torch.no_grad()
    def after_step(self) -> None:
        """Go on to the next round: new slots, a new generator, new codes."""
        self.bank.add(self.means)
        self.best.fill_(torch.inf)
        self.generator.restart()
        self.latents.codes.normal_()
        self.drawn = 0

    def phases(self) -> list[Phase]:
        made = [self.generator, self.latents, self.head]
        optimizer = self.generator_optimizer
        generator = Update("generator", self.generator_loss, made, optimizer, self.generator_steps, Rounds)
        student = Update("student", self.student_loss, [self.student], self.optimizer, self.student_steps)
        return [Phase("distill", [generator, student], source=self.noise)]
