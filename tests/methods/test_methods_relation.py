"""Relation methods against plain Python loops in double precision, and the traps that others fell into."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from distill.batch import Batch
from distill.engine.fit import merge
from distill.methods import cc, irg, kdsvd, pkt, rkd, sp
from distill.models import Outputs
from tests import tiny

Vectors = list[list[float]]


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STUDENT, TEACHER = normal(0, 5, 3), normal(1, 5, 4)


def agrees(loss: Callable[[Tensor], Tensor], slow: Callable[[Tensor], float], x: Tensor) -> None:
    """Check a loss's value against loops, and its gradient against the loops' central differences."""
    leaf = x.clone().requires_grad_()
    value = loss(leaf)
    assert value.shape == () and value.item() == pytest.approx(slow(x), rel=1e-6, abs=1e-12)
    value.backward()
    assert leaf.grad is not None
    for k in range(3):
        direction = normal(k + 50, *x.shape)
        slope = (slow(x + 1e-6 * direction) - slow(x - 1e-6 * direction)) / 2e-6
        assert (leaf.grad * direction).sum().item() == pytest.approx(slope, rel=1e-4, abs=1e-8)


def rows(x: Tensor) -> Vectors:
    return x.flatten(1).tolist()


def dot(a: list[float], b: list[float]) -> float:
    return sum(p * q for p, q in zip(a, b, strict=True))


def squared(a: list[float], b: list[float]) -> float:
    return sum((p - q) ** 2 for p, q in zip(a, b, strict=True))


def minus(a: list[float], b: list[float]) -> list[float]:
    return [p - q for p, q in zip(a, b, strict=True)]


def unit(a: list[float]) -> list[float]:
    length = math.sqrt(dot(a, a))
    return [p / length for p in a]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def smooth_l1(a: float, b: float) -> float:
    gap = abs(a - b)
    return 0.5 * gap**2 if gap < 1 else gap - 0.5


def method(name: str, *overrides: str) -> Any:
    return tiny.seeded_method(name, tiny.tiny_data(), ("cifar_wrn_16_2", "cifar_resnet8"), *overrides)


# ---------------------------------------------------------------- sp, pkt


def test_sp_against_loops_on_maps_of_different_shapes() -> None:
    student, teacher = normal(2, 4, 2, 3, 3), normal(3, 4, 5, 2, 2)

    def similarities(v: Vectors) -> Vectors:
        return [unit([dot(a, b) for b in v]) for a in v]

    def slow(x: Tensor) -> float:
        pairs = zip(similarities(rows(x)), similarities(rows(teacher)), strict=True)
        return sum(squared(a, b) for a, b in pairs) / 16

    agrees(lambda x: sp.sp_loss(x, teacher), slow, student)


def test_sp_normalises_rows_and_not_the_matrix() -> None:
    made = sp.similarities(normal(2, 4, 2, 3, 3))
    assert made.norm(dim=1).tolist() == pytest.approx([1] * 4)
    scaled = normal(2, 4, 2, 3, 3)
    scaled[0] *= 10  # one row's length drops out of its own row alone
    again = sp.similarities(scaled)
    assert torch.allclose(again[0, 1:] / again[0, 1], made[0, 1:] / made[0, 1])


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


# ---------------------------------------------------------------- cc


def test_cc_of_the_tables_multiplies_the_gaps_of_neighbours() -> None:
    teacher = normal(4, 5, 3)

    def slow(x: Tensor) -> float:
        gaps = [[abs(d) for d in minus(a, b)] for a, b in zip(rows(x), rows(teacher), strict=True)]
        return mean([dot(gaps[i], gaps[i + 1]) for i in range(4)])

    agrees(lambda x: cc.neighbour_loss(x, teacher), slow, STUDENT)
    swapped = [1, 0, 2, 3, 4]
    assert cc.neighbour_loss(STUDENT[swapped], teacher[swapped]) != cc.neighbour_loss(STUDENT, teacher)


def test_cc_kernel_is_the_gaussian_cut_after_its_order() -> None:
    def gaussian(v: Vectors, order: int | None) -> Vectors:
        def entry(a: list[float], b: list[float]) -> float:
            if order is None:
                return math.exp(-0.4 * squared(unit(a), unit(b)))
            terms = [(0.8 * dot(unit(a), unit(b))) ** p / math.factorial(p) for p in range(order + 1)]
            return math.exp(-0.8) * sum(terms)

        return [[entry(a, b) for b in v] for a in v]

    exact = torch.tensor(gaussian(rows(STUDENT), None), dtype=torch.float64)
    assert torch.allclose(cc.kernel(STUDENT, 0.4, 25), exact)

    def slow(x: Tensor) -> float:
        pairs = zip(gaussian(rows(x), 2), gaussian(rows(TEACHER), 2), strict=True)
        return sum(squared(a, b) for a, b in pairs) / 25

    agrees(lambda x: cc.kernel_loss(x, TEACHER, 0.4, 2), slow, STUDENT)


def test_cc_names_its_two_forms_and_trains_both_embeddings_of_the_first() -> None:
    tables, paper = method("cc"), method("cc-kernel")
    assert (tables.form, tables.weight, paper.form, paper.weight) == ("neighbours", 0.02, "kernel", 100.0)
    assert tables.embed_student.in_features == 64 and tables.embed_teacher.in_features == 128
    assert tables.embed_student.out_features == tables.embed_teacher.out_features == 128
    own = sum(p.numel() for p in paper.parameters())
    assert own == sum(p.numel() for p in paper.student.parameters())
    s, t = (Outputs(torch.zeros(4, 6), [], normal(k, 4, d).float()) for k, d in ((5, 64), (6, 128)))
    batch = Batch(torch.zeros(4, 3, 1, 1), torch.zeros(4, dtype=torch.long), torch.arange(4))
    tables.distill(s, t, batch)["cc"].backward()
    for head in (tables.embed_student, tables.embed_teacher):
        assert head.weight.grad is not None and head.weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="neighbours .* kernel"):
        method("cc", "method.form=taylor")


# ---------------------------------------------------------------- rkd


def slow_distance(s: Vectors, t: Vectors) -> float:
    def relative(v: Vectors) -> Vectors:
        d = [[math.sqrt(squared(a, b)) for b in v] for a in v]
        above = [x for row in d for x in row if x > 0]
        return [[x / mean(above) for x in row] for row in d]

    d_s, d_t, n = relative(s), relative(t), len(s)
    return mean([smooth_l1(d_s[i][j], d_t[i][j]) for i in range(n) for j in range(n)])


def slow_angle(s: Vectors, t: Vectors) -> float:
    def cosine(v: Vectors, j: int, i: int, k: int) -> float:
        if i == j or k == j:
            return 0.0
        return dot(unit(minus(v[i], v[j])), unit(minus(v[k], v[j])))

    n = range(len(s))
    return mean([smooth_l1(cosine(s, j, i, k), cosine(t, j, i, k)) for j in n for i in n for k in n])


def test_rkd_distances_and_angles_of_all_triplets_against_loops() -> None:
    agrees(lambda x: rkd.rkd_losses(x, TEACHER)[0], lambda x: slow_distance(rows(x), rows(TEACHER)), STUDENT)
    agrees(lambda x: rkd.rkd_losses(x, TEACHER)[1], lambda x: slow_angle(rows(x), rows(TEACHER)), STUDENT)


@pytest.mark.parametrize("equal", [[0, 1], [0, 1, 2, 3, 4]])
def test_rkd_has_modest_gradients_where_embeddings_are_equal(equal: list[int]) -> None:
    """Neither NaN, as of a root at 0, nor the 1e12 of a division by a clamped length."""
    student = STUDENT.float()
    student[equal] = student[equal[0]].clone()
    student.requires_grad_()
    distance, angle = rkd.rkd_losses(student, TEACHER.float())
    (25 * distance + 50 * angle).backward()
    assert torch.isfinite(distance) and torch.isfinite(angle)
    assert student.grad is not None and student.grad.abs().max() < 1000
    teacher = TEACHER.float()
    teacher[equal] = teacher[equal[0]].clone()
    assert all(torch.isfinite(term) for term in rkd.rkd_losses(STUDENT.float(), teacher))


def test_rkd_takes_the_mean_over_distances_above_zero() -> None:
    points = torch.tensor([[0.0], [0.0], [3.0]])
    relative = rkd.relative(rkd.relations(points)[0])
    assert relative.tolist() == [[0, 0, 1], [0, 0, 1], [1, 1, 0]]


# ---------------------------------------------------------------- irg


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


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", ["sp", "pkt", "cc", "cc-kernel", "rkd", "irg"])
def test_a_last_batch_of_one_is_finite_with_finite_gradients(name: str) -> None:
    built = method(name).eval()
    batch = Batch(torch.randn(1, 3, 16, 16), torch.zeros(1, dtype=torch.long), torch.arange(1))
    losses = built.distill(built.student(batch.inputs), built.teach(batch), batch)
    assert all(torch.isfinite(value) for value in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in built.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", ["sp", "pkt", "cc-kernel", "rkd", "irg"])
def test_equal_nets_have_nothing_to_learn(name: str) -> None:
    built = method(name).eval()
    batch = Batch(torch.randn(5, 3, 16, 16), torch.zeros(5, dtype=torch.long), torch.arange(5))
    seen = built.student(batch.inputs)
    losses = built.distill(seen, seen, batch)
    assert all(value.item() == pytest.approx(0, abs=1e-6) for value in losses.values())


def test_clipped_steps_pair_gradients_with_parameters_of_any_layout() -> None:
    """A fused optimiser goes through memory in order: a gradient laid out otherwise would move other weights."""
    schedule = {"lr": 0.1, "optimizer": {"name": "sgd"}}
    conv = torch.nn.Conv2d(3, 4, 3, bias=False).to(memory_format=torch.channels_last)
    before, stepper = conv.weight.detach().clone(), kdsvd.ClippedStepper([conv], schedule)
    slope = torch.arange(float(conv.weight.numel())).view(4, 3, 3, 3)
    stepper.step({"ce": (conv.weight * slope).sum(), "mhgd": (conv.weight * 0).sum()})
    assert torch.allclose(conv.weight, before - 0.1 * slope)


def test_the_heads_weight_decay_is_twice_the_students() -> None:
    method = tiny.make("mhgd", tiny.net("cifar_resnet8"), tiny.net("cifar_resnet14"), tiny.tiny_data())
    heads, student = (phase.updates[0] for phase in method.phases())
    schedule = {"lr": 0.1, "optimizer": {"name": "sgd", "weight_decay": 5e-4}}
    decays = [merge(schedule, update.optimizer)["optimizer"]["weight_decay"] for update in (heads, student)]
    assert decays == [1e-3, 5e-4]
