"""irg: Knowledge Distillation via Instance Relationship Graph."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distill.batch import Batch
from distill.methods import irg
from tests.methods.given_relation import Vectors, agrees, method, normal, rows, squared
from tests.slow import mean


def slow_edges(v: Vectors) -> Vectors:
    d = [[squared(a, b) for b in v] for a in v]
    top = max(max(row) for row in d)
    return [[x / top for x in row] for row in d]


def slow_edge_gap(s: Tensor, t: Tensor) -> float:
    pairs = zip(slow_edges(rows(s)), slow_edges(rows(t)), strict=True)
    return sum(squared(a, b) for a, b in pairs) / len(s) ** 2


def slow_transformation(earlier: Tensor, later: Tensor) -> list[float]:
    """Stages as in KD-Zoo: channels double, sides halve."""
    moved = []
    for a, b in zip(earlier.tolist(), later.tolist(), strict=True):
        total = 0.0
        for c in range(len(a)):
            for y in range(len(b[0])):
                for x in range(len(b[0][0])):
                    block = [a[c][2 * y + i][2 * x + j] for i in range(2) for j in range(2)]
                    total += (mean(block) - (b[2 * c][y][x] + b[2 * c + 1][y][x]) / 2) ** 2
        moved.append(total)
    return [m / max(moved) for m in moved]


def test_irg_edges_against_loops() -> None:
    maps = [(normal(7, 4, 2, 4, 4), normal(8, 4, 3, 2, 2)), (normal(9, 4, 5), normal(10, 4, 7))]
    for k, (student, teacher) in enumerate(maps):
        rest = maps[1 - k]

        def slow(x: Tensor, teacher: Tensor = teacher, rest: tuple[Tensor, Tensor] = rest) -> float:
            return (slow_edge_gap(x, teacher) + slow_edge_gap(*rest)) / 2

        def fast(x: Tensor, teacher: Tensor = teacher, rest: tuple[Tensor, Tensor] = rest) -> Tensor:
            return irg.edge_loss([x, rest[0]], [teacher, rest[1]])

        agrees(fast, slow, student)


def test_irg_transformation_against_loops() -> None:
    earlier, later = normal(11, 3, 2, 4, 4), normal(12, 3, 4, 2, 2)
    teacher = (normal(13, 3, 3, 6, 6), normal(14, 3, 6, 3, 3))
    expected = slow_transformation(*teacher)

    def slow(x: Tensor) -> float:
        return mean([(a - b) ** 2 for a, b in zip(slow_transformation(x, later), expected, strict=True)])

    agrees(lambda x: irg.transformation_loss([x, later], teacher), slow, earlier)


def test_irg_works_where_channels_do_not_double() -> None:
    for c1, c2, side in ((4, 4, 2), (4, 6, 4), (6, 4, 2), (16, 48, 1)):
        made = irg.transformation(normal(1, 3, c1, 4, 4), normal(2, 3, c2, side, side))
        assert made.shape == (3,) and made.max() == 1
    narrowed = irg.channels_to(normal(1, 3, 6, 2, 2), 3)
    assert torch.allclose(narrowed, (normal(1, 3, 6, 2, 2)[:, 0::2] + normal(1, 3, 6, 2, 2)[:, 1::2]) / 2)


def test_irg_takes_logits_embeddings_and_the_last_two_stages() -> None:
    built = method("irg")
    torch.manual_seed(0)
    images = torch.randn(6, 3, 16, 16)
    batch = Batch(images, torch.arange(6), torch.arange(6))
    built.eval()
    s, t = built.student(images), built.teacher(images)
    losses = built.distill(s, t, batch)
    assert set(losses) == {"vertex", "edge", "transform"}
    parts = [(s.features[-2], t.features[-2]), (s.features[-1], t.features[-1]), (s.embedding, t.embedding)]
    edge = 5 * mean([slow_edge_gap(a.detach(), b) for a, b in parts])
    assert losses["edge"].item() == pytest.approx(edge, rel=1e-3)
    vertex = 0.1 * (s.logits - t.logits).square().mean().item()
    assert losses["vertex"].item() == pytest.approx(vertex, rel=1e-5)
    assert set(method("irg", "method.edge=0").distill(s, t, batch)) == {"vertex", "transform"}
