"""Pseudo-classes of a queue and places of an image: the authors' formulas, written again in numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from distill.methods.pseudo_label_queue import head, positions_loss, queue_loss
from tests import tiny


def divergence(mine: np.ndarray, theirs: np.ndarray) -> float:
    """KL of softmax rows, summed, by rows."""
    log_mine, log_theirs = (x - np.log(np.exp(x).sum(1, keepdims=True)) for x in (mine, theirs))
    return float((np.exp(log_theirs) * (log_theirs - log_mine)).sum() / len(mine))


def unit(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def test_pseudo_classes_are_the_rows_of_the_queue() -> None:
    student, teacher, queue = unit(5, 6), unit(5, 6), unit(9, 6)
    ours, theirs, rows = student.numpy(), teacher.numpy(), queue.numpy()
    expected = divergence(ours @ rows.T / 0.07, theirs @ rows.T / 0.07)
    assert queue_loss(student, teacher, queue, 0.07).item() == pytest.approx(expected, rel=1e-9)


def test_places_are_near_each_other_as_the_teachers_are() -> None:
    student, teacher = unit(3, 4, 6), unit(3, 4, 6)
    pairs = [(a.numpy(), b.numpy()) for a, b in zip(student, teacher, strict=True)]
    expected = np.mean([divergence(a @ a.T / 0.1, b @ b.T / 0.1) for a, b in pairs])
    assert positions_loss(student, teacher, 0.1).item() == pytest.approx(expected, rel=1e-9)


def test_heads_begin_with_small_weights_and_torchs_biases() -> None:
    """As the authors' code, which draws the weights anew alone."""
    layer = head(64, 500)
    assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert layer.bias.std().item() == pytest.approx(64**-0.5 / 3**0.5, rel=0.1)  # uniform up to 1 / sqrt(64)


def test_the_queue_has_the_latest_first_and_as_many_as_the_images_ask_for() -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method("pseudo-label-queue", data)
    assert len(method.queue) == 16
    batch = next(data.source(batch_size=8, seed=1).epoch(1))
    method.loss(batch)
    first = method.queue.clone()
    embedding = F.normalize(method.teach(batch).embedding, dim=1)
    assert torch.allclose(first[:8], embedding, atol=1e-6) and not first[8:].any()
    method.loss(replace(batch, inputs=batch.inputs.flip(0)))
    assert torch.allclose(method.queue[8:], first[:8])
    assert torch.allclose(method.queue[:8], embedding.flip(0), atol=1e-5)
