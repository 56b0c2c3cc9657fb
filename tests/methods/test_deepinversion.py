"""deepinversion: Dreaming to Distill."""

from __future__ import annotations

import math

import pytest
import torch

from distill.config import OptimizerSpec
from distill.methods.deepinversion import Canvas, variation_loss
from distill.models import build
from distill.parts.datafree import WarmRestarts
from tests import tiny
from tests.methods.given_datafree import Untouchable, check_gradient


def test_variation_loss() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 1, 3, 4)
    total = 0.0
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        square = 0.0
        for b in range(2):
            for i in range(3 - dy):
                for j in range(4):
                    if 0 <= j + dx < 4:
                        square += float(x[b, 0, i + dy, j + dx] - x[b, 0, i, j]) ** 2
        total += math.sqrt(square)
    assert variation_loss(x).item() == pytest.approx(total, rel=1e-5)
    check_gradient(variation_loss, x)


def test_the_variation_is_that_of_the_rolled_images() -> None:
    method = tiny.seeded_method("deepinversion", tiny.tiny_data(), ("cifar_resnet14", "cifar_resnet8"))
    method.canvas.restart()
    method.jittered = lambda images: images.roll((1, 2), (2, 3))
    pixels = method.canvas.pixels.detach()
    told = method.image_loss(None)["tv"].item() / method.tv
    assert told == pytest.approx(variation_loss(method.jittered(pixels)).item(), rel=1e-6)
    assert told != pytest.approx(variation_loss(pixels).item(), rel=1e-6)


def test_classes_come_in_turn_and_go_on_in_the_next_images() -> None:
    """The authors' list for CIFAR-10 is 0 to 9 again and again; that of 256 images ends with 5."""
    canvas = Canvas(256, build("cifar_resnet8", 10, size=8, seed=0), 10)
    canvas.restart()
    assert canvas.targets.tolist() == [*list(range(10)) * 25, 0, 1, 2, 3, 4, 5]
    canvas.restart()
    assert canvas.targets.tolist() == [6, 7, 8, 9, *list(range(10)) * 25, 0, 1]


def test_deepinversion_makes_images_and_then_teaches() -> None:
    method = tiny.seeded_method(
        "deepinversion", tiny.tiny_data(), ("cifar_resnet14", "cifar_resnet8"), "method.steps=25"
    )
    invert, distill = method.phases()
    assert invert.epochs == 2 and not invert.evaluates and distill.evaluates
    invert.begin()
    method.before_epoch()
    first = method.canvas.pixels.detach().clone()
    stepper = WarmRestarts([method.canvas], OptimizerSpec(lr=0.05, decay="constant", optimizer={"name": "adam"}))
    values = []
    for step, batch in enumerate(invert.source(Untouchable()).epoch(1)):
        stepper.set_lr(step, 25, 2)
        losses = method.image_loss(batch)
        stepper.step(losses)
        values.append(losses["bn"].item())
    assert values[-1] < 0.95 * values[0] and method.counted[1] is method.canvas.targets
    assert stepper.optimizer.state and stepper.set_lr(25, 25, 2) == 0.05 and not stepper.optimizer.state
    assert method.made.filled == 0
    method.after_epoch()
    assert method.made.filled == 16 and torch.equal(method.made.rows[:16], method.canvas.pixels)
    assert torch.equal(method.targets.rows[:16], method.canvas.targets)
    method.before_epoch()
    assert not torch.equal(method.canvas.pixels, first)
    method.after_epoch()
    distill.begin()
    method.before_epoch()
    method.after_epoch()
    assert method.made.filled == 32 and method.made.next == 0
    assert sum(len(batch.labels) for batch in distill.source(Untouchable()).epoch(1)) == 32
