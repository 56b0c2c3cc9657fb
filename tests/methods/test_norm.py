"""norm: NORM."""

from __future__ import annotations

import pytest
import torch

from distill.methods.norm import NORM
from distill.models.reading import frozen_statistics
from tests import tiny
from tests.methods.given_later_features import batch, info, made, net, take_steps, teacher


def test_norm_puts_its_transform_into_the_student_that_is_deployed() -> None:
    for name in ("cifar_resnet8", "cifar_wrn_16_1", "cifar_MobileNetV2"):
        method = made(NORM, name, copies=3)
        assert method.transform.widen[0].out_channels == 3 * 64
        take_steps(method, 0)
        deployed, images = method.deployed().eval(), batch().inputs
        method.eval()
        feature = method._steps[0](method.student(images).features[-1])
        torch.testing.assert_close(deployed(images).logits, method._steps[1](method.transform(feature)[1]))
        assert not torch.allclose(deployed(images).logits, method.student(images).logits)
        assert deployed.params() == method.student.params() + sum(p.numel() for p in method.transform.parameters())


def test_norm_runs_batchnorms_behind_the_last_map_on_the_transformed_map_alone() -> None:
    method = made(NORM, "cifar_wrn_16_1").train()
    norm = method.student.model.bn1
    before = norm.running_mean.clone()
    with frozen_statistics(method.student):
        feature = method.student(batch().inputs).features[-1]
        grown = method.transform(feature)[1]
    method.loss(batch())
    torch.testing.assert_close(norm.running_mean, 0.9 * before + 0.1 * grown.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert int(norm.num_batches_tracked) == 1


FACTORS = [(10, 241, 0.1), (11, 241, 0.5), (21, 241, 1.0), (180, 241, 1.0), (181, 241, 0.5), (241, 241, 0.1)]


@pytest.mark.parametrize("epoch, epochs, factor", [*FACTORS, (1, 24, 0.1), (2, 24, 0.5), (3, 24, 1.0)])
def test_norm_weighs_by_epoch(epoch: int, epochs: int, factor: float) -> None:
    method = made(NORM)
    method.epoch, method.epochs = epoch, epochs
    assert method.factor() == factor


def test_norm_refuses_students_without_a_place_for_the_transform() -> None:
    vit = net("vit_tiny_patch16_224", patch_size=4, embed_dim=32, depth=4, num_heads=2)
    with pytest.raises(ValueError, match="vit_tiny.*method=kd-proj"):
        tiny.by_hand(NORM, vit, [teacher()], info())
    with pytest.raises(ValueError, match="rising"):
        made(NORM, weight_by_epoch=[[20, 1.0], [10, 0.1]])
