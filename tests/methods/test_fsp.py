"""fsp: A Gift from Knowledge Distillation."""

from __future__ import annotations

import torch
from torch import Tensor

from distill.methods.fsp import fsp_loss
from tests.methods.given_maps import first_batch, halve, made, random, same


def test_fsp_matrices_are_means_over_positions_of_pooled_neighbours() -> None:
    teacher = [random(2, 3, 4, 4, seed=5), random(2, 4, 2, 2, seed=6), random(2, 5, 2, 2, seed=7)]
    rest = [random(2, 4, 2, 2, seed=8), random(2, 5, 2, 2, seed=9)]

    def slow(first: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        student = [first, *rest]
        for k in range(2):
            matrices = []
            for maps in (student, teacher):
                low, high = maps[k], maps[k + 1]
                low = halve(low) if low.shape[2] > high.shape[2] else low
                g = {}
                for n in range(2):
                    for i in range(low.shape[1]):
                        for j in range(high.shape[1]):
                            products = [
                                low[n, i, y, x] * high[n, j, y, x] for y in range(2) for x in range(2)
                            ]
                            g[n, i, j] = sum(products) / 4
                matrices.append(g)
            total = total + sum((matrices[0][key] - matrices[1][key]) ** 2 for key in matrices[0]) / len(
                matrices[0]
            )
        return total

    same(lambda first: fsp_loss([first, *rest], teacher), slow, random(2, 3, 4, 4))


def test_fsp_pairs_the_stem_with_the_first_stage() -> None:
    method, batch = made("fsp"), first_batch()
    assert method.stem
    assert len(method.maps(method.teach(batch))) == 1 + len(method.teacher.shapes)
