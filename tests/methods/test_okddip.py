"""okddip: Online Knowledge Distillation with Diverse Peers."""

from __future__ import annotations

import itertools

import pytest
import torch

from distill.methods.okddip import attended
from tests import tiny
from tests.methods.given_online import first_batch, okddip, rows
from tests.slow import draw, slow_kl, softmax


def test_attention_mixes_the_peers_logits() -> None:
    logits, queries, keys = ([draw(2, w, seed=s + w) for s in range(3)] for w in (4, 5, 6))
    keys = [k[:, :5] for k in keys]
    found = attended(logits, queries, keys)
    for b, a in itertools.product(range(2), range(3)):
        alpha = softmax([(queries[a][b] * keys[c][b]).sum().item() for c in range(3)])
        for k in range(4):
            expected = sum(alpha[c] * logits[c][b, k].item() for c in range(3))
            assert found[a][b, k].item() == pytest.approx(expected)


@pytest.mark.parametrize("form", ["branches", "networks"])
def test_the_leader_learns_from_the_mean_of_the_peers_logits(form: str) -> None:
    method = okddip(form, ce=0.0)
    _, batch = first_batch(method, tiny.tiny_data())
    found = method.loss(batch)["kd_leader"].item()
    with torch.no_grad():
        leader, peers = method.forward_all(batch)
    each = [rows(logits) for logits, _ in peers]
    mean = [[sum(p[b][k] for p in each) / 3 for k in range(tiny.CLASSES)] for b in range(8)]
    assert found == pytest.approx(9 * slow_kl(rows(leader), mean, 3.0), rel=1e-3, abs=1e-5)


def test_the_leaders_loss_moves_the_peers_too_and_the_peers_loss_not_the_leader() -> None:
    method = okddip("networks", ce=0.0)
    _, batch = first_batch(method, tiny.tiny_data())
    method.loss(batch)["kd_leader"].backward()
    assert all(peer.classifier.weight.grad.abs().sum() > 0 for peer in method.peers)
    assert all(p.grad is None for p in method.query.parameters())
    method.zero_grad(set_to_none=True)
    method.loss(batch)["kd_peers"].backward()
    assert all(p.grad is None for p in method.student.parameters())
    assert all(p.grad.abs().sum() > 0 for p in (*method.query.parameters(), *method.key.parameters()))


def test_branches_share_all_stages_but_the_last_with_the_leader() -> None:
    method = okddip("branches")
    whole = {name for name, _ in method.student.named_parameters()}
    own = {name for name, _ in method.peers[0].net.named_parameters()}
    assert own < whole and {name.split(".")[1] for name in own} == {"layer3", "fc"}
    assert len(method.peers) == 3


def test_branches_of_other_architectures_are_refused() -> None:
    with pytest.raises(ValueError, match=r"method\.form=networks"):
        okddip("branches", branches=3, models=["cifar_resnet8", "cifar_resnet8"])
