"""specialists: Distilling the Knowledge in a Neural Network."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from distill.methods.specialists import ensemble, specialist_loss, with_dustbin
from tests import tiny
from tests.methods.given_multi import logits
from tests.slow import softmax


def test_dustbin_is_the_sum_of_the_other_classes() -> None:
    rows, members = logits(4, 5), torch.tensor([True, False, True, False, False])
    ours = with_dustbin(rows, members).softmax(1)
    for i in range(4):
        p = softmax(rows[i].tolist())
        assert ours[i].tolist() == pytest.approx([p[0], 0, p[2], 0, 0, p[1] + p[3] + p[4]], abs=1e-9)


def test_specialists_loss_is_that_of_half_and_half_sampling() -> None:
    rows, labels = logits(10, 4), torch.tensor([0, 1, 2, 3, 1, 1, 2, 3, 3, 2])
    members, share = torch.tensor([True, False, False, False]), torch.tensor(0.1)
    inside = outside = 0.0
    for row, label in zip(rows.tolist(), labels.tolist(), strict=True):
        p = softmax(row)
        if label == 0:
            inside += -math.log(p[0])
        else:
            outside += -math.log(1 - p[0]) / 9
    assert specialist_loss(rows, labels, members, share).item() == pytest.approx((inside + outside) / 2, rel=1e-6)


def objective(q: Tensor, p_g: Tensor, p_m: Tensor, members: Tensor, active: Tensor) -> Tensor:
    """Hinton's equation 5, written with loops."""
    total = (p_g * (p_g / q).log()).sum()
    for m, inside in enumerate(members):
        if active[m]:
            rest = q[~inside].sum()
            total = total + (p_m[m, -1] * (p_m[m, -1] / rest).log())
            for k in inside.nonzero().flatten().tolist():
                total = total + p_m[m, k] * (p_m[m, k] / q[k]).log()
    return total


def test_inner_optimisation_finds_what_gradient_descent_on_logits_finds() -> None:
    members = torch.tensor([[1, 1, 0, 0, 0], [0, 1, 1, 1, 0], [0, 0, 0, 1, 1]], dtype=torch.bool)
    p_g = logits(1, 5, seed=1).mul(0.4).softmax(1)
    p_m = torch.stack(
        [with_dustbin(logits(1, 5, seed=m + 2).mul(0.4), members[m]).softmax(1)[0] for m in range(3)]
    )
    for active in ([True, True, False], [False, False, False], [True, True, True]):
        act = torch.tensor(active)
        q = ensemble(p_g, p_m[None], members, act[None], 400)[0]
        z = p_g[0].log().clone().requires_grad_()
        descent = torch.optim.LBFGS([z], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-15)

        def closure(z=z, act=act, descent=descent):
            descent.zero_grad()
            loss = objective(z.softmax(0), p_g[0], p_m, members, act)
            loss.backward()
            return loss

        descent.step(closure)
        assert torch.allclose(q, z.detach().softmax(0), atol=1e-5)
        assert q.sum().item() == pytest.approx(1)
        worth = [
            objective(ensemble(p_g, p_m[None], members, act[None], n)[0], p_g[0], p_m, members, act).item()
            for n in range(8)
        ]
        assert all(later <= sooner + 1e-12 for sooner, later in itertools.pairwise(worth))


def test_specialists_start_as_the_generalist_and_each_phase_trains_its_own() -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method("specialists", data, ("cifar_resnet14", "cifar_resnet8"), "method.specialists=3")
    first, second = method.phases()
    images = next(iter(data.evaluation(8)))[0]
    source = data.source(batch_size=8, seed=1)
    first.begin()
    first.source(source)
    assert sorted(torch.bincount(method.cluster, minlength=3).tolist())[0] > 0
    assert method.members.sum() == 6 and bool(method.clustered)
    clusters = method.cluster.clone()
    second.source(source)
    assert torch.equal(clusters, method.cluster)
    teacher = method.teacher(images).logits
    assert all(torch.equal(expert.eval()(images).logits, teacher) for expert in method.experts)
    assert [set(map(id, u.trains[0].parameters())) for u in first.updates] == [
        set(map(id, e.parameters())) for e in method.experts
    ]
    second.begin()
    assert not any(p.requires_grad for p in method.experts.parameters())
    said = method.reported()["ensemble"](images).exp()
    assert torch.allclose(said.sum(1), torch.ones(8), atol=1e-4)
    with pytest.raises(ValueError, match="specialists"):
        tiny.seeded_method("specialists", data, ("cifar_resnet14", "cifar_resnet8"), "method.specialists=7")


def test_dustbins_are_corrected_by_the_oversampling() -> None:
    """Specialists that equal the generalist, but for the half-and-half prior: the correction undoes it exactly."""
    data = tiny.tiny_data()
    method = tiny.seeded_method("specialists", data, ("cifar_resnet8", "cifar_resnet8"), "method.specialists=2")
    method.cluster.copy_(torch.tensor([0, 0, 1, 1, 1, 1]))
    counts = torch.bincount(data.info.labels, minlength=6).double()
    share = method.shares[0].item()
    assert share == pytest.approx(((counts[0] + counts[1]) / counts.sum()).item())
    bias = method.combined().bias[0].item()
    truth = 0.3  # P(special | image) with the data's own share; oversampling turns it into the odds below
    seen = truth * 0.5 / share / (truth * 0.5 / share + (1 - truth) * 0.5 / (1 - share))
    corrected = math.log((1 - seen) / seen) + bias
    assert corrected == pytest.approx(math.log((1 - truth) / truth), rel=1e-5)
