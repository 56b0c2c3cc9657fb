"""Response methods and DOT against loops in double precision, and the traps that others fell into."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from distill.batch import Batch
from distill.methods import ctkd, dist, dkd, kd, label_smoothing, logit_mse, mlkd, nkd, wsld
from distill.methods.dot import DotStepper
from distill.models import Outputs
from tests import tiny

T = 3.0
Rows = list[list[float]]


def logits(seed: int, rows: int = 5, classes: int = 6) -> Tensor:
    return 2 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STUDENT, TEACHER, LABELS = logits(0), logits(1), torch.tensor([0, 5, 2, 2, 3])


def agrees(loss: Callable[[Tensor], Tensor], slow: Callable[[Rows], float], x: Tensor) -> None:
    """Check a loss's value against loops, and its gradient against the loops' central differences."""
    leaf = x.clone().requires_grad_()
    value = loss(leaf)
    assert value.shape == () and value.item() == pytest.approx(slow(x.tolist()), rel=1e-9, abs=1e-12)
    value.backward()
    assert leaf.grad is not None
    for k in range(3):
        direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
        step = 1e-5 * direction
        slope = (slow((x + step).tolist()) - slow((x - step).tolist())) / 2e-5
        assert (leaf.grad * direction).sum().item() == pytest.approx(slope, rel=2e-5, abs=1e-7)


def gradient(leaf: Tensor) -> Tensor:
    assert leaf.grad is not None
    return leaf.grad


def softmax(row: list[float], t: float = 1.0) -> list[float]:
    weights = [math.exp(z / t) for z in row]
    return [w / sum(weights) for w in weights]


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def without(row: list[float], k: int) -> list[float]:
    return row[:k] + row[k + 1 :]


def z_scores(row: list[float]) -> list[float]:
    middle = mean(row)
    deviation = math.sqrt(sum((z - middle) ** 2 for z in row) / (len(row) - 1))
    return [(z - middle) / (1e-7 + deviation) for z in row]


def outputs(z: Tensor) -> Outputs:
    return Outputs(z, [], z)


def batch_of(labels: Tensor) -> Batch:
    return Batch(torch.zeros(len(labels), 3, 1, 1), labels, torch.arange(len(labels)))


def method(name: str, *overrides: str) -> Any:
    return tiny.seeded_method(name, tiny.tiny_data(), ("cifar_resnet8", "cifar_resnet8"), *overrides)


# ---------------------------------------------------------------- kd, logit-standardization, logit-mse


def test_standardised_soft_targets_against_loops() -> None:
    built = method("logit-standardization")
    assert (built.ce, built.kd, built.temperature, built.standardize) == (0.1, 9.0, 2.0, True)

    def slow(s: Rows) -> float:
        pairs = zip(s, TEACHER.tolist(), strict=True)
        return 4 * mean([kl(softmax(z_scores(b), 2), softmax(z_scores(a), 2)) for a, b in pairs])

    agrees(lambda s: built.soft_targets(s, TEACHER), slow, STUDENT)


def test_standardised_soft_targets_ignore_shift_and_scale_and_survive_equal_logits() -> None:
    built = method("logit-standardization")
    assert built.soft_targets(7 * TEACHER - 3, TEACHER).item() == pytest.approx(0, abs=1e-9)
    flat = torch.zeros(4, 6, requires_grad=True)
    built.soft_targets(flat, TEACHER[:4].float()).backward()
    assert flat.grad is not None and torch.isfinite(flat.grad).all()


@pytest.mark.parametrize("name", ["kd", "dkd", "ctkd", "mlkd", "dot"])
def test_standardize_is_a_switch_that_is_off_by_default(name: str) -> None:
    assert method(name).standardize is False
    assert method(name, "method.standardize=true").standardize is True


@pytest.mark.parametrize("name", ["kd", "dkd", "ctkd"])
def test_standardize_makes_the_soft_targets_blind_to_the_students_scale(name: str) -> None:
    on, off = method(name, "method.standardize=true"), method(name)
    for built, same in ((on, True), (off, False)):
        first, second = (built.soft_targets(c * STUDENT, TEACHER).item() for c in (1.0, 2.0))
        assert (first == pytest.approx(second, rel=1e-5)) is same


def test_dkd_standardizes_its_own_terms_too() -> None:
    built = method("dkd", "method.standardize=true")
    terms = [built.distill(outputs(c * STUDENT), outputs(TEACHER), batch_of(LABELS)) for c in (1.0, 2.0)]
    assert terms[0]["nckd"].item() == pytest.approx(terms[1]["nckd"].item(), rel=1e-5)


def test_logit_mse_is_a_mean_over_samples_and_classes() -> None:
    def slow(s: Rows) -> float:
        pairs = zip(s, TEACHER.tolist(), strict=True)
        return mean([(a - b) ** 2 for x, y in pairs for a, b in zip(x, y, strict=True)])

    agrees(lambda s: logit_mse.logit_mse_loss(s, TEACHER), slow, STUDENT)


# ---------------------------------------------------------------- label smoothing


@pytest.mark.parametrize("spread", ["all", "others"])
def test_label_smoothing_against_an_explicit_target(spread: str) -> None:
    def target(label: int, k: int) -> float:
        if spread == "all":
            return 0.9 * (k == label) + 0.1 / 6
        return 0.9 if k == label else 0.1 / 5

    def slow(s: Rows) -> float:
        total = 0.0
        for row, label in zip(s, LABELS.tolist(), strict=True):
            total -= sum(target(label, k) * math.log(p) for k, p in enumerate(softmax(row)))
        return total / len(s)

    agrees(lambda s: label_smoothing.smoothed_cross_entropy(s, LABELS, 0.1, spread), slow, STUDENT)


def test_label_smoothing_loads_no_teacher_and_refuses_nonsense() -> None:
    built = method("label-smoothing", "method.spread=others")
    assert not built.teachers and built.spread == "others"
    with pytest.raises(ValueError, match="all .* or others"):
        method("label-smoothing", "method.spread=some")
    with pytest.raises(ValueError, match="from 0 to below 1"):
        method("label-smoothing", "method.epsilon=1.0")


# ---------------------------------------------------------------- dkd, nkd


def test_dkd_terms_against_loops() -> None:
    def rows(s: Rows) -> Iterable[tuple[list[float], list[float], int]]:
        return zip(s, TEACHER.tolist(), LABELS.tolist(), strict=True)

    def target(s: Rows) -> float:
        def binary(row: list[float], y: int) -> list[float]:
            p = softmax(row, T)
            return [p[y], sum(without(p, y))]

        return T**2 * mean([kl(binary(b, y), binary(a, y)) for a, b, y in rows(s)])

    def others(s: Rows) -> float:
        return T**2 * mean([kl(softmax(without(b, y), T), softmax(without(a, y), T)) for a, b, y in rows(s)])

    agrees(lambda s: dkd.target_loss(s, TEACHER, LABELS, T), target, STUDENT)
    agrees(lambda s: dkd.non_target_loss(s, TEACHER, LABELS, T), others, STUDENT)


def test_dkd_recombines_to_kd() -> None:
    """Eq. 6 of the paper: KL = TCKD + (1 - p_t[y]) NCKD, sample by sample."""
    for i in range(len(LABELS)):
        s, t, y = STUDENT[i : i + 1], TEACHER[i : i + 1], LABELS[i : i + 1]
        wrong = 1 - (t / T).softmax(1)[0, y]
        whole = dkd.target_loss(s, t, y, T) + wrong * dkd.non_target_loss(s, t, y, T)
        assert whole.item() == pytest.approx(kd.kd_loss(s, t, T).item(), rel=1e-9)


def test_dkd_does_not_underflow_where_a_net_is_sure() -> None:
    """A gap of 400 at T = 1: 1 - p_y is 1e-174, which fp32 holds as 0 and log turns into -inf."""
    student = torch.tensor([[400.0, 0.0, 1.0, 0.5]], requires_grad=True)
    teacher, label = torch.tensor([[1.0, 2.0, 0.0, 1.0]]), torch.tensor([0])
    loss = dkd.target_loss(student, teacher, label, 1.0)
    loss.backward()
    p = softmax([1.0, 2.0, 0.0, 1.0])[0]
    log_rest = math.log(math.exp(0) + math.exp(1) + math.exp(0.5)) - 400
    expected = p * math.log(p) + (1 - p) * (math.log(1 - p) - log_rest)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert student.grad is not None and student.grad[0, 0].item() == pytest.approx(1 - p, rel=1e-5)


def test_dkd_is_computed_in_fp32_from_half_precision_logits() -> None:
    for half in (torch.float16, torch.bfloat16):
        s, t = STUDENT.to(half), TEACHER.to(half)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = dkd.non_target_loss(s, t, LABELS, T)
        assert low.dtype == torch.float32
        assert torch.equal(low, dkd.non_target_loss(s.float(), t.float(), LABELS, T))


def test_dkd_refuses_two_classes_in_a_sentence() -> None:
    data = tiny.tiny_data()
    nets = [tiny.build("cifar_resnet8", 2, size=16, seed=k) for k in range(2)]
    with pytest.raises(ValueError, match=r"of which tiny has 1: use method=kd"):
        tiny.by_hand(dkd.DKD, nets[0], nets[1:], data.info)


def test_dkd_warm_up_scales_its_terms_alone_and_starts_at_one_twentieth() -> None:
    built = method("dkd")
    values = {}
    for epoch in (1, 10, 20, 240):
        built.epoch = epoch
        values[epoch] = built.distill(outputs(STUDENT), outputs(TEACHER), batch_of(LABELS))
    for name, weight in (("tckd", 1.0), ("nckd", 8.0)):
        term = dkd.target_loss if name == "tckd" else dkd.non_target_loss
        full = weight * term(STUDENT, TEACHER, LABELS, 4.0).item()
        assert [values[e][name].item() / full for e in values] == pytest.approx([0.05, 0.5, 1, 1])
    halved = method("dkd", "method.alpha=0")
    assert set(halved.distill(outputs(STUDENT), outputs(TEACHER), batch_of(LABELS))) == {"nckd"}


def test_dkd_takes_the_published_beta_of_the_pair() -> None:
    def beta(*pair: str) -> float:
        return tiny.composed("dataset=cifar100", "method=dkd", *pair).method.beta

    assert beta("teacher=resnet56", "student=resnet20") == 2.0
    assert beta("teacher=vgg13", "student=MobileNetV2") == 6.0
    assert beta("teacher=resnet110", "student=resnet20") == 8.0


def test_nkd_terms_against_loops_and_not_zero_for_equal_nets() -> None:
    def rows(s: Rows) -> Iterable[tuple[list[float], list[float], int]]:
        return zip(s, TEACHER.tolist(), LABELS.tolist(), strict=True)

    def target(s: Rows) -> float:
        return -mean([softmax(b)[y] * math.log(softmax(a)[y]) for a, b, y in rows(s)])

    def others(s: Rows) -> float:
        total = 0.0
        for a, b, y in rows(s):
            pairs = zip(softmax(without(b, y), T), softmax(without(a, y), T), strict=True)
            total -= sum(p * math.log(q) for p, q in pairs)
        return T**2 * total / len(s)

    agrees(lambda s: nkd.target_loss(s, TEACHER, LABELS), target, STUDENT)
    agrees(lambda s: nkd.non_target_loss(s, TEACHER, LABELS, T), others, STUDENT)
    assert nkd.non_target_loss(TEACHER, TEACHER, LABELS, T) > 1
    assert nkd.non_target_loss(TEACHER[:, :2], TEACHER[:, :2], LABELS % 2, T).item() == 0


# ---------------------------------------------------------------- dist, wsld


def test_dist_against_numpys_correlations() -> None:
    teacher = np.array([softmax(row, T) for row in TEACHER.tolist()])

    def inter(s: Rows) -> float:
        student = np.array([softmax(row, T) for row in s])
        return T**2 * (1 - mean([np.corrcoef(student[i], teacher[i])[0, 1] for i in range(len(s))]))

    def intra(s: Rows) -> float:
        student = np.array([softmax(row, T) for row in s])
        return T**2 * (1 - mean([np.corrcoef(student[:, k], teacher[:, k])[0, 1] for k in range(6)]))

    # the 1e-8 beside the product of norms shifts the sixth digit of small classes
    for k, slow in enumerate((inter, intra)):
        leaf = STUDENT.clone().requires_grad_()
        value = dist.relation_losses(leaf, TEACHER, T)[k]
        assert value.item() == pytest.approx(slow(STUDENT.tolist()), rel=1e-5)
        value.backward()
        v = torch.randn(STUDENT.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
        slope = (slow((STUDENT + 1e-5 * v).tolist()) - slow((STUDENT - 1e-5 * v).tolist())) / 2e-5
        assert (gradient(leaf) * v).sum().item() == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize("rows", [1, 4])
def test_dist_is_finite_for_constant_predictions_and_for_a_batch_of_one(rows: int) -> None:
    flat = torch.zeros(rows, 6, requires_grad=True)
    inter, intra = dist.relation_losses(flat, TEACHER[:rows].float(), 4.0)
    assert inter.item() == intra.item() == 16
    (inter + intra).backward()
    assert flat.grad is not None and torch.isfinite(flat.grad).all()


def test_wsld_against_loops_with_weights_held_fixed() -> None:
    rows = list(zip(STUDENT.tolist(), TEACHER.tolist(), LABELS.tolist(), strict=True))
    weights = [1 - math.exp(-math.log(softmax(a)[y]) / (math.log(softmax(b)[y]) - 1e-7)) for a, b, y in rows]
    assert wsld.sample_weights(STUDENT, TEACHER, LABELS).tolist() == pytest.approx(weights)

    def slow(s: Rows) -> float:
        total = 0.0
        for row, (_, teacher, _), w in zip(s, rows, weights, strict=True):
            pairs = zip(softmax(teacher, T), softmax(row, T), strict=True)
            total -= w * sum(p * math.log(q) for p, q in pairs)
        return T**2 * total / len(s)

    leaf = STUDENT.clone().requires_grad_()
    value = wsld.wsld_loss(leaf, TEACHER, LABELS, T)
    value.backward()
    assert value.item() == pytest.approx(slow(STUDENT.tolist()))
    v = logits(4)
    slope = (slow((STUDENT + 1e-5 * v).tolist()) - slow((STUDENT - 1e-5 * v).tolist())) / 2e-5
    assert (gradient(leaf) * v).sum().item() == pytest.approx(slope, rel=1e-5)


# ---------------------------------------------------------------- ctkd


def soft(s: Rows, t: Rows, temperatures: list[float], eps: float = 0.0) -> float:
    rows = zip(s, t, temperatures, strict=True)
    return mean([h**2 * kl([p + eps for p in softmax(b, h)], softmax(a, h)) for a, b, h in rows])


def test_ctkd_loss_with_one_temperature_and_with_one_a_sample() -> None:
    each = [1.5, 3.0, 15.6, 20.0, 4.0]
    column = torch.tensor(each, dtype=torch.float64)[:, None]
    teacher = TEACHER.tolist()
    agrees(lambda s: ctkd.tempered_loss(s, TEACHER, column), lambda s: soft(s, teacher, each, 1e-7), STUDENT)
    one = torch.tensor([7.0], dtype=torch.float64)
    agrees(lambda s: ctkd.tempered_loss(s, TEACHER, one), lambda s: soft(s, teacher, [7.0] * 5), STUDENT)

    def of_temperature(h: Rows) -> float:
        return soft(STUDENT.tolist(), teacher, [row[0] for row in h], 1e-7)

    agrees(lambda h: ctkd.tempered_loss(STUDENT, TEACHER, h), of_temperature, column)


def test_ctkd_bears_a_teacher_that_is_certain_at_one_temperature_a_sample() -> None:
    sure = torch.tensor([[200.0, 0.0, 0.0]])
    loss = ctkd.tempered_loss(torch.tensor([[0.0, 200.0, 0.0]]), sure, torch.tensor([[1.0]]))
    assert loss.item() == pytest.approx(200 + 1e-7 * (2 * math.log(1e-7) + 201), rel=1e-6)


def test_ctkd_curriculum_grows_from_almost_nothing_to_full_reversal() -> None:
    assert ctkd.curriculum(0, 10) == 0 and ctkd.curriculum(5, 10) == pytest.approx(0.5)
    assert ctkd.curriculum(10, 10) == ctkd.curriculum(240, 10) == 1
    assert ctkd.curriculum(1, 10) == pytest.approx(0.5 * (1 - math.cos(0.1 * math.pi)))
    assert ctkd.curriculum(1, 0) == 1  # where the authors' code divides by zero


@pytest.mark.parametrize("epoch", [1, 5, 30])
def test_ctkd_temperature_climbs_the_loss(epoch: int) -> None:
    """theta's gradient is -lambda times the loss's own slope, and the run starts at T = 15.6."""
    built = method("ctkd").double()
    built.epoch = epoch
    built.soft_targets(STUDENT, TEACHER).backward()

    def loss(theta: float) -> float:
        return soft(STUDENT.tolist(), TEACHER.tolist(), [1 + 20 / (1 + math.exp(-theta))] * 5)

    slope = (loss(1 + 1e-5) - loss(1 - 1e-5)) / 2e-5
    assert built.theta.grad.item() == pytest.approx(-ctkd.curriculum(epoch, 10) * slope, rel=1e-5)
    assert built.temperature_of(STUDENT, TEACHER).item() == pytest.approx(15.6212, abs=1e-4)


def test_ctkd_instance_wise_temperatures_leave_the_students_gradient_alone() -> None:
    built = method("ctkd", "method.kind=instance").double()
    built.epoch = 10
    leaf = STUDENT.clone().requires_grad_()
    temperature = built.temperature_of(leaf, TEACHER)
    assert temperature.shape == (5, 1) and temperature.unique().numel() == 5
    built.soft_targets(leaf, TEACHER).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in built.predictor.parameters())
    other = STUDENT.clone().requires_grad_()
    ctkd.tempered_loss(other, TEACHER, temperature.detach()).backward()
    assert torch.allclose(gradient(leaf), gradient(other))


def test_ctkd_refuses_what_could_not_work() -> None:
    cases = (("kind=local", "global .* instance"), ("t_start=0", "use 1 and 20"), ("kd=0", "method.kd"))
    for override, words in cases:
        with pytest.raises(ValueError, match=words):
            method("ctkd", f"method.{override}")


# ---------------------------------------------------------------- mlkd


def product(p: Rows, i: int, j: int, columns: bool) -> float:
    if columns:
        return sum(row[i] * row[j] for row in p)
    return sum(a * b for a, b in zip(p[i], p[j], strict=True))


@pytest.mark.parametrize("level", ["batch", "class"])
def test_mlkd_correlation_levels_against_loops(level: str) -> None:
    count = 5 if level == "batch" else 6
    teacher = [softmax(row, T) for row in TEACHER.tolist()]

    def slow(s: Rows) -> float:
        student, total = [softmax(row, T) for row in s], 0.0
        for i in range(count):
            for j in range(count):
                theirs, ours = (product(p, i, j, level == "class") for p in (teacher, student))
                total += (theirs - ours) ** 2
        return total / count

    loss = mlkd.batch_loss if level == "batch" else mlkd.class_loss
    agrees(lambda s: loss(s, TEACHER, T), slow, STUDENT)


def views(seed: int) -> tuple[Tensor, Tensor]:
    return logits(seed), logits(seed + 1)


@pytest.mark.parametrize("form, share, crossed", [("authors", 3 / 5, 3), ("paper", 1.0, 5)])
def test_mlkd_instance_level_of_either_form(form: str, share: float, crossed: int) -> None:
    built, weak, strong = method("mlkd", f"method.form={form}"), views(2), views(4)
    assert (weak[1].softmax(1).amax(1) <= weak[1].softmax(1).amax(1).median()).sum() == 3

    def slow(pair: tuple[Tensor, Tensor], t: float) -> float:
        rows = zip(pair[1].tolist(), pair[0].tolist(), strict=True)
        return mean([t * t * kl(softmax(b, t), softmax(a, t)) for b, a in rows])

    wanted = sum(
        share * slow(weak, t) + slow(strong if place < crossed else weak, t) for place, t in enumerate((4, 3, 5, 2, 6))
    )
    assert built.instances(weak, strong).item() == pytest.approx(wanted, rel=1e-5)


def test_mlkd_refuses_other_forms() -> None:
    with pytest.raises(ValueError, match="authors, paper"):
        method("mlkd", "method.form=mask")


def test_mlkd_crossentropy_is_of_both_views_and_the_terms_have_names() -> None:
    built = method("mlkd").eval()
    source = built.phases()[0].source(tiny.tiny_data().source(batch_size=8, seed=1))
    batch = next(iter(source.epoch(1)))
    losses = built.loss(batch)
    assert set(losses) == {"ce", "kd", "batch", "class"}
    views = [built.student(x).logits for x in (batch.inputs, batch.views["strong"])]
    expected = 0.1 * sum(nn.functional.cross_entropy(v, batch.labels).item() for v in views)
    assert losses["ce"].item() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(built.counted[0], views[0])


# ---------------------------------------------------------------- dot

SGD = {"name": "sgd", "momentum": 0.9, "weight_decay": 0.01}
SCHEDULE = {"lr": 0.1, "optimizer": SGD | {"dot_delta": 0.075}}


def line(weight: float = 2.0) -> nn.Linear:
    layer = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(layer.weight, weight)
    return layer


def two_losses(layer: nn.Linear) -> dict[str, Tensor]:
    w = layer.weight.sum()
    return {"ce": 0.1 * w**2, "kd": 0.9 * (w - 1) ** 2 / 2, "extra": 0.5 * w}


def test_dot_against_explicit_arithmetic() -> None:
    layer = line()
    stepper = DotStepper([layer], SCHEDULE)
    w, v_task, v_kd = 2.0, 0.0, 0.0
    for step in range(6):
        stepper.set_lr(step, 6, 1)
        stepper.step(two_losses(layer))
        g_task, g_kd = 0.2 * w, 0.9 * (w - 1) + 0.5
        v_task = 0.825 * v_task + g_task + 0.01 * w
        v_kd = 0.975 * v_kd + g_kd
        w -= 0.1 * (v_task + v_kd)
        assert layer.weight.item() == pytest.approx(w, rel=1e-12)


def test_dot_with_delta_0_is_sgd_on_the_sum() -> None:
    ours, theirs = line(), line()
    stepper = DotStepper([ours], {"lr": 0.1, "optimizer": SGD | {"dot_delta": 0.0}})
    plain = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(5):
        stepper.step(two_losses(ours))
        plain.zero_grad()
        torch.stack(list(two_losses(theirs).values())).sum().backward()
        plain.step()
        assert ours.weight.item() == pytest.approx(theirs.weight.item(), rel=1e-12)


def test_dot_goes_on_from_its_state() -> None:
    whole = line()
    stepper = DotStepper([whole], SCHEDULE)
    for _ in range(3):
        stepper.step(two_losses(whole))
    resumed = line(whole.weight.item())
    other = DotStepper([resumed], SCHEDULE)
    other.load_state_dict(copy.deepcopy(stepper.state_dict()))
    for _ in range(3):
        stepper.step(two_losses(whole))
        other.step(two_losses(resumed))
    assert torch.equal(whole.weight, resumed.weight)
    fresh = DotStepper([line(resumed.weight.item())], SCHEDULE)
    assert not fresh.state_dict()["optimizer"]["state"]


def test_dot_schedules_and_clips_both_halves() -> None:
    layer = line()
    stepper = DotStepper([layer], SCHEDULE | {"clip_grad": 0.1, "milestones": [1]})
    assert stepper.set_lr(1, 1, 2) == pytest.approx(0.01)
    assert [group["lr"] for group in stepper.optimizer.param_groups] == pytest.approx([0.01, 0.01])
    stepper.step(two_losses(layer))  # both gradients are longer than 0.1
    assert layer.weight.item() == pytest.approx(2.0 - 0.01 * (0.1 + 0.02 + 0.1), rel=1e-5)


def test_dot_is_wired_with_its_delta_and_refuses_what_it_cannot_split() -> None:
    built = method("dot", "method.delta=0.05")
    update = built.phases()[0].updates[0]
    assert update.stepper is DotStepper and update.optimizer == {"dot_delta": 0.05}
    with pytest.raises(ValueError, match="both losses"):
        method("dot", "method.ce=0")
    with pytest.raises(ValueError, match="out of"):
        DotStepper([line()], {"lr": 0.1, "optimizer": SGD | {"dot_delta": 0.2}})
    with pytest.raises(ValueError, match="name=sgd"):
        DotStepper([line()], {"lr": 0.1, "optimizer": {"name": "adamw", "dot_delta": 0.0}})
    with pytest.raises(ValueError, match="momentum that stays"):
        DotStepper([line()], SCHEDULE | {"damped": True})
