"""mlkd: Multi-Level Logit Distillation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from distill.methods import mlkd
from tests import tiny
from tests.methods.given_response import STUDENT, TEACHER, Rows, T, agrees, kl, logits, method
from tests.slow import mean, softmax


def product(p: Rows, i: int, j: int, columns: bool) -> float:
    if columns:
        return sum(row[i] * row[j] for row in p)
    return sum(a * b for a, b in zip(p[i], p[j], strict=True))


@pytest.mark.parametrize("level", ["batch", "class"])
def test_mlkd_correlation_levels_against_loops(level: str) -> None:
    count = 5 if level == "batch" else 6
    teacher = [softmax(row, T) for row in TEACHER.tolist()]

    def slow(s: Rows) -> float:
        student, total = [softmax(row, T) for row in s], 0.0
        for i in range(count):
            for j in range(count):
                theirs, ours = (product(p, i, j, level == "class") for p in (teacher, student))
                total += (theirs - ours) ** 2
        return total / count

    loss = mlkd.batch_loss if level == "batch" else mlkd.class_loss
    agrees(lambda s: loss(s, TEACHER, T), slow, STUDENT)


def views(seed: int) -> tuple[Tensor, Tensor]:
    return logits(seed), logits(seed + 1)


@pytest.mark.parametrize("form, share, crossed", [("authors", 3 / 5, 3), ("paper", 1.0, 5)])
def test_mlkd_instance_level_of_either_form(form: str, share: float, crossed: int) -> None:
    built, weak, strong = method("mlkd", f"method.form={form}"), views(2), views(4)
    assert (weak[1].softmax(1).amax(1) <= weak[1].softmax(1).amax(1).median()).sum() == 3

    def slow(pair: tuple[Tensor, Tensor], t: float) -> float:
        rows = zip(pair[1].tolist(), pair[0].tolist(), strict=True)
        return mean([t * t * kl(softmax(b, t), softmax(a, t)) for b, a in rows])

    wanted = sum(
        share * slow(weak, t) + slow(strong if place < crossed else weak, t) for place, t in enumerate((4, 3, 5, 2, 6))
    )
    assert built.instances(weak, strong).item() == pytest.approx(wanted, rel=1e-5)


def test_mlkd_refuses_other_forms() -> None:
    with pytest.raises(ValueError, match="authors, paper"):
        method("mlkd", "method.form=mask")


def test_mlkd_crossentropy_is_of_both_views_and_the_terms_have_names() -> None:
    built = method("mlkd").eval()
    source = built.phases()[0].source(tiny.tiny_data().source(batch_size=8, seed=1))
    batch = next(iter(source.epoch(1)))
    losses = built.loss(batch)
    assert set(losses) == {"ce", "kd", "batch", "class"}
    views = [built.student(x).logits for x in (batch.inputs, batch.views["strong"])]
    expected = 0.1 * sum(nn.functional.cross_entropy(v, batch.labels).item() for v in views)
    assert losses["ce"].item() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(built.counted[0], views[0])
