"""none: training alone."""

from __future__ import annotations

import math

import pytest

from tests import tiny


def test_training_alone_is_cross_entropy() -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method("none", data).eval()
    batch = next(data.source(batch_size=8, seed=3).epoch(1))
    losses = method.loss(batch)
    expected = 0.0
    for row, label in zip(method.student(batch.inputs).logits.tolist(), batch.labels.tolist(), strict=True):
        expected += (math.log(sum(math.exp(value) for value in row)) - row[label]) / len(batch.labels)
    assert set(losses) == {"ce"} and losses["ce"].item() == pytest.approx(expected, rel=1e-5)
