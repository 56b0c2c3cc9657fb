"""dml: Deep Mutual Learning."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from distill.batch import Batch
from distill.methods.dml import DML
from distill.models.reading import frozen_statistics
from tests import tiny
from tests.methods.given_online import first_batch, okddip, rows
from tests.methods.given_parts import slow_kd
from tests.slow import slow_kl, student


def test_dml_peers_see_each_other_as_just_updated() -> None:
    """Alternating: the second peer mimics the first peer's logits after the first peer's step."""
    data = tiny.tiny_data()
    method = tiny.seeded_method("dml", data)
    method.train()
    batch = next(iter(data.source(batch_size=8, seed=1).epoch(1)))
    first, second = method.phases()[0].updates
    assert [len(list(u.trains)) for u in (first, second)] == [1, 1] and second.trains[0] is method.others[0]
    sum(first.loss(batch).values()).backward()
    assert all(p.grad is None for p in method.others.parameters()), "mimicry sends no gradient to the other peer"
    with torch.no_grad():
        for p in method.student.parameters():
            p.sub_(0.1 * p.grad)
    with torch.no_grad(), frozen_statistics(method.student):
        after = method.student(batch.inputs).logits
        mine = method.others[0](batch.inputs).logits
    losses = second.loss(batch)
    assert losses["kd_1"].item() == pytest.approx(slow_kd(mine.double(), after.double(), 1.0), rel=1e-4)
    assert losses["ce_1"].item() == pytest.approx(nn.functional.cross_entropy(mine, batch.labels).item(), rel=1e-4)


def test_dml_cohorts_differ_and_are_checked() -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method(
        "dml",
        data,
        ("cifar_resnet14", "cifar_resnet8"),
        "method.peers=3",
        "method.models=[cifar_resnet8,cifar_wrn_16_1]",
    )
    assert [net.name for net in method.cohort] == ["cifar_resnet8", "cifar_resnet8", "cifar_wrn_16_1"]
    assert not torch.equal(method.cohort[0].model.conv1.weight, method.cohort[1].model.conv1.weight)
    with pytest.raises(ValueError, match="at least 2"):
        tiny.seeded_method("dml", data, ("cifar_resnet14", "cifar_resnet8"), "method.peers=1")
    batch = Batch(torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 3]), torch.arange(4))
    three = method.loss(batch)
    assert set(three) == {f"{term}{k}" for term in ("ce", "kd") for k in ("", "_1", "_2")}


def test_mutual_learning_trains_one_peer_a_turn_on_what_the_others_now_say() -> None:
    data = tiny.tiny_data()
    torch.manual_seed(0)
    method = tiny.by_hand(DML, student(), [], data.info, peers=3)
    phase, batch = first_batch(method, data)
    for k, update in enumerate(phase.updates):
        losses = update.loss(batch)
        with torch.no_grad():
            said = [rows(method.peer_logits(net, batch.inputs)) for net in method.cohort]
        name = f"_{k}" if k else ""
        expected = sum(slow_kl(said[k], said[j], 1.0) for j in range(3) if j != k) / 2
        assert losses[f"kd{name}"].item() == pytest.approx(expected, rel=1e-3, abs=1e-5)
        sum(losses.values()).backward()
        assert all(p.grad is None for j, net in enumerate(method.cohort) if j != k for p in net.parameters())
        torch.optim.SGD(update.trains[0].parameters(), lr=0.1).step()
        method.zero_grad(set_to_none=True)


def test_peers_of_different_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"widths \[64, 512\].* method=dml"):
        okddip("networks", branches=3, models=["cifar_resnet8", "cifar_vgg8"])
