"""at, fsp, ft, ab, ofd, nst, vid, kdsvd, mhgd: losses against float64 loops, phases, traps and refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill.batch import Batch
from distill.engine.fit import merge, train_mode
from distill.engine.optim import Stepper
from distill.method import Method, Phase
from distill.methods.ab import boundary_loss
from distill.methods.at import attention_loss
from distill.methods.fsp import fsp_loss
from distill.methods.ft import factor_loss, published_rate
from distill.methods.kdsvd import ClippedStepper, rbf_loss
from distill.methods.mhgd import Attention, Estimator, graph_loss
from distill.methods.nst import nst_loss, prefers_positions
from distill.methods.ofd import margins, partial_l2
from distill.methods.vid import Regressor, vid_loss
from distill.parts.svd import align, leading_vectors
from tests import tiny

MINE = ["at", "fsp", "ft", "ab", "ofd", "nst", "vid", "kdsvd", "mhgd"]
SCHEDULE: dict[str, Any] = {
    "lr": 0.05,
    "optimizer": {"name": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": 0.05},
}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def same(
    fast: Callable[..., Tensor], slow: Callable[..., Tensor], *inputs: Tensor, rel: float = 1e-9
) -> None:
    """Value and gradient with respect to the first input agree."""
    results: list[tuple[float, Tensor]] = []
    for function in (fast, slow):
        leaf = inputs[0].clone().requires_grad_()
        loss = function(leaf, *inputs[1:])
        results.append((loss.item(), torch.autograd.grad(loss, leaf)[0]))
    (value, gradient), (wanted, wanted_gradient) = results
    assert value == pytest.approx(wanted, rel=rel)
    assert wanted_gradient.abs().max() > 0
    torch.testing.assert_close(
        gradient, wanted_gradient, rtol=rel, atol=rel * wanted_gradient.abs().max().item()
    )


def halve(x: Tensor) -> Tensor:
    """Average 2x2 blocks, by slicing."""
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def run(method: Method, phase: Phase, steps: int = 2) -> set[str]:
    """Train a phase for some steps as the loop does; return the names of the parameters that have changed."""
    if phase.begin:
        phase.begin()
    train_mode(method, phase)
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    schedule = merge(SCHEDULE, phase.schedule)
    steppers = [(u.stepper or Stepper)(u.trains, merge(schedule, u.optimizer)) for u in phase.updates]
    for batch in list(tiny.tiny_data().source(batch_size=8, seed=3).epoch(1))[:steps]:
        for update, stepper in zip(phase.updates, steppers, strict=True):
            stepper.set_lr(0, 1, 1)
            stepper.step(update.loss(batch))
    return {name for name, p in method.named_parameters() if not torch.equal(p, before[name])}


def made(name: str, *overrides: str, pair: tuple[str, str] = ("cifar_resnet14", "cifar_resnet8")) -> Any:
    """Return the method of the name on a fresh tiny pair (teacher, student); Any, for its own attributes."""
    return tiny.seeded_method(name, tiny.tiny_data(), pair, *overrides)


def first_batch() -> Batch:
    return next(iter(tiny.tiny_data().source(batch_size=8, seed=3).epoch(1)))


# ---- at


def slow_attention(feature: Tensor) -> Tensor:
    b, c, h, w = feature.shape
    rows = []
    for n in range(b):
        energy: list[Any] = [
            sum(feature[n, k, i, j] ** 2 for k in range(c)) / c for i in range(h) for j in range(w)
        ]
        norm = sum(e * e for e in energy) ** 0.5
        rows.append(torch.stack([e / norm for e in energy]))
    return torch.stack(rows)


def test_at_is_the_mean_squared_gap_of_unit_attention_maps() -> None:
    def slow(s: Tensor, t: Tensor) -> Tensor:
        gap = slow_attention(halve(s)) - slow_attention(t)
        return sum(g * g for row in gap for g in row) / gap.numel()

    same(attention_loss, slow, random(2, 3, 4, 4), random(2, 5, 2, 2, seed=1))


def test_at_takes_every_stage_and_not_the_stem() -> None:
    method, batch = made("at", "method.weight=1000"), first_batch()
    method.eval()
    student, teacher = method.student(batch.inputs), method.teach(batch)
    student.stem = teacher.stem = None
    wanted = torch.stack(
        [attention_loss(s, t) for s, t in zip(student.features, teacher.features, strict=True)]
    ).sum()
    assert method.distill(student, teacher, batch)["at"].item() == pytest.approx(
        1000 * wanted.item(), rel=1e-5
    )


# ---- fsp


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


@pytest.mark.parametrize("name", ["fsp", "ab"])
def test_init_phase_leaves_the_classifier_and_the_second_phase_the_teacher(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = made(name)
    init, distill = method.phases()
    assert not init.evaluates and init.epochs == 1 and distill.epochs is None
    changed = run(method, init)
    last = "student.model.fc"
    assert changed and not any(key.startswith(last) for key in changed)
    assert {key for key, _ in method.named_parameters() if not key.startswith(last)} == changed
    monkeypatch.setattr(method, "teach", lambda *_: pytest.fail("the second phase needs no teacher"))
    assert set(distill.updates[0].loss(first_batch())) == {"ce"}
    assert run(method, distill) == {key for key, _ in method.named_parameters() if key.startswith("student")}


@pytest.mark.parametrize("name", ["fsp", "ab"])
def test_weight_makes_it_joint_training(name: str) -> None:
    method = made(name, "method.weight=2", "method.init_epochs=0")
    (only,) = method.phases()
    assert set(only.updates[0].loss(first_batch())) == {"ce", name}
    with pytest.raises(ValueError, match="never be used"):
        made(name, "method.init_epochs=0")


# ---- ab


def test_ab_is_the_papers_case_distinction() -> None:
    def slow(s: Tensor, t: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for x, y in zip(s.flatten(), t.flatten(), strict=True):
            if x > -0.7 and y <= 0:
                total = total + (x + 0.7) ** 2
            elif x <= 0.7 and y > 0:
                total = total + (x - 0.7) ** 2
        return total / len(s)

    teacher = random(3, 4, 2, 2, seed=1)
    teacher[0, 0] = 0.0  # exactly on the boundary: not firing
    same(lambda s, t: boundary_loss(s, t, 0.7), slow, random(3, 4, 2, 2), teacher)


def test_ab_halves_shallower_stages_and_reads_preactivations() -> None:
    method, batch = made("ab"), first_batch()
    method.eval()
    student, teacher = method.student(batch.inputs), method.teach(batch)
    assert student.preacts and teacher.preacts and min(float(p.min()) for p in teacher.preacts) < 0
    each = [boundary_loss(s, t) for s, t in zip(student.preacts, teacher.preacts, strict=True)]
    wanted = 3 / 1000 * (each[0] / 4 + each[1] / 2 + each[2])
    assert float(method.match(student, teacher)) == pytest.approx(float(wanted), rel=1e-6)
    assert all(isinstance(connector, nn.Identity) for connector in method.connectors)


def test_ab_leaves_the_last_batchnorm_of_a_wrn_as_it_starts_in_the_first_phase() -> None:
    method = made("ab", pair=("cifar_wrn_16_2", "cifar_wrn_16_1"))
    init, distill = method.phases()
    before = {name: value.clone() for name, value in method.student.model.bn1.state_dict().items()}
    changed = run(method, init)
    assert all(torch.equal(value, before[name]) for name, value in method.student.model.bn1.state_dict().items())
    assert not any(name.startswith(("student.model.bn1", "student.model.fc")) for name in changed)
    assert {"student.model.bn1.weight", "student.model.fc.weight"} <= run(method, distill)


def test_ab_connects_what_differs_in_shape_or_has_no_relu() -> None:
    wide = made("ab", pair=("cifar_wrn_16_2", "cifar_wrn_16_1"))
    assert all(isinstance(connector[-1], nn.BatchNorm2d) for connector in wide.connectors)
    linear = made("ab", pair=("cifar_vgg8", "cifar_MobileNetV2"))
    changed = run(linear, linear.phases()[0])
    assert any(key.startswith("connectors") for key in changed)


# ---- ofd


def test_ofd_is_the_papers_case_distinction() -> None:
    margin = torch.tensor([-0.5, -0.1, -1.0], dtype=torch.float64)

    def slow(s: Tensor, t: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for n in range(len(s)):
            for c in range(3):
                m = margin[c]
                for x, y in zip(s[n, c].flatten(), t[n, c].flatten(), strict=True):
                    if x > m and y <= m:
                        total = total + (x - m) ** 2
                    elif y > 0 or (x > y and m < y <= 0):
                        total = total + (x - y) ** 2
        return total / len(s)

    def fast(s: Tensor, t: Tensor) -> Tensor:
        return partial_l2(s, torch.maximum(t, margin[:, None, None]))

    same(fast, slow, random(2, 3, 4, 4), random(2, 3, 4, 4, seed=1))


def test_ofd_margins_are_means_of_the_negative_part() -> None:
    """Against the integral; -3 s where hardly anything lies below zero; a dead channel gives a number."""
    norm = nn.BatchNorm2d(6).double()
    norm.weight.data = torch.tensor([1.0, -0.5, 2.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    norm.bias.data = torch.tensor([0.0, 0.3, -4.0, 3.0, 3.2, 0.0], dtype=torch.float64)
    found = margins(norm)
    for i in range(4):
        s, b = abs(norm.weight[i].item()), norm.bias[i].item()
        x = torch.linspace(b - 12 * s, 0, 400_001, dtype=torch.float64)
        p = torch.exp(-(((x - b) / s) ** 2) / 2)
        assert found[i].item() == pytest.approx(
            (torch.trapezoid(x * p, x) / torch.trapezoid(p, x)).item(), rel=1e-5
        )
    assert found[4].item() == pytest.approx(-3.0)
    assert abs(found[5].item()) < 1e-9


def test_ofd_weighs_stages_by_depth_and_takes_margins_from_the_teachers_norms() -> None:
    method, batch = made("ofd", "method.weight=0.5"), first_batch()
    teacher = method.teacher
    for norm in teacher.bn_before_relu():
        nn.init.uniform_(norm.bias, -1, 1)
    method = tiny.make("ofd", method.student, teacher, tiny.tiny_data(), "method.weight=0.5")
    method.eval()
    student, shown = method.student(batch.inputs), method.teach(batch)
    assert student.preacts and shown.preacts
    wanted, adapters = 0.0, list(method.get_submodule("connectors").children())
    for stage, norm in enumerate(teacher.bn_before_relu()):
        clipped = torch.maximum(shown.preacts[stage], margins(norm)[:, None, None])
        wanted += float(partial_l2(adapters[stage](student.preacts[stage]), clipped)) / 2 ** (2 - stage)
    assert float(method.distill(student, shown, batch)["ofd"]) == pytest.approx(0.5 * wanted, rel=1e-5)


def test_ofd_asks_the_teacher_with_the_batchs_statistics_and_leaves_its_own_alone() -> None:
    method, batch = made("ofd"), first_batch()
    asked = tiny.make("ofd", method.student, method.teacher, tiny.tiny_data(), "method.teacher_mode=eval")
    before = {name: value.clone() for name, value in method.teacher.state_dict().items()}
    live, still = method.teach(batch).preacts, asked.teach(batch).preacts
    assert all(torch.equal(value, before[name]) for name, value in method.teacher.state_dict().items())
    assert not any(module.training for module in method.teacher.modules())
    method.teacher.train()
    with torch.no_grad():
        wanted = method.teacher(batch.inputs).preacts
    assert all(torch.equal(a, b) for a, b in zip(live, wanted, strict=True))
    assert not any(torch.allclose(a, b) for a, b in zip(live, still, strict=True))


@pytest.mark.parametrize("name, settings", [("ofd", []), ("ab", []), ("reviewkd", ["method.student_preact=true"])])
def test_maps_after_a_relu_do_not_stand_for_those_before_it(name: str, settings: list[str]) -> None:
    """timm's MobileNetV1 ends its stages in ReLU6 and does not show what comes before."""
    student, teacher = tiny.net("mobilenetv1_100", stages=3), tiny.net("cifar_resnet8")
    with pytest.raises(ValueError, match="mobilenetv1_100.*method="):
        tiny.make(name, student, teacher, tiny.tiny_data(), *settings)


