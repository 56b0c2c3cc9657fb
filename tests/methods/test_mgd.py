"""mgd: Masked Generative Distillation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from distill.methods.mgd import MGD, mgd_loss
from tests.methods.given_later_features import B, batch, made, rand, same_value_and_gradient, slow_mse


def test_mgd_loss_is_a_sum_over_all_but_the_batch() -> None:
    def slow(a: Tensor, b: Tensor) -> float:
        return slow_mse(a, b) * a.numel() / len(a)

    same_value_and_gradient(mgd_loss, slow, rand(3, 2, 4, 4), rand(3, 2, 4, 4, seed=1))


@pytest.mark.parametrize(("mask", "shape"), [("channel", (64, 40, 1, 1)), ("position", (64, 1, 6, 6))])
def test_mgd_masks_whole_channels_or_positions(mask: str, shape: tuple[int, ...]) -> None:
    method = made(MGD, mask=mask, ratio=0.25)
    torch.manual_seed(0)
    keep = method.keep(torch.ones(64, 40, 6, 6))
    assert keep.shape == shape and set(keep.unique().tolist()) == {0.0, 1.0}
    assert keep.mean().item() == pytest.approx(0.75, abs=0.03), "ratio is the share that is masked out"


def test_mgd_generates_from_the_masked_map_and_aligns_other_channels() -> None:
    method = made(MGD, "cifar_resnet8", "cifar_wrn_16_2", weight=0.5, ratio=0.5)
    s, t = method.student(batch().inputs), method.teach(batch())
    torch.manual_seed(4)
    loss = method.distill(s, t, batch())["mgd"].item()
    torch.manual_seed(4)
    aligned = method.align(s.features[-1])
    masked = aligned * (torch.rand(B, 128, 1, 1) >= 0.5)
    expected = (method.generator(masked) - t.features[-1]).double().square().sum().item() / B * 0.5
    assert loss == pytest.approx(expected, rel=1e-5)
    assert isinstance(made(MGD).align, nn.Identity)
    mobile = made(MGD, "cifar_MobileNetV2", "cifar_vgg8")
    assert math.isfinite(mobile.loss(batch())["mgd"].item()), "sizes that differ are pooled"
