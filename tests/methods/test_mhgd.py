"""mhgd: Graph-based Knowledge Distillation by Multi-head Attention Network."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from distill.config import OptimizerSpec
from distill.methods.kdsvd import ClippedStepper
from distill.methods.mhgd import Attention, Estimator, graph_loss
from tests import tiny
from tests.methods.given_maps import SCHEDULE, first_batch, made, random, run, same


def test_mhgd_graph_loss_is_kl_from_student_to_teacher() -> None:
    def slow(s: Tensor, t: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for head in range(2):
            for row in range(3):
                x, y = torch.exp(torch.tanh(s[head, row])), torch.exp(torch.tanh(t[head, row]))
                p, q = x / x.sum(), y / y.sum()
                total = total + sum(p[j] * torch.log(p[j] / q[j]) for j in range(3))
        return total

    same(graph_loss, slow, random(2, 3, 3), random(2, 3, 3, seed=1))


def test_mhgd_attention_is_a_product_of_normed_projections_a_head() -> None:
    torch.manual_seed(0)
    attend = Attention(4, 6, heads=2).double()
    shallow, deep = random(5, 4), random(5, 6, seed=1)
    graph = attend(shallow, deep)

    def normed(x: Tensor) -> Tensor:
        return (x - x.mean(0)) / torch.sqrt(x.var(0, unbiased=False) + 1e-5)

    send, receive = normed(deep @ attend.sender.weight.T), normed(shallow @ attend.receiver.weight.T)
    assert graph.shape == (2, 5, 5)
    for head in range(2):
        for i in range(5):
            for j in range(5):
                wanted = sum(send[i, head * 5 + d] * receive[j, head * 5 + d] for d in range(5))
                assert graph[head, i, j].item() == pytest.approx(float(wanted), rel=1e-9)


def test_mhgd_heads_begin_by_their_fan_out() -> None:
    torch.manual_seed(0)
    attend, estimator = Attention(64, 128, heads=8), Estimator(64, 128, heads=8)
    for layer in (attend.sender, attend.receiver, estimator.embed, estimator.out):
        outputs = len(layer.weight)
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / outputs), rel=0.03)
        assert layer.weight.abs().max().item() <= 2 * math.sqrt(2.6 / outputs)
    assert not estimator.out.bias.any()


def test_mhgd_trains_heads_on_the_teacher_then_the_student_alone() -> None:
    method = made("mhgd")
    heads, distill = method.phases()
    names = {key for key, _ in method.named_parameters()}
    student = {key for key in names if key.startswith("student")}
    assert run(method, heads) == names - student and not heads.evaluates
    assert run(method, distill) == student
    assert not method.attention.training and not any(p.requires_grad for p in method.estimators.parameters())
    assert set(distill.updates[0].loss(first_batch())) == {"ce", "mhgd"}


def test_mhgd_heads_learn_to_predict_the_teachers_vectors() -> None:
    torch.manual_seed(0)
    attend, estimator = Attention(8, 8, 4), Estimator(8, 8, 4)
    shallow = nn.functional.normalize(torch.randn(32, 8), dim=1)
    deep = nn.functional.normalize(shallow.roll(1, dims=1), dim=1)
    optimizer = torch.optim.SGD([*attend.parameters(), *estimator.parameters()], lr=0.1, momentum=0.9)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (1 - nn.functional.cosine_similarity(estimator(shallow, attend(shallow, deep)), deep)).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < 0.6 * losses[0]


def test_mhgd_clips_its_gradient_to_the_tasks_by_parameter() -> None:
    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    x = torch.randn(4, 3)
    losses = {"ce": net(x).square().mean(), "mhgd": 50 * net(x).sin().sum() ** 2}
    main = torch.autograd.grad(losses["ce"], list(net.parameters()), retain_graph=True)
    extra = torch.autograd.grad(losses["mhgd"], list(net.parameters()), retain_graph=True)
    stepper = ClippedStepper([net], SCHEDULE)
    stepper.set_lr(0, 10, 5)
    stepper.backward(losses)
    for p, m, e in zip(net.parameters(), main, extra, strict=True):
        bound = 0.5 * math.sqrt(float((m * m).sum()))
        size = math.sqrt(float((e * e).sum()))
        assert size > bound and p.grad is not None
        torch.testing.assert_close(p.grad, m + e * (bound / size))
    stepper.set_lr(29, 10, 5)
    assert stepper.rise == pytest.approx(1 / (1 + math.exp(-2)))
    small = {"ce": net(x).square().mean(), "mhgd": 1e-6 * net(x).sum()}
    wanted = torch.autograd.grad(small["ce"] + small["mhgd"], list(net.parameters()), retain_graph=True)
    stepper.backward(small)
    for p, w in zip(net.parameters(), wanted, strict=True):
        torch.testing.assert_close(p.grad, w)


def test_the_heads_weight_decay_is_twice_the_students() -> None:
    method = tiny.make("mhgd", tiny.net("cifar_resnet8"), tiny.net("cifar_resnet14"), tiny.tiny_data())
    heads, student = (phase.updates[0] for phase in method.phases())
    schedule = OptimizerSpec(lr=0.1, optimizer={"name": "sgd", "weight_decay": 5e-4})
    decays = [schedule.merged(update.optimizer).optimizer["weight_decay"] for update in (heads, student)]
    assert decays == [1e-3, 5e-4]