# ---- nst


def slow_nst(s: Tensor, t: Tensor) -> Tensor:
    def units(x: Tensor) -> list[Tensor]:
        return [row / torch.sqrt((row * row).sum()) for row in x.flatten(1)]

    def mean(a: list[Tensor], b: list[Tensor]) -> Tensor:
        return torch.stack([torch.dot(x, y) ** 2 for x in a for y in b]).sum() / (len(a) * len(b))

    total = torch.zeros((), dtype=torch.float64)
    for n in range(len(s)):
        x, y = units(s[n]), units(t[n])
        total = total + mean(x, x) + mean(y, y) - 2 * mean(x, y)
    return total / len(s)


@pytest.mark.parametrize(("shapes", "positions"), [(((3, 4), (5, 4)), False), (((9, 2), (7, 2)), True)])
def test_nst_is_the_mean_over_channel_pairs_either_way(shapes: Any, positions: bool) -> None:
    (cs, hs), (ct, ht) = shapes
    assert prefers_positions(cs, ct, ht * ht) is positions
    same(nst_loss, slow_nst, random(2, cs, hs, hs), random(2, ct, ht, ht, seed=1))


def test_nst_pools_the_larger_map_and_bears_dead_channels() -> None:
    student, teacher = random(2, 3, 4, 4), random(2, 5, 2, 2, seed=1)
    assert nst_loss(student, teacher).item() == pytest.approx(
        slow_nst(halve(student), teacher).item(), rel=1e-9
    )
    dead = student.float().clone()
    dead[:, 0] = 0
    dead.requires_grad_()
    nst_loss(dead, teacher.float()).backward()
    assert dead.grad is not None and dead.grad.isfinite().all()


