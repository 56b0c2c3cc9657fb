"""Adversarial samples that support the decision boundary (Heo, Lee, Yun, Choi, AAAI 2019, arXiv:1805.05532)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from distill.batch import Batch
from distill.losses import full_precision, kl_div
from distill.method import Losses, Method, Nets
from distill.models import Outputs
from distill.parts.choice import check_one_view


def support(
    net: Callable[[Tensor], Outputs], inputs: Tensor, target: Tensor, *, steps: int, rate: float, bound: float
) -> Tensor:
    """Boundary-supporting samples [B,C,H,W] of inputs, each moved towards class `target` [B] (eq. 2-4).

    At most `steps` times x += rate (z_b - z_k + 1e-4) g / |g|, g the gradient of z_k - z_b, b the class that the net
    gives to the image itself and k the target. An image stops once the net's class is no longer b: it has just
    crossed the boundary. Images are in normalised units, and clamped to [-bound, bound].
    """
    adversarial, base = inputs.detach(), None
    for _ in range(steps):
        adversarial = adversarial.detach().requires_grad_(True)
        with torch.enable_grad():
            logits = net(adversarial).logits
            base = logits.argmax(1) if base is None else base
            gap = (logits.gather(1, target[:, None]) - logits.gather(1, base[:, None])).squeeze(1)
            gradient = torch.autograd.grad(gap.sum(), adversarial)[0].float()
        norm = gradient.flatten(1).norm(dim=1).clamp_min(1e-12)
        size = rate * (1e-4 - gap.detach()) / norm * (logits.argmax(1) == base)
        adversarial = (adversarial + size[:, None, None, None] * gradient).clamp(-bound, bound)
    return adversarial.detach()


@full_precision
def draw_target(teacher: Tensor) -> Tensor:
    """A class [B] for each of the logits [B,K], other than the teacher's first, drawn with the teacher's odds."""
    odds = teacher.detach().softmax(1).clamp_min(1e-12)
    odds = odds.scatter(1, odds.argmax(1, keepdim=True), 0.0)
    return (odds / torch.empty_like(odds).exponential_()).argmax(1)  # torch.multinomial, which waits to check the odds


@full_precision
def base_rank(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """How much an image [B] is wanted as a base: -1 unless both nets are right, else how far apart they are.

    The distance is the squared difference of probabilities over the classes but the label's.
    """
    apart = (student.detach().softmax(1) - teacher.softmax(1)).square()
    distance = apart.sum(1) - apart.gather(1, labels[:, None]).squeeze(1)
    right = (student.argmax(1) == labels) & (teacher.argmax(1) == labels)
    return torch.where(right, distance, -torch.ones_like(distance))


@full_precision
def masked_kl(student: Tensor, teacher: Tensor, used: Tensor, temperature: float) -> Tensor:
    """KL(p_t^T || p_s^T) of logits [B,K], the mean over the images with `used` [B] (0 or 1), 0 if there is none."""
    log_teacher = (teacher / temperature).log_softmax(1)
    rows = (log_teacher.exp() * (log_teacher - (student / temperature).log_softmax(1))).sum(1)
    return (rows * used).sum() / used.sum().clamp_min(1)


class BSS(Method):
    """ce x CE + kd(e) x KL + weight(e) x KL on samples that an attack on the teacher has moved to its boundary.

    Temperatures are not made up for by T^2, as in the authors' code. There with e of E epochs, from 1:
    kd(e) = kd (1 + 3 (1 - e/E)) and weight(e) = weight max(2 (1 - 4/3 e/E), 0), so that the samples count in the
    first three quarters. Where they do not count, nothing is attacked. Up to `attacks` images a batch serve as bases:
    those that both nets get right, the ones they disagree on most first. Where they are fewer, they fill the places
    of the others once more, so that no step waits for the device to count them: only the first time counts in the
    loss, but the student's BatchNorm sees them that often.
    """

    def __init__(
        self, *nets: *Nets, weight: float, attacks: int, attack_steps: int, attack_rate: float, bound: float,
        **common: Any
    ) -> None:
        super().__init__(*nets, **common)
        check_one_view("bss", "the teacher", self.data)
        if attacks < 1 or attack_steps < 1 or bound <= 0:
            raise ValueError(
                f"method.attacks is {attacks}, method.attack_steps {attack_steps}, method.bound {bound}: give at least "
                "1, at least 1 and more than 0."
            )
        self.weight, self.attacks = weight, attacks
        self.attack: dict[str, Any] = {"steps": attack_steps, "rate": attack_rate, "bound": bound}

    @property
    def now(self) -> tuple[float, float]:
        """The factors of kd and weight in this epoch."""
        done = self.epoch / max(self.epochs, 1)
        return 1 + 3 * (1 - done), max(2 * (1 - 4 / 3 * done), 0.0)

    def soft_targets(self, student: Tensor, teacher: Tensor) -> Tensor:
        return self.now[0] * kl_div(student, teacher, self.temperature)

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        factor = self.weight * self.now[1]
        if not factor:
            return {}
        bases, used = self.bases(base_rank(student.logits, teacher.logits, batch.classes))
        target = draw_target(teacher.logits[bases])
        moved = support(self.teacher, batch.inputs[bases], target, **self.attack)
        with torch.no_grad():
            logits_t = self.teacher(moved).logits
        return {"bss": factor * masked_kl(self.student(moved).logits, logits_t, used, self.temperature)}

    def bases(self, rank: Tensor) -> tuple[Tensor, Tensor]:
        """Which images are attacked, of a rank [B], the wanted ones as often as they fill the places [A]; and where
        each is there for the first time [A] (0 or 1).
        """
        found = rank.topk(min(self.attacks, len(rank)))
        places = torch.arange(len(found.values), device=rank.device)
        count = (found.values >= 0).sum()
        return found.indices[places % count.clamp_min(1)], (places < count).float()

