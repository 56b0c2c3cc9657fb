"""Adversarial methods and boundary-supporting samples, against slow independent arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from distill.engine.fit import merge, train_mode
from distill.engine.optim import Stepper, learning_rate
from distill.methods.adv_logits import discriminator_loss, l1_loss, student_loss
from distill.methods.bss import base_rank, draw_target, masked_kl, support
from distill.methods.fm_adversarial import least_squares
from distill.parts.discriminators import critic_of_maps, own_optimizer, real_or_fake
from tests import tiny


def logits(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(*shape, generator=generator, dtype=torch.float64)


def softmax(row: list[float]) -> list[float]:
    exps = [math.exp(value - max(row)) for value in row]
    return [value / sum(exps) for value in exps]


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_real_or_fake_is_binary_cross_entropy_and_does_not_overflow() -> None:
    scores = logits(9)
    assert real_or_fake(scores, True).item() == pytest.approx(mean(-math.log(sigmoid(s)) for s in scores.tolist()))
    assert real_or_fake(scores, False).item() == pytest.approx(
        mean(-math.log(1 - sigmoid(s)) for s in scores.tolist())
    )
    far = torch.tensor([-800.0, 800.0])
    assert real_or_fake(far, True).item() == pytest.approx(400) and torch.isfinite(real_or_fake(far, False))


def slow_class(rows: Tensor, labels: Tensor) -> float:
    return mean(-math.log(softmax(row[:-1])[y]) for row, y in zip(rows.tolist(), labels.tolist(), strict=True))


def test_losses_of_logits_and_their_discriminator_by_hand() -> None:
    student, teacher, labels = logits(4, 6), logits(4, 6, seed=1), torch.tensor([0, 4, 2, 2])
    real = mean(-math.log(sigmoid(row[-1])) for row in teacher.tolist())
    fake = mean(-math.log(1 - sigmoid(row[-1])) for row in student.tolist())
    passing = mean(-math.log(sigmoid(row[-1])) for row in student.tolist())
    judged = real + fake + slow_class(teacher, labels) + slow_class(student, labels)
    assert discriminator_loss(student, teacher, labels).item() == pytest.approx(judged, rel=1e-6)
    assert student_loss(student, labels).item() == pytest.approx(passing + slow_class(student, labels), rel=1e-6)
    flat = zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True)
    assert l1_loss(student, teacher).item() == pytest.approx(mean(abs(a - b) for a, b in flat))
    assert torch.autograd.gradcheck(lambda z: student_loss(z, labels), student.clone().requires_grad_())
    assert torch.autograd.gradcheck(
        lambda z: discriminator_loss(z, teacher, labels), student.clone().requires_grad_()
    )


def test_least_squares_by_hand() -> None:
    scores = logits(5, 1)
    assert least_squares(scores, 1.0).item() == pytest.approx(
        mean((s - 1) ** 2 for s in scores.flatten().tolist())
    )


def test_discriminators_have_adam_at_a_constant_rate_of_their_own() -> None:
    schedule = tiny.composed().schedule
    merged = merge({**schedule, "optimizer": dict(schedule.optimizer)}, own_optimizer(0.001))
    stepper = Stepper([nn.Linear(2, 2)], merged)
    assert isinstance(stepper.optimizer, (torch.optim.Adam, torch.optim.AdamW))
    assert stepper.optimizer.param_groups[0]["weight_decay"] == 0
    assert {learning_rate(merged, step, 10, 20) for step in range(0, 200, 7)} == {0.001}


@pytest.mark.parametrize("name", ["adv-logits", "adv-features", "fm-adversarial"])
def test_each_side_is_trained_by_its_own_update_alone(name: str) -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method(name, data, ("cifar_resnet14", "cifar_resnet8"))
    (phase,) = method.phases()
    owners = [{id(p) for module in update.trains for p in module.parameters()} for update in phase.updates]
    assert sum(map(len, owners)) == len(set().union(*owners)) == len(list(method.parameters()))
    schedule = {**tiny.composed().schedule, "optimizer": dict(tiny.composed().schedule.optimizer)}
    steppers = [Stepper(update.trains, merge(schedule, update.optimizer)) for update in phase.updates]
    train_mode(method, phase)
    for batch in list(data.source(batch_size=8, seed=1).epoch(1))[:2]:
        for update, stepper, mine in zip(phase.updates, steppers, owners, strict=True):
            before = {id(p): p.detach().clone() for p in method.parameters()}
            stepper.step(update.loss(batch))
            changed = {id(p) for p in method.parameters() if not torch.equal(p, before[id(p)])}
            assert changed and changed <= mine, update.name
        method.after_step()


@pytest.mark.parametrize("name", ["adv-logits", "adv-features"])
def test_discriminators_learn_to_tell_and_students_to_pass(name: str) -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method(name, data, ("cifar_resnet14", "cifar_resnet8"))
    train_mode(method, method.phases()[0])
    batch = next(iter(data.source(batch_size=8, seed=1).epoch(1)))
    method.loss(batch)
    judge = torch.optim.Adam(method.discriminator.parameters(), 0.01)
    first = method.judge(batch)["discriminator"].item()
    for _ in range(40):
        judge.zero_grad()
        method.judge(batch)["discriminator"].backward()
        judge.step()
    assert method.judge(batch)["discriminator"].item() < 0.5 * first
    caught = method.loss(batch)["adversarial"].item()
    student = torch.optim.Adam(
        [*method.student.parameters(), *getattr(method, "embed", nn.Identity()).parameters()], 0.01
    )
    for _ in range(15):
        student.zero_grad()
        method.loss(batch)["adversarial"].backward()
        student.step()
    assert method.loss(batch)["adversarial"].item() < 0.7 * caught


def test_fm_adversarial_is_a_ring_whose_fakes_are_a_peers_own_maps() -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method(
        "fm-adversarial",
        data,
        ("cifar_resnet8", "cifar_resnet8"),
        "method.peers=3",
        "method.models=[cifar_wrn_16_1,cifar_vgg8]",
    )
    train_mode(method, method.phases()[0])
    batch = next(iter(data.source(batch_size=8, seed=1).epoch(1)))
    losses = method.loss(batch)
    maps = [net(batch.inputs).features[-1] for net in method.cohort]
    for k, (fake, real) in enumerate(method._seen):
        other = maps[(k + 1) % 3]
        assert real.shape[1] == fake.shape[1] == other.shape[1] and real.shape == fake.shape
        passes = mean((s - 1) ** 2 for s in method.discriminators[k](fake).flatten().tolist())
        assert losses[f"adversarial{'' if k == 0 else f'_{k}'}"].item() == pytest.approx(passes, rel=1e-4)
        right = mean((s - 1) ** 2 for s in method.discriminators[k](real).flatten().tolist())
        wrong = mean(s**2 for s in method.discriminators[k](fake).flatten().tolist())
        assert method.judge(k)[f"discriminator_{k}"].item() == pytest.approx(right + wrong, rel=1e-4)
    assert set(method.reported()) == {"peer_1", "peer_2", "ensemble"}
    with pytest.raises(ValueError, match="at least 2"):
        tiny.seeded_method("fm-adversarial", data, ("cifar_resnet8", "cifar_resnet8"), "method.peers=1")


def test_critic_of_maps_takes_any_size() -> None:
    critic = critic_of_maps(3, 4)
    assert critic(torch.zeros(2, 3, 1, 1)).shape == critic(torch.zeros(2, 3, 7, 5)).shape == (2, 1)


class Plane(nn.Module):
    """Two classes of 1x1 images in the plane; the boundary is known in closed form."""

    def forward(self, images: Tensor):
        x = images.flatten(1)
        score = 2.0 * x[:, 0] + 1.0 * x[:, 1]
        return type("Says", (), {"logits": torch.stack([score, -score], 1)})


def test_attack_by_hand_and_stops_just_across_the_boundary() -> None:
    images = torch.tensor([[1.0, 0.5], [-2.0, -2.0], [3.0, 3.0]]).reshape(3, 2, 1, 1)
    target = torch.tensor([1, 0, 1])
    moved = support(Plane(), images, target, steps=10, rate=0.1, bound=2.0).reshape(3, 2).tolist()
    low, high = -2.0, 2.0
    for start, goal, end in zip(images.reshape(3, 2).tolist(), target.tolist(), moved, strict=True):
        point, sign = list(start), 1 if goal == 0 else -1
        for _ in range(10):
            score = 2 * point[0] + point[1]
            if (score > 0) == (goal == 0):
                break
            gap, size = sign * 2 * score, 2 * math.sqrt(5)
            step = 0.1 * (1e-4 - gap) / size
            point = [min(max(x + step * sign * g, low), high) for x, g in zip(point, (4, 2), strict=True)]
        assert end == pytest.approx(point, abs=1e-4)
    crossed = support(Plane(), images, target, steps=200, rate=0.1, bound=2.0).reshape(3, 2)
    scores = 2 * crossed[:, 0] + crossed[:, 1]
    assert [bool(s > 0) for s in scores] == [False, True, False] and scores.abs().max() < 0.2


def test_targets_are_other_classes_with_the_teachers_odds() -> None:
    torch.manual_seed(0)
    row = torch.tensor([0.1, 3.0, 1.0, 2.0])
    drawn = torch.bincount(draw_target(row.repeat(8000, 1)), minlength=4) / 8000
    p = softmax(row.tolist())
    rest = 1 - p[1]
    assert drawn.tolist() == pytest.approx([p[0] / rest, 0, p[2] / rest, p[3] / rest], abs=0.02)
    assert draw_target(torch.tensor([[900.0, 0.0, 0.0]])).item() in (1, 2)  # a teacher without doubt


def test_bases_are_images_that_both_nets_get_right() -> None:
    student, teacher = logits(5, 4), logits(5, 4, seed=1)
    labels = teacher.argmax(1)
    student[0] = student[0].flip(0)
    rank = base_rank(student, teacher, labels)
    for i in range(5):
        p, q, y = softmax(student[i].tolist()), softmax(teacher[i].tolist()), int(labels[i])
        apart = sum((a - b) ** 2 for k, (a, b) in enumerate(zip(p, q, strict=True)) if k != y)
        assert rank[i].item() == pytest.approx(apart if int(student[i].argmax()) == y else -1.0, rel=1e-6)


def test_images_that_serve_as_bases_fill_the_places_of_those_that_do_not() -> None:
    method = tiny.seeded_method("bss", tiny.tiny_data(), ("cifar_resnet8", "cifar_resnet8"), "method.attacks=5")
    found, first = method.bases(torch.tensor([-1.0, 0.3, -1.0, 0.1, -1.0, -1.0, 0.2]))
    assert found.tolist() == [1, 6, 3, 1, 6] and first.tolist() == [1, 1, 1, 0, 0]
    found, first = method.bases(-torch.ones(7))
    assert len(set(found.tolist())) == 1 and first.tolist() == [0] * 5


def test_masked_kl_by_hand_and_without_any_image() -> None:
    student, teacher = logits(3, 4), logits(3, 4, seed=1)
    slow = 0.0
    for i in (0, 2):
        p, q = softmax([v / 3 for v in teacher[i].tolist()]), softmax([v / 3 for v in student[i].tolist()])
        slow += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / 2
    assert masked_kl(student, teacher, torch.tensor([1.0, 0.0, 1.0]), 3.0).item() == pytest.approx(slow, rel=1e-6)
    assert masked_kl(student, teacher, torch.zeros(3), 3.0).item() == 0


def test_bss_follows_its_epochs_and_attacks_only_while_it_counts() -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method("bss", data, ("cifar_resnet14", "cifar_resnet8"), "method.attack_steps=2")
    train_mode(method, method.phases()[0])
    batch = next(iter(data.source(batch_size=8, seed=1).epoch(1)))
    method.epochs = 80
    for epoch, kd, weight in ((1, 3.9625, 1.9667), (40, 2.5, 0.6667), (60, 1.75, 0.0), (80, 1.0, 0.0)):
        method.epoch = epoch
        assert method.now == pytest.approx((kd, weight), abs=1e-4)
        losses = method.loss(batch)
        assert ("bss" in losses) is (epoch < 60)
        plain = method.student(batch.inputs).logits, method.teacher(batch.inputs).logits
        p, q = ((z / 3).softmax(1).tolist() for z in reversed(plain))
        kl = mean(sum(a * math.log(a / b) for a, b in zip(x, y, strict=True)) for x, y in zip(p, q, strict=True))
        assert losses["kd"].item() == pytest.approx(kd * kl, rel=1e-2)
    with pytest.raises(ValueError, match="at least 1"):
        tiny.seeded_method("bss", data, ("cifar_resnet14", "cifar_resnet8"), "method.attacks=0")