def test_nst_of_a_net_with_itself_is_zero() -> None:
    x = random(2, 4, 3, 3)
    assert nst_loss(x, x).item() == pytest.approx(0.0, abs=1e-12)


# ---- vid


def test_vid_is_a_gaussian_likelihood_in_mean_and_variance() -> None:
    teacher, theta = random(2, 3, 2, 2, seed=1), random(3, seed=2)

    def slow(mean: Tensor, target: Tensor, raw: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for n in range(2):
            for c in range(3):
                v = torch.log(1 + torch.exp(raw[c])) + 1e-5
                for m, t in zip(mean[n, c].flatten(), target[n, c].flatten(), strict=True):
                    total = total + 0.5 * ((m - t) ** 2 / v + torch.log(v))
        return total / mean.numel()

    same(vid_loss, slow, random(2, 3, 2, 2), teacher, theta)
    mean = random(2, 3, 2, 2)
    same(lambda raw: vid_loss(mean, teacher, raw), lambda raw: slow(mean, teacher, raw), theta)


def test_vid_trains_its_variances_which_start_at_five() -> None:
    method = made("vid")
    start = [torch.nn.functional.softplus(r.theta.detach()) + 1e-5 for r in method.regressors]
    assert all(torch.allclose(v, torch.full_like(v, 5.0), rtol=1e-5) for v in start)
    changed = run(method, method.phases()[0])
    assert {f"regressors.{i}.theta" for i in range(3)} <= changed
    assert not any(isinstance(m, nn.BatchNorm2d) for m in method.regressors.modules())


def test_vid_does_not_overflow_and_pools_the_larger_map() -> None:
    huge = torch.full((2,), 300.0, dtype=torch.float16, requires_grad=True)
    vid_loss(torch.ones(1, 2, 2, 2, dtype=torch.float16), torch.zeros(1, 2, 2, 2), huge).backward()
    assert huge.grad is not None and huge.grad.isfinite().all()
    regressor = Regressor(3, 4, 5.0).double()
    student, teacher = random(2, 3, 4, 4), random(2, 4, 2, 2, seed=1)
    assert regressor(student, teacher).item() == pytest.approx(regressor(halve(student), teacher).item())


# ---- ft


def test_ft_compares_collapsed_maps_or_whole_factors() -> None:
    def collapsed(s: Tensor, t: Tensor) -> Tensor:
        gap = slow_attention(s) - slow_attention(halve(t))
        return sum(g.abs() for row in gap for g in row) / gap.numel()

    def paper(s: Tensor, t: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for x, y in zip(s, halve(t), strict=True):
            x, y = x / (x * x).sum().sqrt(), y / (y * y).sum().sqrt()
            total = total + (x - y).abs().sum()
        return total / s.numel()

    s, t = random(2, 3, 2, 2), random(2, 3, 4, 4, seed=1)
    same(lambda a, b: factor_loss(a, b, "collapsed"), collapsed, s, t)
    same(lambda a, b: factor_loss(a, b, "paper"), paper, s, t)
    squared = factor_loss(s, t, "paper", 2.0, 2.0)
    gap = s.flatten(1) / s.flatten(1).norm(dim=1, keepdim=True)
    gap = gap - halve(t).flatten(1) / halve(t).flatten(1).norm(dim=1, keepdim=True)
    assert squared.item() == pytest.approx(gap.square().mean().item())


def test_ft_trains_the_paraphraser_then_student_and_translator() -> None:
    method = made("ft")
    first, second = method.phases()
    names = {key for key, _ in method.named_parameters()}
    paraphraser = {key for key in names if key.startswith("paraphraser")}
    assert run(method, first) == paraphraser and not first.evaluates
    assert run(method, second) == names - paraphraser
    assert not any(p.requires_grad for p in method.paraphraser.parameters())
    assert not method.paraphraser.training and method.translator.training
    assert set(second.updates[0].loss(first_batch())) == {"ce", "ft"}


def test_ft_norms_and_widths_are_those_of_the_authors() -> None:
    method = made("ft", pair=("cifar_wrn_16_2", "cifar_wrn_16_1"))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in method.paraphraser.modules())
    assert sum(isinstance(m, nn.BatchNorm2d) for m in method.translator.modules()) == 3
    feature = torch.randn(2, 128, 4, 4)
    assert method.paraphraser.encoder(feature).shape == (2, 64, 4, 4)
    assert method.paraphraser(feature).shape == feature.shape
    assert method.translator(torch.randn(2, 64, 4, 4)).shape == (2, 64, 4, 4)


@pytest.mark.parametrize(
    ("student", "rate"),
    [("cifar_resnet20", 0.01), ("cifar_resnet8x4", 0.01), ("cifar_wrn_40_1", 0.01), ("cifar_ResNet50", None),
     ("cifar_vgg8", None), ("cifar_MobileNetV2", None), ("resnet18", None)],
)  # fmt: skip
def test_ft_published_rate_follows_the_student(student: str, rate: float | None) -> None:
    assert published_rate(student) == rate


def test_ft_rate_reaches_the_first_phase_alone() -> None:
    first, second = made("ft").phases()
    assert (
        first.schedule["lr"] == 0.01 and first.schedule["decay"] == "constant" and "lr" not in second.schedule
    )
    assert made("ft", "method.init_lr=0.2").phases()[0].schedule["lr"] == 0.2
    with pytest.raises(ValueError, match="collapsed and paper"):
        made("ft", "method.form=other")


def test_ft_refuses_to_collapse_a_single_position() -> None:
    """A unit vector of one element is 1 in both nets: the loss would be zero for ever."""
    pair = ("cifar_resnet8", "cifar_MobileNetV2")
    with pytest.raises(ValueError, match="method.form=paper"):
        made("ft", pair=pair)
    assert made("ft", "method.form=paper", pair=pair).loss(first_batch())["ft"] > 0


# ---- kdsvd


@pytest.mark.parametrize("shape", [(3, 4, 6, 6), (3, 12, 2, 3)])
def test_leading_vectors_are_those_of_a_full_decomposition(shape: tuple[int, ...]) -> None:
    maps = random(*shape)
    values = torch.linalg.svdvals(maps.flatten(2).mT)
    found, sizes = leading_vectors(maps, 3)
    torch.testing.assert_close(sizes, values[:, :3])
    for n in range(shape[0]):
        matrix = maps[n].flatten(1).T
        for j in range(3):
            v = found[n, :, j]
            torch.testing.assert_close(matrix.T @ (matrix @ v), values[n, j] ** 2 * v)
            assert v.norm().item() == pytest.approx(1.0) and v.sum() >= 0


@pytest.mark.parametrize("shape", [(1, 4, 4, 4), (1, 12, 2, 2)])
def test_leading_vectors_have_the_gradient_of_finite_differences(shape: tuple[int, ...]) -> None:
    b, c, h, w = shape
    u, v = torch.linalg.qr(random(h * w, 4, seed=1))[0], torch.linalg.qr(random(c, 4, seed=2))[0]
    maps = (u * torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64) @ v.T).T.reshape(shape).contiguous()
    weights = random(b, c, 2, seed=3)

    def value(x: Tensor) -> Tensor:
        return (leading_vectors(x, 2)[0] * weights).sum()

    leaf = maps.clone().requires_grad_()
    gradient = torch.autograd.grad(value(leaf), leaf)[0].flatten()
    for i in range(maps.numel()):
        step = torch.zeros(maps.numel(), dtype=torch.float64)
        step[i] = 1e-5
        step = step.reshape(shape)
        slope = (value(maps + step) - value(maps - step)) / 2e-5
        assert gradient[i].item() == pytest.approx(slope.item(), abs=1e-4)


