"""Data-free methods: no training image is read, and each loss against plain arithmetic."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from distill.data.noise import MadeSource, NoiseSource
from distill.fit import train_mode
from distill.method import Batch
from distill.methods.cmi import contrast_loss, random_view
from distill.methods.dafl import activation_loss
from distill.methods.deepinversion import variation_loss
from distill.models.generator import Generator
from distill.parts.datafree import (
    BatchNormInputs,
    Pool,
    Restarted,
    balance_loss,
    certainty_loss,
    held,
    statistics_loss,
)
from tests import tiny

NAMES = ["dafl", "zskt", "deepinversion", "cmi", "dfq"]


class Untouchable:
    """The run's source, of which a data-free method may know the seed and the batch size."""

    seed, batch_size = 1, 8

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a data-free method touched the training data: {name}")


@pytest.mark.parametrize("name", NAMES)
def test_no_training_image_is_read(name: str, tmp_path: Path) -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method(name, data)
    method.data.labels.fill_(-1)  # nor a training label
    before = {key: value.clone() for key, value in method.student.state_dict().items()}
    fit = tiny.fit(method, data, tmp_path)
    fit.source = Untouchable()
    assert sum(1 for _ in fit.steps()) > 2
    moved = [key for key, value in method.student.state_dict().items() if not torch.equal(value, before[key])]
    assert any("fc.weight" in key for key in moved) and any("running_mean" in key for key in moved)
    with pytest.raises(AssertionError, match="touched"):
        next(fit.source.epoch(1))


def source(**changes: Any) -> NoiseSource:
    return NoiseSource(
        **{
            **dict(latent=5, num_classes=3, batch_size=4, steps=6, seed=1, device=torch.device("cpu")),
            **changes,
        }
    )


def test_noise_is_a_function_of_seed_epoch_and_step() -> None:
    whole, rest = list(source().epoch(2)), list(source().epoch(2, start=4))
    assert [batch.step for batch in rest] == [4, 5]
    for ours, theirs in zip(rest, whole[4:], strict=True):
        assert torch.equal(ours.images, theirs.images) and torch.equal(ours.labels, theirs.labels)
    other = next(source(seed=2).epoch(2)).images
    assert not torch.equal(whole[0].images, other) and not torch.equal(whole[0].images, whole[1].images)
    labels = torch.cat([batch.labels for batch in source(batch_size=300, steps=2).epoch(1)])
    assert torch.bincount(labels, minlength=3).min() > 150


def test_made_images_come_once_an_epoch_in_an_order_of_their_own() -> None:
    images, labels = torch.arange(10.0).view(10, 1, 1, 1), torch.arange(10)
    made = MadeSource(lambda: images, lambda: labels, batch_size=4, seed=3)
    first, second = list(made.epoch(1)), list(made.epoch(2))
    assert [len(batch.labels) for batch in first] == [4, 4, 2]
    order = torch.cat([batch.labels for batch in first])
    assert sorted(order.tolist()) == list(range(10)) and not torch.equal(order, torch.cat([b.labels for b in second]))
    assert torch.equal(next(made.epoch(1, start=2)).images.flatten(), first[2].images.flatten())
    assert torch.equal(first[0].images.flatten().long(), first[0].labels)


def slow_statistics(x: torch.Tensor, mean: torch.Tensor, var: torch.Tensor) -> float:
    means, variances = [], []
    for c in range(x.shape[1]):
        values = [float(v) for v in x[:, c].flatten()]
        means.append(sum(values) / len(values))
        variances.append(sum((v - means[-1]) ** 2 for v in values) / len(values))
    gap = math.sqrt(sum((a - float(b)) ** 2 for a, b in zip(means, mean, strict=True)))
    return gap + math.sqrt(sum((a - float(b)) ** 2 for a, b in zip(variances, var, strict=True)))


