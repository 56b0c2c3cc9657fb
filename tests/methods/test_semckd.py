"""semckd: Cross-Layer Distillation with Semantic Calibration."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from distill.methods.semckd import SemCKD, gram, semckd_loss
from tests import tiny
from tests.methods.given_later_features import (
    B,
    batch,
    changed,
    made,
    rand,
    same_value_and_gradient,
    slow_mse,
    take_steps,
)


def test_semckd_gram_and_loss() -> None:
    x = rand(3, 2, 2, 2)
    rows = x.flatten(1).tolist()
    expected = [[sum(a * b for a, b in zip(p, q, strict=True)) for q in rows] for p in rows]
    torch.testing.assert_close(gram(x), torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(gram(x.contiguous(memory_format=torch.channels_last)), gram(x))

    def slow(attention: Tensor, distances: Tensor) -> float:
        a, d = attention.tolist(), distances.tolist()
        return sum(a[b][i][j] * d[b][i][j] for b in range(3) for i in range(2) for j in range(4)) / (3 * 2)

    same_value_and_gradient(semckd_loss, slow, rand(3, 2, 4), rand(3, 2, 4, seed=1))


def test_semckd_pairs_every_stage_with_every_stage() -> None:
    method = made(SemCKD, teacher_name="cifar_vgg8", batch_size=B).eval()
    s, t = method.student(batch().inputs), method.teach(batch())
    attention = method.attention(s.features, t.features)
    assert attention.shape == (B, 3, 4)
    torch.testing.assert_close(attention.sum(-1), torch.ones(B, 3))
    distances = method.distances(s.features, t.features)
    for i, j in ((0, 3), (2, 0), (1, 1)):
        source, target = s.features[i], t.features[j]
        side = min(source.shape[2], target.shape[2])
        source, target = F.adaptive_avg_pool2d(source, side), F.adaptive_avg_pool2d(target, side)
        expected = method.projections[i][j](source)
        for n in range(B):
            assert distances[n, i, j].item() == pytest.approx(slow_mse(expected[n], target[n]), rel=1e-4)
    loss = method.distill(s, t, batch())["semckd"]
    assert loss.item() == pytest.approx(
        400 * (attention * distances).double().sum().item() / (B * 3), rel=1e-4
    )


def test_semckd_leaves_the_partial_batch_out() -> None:
    method = made(SemCKD, batch_size=B)
    source = method.phases()[0].source(tiny.tiny_data().source(batch_size=B, seed=1))
    assert [len(b.labels) for b in source.epoch(1)] == [B, B]
    with pytest.raises(ValueError, match="batches of 8 and got one of 6"):
        method.loss(batch(6))
    names = {n.split(".")[0] for n in changed(method, lambda: take_steps(method, 0))}
    assert names == {"student", "queries", "keys", "projections"}
