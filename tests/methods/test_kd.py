"""kd: Distilling the Knowledge in a Neural Network."""

from __future__ import annotations

import math

import pytest
import torch

from distill.models.supernet import Choice, Supernet
from tests import tiny
from tests.methods.given_response import STUDENT, TEACHER, Rows, agrees, kl, method
from tests.slow import mean, softmax


def z_scores(row: list[float]) -> list[float]:
    middle = mean(row)
    deviation = math.sqrt(sum((z - middle) ** 2 for z in row) / (len(row) - 1))
    return [(z - middle) / (1e-7 + deviation) for z in row]


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


def test_the_space_and_its_nets() -> None:
    net = tiny.net("cifar_resnet14", 1)
    supernet = Supernet(net, [2, 1], [1.0, 0.5])
    assert supernet.choices == [Choice(1, 0.5), Choice(1, 1.0), Choice(2, 0.5), Choice(2, 1.0)]
    assert supernet.macs[-1] == net.macs() and supernet.macs == [s.macs() for s in supernet.skeletons]
    small = supernet.skeletons[0].model
    assert [p.shape[0] for p in (small.conv1.weight, small.layer2[0].conv1.weight, small.fc.weight.T)] == [
        8,
        16,
        32,
    ]
    assert len(small.layer3) == 1 and supernet.macs[1] == tiny.net("cifar_resnet8").macs()
    for depths, widths in (([3], [1.0]), ([1], [1.5]), ([], [1.0]), ([1], [0.0])):
        with pytest.raises(ValueError, match="give 1 to 2 blocks"):
            Supernet(net, depths, widths)
    with pytest.raises(ValueError, match="student=resnet20.*method=kd"):
        Supernet(tiny.net("cifar_vgg8"), [1], [1.0])