def check_gradient(loss: Any, x: torch.Tensor) -> None:
    """Compare autograd with central differences in float64 at a few places."""
    x = x.double().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x), x)
    for place in range(0, x.numel(), max(1, x.numel() // 5)):
        step = torch.zeros(x.numel(), dtype=torch.float64)
        step[place] = 1e-5
        step = step.view_as(x)
        slope = (loss(x.detach() + step) - loss(x.detach() - step)) / 2e-5
        assert gradient.flatten()[place].item() == pytest.approx(float(slope), rel=1e-4, abs=1e-7)


def test_statistics_loss() -> None:
    torch.manual_seed(0)
    x, mean, var = torch.randn(3, 4, 2, 2), torch.randn(4), torch.rand(4)
    assert statistics_loss(x, mean, var).item() == pytest.approx(slow_statistics(x, mean, var), rel=1e-5)
    check_gradient(lambda t: statistics_loss(t, mean.double(), var.double()), x)
    flat = torch.randn(6, 4)
    assert statistics_loss(flat, mean, var).item() == pytest.approx(slow_statistics(flat, mean, var), rel=1e-5)


def test_generator_losses_of_logits() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 4)
    rows = [[math.exp(float(v)) for v in row] for row in logits]
    p = [[v / sum(row) for v in row] for row in rows]
    mean = [sum(row[c] for row in p) / 3 for c in range(4)]
    assert balance_loss(logits, 10.0).item() == pytest.approx(sum(m * math.log10(m) for m in mean), rel=1e-5)
    assert balance_loss(logits).item() == pytest.approx(sum(m * math.log(m) for m in mean), rel=1e-5)
    assert certainty_loss(logits).item() == pytest.approx(-sum(math.log(max(row)) for row in p) / 3, rel=1e-5)
    assert activation_loss(logits).item() == pytest.approx(-sum(abs(float(v)) for v in logits.flatten()) / 12, rel=1e-5)
    for loss in (balance_loss, certainty_loss, activation_loss, lambda t: balance_loss(t, 10.0)):
        check_gradient(loss, logits)


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


def test_contrast_loss() -> None:
    torch.manual_seed(0)
    local, whole, others = torch.randn(3, 4), torch.randn(3, 4), torch.randn(2, 4)

    def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
        dot = sum(float(u) * float(v) for u, v in zip(a, b, strict=True))
        return dot / math.sqrt(sum(float(u) ** 2 for u in a) * sum(float(v) ** 2 for v in b))

    total = 0.0
    for i in range(3):
        scores = [math.exp(cosine(local[i], row) / 0.1) for row in [*whole, *others]]
        total -= math.log(scores[i] / sum(scores)) / 3
    assert contrast_loss(local, whole, others, 0.1).item() == pytest.approx(total, rel=1e-4)
    check_gradient(lambda t: contrast_loss(t, whole.double(), others.double(), 0.1), local)


def test_gradients_reach_images_and_not_the_student() -> None:
    method = tiny.seeded_method("dfq", tiny.tiny_data())
    train_mode(method, method.phases()[0])
    images = torch.randn(4, 3, 16, 16, requires_grad=True)
    counter = method.student.model.bn1.num_batches_tracked.clone()
    method.ask(images, train=False).logits.sum().backward()
    assert images.grad.abs().sum() > 0 and all(p.grad is None for p in method.student.parameters())
    assert all(p.requires_grad for p in method.student.parameters()) and method.student.model.bn1.training
    assert torch.equal(counter, method.student.model.bn1.num_batches_tracked)
    with pytest.raises(RuntimeError), held(method.student):
        raise RuntimeError
    assert all(p.requires_grad for p in method.student.parameters())


def test_dafl_is_one_backward_pass_of_the_authors() -> None:
    """Stepping the student first leaves the generator the gradient that a joint backward pass gives."""
    method = tiny.seeded_method("dafl", tiny.tiny_data())
    phase = method.phases()[0]
    train_mode(method, phase)
    batch = next(phase.source(Untouchable()).epoch(1))
    images = method.generator(batch.images)
    z = method.teacher(images)
    joint = method.certainty * certainty_loss(z.logits) + method.balance * balance_loss(z.logits, 10.0)
    joint += method.activation * activation_loss(z.embedding)
    joint += method.learn(batch, images.detach())[0]["kd"]
    wanted = torch.autograd.grad(joint, list(method.generator.parameters()))
    assert [update.name for update in phase.updates] == ["student", "generator"]
    for update in phase.updates:
        method.zero_grad()
        sum(update.loss(batch).values()).backward()
        if update.name == "student":
            assert all(p.grad is None for p in method.generator.parameters())
    for p, gradient in zip(method.generator.parameters(), wanted, strict=True):
        assert torch.allclose(p.grad, gradient, atol=1e-6)
    assert all(p.grad is None for p in method.teacher.parameters())


def test_zskt_generator_widens_what_the_student_closes() -> None:
    method = tiny.seeded_method("zskt", tiny.tiny_data())
    phase = method.phases()[0]
    train_mode(method, phase)
    noise = next(phase.source(Untouchable()).epoch(1))
    before = method.generator_loss(noise)["adversarial"].item()
    assert before < 0
    optimizer = torch.optim.Adam(method.generator.parameters(), lr=0.01)
    for _ in range(15):
        optimizer.zero_grad()
        loss = method.generator_loss(noise)["adversarial"]
        loss.backward()
        optimizer.step()
    assert loss.item() < 1.1 * before, "a larger gap"
    assert [update.repeat for update in phase.updates] == [1, 2]
    batch = Batch(noise.images, noise.labels, noise.index)
    assert set(method.student_loss(batch)) == {"kd", "at"}
    images = method.generator(noise.images).detach()
    assert batch.labels.shape == noise.labels.shape and images.shape == (8, 3, 16, 16)


def test_deepinversion_makes_images_and_then_teaches() -> None:
    method = tiny.seeded_method(
        "deepinversion", tiny.tiny_data(), ("cifar_resnet14", "cifar_resnet8"), "method.steps=25"
    )
    invert, distill = method.phases()
    assert invert.epochs == 2 and not invert.evaluates and distill.evaluates
    invert.begin()
    method.before_epoch()
    first = method.canvas.pixels.detach().clone()
    stepper = Restarted([method.canvas], {"optimizer": {"name": "adam"}, "lr": 0.05, "decay": "constant"})
    values = []
    for step, batch in enumerate(invert.source(Untouchable()).epoch(1)):
        stepper.set_lr(step, 25, 2)
        losses = method.image_loss(batch)
        stepper.step(losses)
        values.append(losses["bn"].item())
    assert values[-1] < 0.95 * values[0] and torch.equal(batch.labels, method.canvas.targets)
    assert stepper.optimizer.state and stepper.set_lr(25, 25, 2) == 0.05 and not stepper.optimizer.state
    assert method.pool.filled == 0
    method.after_epoch()
    assert method.pool.filled == 128 and torch.equal(method.pool.images[:128], method.canvas.pixels)
    method.before_epoch()
    assert not torch.equal(method.canvas.pixels, first)
    method.after_epoch()
    distill.begin()
    method.before_epoch()
    method.after_epoch()
    assert method.pool.filled == 256 and method.pool.next == 0
    assert sum(len(batch.labels) for batch in distill.source(Untouchable()).epoch(1)) == 256


def test_pool_overwrites_the_oldest() -> None:
    pool = Pool(5, tiny.net("cifar_resnet8"))
    for k in range(3):
        pool.write(torch.full((2, 3, 16, 16), float(k)), torch.full((2,), k))
        assert pool.draw(64)[1].max() == k
        pool.advance(2)
    assert pool.labels.tolist() == [2, 0, 1, 1, 2] and pool.filled == 5 and pool.next == 1
    assert set(pool.draw(200)[1].tolist()) == {0, 1, 2}


def test_cmi_keeps_the_best_images_of_a_round() -> None:
    method = tiny.seeded_method("cmi", tiny.tiny_data())
    labels, features = torch.zeros(8, dtype=torch.int64), torch.zeros(8, method.bank.shape[1])
    for k, loss in enumerate((3.0, 1.0, 2.0)):
        method.keep(torch.full((8, 3, 16, 16), float(k)), features + k, labels, torch.tensor(loss))
    assert method.pool.images[:8].unique().tolist() == [1.0] and method.bank[:8].unique().tolist() == [1.0]
    weight = method.generator.project.weight.detach().clone()
    method.after_step()
    assert method.best == torch.inf and method.pool.next == 8
    assert not torch.equal(weight, method.generator.project.weight)


def test_random_view_of_low_one_is_the_image() -> None:
    images = torch.randn(2, 1, 6, 6)
    assert torch.allclose(random_view(images, 1.0), images, atol=1e-5)
    torch.manual_seed(0)
    assert not torch.allclose(random_view(images, 0.5), images, atol=1e-1)


@pytest.mark.parametrize("size", [8, 16, 30])
def test_generator_fits_the_data(size: int) -> None:
    made = Generator(7, 2, size)(torch.randn(4, 7)).detach()
    assert made.shape == (4, 2, size, size)
    assert made.mean().abs() < 1e-4 and made.var(correction=0).item() == pytest.approx(1, abs=1e-2)


def test_teachers_without_batchnorm_are_refused() -> None:
    vit = tiny.net("vit_tiny_patch16_224", patch_size=4, embed_dim=32, depth=2, num_heads=2)
    with pytest.raises(ValueError, match="method=dafl"):
        BatchNormInputs(vit, "dfq")
    with pytest.raises(ValueError, match="kl .* or l1"):
        tiny.seeded_method("dfq", tiny.tiny_data(), ("cifar_resnet14", "cifar_resnet8"), "method.discrepancy=l2")


def test_dfad_is_the_game_of_l1_distances() -> None:
    options = ("method.discrepancy=l1", "method.bn=0", "method.certainty=0", "method.balance=0")
    method = tiny.seeded_method("dfq", tiny.tiny_data(), ("cifar_resnet14", "cifar_resnet8"), *options)
    batch = next(method.phases()[0].source(Untouchable()).epoch(1))
    losses = method.generator_loss(batch)
    assert set(losses) == {"adversarial"}
    torch.manual_seed(3)
    images = method.generator(batch.images)
    with torch.no_grad():
        gap = (method.ask(images, False).logits - method.teacher(images).logits).abs().mean()
    assert method.terms(images, method.teacher(images))["adversarial"].item() == pytest.approx(-gap.item(), rel=1e-5)
