"""ft: Paraphrasing Complex Network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from distill.methods.ft import factor_loss, published_rate
from tests.methods.given_maps import first_batch, halve, made, random, run, same, slow_attention


def test_ft_compares_collapsed_maps_or_whole_factors() -> None:
    def collapsed(s: Tensor, t: Tensor) -> Tensor:
        gap = slow_attention(s) - slow_attention(halve(t))
        return sum(g.abs() for row in gap for g in row) / gap.numel()

    def paper(s: Tensor, t: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for x, y in zip(s, halve(t), strict=True):
            x, y = x / (x * x).sum().sqrt(), y / (y * y).sum().sqrt()
            total = total + (x - y).abs().sum()
        return total / s.numel()

    s, t = random(2, 3, 2, 2), random(2, 3, 4, 4, seed=1)
    same(lambda a, b: factor_loss(a, b, "collapsed"), collapsed, s, t)
    same(lambda a, b: factor_loss(a, b, "paper"), paper, s, t)
    squared = factor_loss(s, t, "paper", 2.0, 2.0)
    gap = s.flatten(1) / s.flatten(1).norm(dim=1, keepdim=True)
    gap = gap - halve(t).flatten(1) / halve(t).flatten(1).norm(dim=1, keepdim=True)
    assert squared.item() == pytest.approx(gap.square().mean().item())


def test_ft_trains_the_paraphraser_then_student_and_translator() -> None:
    method = made("ft")
    first, second = method.phases()
    names = {key for key, _ in method.named_parameters()}
    paraphraser = {key for key in names if key.startswith("paraphraser")}
    assert run(method, first) == paraphraser and not first.evaluates
    assert run(method, second) == names - paraphraser
    assert not any(p.requires_grad for p in method.paraphraser.parameters())
    assert not method.paraphraser.training and method.translator.training
    assert set(second.updates[0].loss(first_batch())) == {"ce", "ft"}


def test_ft_norms_and_widths_are_those_of_the_authors() -> None:
    method = made("ft", pair=("cifar_wrn_16_2", "cifar_wrn_16_1"))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in method.paraphraser.modules())
    assert sum(isinstance(m, nn.BatchNorm2d) for m in method.translator.modules()) == 3
    feature = torch.randn(2, 128, 4, 4)
    assert method.paraphraser.encoder(feature).shape == (2, 64, 4, 4)
    assert method.paraphraser(feature).shape == feature.shape
    assert method.translator(torch.randn(2, 64, 4, 4)).shape == (2, 64, 4, 4)


@pytest.mark.parametrize(
    ("student", "rate"),
    [("cifar_resnet20", 0.01), ("cifar_resnet8x4", 0.01), ("cifar_wrn_40_1", 0.01), ("cifar_ResNet50", None),
     ("cifar_vgg8", None), ("cifar_MobileNetV2", None), ("resnet18", None)],
)  # fmt: skip
def test_ft_published_rate_follows_the_student(student: str, rate: float | None) -> None:
    assert published_rate(student) == rate


def test_ft_rate_reaches_the_first_phase_alone() -> None:
    first, second = made("ft").phases()
    assert (
        first.schedule["lr"] == 0.01 and first.schedule["decay"] == "constant" and "lr" not in second.schedule
    )
    assert made("ft", "method.init_lr=0.2").phases()[0].schedule["lr"] == 0.2
    with pytest.raises(ValueError, match="collapsed and paper"):
        made("ft", "method.form=other")


def test_ft_refuses_to_collapse_a_single_position() -> None:
    """A unit vector of one element is 1 in both nets: the loss would be zero for ever."""
    pair = ("cifar_resnet8", "cifar_MobileNetV2")
    with pytest.raises(ValueError, match="method.form=paper"):
        made("ft", pair=pair)
    assert made("ft", "method.form=paper", pair=pair).loss(first_batch())["ft"] > 0
