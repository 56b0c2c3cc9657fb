"""pkt: Learning Deep Representations with Probabilistic Knowledge Transfer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from distill.methods import pkt
from tests.methods.given_relation import STUDENT, TEACHER, Vectors, agrees, dot, rows, unit
from tests.slow import mean


def test_pkt_against_loops() -> None:
    def affinities(v: Vectors) -> Vectors:
        cosines = [[(dot(unit(a), unit(b)) + 1) / 2 for b in v] for a in v]
        return [[c / sum(row) for c in row] for row in cosines]

    def slow(x: Tensor) -> float:
        p_s, p_t = affinities(rows(x)), affinities(rows(TEACHER))
        pairs = [(p_t[i][j], p_s[i][j]) for i in range(5) for j in range(5)]
        return mean([t * math.log((t + 1e-7) / (s + 1e-7)) for t, s in pairs])

    agrees(lambda x: pkt.pkt_loss(x, TEACHER), slow, STUDENT)


def test_pkt_keeps_the_diagonal_and_survives_an_embedding_of_zeros() -> None:
    made = pkt.affinities(STUDENT)
    assert made.sum(1).tolist() == pytest.approx([1] * 5) and (made.diag() == made.amax(1)).all()
    dead = STUDENT.clone()
    dead[2] = 0
    dead.requires_grad_()
    pkt.pkt_loss(dead, TEACHER).backward()
    assert dead.grad is not None and torch.isfinite(dead.grad).all()
