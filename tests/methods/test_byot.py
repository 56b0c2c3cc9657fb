"""byot: Be Your Own Teacher."""

from __future__ import annotations

import pytest
import torch

from distill.engine.update import train_mode
from distill.methods.byot import BYOT, Exit, hint_loss
from tests import tiny
from tests.slow import draw, gradient_agrees, slow_ce, slow_kl, student


def test_exits_learn_from_the_end_which_learns_nothing_from_them() -> None:
    data = tiny.tiny_data()
    torch.manual_seed(0)
    method = tiny.by_hand(BYOT, student(), [], data.info, ce=0.0, kd=0.1, weight=1e-3)
    (phase,) = method.phases()
    train_mode(method, phase)
    batch = next(data.source(8, 1).epoch(1))
    losses = method.loss(batch)
    sum(losses.values()).backward()
    last_stage = [*method.student.model.layer3.parameters(), *method.student.classifier.parameters()]
    assert all(p.grad is None for p in last_stage)
    assert all(p.grad is not None for p in method.exits.parameters())
    assert method.student.model.layer1[0].conv1.weight.grad.abs().sum() > 0
    with torch.no_grad():
        out = method.student(batch.inputs)
        exits = [head(f) for head, f in zip(method.exits, out.features[:-1], strict=True)]
    z = out.logits.double().tolist()
    kd = sum(9 * slow_kl(logits.double().tolist(), z, 3.0) for _, logits in exits)
    hint = sum(
        (a - b) ** 2
        for embedding, _ in exits
        for x, y in zip(embedding.tolist(), out.embedding.tolist(), strict=True)
        for a, b in zip(x, y, strict=True)
    )
    assert losses["kd"].item() == pytest.approx(0.1 * kd, rel=1e-3)
    assert losses["hint"].item() == pytest.approx(1e-3 * hint, rel=1e-3)
    assert set(method.reported()) == {"exit_1", "exit_2", "ensemble"}
    assert method.reported()["exit_1"].eval()(batch.inputs).shape == (8, tiny.CLASSES)


def test_every_exit_has_cross_entropy_of_the_same_weight() -> None:
    data = tiny.tiny_data()
    method = tiny.by_hand(BYOT, student(), [], data.info, kd=0.0, weight=0.0).eval()
    batch = next(data.source(8, 1).epoch(1))
    out = method.student(batch.inputs)
    logits = [out.logits, *(head(f)[1] for head, f in zip(method.exits, out.features[:-1], strict=True))]
    labels = batch.labels.tolist()
    expected = sum(sum(slow_ce(each.double().tolist(), labels)) / 8 for each in logits)
    losses = method.loss(batch)
    assert set(losses) == {"ce"} and losses["ce"].item() == pytest.approx(0.9 * expected, rel=1e-4)


def test_the_hint_is_summed_over_the_batch() -> None:
    a, b = draw(3, 4), draw(3, 4, seed=1)

    def slow(x: torch.Tensor) -> float:
        return sum((x[i][j] - b[i][j]).item() ** 2 for i in range(3) for j in range(4))

    assert hint_loss(a, b).item() == pytest.approx(slow(a))
    gradient_agrees(lambda x: hint_loss(x, b), slow, a)


def test_exits_start_as_those_of_the_re_implementation_do() -> None:
    torch.manual_seed(0)
    first, _, _, second, *_ = Exit((64, 8, 8), (512, 1, 1), 512, 10).bottleneck
    assert first.weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.03)
    assert second.weight.std().item() == pytest.approx((2 / (8 * 8 * 128)) ** 0.5, rel=0.01)
