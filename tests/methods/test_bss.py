"""bss: Knowledge Distillation with Adversarial Samples Supporting Decision Boundary."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from distill.engine.update import train_mode
from distill.methods.bss import base_rank, draw_target, masked_kl, support
from tests import tiny
from tests.methods.given_adversarial import logits
from tests.slow import mean, softmax


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