def test_equal_singular_values_and_empty_maps_give_finite_gradients() -> None:
    for maps in (
        torch.eye(4).reshape(1, 4, 2, 2),
        torch.zeros(1, 4, 3, 3),
        torch.zeros(1, 6, 2, 2),
        torch.ones(1, 6, 2, 2),
    ):
        leaf = maps.clone().requires_grad_()
        found, _ = leading_vectors(leaf, 3)
        (found * torch.arange(3.0) * torch.arange(found.shape[1])[:, None]).sum().backward()
        assert leaf.grad is not None and leaf.grad.isfinite().all() and found.isfinite().all()


def test_the_sign_that_a_solver_happens_to_return_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    method, batch = made("kdsvd"), first_batch()
    method.eval()
    student, teacher = method.student(batch.inputs), method.teach(batch)
    before = method.distill(student, teacher, batch)["kdsvd"].item()
    eigh = torch.linalg.eigh
    turned = []

    def other(x: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = eigh(x)
        turned.append(x.shape[-1] == 32)  # the second stage's alone: turning all of them cancels out
        return values, -vectors if turned[-1] else vectors

    monkeypatch.setattr(torch.linalg, "eigh", other)
    assert method.distill(student, teacher, batch)["kdsvd"].item() == pytest.approx(before, rel=1e-5)
    assert before > 0 and any(turned) and not all(turned)


def test_align_picks_the_nearest_vector_and_turns_it() -> None:
    basis = torch.linalg.qr(random(1, 5, 5))[0]
    student = torch.stack([basis[..., 2], -basis[..., 0], basis[..., 1]], dim=2)
    torch.testing.assert_close(align(student, basis[..., :2]), basis[..., :2])


def test_kdsvd_loss_is_a_sum_over_channels_and_a_mean_over_the_batch() -> None:
    deep, teacher = random(2, 4, 1, seed=1), (random(2, 3, 1, seed=2), random(2, 4, 1, seed=3))

    def slow(shallow: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for n in range(2):
            for i in range(4):
                for j in range(3):
                    a = torch.exp(-((deep[n, i, 0] - shallow[n, j, 0]) ** 2) / 8)
                    b = torch.exp(-((teacher[1][n, i, 0] - teacher[0][n, j, 0]) ** 2) / 8)
                    total = total + (a - b) ** 2
        return total / 2

    same(lambda shallow: rbf_loss((shallow, deep), teacher), slow, random(2, 3, 1))
    broken = random(2, 3, 1)
    broken[0, 0] = math.nan
    assert rbf_loss((broken, deep), teacher).isfinite()


# ---- mhgd


def test_mhgd_graph_loss_is_kl_from_student_to_teacher() -> None:
    def slow(s: Tensor, t: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for head in range(2):
            for row in range(3):
                x, y = torch.exp(torch.tanh(s[head, row])), torch.exp(torch.tanh(t[head, row]))
                p, q = x / x.sum(), y / y.sum()
                total = total + sum(p[j] * torch.log(p[j] / q[j]) for j in range(3))
        return total

    same(graph_loss, slow, random(2, 3, 3), random(2, 3, 3, seed=1))


def test_mhgd_attention_is_a_product_of_normed_projections_a_head() -> None:
    torch.manual_seed(0)
    attend = Attention(4, 6, heads=2).double()
    shallow, deep = random(5, 4), random(5, 6, seed=1)
    graph = attend(shallow, deep)

    def normed(x: Tensor) -> Tensor:
        return (x - x.mean(0)) / torch.sqrt(x.var(0, unbiased=False) + 1e-5)

    send, receive = normed(deep @ attend.sender.weight.T), normed(shallow @ attend.receiver.weight.T)
    assert graph.shape == (2, 5, 5)
    for head in range(2):
        for i in range(5):
            for j in range(5):
                wanted = sum(send[i, head * 5 + d] * receive[j, head * 5 + d] for d in range(5))
                assert graph[head, i, j].item() == pytest.approx(float(wanted), rel=1e-9)


def test_mhgd_trains_heads_on_the_teacher_then_the_student_alone() -> None:
    method = made("mhgd")
    heads, distill = method.phases()
    names = {key for key, _ in method.named_parameters()}
    student = {key for key in names if key.startswith("student")}
    assert run(method, heads) == names - student and not heads.evaluates
    assert run(method, distill) == student
    assert not method.attention.training and not any(p.requires_grad for p in method.estimators.parameters())
    assert set(distill.updates[0].loss(first_batch())) == {"ce", "mhgd"}


def test_mhgd_heads_learn_to_predict_the_teachers_vectors() -> None:
    torch.manual_seed(0)
    attend, estimator = Attention(8, 8, 4), Estimator(8, 8, 4)
    shallow = nn.functional.normalize(torch.randn(32, 8), dim=1)
    deep = nn.functional.normalize(shallow.roll(1, dims=1), dim=1)
    optimizer = torch.optim.SGD([*attend.parameters(), *estimator.parameters()], lr=0.1, momentum=0.9)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (1 - nn.functional.cosine_similarity(estimator(shallow, attend(shallow, deep)), deep)).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < 0.6 * losses[0]


def test_mhgd_clips_its_gradient_to_the_tasks_by_parameter() -> None:
    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    x = torch.randn(4, 3)
    losses = {"ce": net(x).square().mean(), "mhgd": 50 * net(x).sin().sum() ** 2}
    main = torch.autograd.grad(losses["ce"], list(net.parameters()), retain_graph=True)
    extra = torch.autograd.grad(losses["mhgd"], list(net.parameters()), retain_graph=True)
    stepper = ClippedStepper([net], SCHEDULE)
    stepper.set_lr(0, 10, 5)
    stepper.backward(losses)
    for p, m, e in zip(net.parameters(), main, extra, strict=True):
        bound = 0.5 * math.sqrt(float((m * m).sum()))
        size = math.sqrt(float((e * e).sum()))
        assert size > bound and p.grad is not None
        torch.testing.assert_close(p.grad, m + e * (bound / size))
    stepper.set_lr(29, 10, 5)
    assert stepper.rise == pytest.approx(1 / (1 + math.exp(-2)))
    small = {"ce": net(x).square().mean(), "mhgd": 1e-6 * net(x).sum()}
    wanted = torch.autograd.grad(small["ce"] + small["mhgd"], list(net.parameters()), retain_graph=True)
    stepper.backward(small)
    for p, w in zip(net.parameters(), wanted, strict=True):
        torch.testing.assert_close(p.grad, w)


# ---- all of them


@pytest.mark.parametrize("name", MINE)
def test_a_last_batch_of_one_is_borne(name: str) -> None:
    method, batch = made(name), first_batch()
    one = Batch(batch.inputs[:1], batch.labels[:1], batch.index[:1])
    for phase in method.phases():
        if phase.begin:
            phase.begin()
        train_mode(method, phase)
        for update in phase.updates:
            assert all(loss.isfinite() for loss in update.loss(one).values())


@pytest.mark.parametrize(
    ("name", "pair", "words"),
    [
        ("at", ("cifar_vgg8", "cifar_resnet8"), ["4 of shapes", "3 of shapes", "method=crd"]),
        ("nst", ("cifar_resnet8", "cifar_MobileNetV2"), ["cifar_MobileNetV2", "cifar_resnet8", "method=crd"]),
        ("fsp", ("cifar_wrn_16_2", "cifar_wrn_16_1"), ["(16, 16, 16)", "(32, 16, 16)", "method=at"]),
        ("kdsvd", ("cifar_wrn_16_2", "cifar_wrn_16_1"), ["(64, 4, 4)", "(128, 4, 4)", "method=at"]),
        ("mhgd", ("cifar_wrn_16_2", "cifar_wrn_16_1"), ["(64, 4, 4)", "(128, 4, 4)", "method=at"]),
        ("ab", ("cifar_MobileNetV2", "cifar_vgg8"), ["before each stage's last ReLU", "method=at"]),
        ("ofd", ("cifar_MobileNetV2", "cifar_vgg8"), ["before each stage's last ReLU", "method=at"]),
        ("ofd", ("cifar_ShuffleV1", "cifar_resnet8"), ["BatchNorm", "cifar_ShuffleV1", "method=at"]),
    ],
)
def test_pairs_that_do_not_fit_are_refused_in_a_sentence(
    name: str, pair: tuple[str, str], words: list[str]
) -> None:
    with pytest.raises(ValueError) as refusal:
        made(name, pair=pair)
    assert all(word in str(refusal.value) for word in words), refusal.value
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["at", "ab", "ofd", "nst", "vid", "ft"])
def test_pairs_of_different_families_train(name: str) -> None:
    form = ["method.form=paper"] if name == "ft" else []
    method = made(name, *form, pair=("cifar_vgg8", "cifar_MobileNetV2"))
    assert all(run(method, phase, steps=1) for phase in method.phases())


def test_kdsvd_of_its_first_authors_is_a_clipped_sum_over_the_batch() -> None:
    clipped, plain = (made("kdsvd", f"method.clip={clip}", "method.weight=128") for clip in ("true", "false"))
    assert [one.phases()[0].updates[0].stepper for one in (clipped, plain)] == [ClippedStepper, None]
    with pytest.raises(ValueError, match="kdsvd clips to them: set one, or clip=false"):
        made("kdsvd", "method.clip=true", "method.ce=0")
