"""ITRD: correlation and mutual information of embeddings, in loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distill.methods.itrd import cross_correlation_loss, mutual_loss

G = torch.Generator().manual_seed(0)
STUDENT, TEACHER = (torch.randn(6, 4, generator=G, dtype=torch.float64) for _ in range(2))


def test_correlation_is_log2_of_the_powered_gaps_to_one() -> None:
    gaps = []
    for ours, theirs in zip(STUDENT.numpy().T, TEACHER.numpy().T, strict=True):
        product = (ours - ours.mean()) / ours.std(ddof=1) * (theirs - theirs.mean()) / theirs.std(ddof=1)
        gaps.append(abs(product.sum() / 6 - 1) ** (2 * 1.3))
    assert cross_correlation_loss(STUDENT, TEACHER, 1.3).item() == pytest.approx(np.log2(sum(gaps)), rel=1e-5)


def test_mutual_information_is_of_gram_matrices_over_their_traces() -> None:
    ours, theirs = (x.numpy() / np.linalg.norm(x.numpy(), axis=1, keepdims=True) for x in (STUDENT, TEACHER))
    own = ours @ ours.T
    joint = own * (theirs @ theirs.T)
    expected = ((own / np.trace(own)) ** 2).sum() - ((joint / np.trace(joint)) ** 2).sum()
    assert mutual_loss(STUDENT, TEACHER).item() == pytest.approx(expected, rel=1e-10)


def test_a_feature_that_is_constant_in_the_batch_leaves_the_loss_finite() -> None:
    flat = STUDENT.clone()
    flat[:, 0] = 1.0
    leaf = flat.requires_grad_()
    cross_correlation_loss(leaf, TEACHER, 1.01).backward()
    assert leaf.grad is not None and torch.isfinite(leaf.grad).all()
