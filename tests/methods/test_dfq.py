"""dfq: Data-Free Network Quantization With Adversarial Knowledge Distillation."""

from __future__ import annotations

import pytest
import torch

from distill.engine.update import train_mode
from distill.parts.datafree import frozen_parameters
from tests import tiny
from tests.methods.given_datafree import Untouchable


def test_gradients_reach_images_and_not_the_student() -> None:
    method = tiny.seeded_method("dfq", tiny.tiny_data())
    train_mode(method, method.phases()[0])
    images = torch.randn(4, 3, 16, 16, requires_grad=True)
    counter = method.student.model.bn1.num_batches_tracked.clone()
    method.student_forward(images, train=False).logits.sum().backward()
    assert images.grad.abs().sum() > 0 and all(p.grad is None for p in method.student.parameters())
    assert all(p.requires_grad for p in method.student.parameters()) and method.student.model.bn1.training
    assert torch.equal(counter, method.student.model.bn1.num_batches_tracked)
    with pytest.raises(RuntimeError), frozen_parameters(method.student):
        raise RuntimeError
    assert all(p.requires_grad for p in method.student.parameters())


def test_student_of_dfq_sees_what_the_generator_makes_in_eval_mode() -> None:
    dfq = tiny.seeded_method("dfq", tiny.tiny_data())
    train_mode(dfq, dfq.phases()[0])
    counted = dfq.generator.first.num_batches_tracked.clone()
    dfq.student_loss(next(dfq.phases()[0].source(Untouchable()).epoch(1)))
    assert torch.equal(dfq.generator.first.num_batches_tracked, counted)
    assert dfq.generator.training


def test_dfad_is_the_game_of_l1_distances() -> None:
    options = ("method.discrepancy=l1", "method.bn=0", "method.certainty=0", "method.balance=0")
    method = tiny.seeded_method("dfq", tiny.tiny_data(), ("cifar_resnet14", "cifar_resnet8"), *options)
    batch = next(method.phases()[0].source(Untouchable()).epoch(1))
    losses = method.generator_loss(batch)
    assert set(losses) == {"adversarial"}
    torch.manual_seed(3)
    images = method.generator(batch.inputs)
    with torch.no_grad():
        gap = (method.student_forward(images, False).logits - method.teacher(images).logits).abs().mean()
    assert method.terms(images, method.teacher(images))["adversarial"].item() == pytest.approx(-gap.item(), rel=1e-5)
