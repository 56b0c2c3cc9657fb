"""cmi: Contrastive Model Inversion for Data-Free Knowledge Distillation."""

from __future__ import annotations

import math

import pytest
import torch

from distill.batch import Batch
from distill.config import OptimizerSpec
from distill.engine.update import train_mode
from distill.methods.cmi import Rounds, contrast_loss, decision_divergence
from tests import tiny
from tests.methods.given_datafree import Untouchable, check_gradient


def test_contrast_loss() -> None:
    """Two images that are made and three earlier ones, of which the last is not there yet."""
    torch.manual_seed(0)
    local, whole = (torch.nn.functional.normalize(torch.randn(5, 4)) for _ in range(2))
    valid = torch.tensor([True, True, True, True, False])
    losses = []
    for i in range(4):
        scores = [math.exp(sum(float(u) * float(v) for u, v in zip(local[i], row, strict=True)) / 0.1) for row in whole]
        losses.append(-math.log(scores[i] / sum(scores[:4])))
    total = (losses[0] + losses[1]) / 2 + (losses[2] + losses[3]) / 2
    assert contrast_loss(local, whole, 0.1, 2, valid).item() == pytest.approx(total, rel=1e-4)
    alone = contrast_loss(local[:2], whole[:2], 0.1, 2, valid[:2]).item()
    none = contrast_loss(local, whole, 0.1, 2, torch.tensor([True, True, False, False, False])).item()
    assert none == pytest.approx(alone, rel=1e-5), "rows that are not there count nothing"
    check_gradient(lambda t: contrast_loss(t, whole.double(), 0.1, 2, valid), local)
    whole.requires_grad_()
    loss = contrast_loss(local.requires_grad_(), whole, 0.1, 2, valid)
    assert torch.autograd.grad(loss, whole, allow_unused=True) == (None,)


def test_disagreement_counts_nothing_in_the_decision_divergence() -> None:
    student, teacher = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    alone = torch.nn.functional.kl_div(student[:1].log_softmax(1), teacher[:1].softmax(1), reduction="batchmean")
    assert decision_divergence(student, teacher).item() == pytest.approx(alone.item() / 2, rel=1e-6)


def test_cmi_keeps_the_best_images_of_a_round() -> None:
    method = tiny.seeded_method("cmi", tiny.tiny_data())
    means = torch.zeros_like(method.means)
    for k, loss in enumerate((3.0, 1.0, 2.0)):
        method.keep(torch.full((8, 3, 16, 16), float(k)), means + k, torch.tensor(loss))
    assert method.images.unique().tolist() == [1.0] and method.bank.filled == method.pool.filled == 0
    weight = method.generator.project.weight.detach().clone()
    method.student_loss(next(method.phases()[0].source(Untouchable()).epoch(1)))
    method.after_step()
    assert method.best == torch.inf and method.pool.filled == method.pool.next == 8
    assert method.pool.rows[:8].unique().tolist() == [int((1.0 * 0.25 + 0.5) * 255)], "pixels of mean 0.5 and std 0.25"
    assert method.bank.rows[:8].unique().tolist() == [1.0] and method.bank.filled == method.bank.next == 8
    assert not torch.equal(weight, method.generator.project.weight)


def test_student_of_cmi_goes_through_the_whole_pool() -> None:
    options = ("method.student_batch=6", "method.student_steps=4")
    method = tiny.seeded_method("cmi", tiny.tiny_data(), ("cifar_resnet14", "cifar_resnet8"), *options)
    batch = Batch(torch.zeros(8, 4), torch.zeros(8, dtype=torch.int64), torch.arange(8))
    method.epoch, method.step = 2, 0  # of two steps an epoch: the third round is this one
    for _ in range(2):
        method.pool.add(torch.zeros(8, 3, 16, 16, dtype=torch.uint8))
    for taken in range(4):
        method.student_loss(batch)
        assert method.drawn == taken + 1 and method.counted[0].shape == (6, 6)
    assert sorted(method.order[:24].tolist()) == list(range(24)), "24 images once each"
    method.after_step()
    assert method.drawn == 0


def test_head_of_cmi_keeps_its_moments_from_round_to_round() -> None:
    method = tiny.seeded_method("cmi", tiny.tiny_data())
    update = method.phases()[0].updates[0]
    schedule = OptimizerSpec(lr=0.001, decay="constant", optimizer={"name": "adam", "betas": [0.5, 0.999]})
    stepper = Rounds(update.trains, schedule)
    train_mode(method, method.phases()[0])
    batch = next(method.phases()[0].source(Untouchable()).epoch(1))
    for steps in (1, 2):
        stepper.set_lr(steps - 1, 2, 1)
        stepper.step(update.loss(batch))
        method.after_step()
        state = stepper.optimizer.state
        assert state[method.head[0].weight]["step"] == steps and state[method.latents.codes]["step"] == 1
    made, head = stepper.optimizer.param_groups
    assert tuple(made["betas"]) == (0.5, 0.999) and tuple(head["betas"]) == (0.9, 0.999)
    assert {id(p) for p in head["params"]} == {id(p) for p in method.head.parameters()}
    saved = stepper.state_dict()
    other = Rounds(update.trains, schedule)
    other.load_state_dict(saved)
    assert torch.equal(other.optimizer.state[method.head[0].weight]["exp_avg"], state[method.head[0].weight]["exp_avg"])


def test_norms_and_biases_of_cmis_generator_and_head_are_spared_the_decay_where_that_is_asked_for() -> None:
    method = tiny.seeded_method("cmi", tiny.tiny_data())
    update = method.phases()[0].updates[0]
    adam = {"name": "adam", "betas": [0.5, 0.999], "weight_decay": 0.1}
    groups = Rounds(update.trains, OptimizerSpec(lr=0.001, no_decay=True, optimizer=adam)).optimizer.param_groups
    head = {id(p) for p in method.head.parameters()}
    for group in groups:
        ids = {id(p) for p in group["params"]}
        assert ids <= head or not ids & head
        assert tuple(group["betas"]) == ((0.9, 0.999) if ids <= head else (0.5, 0.999))
        assert all((p.ndim > 1) == (group["weight_decay"] > 0) for p in group["params"])
    assert len(groups) == 4


def test_cmi_reads_stages_where_it_is_told_to() -> None:
    pair = ("cifar_resnet14", "cifar_resnet8")
    method = tiny.seeded_method("cmi", tiny.tiny_data(), pair, "method.features=stages")
    means = method.instances(torch.randn(2, 3, 16, 16))[1]
    assert means.shape == (2, method.width()) == (2, 16 + 16 + 32)
    with pytest.raises(ValueError, match="batchnorm or stages"):
        tiny.seeded_method("cmi", tiny.tiny_data(), pair, "method.features=blocks")
