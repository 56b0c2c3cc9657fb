"""WKD-F: moments of the cells of a grid in loops, their squared differences, and the two projectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from distill.methods import wkd_f
from tests import tiny
from tests.methods.given_response import agrees

G = torch.Generator().manual_seed(0)
STUDENT, TEACHER = (torch.randn(2, 3, *size, generator=G, dtype=torch.float64) for size in ((5, 4), (6, 6)))


def cells(maps: np.ndarray, grid: int) -> list[np.ndarray]:
    """The positions [B,C,P] of each cell: from floor(i H / g) to ceil((i + 1) H / g)."""
    height, width = maps.shape[2:]
    found = []
    for i in range(grid):
        for j in range(grid):
            rows = range(int(np.floor(i * height / grid)), int(np.ceil((i + 1) * height / grid)))
            columns = range(int(np.floor(j * width / grid)), int(np.ceil((j + 1) * width / grid)))
            found.append(np.stack([maps[:, :, r, c] for r in rows for c in columns], axis=-1))
    return found


@pytest.mark.parametrize("grid", [1, 3])
@pytest.mark.parametrize("which", [0, 1], ids=["means", "deviations"])
def test_terms_are_squared_differences_of_the_moments(grid: int, which: int) -> None:
    def moment(cell: np.ndarray) -> np.ndarray:
        return cell.mean(-1) if which == 0 else np.sqrt(cell.var(-1, ddof=1) + 1e-5)

    def slow(rows: list) -> float:  # type: ignore[type-arg]
        pairs = zip(cells(np.array(rows), grid), cells(TEACHER.numpy(), grid), strict=True)
        terms = [((moment(ours) - moment(theirs)) ** 2).sum() for ours, theirs in pairs]
        return float(sum(terms)) / (grid**2 * len(STUDENT))

    def loss(maps: Tensor) -> Tensor:
        return wkd_f.gaussian_wasserstein(maps, TEACHER, grid)[which]

    agrees(loss, slow, STUDENT)


def test_a_cell_of_one_position_has_no_deviation_and_a_gradient() -> None:
    maps = torch.randn(2, 3, 2, 2, requires_grad=True)
    _, deviations = wkd_f.gaussian_wasserstein(maps, torch.zeros(2, 3, 2, 2), 2)
    deviations.backward()
    assert deviations.item() == 0 and maps.grad is not None and bool(torch.isfinite(maps.grad).all())


def test_bottleneck_keeps_the_size_and_conv_brings_it_to_the_teachers() -> None:
    image = torch.randn(2, 8, 8, 8)
    assert wkd_f.bottleneck((8, 8, 8), (5, 4, 4), 6)(image).shape == (2, 5, 8, 8)
    method = tiny.seeded_method("wkd-f", tiny.tiny_data())
    last = torch.randn(2, *method.student.shapes[-1])
    assert method.projector(last).shape[1:] == method.teacher.shapes[-1]


def test_a_grid_finer_than_the_maps_is_refused() -> None:
    with pytest.raises(ValueError, match="whole number from 1"):
        tiny.seeded_method("wkd-f", tiny.tiny_data(), tiny.SMALLEST, "method.grid=9")
