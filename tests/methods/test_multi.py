"""Methods of several teachers: what several methods share."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from distill.parts.clusters import k_means
from distill.parts.min_norm import MinNorm
from distill.parts.one_class import OneClassSVM
from tests import tiny
from tests.methods.given_multi import logits


def brute_force(gram: np.ndarray, cap: float, parts: int) -> float:
    """The least squared length over a grid of weights that sum to one."""
    best = math.inf
    for bars in itertools.product(range(parts + 1), repeat=len(gram) - 1):
        if sum(bars) <= parts:
            weights = np.array([*bars, parts - sum(bars)]) / parts
            if weights.max() <= cap + 1e-9:
                best = min(best, float(weights @ gram @ weights))
    return best


@pytest.mark.parametrize("cap", [0.4, 0.5, 0.6, 1.0])
def test_min_norm_against_a_grid_and_its_own_optimality(cap: float) -> None:
    solve = MinNorm(4, cap)
    for seed in range(8):
        vectors = logits(4, 6 if seed % 2 else 2, seed=seed)  # two dimensions: dependent gradients
        gram = vectors @ vectors.T
        weights = solve(gram)
        assert weights.sum().item() == pytest.approx(1) and weights.min() >= 0 and weights.max() <= cap + 1e-9
        value = (weights @ gram @ weights).item()
        assert value <= brute_force(gram.numpy(), cap, 20) + 1e-8
        slope = gram @ weights  # no exchange of weight between two teachers may help
        takers, givers = weights < cap - 1e-7, weights > 1e-7
        assert slope[givers].max() <= slope[takers].min() + 1e-6 * gram.abs().max()


def test_min_norm_agrees_with_the_one_class_svm() -> None:
    svm = pytest.importorskip("sklearn.svm")
    for seed in range(5):
        vectors = logits(5, 7, seed=seed)
        gram = (vectors @ vectors.T).numpy()
        fitted = svm.OneClassSVM(kernel="precomputed", nu=1 / (0.6 * 5), tol=1e-10).fit(gram)
        wanted = np.zeros(5)
        wanted[fitted.support_] = fitted.dual_coef_[0] / fitted.dual_coef_.sum()
        assert np.allclose(MinNorm(5, 0.6)(torch.from_numpy(gram)).numpy(), wanted, atol=1e-4)


@pytest.mark.parametrize("scale", [2e-4, 1e-3, 1e-2])
def test_the_authors_solver_stops_where_libsvm_stops(scale: float) -> None:
    svm = pytest.importorskip("sklearn.svm")
    moved = 0
    for seed in range(8):
        vectors = scale / 10 * logits(3, 100, seed=seed)
        gram = (vectors @ vectors.T).float().double()
        fitted = svm.OneClassSVM(kernel="precomputed", nu=1 / (0.6 * 3), tol=1e-6).fit(gram.numpy())
        wanted = np.zeros(3)
        wanted[fitted.support_] = fitted.dual_coef_[0] * 0.6
        found = OneClassSVM(3, 0.6)(gram).numpy()
        moved += not np.allclose(found, [0.6, 0.4, 0.0])
        assert np.allclose(found, wanted, atol=1e-6), seed
    assert moved == (0 if scale == 2e-4 else 8)  # gradients as short as at batches of 64: it does not move at all


@pytest.mark.parametrize("name, theirs", [("ca-mkd", True), ("avg-multi-teacher", True), ("aekd", False)])
def test_a_smaller_last_batch_is_left_out_where_the_authors_do(name: str, theirs: bool) -> None:
    data, pair = tiny.tiny_data(), ("cifar_resnet14", "cifar_resnet8")
    (phase,) = tiny.seeded_method(name, data, pair).phases()
    assert (phase.source is not None) == theirs
    (phase,) = tiny.seeded_method(name, data, pair, "method.drop_last=false").phases()
    assert phase.source is None
    (phase,) = tiny.seeded_method(name, data, pair, "method.drop_last=true").phases()
    source = data.source(batch_size=8, seed=1)
    assert [len(batch.labels) for batch in phase.source(source).epoch(1)] == [8, 8]  # of 22 images


def test_k_means_finds_blocks_and_leaves_no_cluster_empty() -> None:
    block = torch.kron(torch.eye(3), torch.ones(2, 2))
    found = k_means(block + 0.01 * torch.eye(6), 3).tolist()
    assert found[0] == found[1] != found[2] == found[3] != found[4] == found[5] != found[0]
    assert sorted(set(k_means(torch.zeros(5, 2), 4).tolist())) == [0, 1, 2, 3]
    assert torch.equal(k_means(block, 2), k_means(block, 2))
