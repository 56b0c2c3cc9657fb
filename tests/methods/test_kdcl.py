"""kdcl: Online Knowledge Distillation via Collaborative Learning."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from distill.config import OptimizerSpec
from distill.engine.optim import Stepper
from distill.methods.kdcl import KDCL, general_weights, linear, min_logit, naive, soft_target_loss
from tests import tiny
from tests.methods.given_online import first_batch, rows
from tests.slow import draw, gradient_agrees, one_step, slow_ce, softmax, student


@pytest.mark.parametrize("on_device", [False, True])
def test_a_peer_of_another_architecture_learns_at_the_rate_of_its_own_file(on_device: bool) -> None:
    options = ("method.peers=3", "method.models=[cifar_MobileNetV2,cifar_resnet8]")
    cfg = tiny.composed("method=kdcl", "student=resnet8", "schedule=crd", *options)
    assert list(cfg.method.rates) == [0.2, 1.0] and tiny.composed("method=kdcl").method.rates is None
    slow = tiny.composed("method=kdcl", "student=ShuffleV1", "schedule=crd", *options)
    assert list(slow.method.rates) == pytest.approx([1.0, 5.0])
    elsewhere = tiny.composed("method=kdcl", "student=resnet8", *options)
    assert list(elsewhere.method.rates) == [1.0, 1.0], "the share is of CRD's protocol, and not of the digits'"
    torch.manual_seed(0)
    given = {"models": list(cfg.method.models), "rates": list(cfg.method.rates)}
    method = tiny.by_hand(KDCL, student(), [], tiny.tiny_data().info, peers=3, **given)
    schedule = OptimizerSpec(lr=0.5, milestones=(1,), optimizer={"name": "sgd", "momentum": 0.0})
    stepper = Stepper([method], schedule, on_device=on_device)
    nets, rates = {"others.0": 0.2, "others.1": 1.0, "student": 1.0}, {0: 0.5, 1: 0.05}
    for step, rate in rates.items():
        stepper.set_lr(step, 1, 2)
        before = {name: value.detach().clone() for name, value in method.named_parameters()}
        stepper.step({"sum": torch.stack([value.sum() for value in method.parameters()]).sum()})
        for name, value in method.named_parameters():
            scale = next(scale for net, scale in nets.items() if name.startswith(net))
            assert torch.allclose(before[name] - value, torch.tensor(rate * scale), atol=1e-5), name


def stacked(peers: int, samples: int = 5, classes: int = 4, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.stack([draw(samples, classes, seed=s) for s in range(peers)])


def test_the_naive_target_is_the_best_peers() -> None:
    logits, labels = stacked(3), [0, 3, 1, 1, 2]
    found = naive(logits, torch.tensor(labels))
    for b in range(5):
        errors = [slow_ce([rows(logits)[p][b]], [labels[b]])[0] for p in range(3)]
        assert torch.equal(found[b], logits[errors.index(min(errors)), b])


def test_the_least_logits_are_taken_after_the_label_is_subtracted() -> None:
    logits, labels = stacked(3), [0, 3, 1, 1, 2]
    found = min_logit(logits, torch.tensor(labels))
    for b, k in itertools.product(range(5), range(4)):
        expected = min((logits[p, b, k] - logits[p, b, labels[b]]).item() for p in range(3))
        assert found[b, k].item() == pytest.approx(expected)
    best = min(sum(slow_ce(rows(logits)[p], labels)) for p in range(3))
    assert sum(slow_ce(rows(found), labels)) <= best
    assert all(found[b, labels[b]] == 0 for b in range(5))


@pytest.mark.parametrize("peers", [2, 3])
def test_the_linear_target_is_the_best_convex_combination(peers: int) -> None:
    logits, labels = stacked(peers, samples=12), [0, 3, 1, 1, 2, 0, 2, 3, 1, 0, 2, 3]
    found = slow_ce(rows(linear(logits, torch.tensor(labels))), labels)
    grid = 40
    shares = [s for s in itertools.product(range(grid + 1), repeat=peers) if sum(s) == grid]
    inner = 0
    for b in range(12):
        errors = {}
        for share in shares:
            mixed = sum(a / grid * logits[p, b] for p, a in enumerate(share))
            errors[share] = (torch.logsumexp(mixed, 0) - mixed[labels[b]]).item()
        best = min(errors, key=errors.get)
        inner += max(best) < grid
        assert found[b] <= errors[best] + 1e-3
        assert found[b] >= errors[best] - 0.02  # no better than the grid allows
    assert inner >= 2  # some optima are no corner


def test_general_weights_have_the_least_error_and_stay_distributions() -> None:
    errors = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    weights = general_weights(errors)
    costs = {w / 100: (w * w * 2 + 2 * w * (100 - w) * 0.5 + (100 - w) ** 2) / 1e4 for w in range(101)}
    assert weights[0].item() == pytest.approx(min(costs, key=costs.get), abs=0.01)
    assert general_weights(torch.tensor([[4.0, 1.5], [1.5, 1.0]])).tolist() == [0.0, 1.0]
    assert general_weights(torch.zeros(2, 2)).tolist() == [0.5, 0.5]


def test_the_soft_target_loss_counts_the_kept_samples() -> None:
    logits, target = draw(4, 3), draw(4, 3, seed=1).softmax(1)
    keep = torch.tensor([1.0, 0, 1, 1], dtype=torch.float64)

    def slow(z: torch.Tensor) -> float:
        total = 0.0
        for b in (0, 2, 3):
            q = softmax(z[b].tolist(), 2.0)
            total += sum(t * math.log(t / p) for t, p in zip(target[b].tolist(), q, strict=True))
        return 4 * total / 3

    assert soft_target_loss(logits, target, keep, 2.0).item() == pytest.approx(slow(logits))
    gradient_agrees(lambda z: soft_target_loss(z, target, keep, 2.0), slow, logits)


@pytest.mark.parametrize("variant", ["naive", "linear", "minlogit", "general"])
def test_peers_see_views_of_their_own_and_learn_from_a_constant(variant: str) -> None:
    data = tiny.tiny_data()
    torch.manual_seed(0)
    method = tiny.by_hand(KDCL, student(), [], data.info, peers=3, variant=variant)
    phase, batch = first_batch(method, data)
    assert set(batch.views) == {"peer_1", "peer_2"}
    assert not torch.equal(batch.views["peer_1"], batch.views["peer_2"])
    seen = []
    for net in method.cohort:
        net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    losses = method.loss(batch)
    assert [id(x) for x in seen] == [id(batch.inputs), id(batch.views["peer_1"]), id(batch.views["peer_2"])]
    assert all(math.isfinite(value.item()) for value in losses.values())
    moved = one_step(method, phase, batch)
    assert {name.split(".")[0] for name in moved} == {"student", "others"}
    method.after_epoch()


def test_held_out_images_teach_nobody_and_weigh_the_peers() -> None:
    data = tiny.tiny_data()
    torch.manual_seed(0)
    method = tiny.by_hand(KDCL, student(), [], data.info, variant="general", held=0.3)
    assert method.held.sum() == 7 and {"held", "errors", "weights"} <= set(method.state_dict())
    phase, batch = first_batch(method, data)
    held = method.held[batch.index]
    assert 0 < held.sum() < 8
    wrong = batch.labels.clone()
    wrong[held] = (wrong[held] + 1) % tiny.CLASSES
    right = {key: value.item() for key, value in method.loss(batch).items()}
    batch.labels = wrong
    assert {key: value.item() for key, value in method.loss(batch).items()} == right
    method.after_step()
    with torch.no_grad():
        said = [method.student(batch.inputs).logits, method.others[0](batch.views["peer_1"]).logits]
    expected = [[0.0, 0.0], [0.0, 0.0]]
    for b in held.nonzero().flatten().tolist():
        p = [softmax(rows(z)[b]) for z in said]
        for i, j, k in itertools.product(range(2), range(2), range(tiny.CLASSES)):
            true = float(k == wrong[b])
            expected[i][j] += (p[i][k] - true) * (p[j][k] - true)
    assert torch.allclose(method.errors, torch.tensor(expected), rtol=1e-3)
    errors = method.errors.clone()
    method.after_epoch()
    assert torch.equal(method.weights, general_weights(errors)) and not method.errors.any()
    with pytest.raises(ValueError, match=r"method\.held is 0"):
        tiny.by_hand(KDCL, student(), [], data.info, variant="general", held=0)
