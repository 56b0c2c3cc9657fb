"""dkd: Decoupled Knowledge Distillation."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

from distill.batch import Batch
from distill.methods import dkd, kd
from distill.models import Outputs
from tests import tiny
from tests.methods.given_response import LABELS, STUDENT, TEACHER, Rows, T, agrees, kl, method, without
from tests.slow import mean, softmax


def outputs(z: Tensor) -> Outputs:
    return Outputs(z, [], z)


def batch_of(labels: Tensor) -> Batch:
    return Batch(torch.zeros(len(labels), 3, 1, 1), labels, torch.arange(len(labels)))


def test_dkd_standardizes_its_own_terms_too() -> None:
    built = method("dkd", "method.standardize=true")
    terms = [built.distill(outputs(c * STUDENT), outputs(TEACHER), batch_of(LABELS)) for c in (1.0, 2.0)]
    assert terms[0]["nckd"].item() == pytest.approx(terms[1]["nckd"].item(), rel=1e-5)


def test_dkd_terms_against_loops() -> None:
    def rows(s: Rows) -> Iterable[tuple[list[float], list[float], int]]:
        return zip(s, TEACHER.tolist(), LABELS.tolist(), strict=True)

    def target(s: Rows) -> float:
        def binary(row: list[float], y: int) -> list[float]:
            p = softmax(row, T)
            return [p[y], sum(without(p, y))]

        return T**2 * mean([kl(binary(b, y), binary(a, y)) for a, b, y in rows(s)])

    def others(s: Rows) -> float:
        return T**2 * mean([kl(softmax(without(b, y), T), softmax(without(a, y), T)) for a, b, y in rows(s)])

    agrees(lambda s: dkd.target_loss(s, TEACHER, LABELS, T), target, STUDENT)
    agrees(lambda s: dkd.non_target_loss(s, TEACHER, LABELS, T), others, STUDENT)


def test_dkd_recombines_to_kd() -> None:
    """Eq. 6 of the paper: KL = TCKD + (1 - p_t[y]) NCKD, sample by sample."""
    for i in range(len(LABELS)):
        s, t, y = STUDENT[i : i + 1], TEACHER[i : i + 1], LABELS[i : i + 1]
        wrong = 1 - (t / T).softmax(1)[0, y]
        whole = dkd.target_loss(s, t, y, T) + wrong * dkd.non_target_loss(s, t, y, T)
        assert whole.item() == pytest.approx(kd.kd_loss(s, t, T).item(), rel=1e-9)


def test_dkd_does_not_underflow_where_a_net_is_sure() -> None:
    """A gap of 400 at T = 1: 1 - p_y is 1e-174, which fp32 holds as 0 and log turns into -inf."""
    student = torch.tensor([[400.0, 0.0, 1.0, 0.5]], requires_grad=True)
    teacher, label = torch.tensor([[1.0, 2.0, 0.0, 1.0]]), torch.tensor([0])
    loss = dkd.target_loss(student, teacher, label, 1.0)
    loss.backward()
    p = softmax([1.0, 2.0, 0.0, 1.0])[0]
    log_rest = math.log(math.exp(0) + math.exp(1) + math.exp(0.5)) - 400
    expected = p * math.log(p) + (1 - p) * (math.log(1 - p) - log_rest)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert student.grad is not None and student.grad[0, 0].item() == pytest.approx(1 - p, rel=1e-5)


def test_dkd_is_computed_in_fp32_from_half_precision_logits() -> None:
    for half in (torch.float16, torch.bfloat16):
        s, t = STUDENT.to(half), TEACHER.to(half)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = dkd.non_target_loss(s, t, LABELS, T)
        assert low.dtype == torch.float32
        assert torch.equal(low, dkd.non_target_loss(s.float(), t.float(), LABELS, T))


def test_dkd_refuses_two_classes_in_a_sentence() -> None:
    data = tiny.tiny_data()
    nets = [tiny.build("cifar_resnet8", 2, size=16, seed=k) for k in range(2)]
    with pytest.raises(ValueError, match=r"of which tiny has 1: use method=kd"):
        tiny.by_hand(dkd.DKD, nets[0], nets[1:], data.info)


def test_dkd_warm_up_scales_its_terms_alone_and_starts_at_one_twentieth() -> None:
    built = method("dkd")
    values = {}
    for epoch in (1, 10, 20, 240):
        built.epoch = epoch
        values[epoch] = built.distill(outputs(STUDENT), outputs(TEACHER), batch_of(LABELS))
    for name, weight in (("tckd", 1.0), ("nckd", 8.0)):
        term = dkd.target_loss if name == "tckd" else dkd.non_target_loss
        full = weight * term(STUDENT, TEACHER, LABELS, 4.0).item()
        assert [values[e][name].item() / full for e in values] == pytest.approx([0.05, 0.5, 1, 1])
    halved = method("dkd", "method.alpha=0")
    assert set(halved.distill(outputs(STUDENT), outputs(TEACHER), batch_of(LABELS))) == {"nckd"}


def test_dkd_takes_the_published_beta_of_the_pair() -> None:
    def beta(*pair: str) -> float:
        return tiny.composed("dataset=cifar100", "method=dkd", *pair).method.beta

    assert beta("teacher=resnet56", "student=resnet20") == 2.0
    assert beta("teacher=vgg13", "student=MobileNetV2") == 6.0
    assert beta("teacher=resnet110", "student=resnet20") == 8.0
