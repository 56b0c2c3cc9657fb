"""one: Knowledge Distillation by On-the-Fly Native Ensemble."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from distill.engine.evaluate import predict
from distill.methods.dml import DML
from distill.methods.kdcl import KDCL
from distill.methods.mcl import MCL
from distill.methods.okddip import OKDDip
from distill.methods.one import ONE, gated
from tests import tiny
from tests.methods.given_online import first_batch, rows
from tests.slow import draw, gradient_agrees, slow_ce, slow_kl, student


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda info: tiny.by_hand(DML, student(), [], info, peers=3), {"peer_1", "peer_2", "ensemble"}),
        (lambda info: tiny.by_hand(KDCL, student(), [], info), {"peer_1", "ensemble"}),
        (lambda info: tiny.by_hand(MCL, student(), [], info), {"peer_1", "ensemble"}),
        (lambda info: tiny.by_hand(OKDDip, student(), [], info), {"peer_1", "peer_2", "peer_3", "ensemble"}),
        (lambda info: tiny.by_hand(ONE, student(), [], info), {"branch_1", "branch_2", "ensemble"}),
    ],
)
def test_every_net_is_reported_and_the_deployed_one_is_a_plain_classifier(make, names: set[str]) -> None:
    data = tiny.tiny_data()
    method = make(data.info)
    state = {key: value.clone() for key, value in method.state_dict().items()}
    found = {}
    for name, net in method.reported().items():
        found[name] = predict(net, data.evaluation(8))[0]
        assert found[name].shape == (8, tiny.CLASSES) and found[name].isfinite().all()
    assert set(found) == names
    assert all(torch.equal(value, state[key]) for key, value in method.state_dict().items())
    assert set(method.deployed().model.state_dict()) == set(student().model.state_dict())


def test_the_gated_sum_of_logits() -> None:
    logits, weights = [draw(3, 4, seed=s) for s in (0, 1)], draw(3, 2, seed=2).softmax(1)

    def slow(z: torch.Tensor) -> float:
        both = (z, logits[1])
        places = itertools.product(range(3), range(2), range(4))
        return sum((b + 1) * (k + 2) * (weights[b, m] * both[m][b, k]).item() for b, m, k in places)

    def fast(z: torch.Tensor) -> torch.Tensor:
        scale = torch.outer(torch.arange(1.0, 4), torch.arange(2.0, 6)).double()
        return (gated([z, logits[1]], weights) * scale).sum()

    assert fast(logits[0]).item() == pytest.approx(slow(logits[0]))
    gradient_agrees(fast, slow, logits[0])


def test_one_sums_branches_and_ensemble_and_the_target_is_a_constant() -> None:
    data = tiny.tiny_data()
    torch.manual_seed(0)
    method = tiny.by_hand(ONE, student(), [], data.info, branches=3, ramp_epochs=4)
    method.epoch = 3
    _, batch = first_batch(method, data)
    losses = method.loss(batch)
    with torch.no_grad():
        out = method.student(batch.inputs)
        logits = [out.logits, *(branch(out.features[-2]) for branch in method.branches)]
        gate = method.gate(out.features[-2])
    assert torch.allclose(gate.sum(1), torch.ones(8)) and gate.shape == (8, 3)
    each = [rows(z) for z in logits]
    classes = range(tiny.CLASSES)
    mixed = [[sum(gate[b, m].item() * each[m][b][k] for m in range(3)) for k in classes] for b in range(8)]
    labels = batch.labels.tolist()
    assert losses["ce"].item() == pytest.approx(sum(sum(slow_ce(z, labels)) / 8 for z in each), rel=1e-4)
    assert losses["ce_ensemble"].item() == pytest.approx(sum(slow_ce(mixed, labels)) / 8, rel=1e-4)
    kd = 9 * math.exp(-5 * 0.25) * sum(slow_kl(z, mixed, 3.0) for z in each)
    assert losses["kd"].item() == pytest.approx(kd, rel=1e-3, abs=1e-5)
    losses["kd"].backward()
    assert all(p.grad is None for p in method.gate.parameters())
