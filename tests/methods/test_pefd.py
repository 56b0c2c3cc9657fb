"""Projector ensemble: the mean of rectified projections, compared by direction."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distill.methods.pefd import direction_loss
from tests import tiny


def test_loss_is_one_minus_the_cosine() -> None:
    student, teacher = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    ours, theirs = student.numpy(), teacher.numpy()
    cosines = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert direction_loss(student, teacher).item() == pytest.approx(1 - cosines.mean(), rel=1e-10)


def test_projection_is_the_mean_of_rectified_maps_with_their_own_starts() -> None:
    method = tiny.seeded_method("pefd", tiny.tiny_data())
    x = torch.randn(3, method.student.embedding_dim)
    maps = [(p.weight.detach().numpy(), p.bias.detach().numpy()) for p in method.projectors]
    parts = [np.maximum(x.numpy() @ weight.T + bias, 0) for weight, bias in maps]
    assert len(parts) == 3 and not np.allclose(parts[0], parts[1])
    np.testing.assert_allclose(method.project(x).detach().numpy(), np.mean(parts, axis=0), rtol=1e-5, atol=1e-6)
