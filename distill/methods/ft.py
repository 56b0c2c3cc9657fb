"""Factor transfer (Kim, Park, Kwak: Paraphrasing Complex Network, NeurIPS 2018, arXiv:1802.04977)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import full_precision, pool_to
from distill.method import Losses, Method, Nets, Phase, Update
from distill.models import Outputs
from distill.parts.products import rows
from distill.parts.two_phase import CONSTANT

_FORMS = ("collapsed", "paper")


@full_precision
def factor_loss(student: Tensor, teacher: Tensor, form: str = "collapsed", p1: float = 2, p2: float = 1) -> Tensor:
    """Mean of |phi(F_s) - phi(F_t)|^p2 over the elements of phi (the paper's L_FT), of factors [B,M,H,W].

    paper: phi(F) is the whole factor as a unit vector [B,M*H*W]. collapsed: the unit vector [B,H*W] along
    mean_m |F|^p1, which is what the CRD tables compare. The larger map is average-pooled to the smaller.
    """
    gap = unit_factor(student, teacher, form, p1)
    return gap.abs().mean() if p2 == 1 else gap.abs().pow(p2).mean()


def unit_factor(student: Tensor, teacher: Tensor, form: str, p1: float) -> Tensor:
    """Return phi(F_s) - phi(F_t)."""
    pair = pool_to(student, teacher)
    if form == "collapsed":
        pair = tuple(factor.abs().pow(p1).mean(1) for factor in pair)  # type: ignore[assignment]
    s, t = (F.normalize(factor.flatten(1), dim=1) for factor in pair)
    return s - t


def three_convolutions(channels: Sequence[int], *, norm: bool = False, transposed: bool = False) -> nn.Sequential:
    """Three 3x3 convolutions through four widths, each with LeakyReLU(0.1), and BatchNorm if `norm`."""
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [
            kind(before, after, 3, 1, 1),
            *([nn.BatchNorm2d(after)] if norm else []),
            nn.LeakyReLU(0.1),
        ]
    return nn.Sequential(*layers)


class Paraphraser(nn.Module):
    """Autoencoder of the teacher's last map [B,C,H,W], `factors` channels in the middle, no BatchNorm."""

    def __init__(self, channels: int, factors: int) -> None:
        super().__init__()
        self.encoder = three_convolutions([channels, channels, factors, factors])
        self.decoder = three_convolutions([factors, factors, channels, channels], transposed=True)

    def forward(self, feature: Tensor) -> Tensor:
        """Return the reconstruction [B,C,H,W]."""
        return self.decoder(self.encoder(feature))


class FT(Method):
    """A paraphraser learns to reconstruct the teacher's last map; then a translator learns its factors.

    form=collapsed compares the factors' attention maps, as the CRD tables do; form=paper the normalised
    factors themselves (there with weight 500). The paraphraser trains at `init_lr`; left out, the CRD tables'
    rule holds: 0.01 for CIFAR resnet and wrn *students*, else the run's own rate, although only the
    paraphraser is trained.
    """

    def __init__(
        self, *nets: *Nets, weight: float, form: str, rate: float, p1: float, p2: float, init_epochs: int,
        init_lr: float | None, **common: Any
    ) -> None:
        student, _, _ = nets
        super().__init__(*nets, **common)
        if form not in _FORMS:
            raise ValueError(f"method.form is {form!r}: factor transfer has the forms {' and '.join(_FORMS)}.")
        if init_epochs < 1:
            raise ValueError("method.init_epochs is 0, but ft compares factors of a trained paraphraser: use 30.")
        channels, width = self.teacher.channels[-1], student.channels[-1]
        factors = int(channels * rate)
        if factors < 1:
            raise ValueError(f"method.rate is {rate}, which leaves none of {channels} channels: use 0.5.")
        shape_s, other = student.shapes[-1], self.teacher.shapes[-1]
        if form == "collapsed" and 1 in (shape_s[1] * shape_s[2], other[1] * other[2]):
            raise ValueError(
                f"ft compares attention maps, and of the last maps {shape_s} of {student.name} and {other} of "
                f"{self.teacher.name} one has one position: use method.form=paper, or method=crd."
            )
        self.weight, self.form, self.p1, self.p2 = weight, form, p1, p2
        self.init_epochs = init_epochs
        self.init_lr = published_rate(student.name) if init_lr is None else init_lr
        self.paraphraser = Paraphraser(channels, factors)
        self.translator = three_convolutions([width, width, factors, factors], norm=True)

    def reconstruct(self, batch: Batch) -> Losses:
        """Loss of the first phase: squared error of the paraphraser's reconstruction."""
        feature = self.teach(batch).features[-1]
        return {"paraphraser": reconstruction_loss(self.paraphraser(feature), feature)}

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> Losses:
        with torch.no_grad():
            target = self.paraphraser.encoder(teacher.features[-1])
        factors = self.translator(student.features[-1])
        return {"ft": self.weight * factor_loss(factors, target, self.form, self.p1, self.p2)}

    def freeze(self) -> None:
        """Fix the paraphraser; the loop then keeps it in eval mode."""
        self.paraphraser.requires_grad_(False)

    def phases(self) -> list[Phase]:
        schedule = CONSTANT if self.init_lr is None else CONSTANT | {"lr": self.init_lr}
        paraphrase = [Update("paraphraser", self.reconstruct, [self.paraphraser])]
        first = Phase("paraphraser", paraphrase, self.init_epochs, dict(schedule), evaluates=False)
        update = Update("student", self.loss, [self.student, self.translator])
        return [first, Phase("distill", [update], begin=self.freeze)]


@full_precision
def reconstruction_loss(made: Tensor, feature: Tensor) -> Tensor:
    """Mean squared error of a map [B,C,H,W] and its reconstruction (the paper's L_rec)."""
    return F.mse_loss(rows(made), rows(feature))


def published_rate(student: str) -> float | None:
    """0.01 for the CIFAR resnets and wrns of the CRD tables, None (the run's rate) for any other student."""
    return 0.01 if re.fullmatch(r"cifar_(resnet\d+(x4)?|wrn_\d+_\d+)", student) else None
