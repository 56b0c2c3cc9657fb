"""Data-free methods: no training image is read, and each loss against plain arithmetic."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from distill.batch import Batch
from distill.data.noise import MadeSource, NoiseSource
from distill.engine.fit import train_mode
from distill.methods.cmi import Rounds, contrast_loss, decision_divergence
from distill.methods.dafl import activation_loss
from distill.methods.deepinversion import variation_loss
from distill.methods.zskt import divergence
from distill.models.generator import Generator, Pixels
from distill.parts.datafree import BatchNormInputs, Restarted, balance_loss, certainty_loss, held, statistics_loss
from distill.parts.made_images import CropFlip, Ring, resized_crop
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
    assert len(rest) == 2
    for ours, theirs in zip(rest, whole[4:], strict=True):
        assert torch.equal(ours.inputs, theirs.inputs) and torch.equal(ours.labels, theirs.labels)
    other = next(source(seed=2).epoch(2)).inputs
    assert not torch.equal(whole[0].inputs, other) and not torch.equal(whole[0].inputs, whole[1].inputs)
    labels = torch.cat([batch.labels for batch in source(batch_size=300, steps=2).epoch(1)])
    assert torch.bincount(labels, minlength=3).min() > 150


def test_made_images_come_once_an_epoch_in_an_order_of_their_own() -> None:
    images, labels = torch.arange(10.0).view(10, 1, 1, 1), torch.arange(10)
    made = MadeSource(lambda: images, lambda: labels, batch_size=4, seed=3)
    first, second = list(made.epoch(1)), list(made.epoch(2))
    assert [len(batch.labels) for batch in first] == [4, 4, 2]
    order = torch.cat([batch.labels for batch in first])
    assert sorted(order.tolist()) == list(range(10)) and not torch.equal(order, torch.cat([b.labels for b in second]))
    assert torch.equal(next(made.epoch(1, start=2)).inputs.flatten(), first[2].inputs.flatten())
    assert torch.equal(first[0].inputs.flatten().long(), first[0].labels)


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
    """Two images that are made and three earlier ones, of which the last is not there yet."""
    torch.manual_seed(0)
    local, whole = (torch.nn.functional.normalize(torch.randn(5, 4)) for _ in range(2))
    valid = torch.tensor([True, True, True, True, False])
    losses = []
    for i in range(4):
        scores = [math.exp(sum(float(u) * float(v) for u, v in zip(local[i], row, strict=True)) / 0.1) for row in whole]
        losses.append(-math.log(scores[i] / sum(scores[:4])))
    total = (losses[0] + losses[1]) / 2 + (losses[2] + losses[3]) / 2
    assert contrast_loss(local, whole, 0.1, 2, valid).item() == pytest.approx(total, rel=1e-4)
    alone = contrast_loss(local[:2], whole[:2], 0.1, 2, valid[:2]).item()
    none = contrast_loss(local, whole, 0.1, 2, torch.tensor([True, True, False, False, False])).item()
    assert none == pytest.approx(alone, rel=1e-5), "rows that are not there count nothing"
    check_gradient(lambda t: contrast_loss(t, whole.double(), 0.1, 2, valid), local)
    whole.requires_grad_()
    loss = contrast_loss(local.requires_grad_(), whole, 0.1, 2, valid)
    assert torch.autograd.grad(loss, whole, allow_unused=True) == (None,)


def test_disagreement_counts_nothing_in_the_decision_divergence() -> None:
    student, teacher = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    alone = torch.nn.functional.kl_div(student[:1].log_softmax(1), teacher[:1].softmax(1), reduction="batchmean")
    assert decision_divergence(student, teacher).item() == pytest.approx(alone.item() / 2, rel=1e-6)


def test_divergence_of_zskt_is_a_mean_over_samples_and_classes() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 5), torch.randn(3, 5)
    each = torch.nn.functional.kl_div((student / 2).log_softmax(1), (teacher / 2).softmax(1), reduction="none")
    assert divergence(student, teacher, 2.0).item() == pytest.approx(each.mean().item(), rel=1e-5)


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
    images = method.generator(batch.inputs)
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
    batch = Batch(noise.inputs, noise.labels, noise.index)
    assert set(method.student_loss(batch)) == {"kd", "at"}
    images = method.generator(noise.inputs).detach()
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
    assert values[-1] < 0.95 * values[0] and method.counted[1] is method.canvas.targets
    assert stepper.optimizer.state and stepper.set_lr(25, 25, 2) == 0.05 and not stepper.optimizer.state
    assert method.made.filled == 0
    method.after_epoch()
    assert method.made.filled == 128 and torch.equal(method.made.rows[:128], method.canvas.pixels)
    assert torch.equal(method.targets.rows[:128], method.canvas.targets)
    method.before_epoch()
    assert not torch.equal(method.canvas.pixels, first)
    method.after_epoch()
    distill.begin()
    method.before_epoch()
    method.after_epoch()
    assert method.made.filled == 256 and method.made.next == 0
    assert sum(len(batch.labels) for batch in distill.source(Untouchable()).epoch(1)) == 256


def test_cmi_keeps_the_best_images_of_a_round() -> None:
    method = tiny.seeded_method("cmi", tiny.tiny_data())
    means = torch.zeros_like(method.means)
    for k, loss in enumerate((3.0, 1.0, 2.0)):
        method.keep(torch.full((8, 3, 16, 16), float(k)), means + k, torch.tensor(loss))
    assert method.images.unique().tolist() == [1.0] and method.bank.filled == method.pool.filled == 0
    weight = method.generator.project.weight.detach().clone()
    method.student_loss(next(method.phases()[0].source(Untouchable()).epoch(1)))
    method.after_step()
    assert method.best == torch.inf and method.pool.filled == method.pool.next == 8
    assert method.pool.rows[:8].unique().tolist() == [int((1.0 * 0.25 + 0.5) * 255)], "pixels of mean 0.5 and std 0.25"
    assert method.bank.rows[:8].unique().tolist() == [1.0] and method.bank.filled == method.bank.next == 8
    assert not torch.equal(weight, method.generator.project.weight)


def test_student_of_cmi_goes_through_the_whole_pool() -> None:
    options = ("method.student_batch=6", "method.student_steps=4")
    method = tiny.seeded_method("cmi", tiny.tiny_data(), ("cifar_resnet14", "cifar_resnet8"), *options)
    batch = Batch(torch.zeros(8, 4), torch.zeros(8, dtype=torch.int64), torch.arange(8))
    method.epoch, method.step = 2, 0  # of two steps an epoch: the third round is this one
    for _ in range(2):
        method.pool.add(torch.zeros(8, 3, 16, 16, dtype=torch.uint8))
    for taken in range(4):
        method.student_loss(batch)
        assert method.drawn == taken + 1 and method.counted[0].shape == (6, 6)
    assert sorted(method.order[:24].tolist()) == list(range(24)), "24 images once each"
    method.after_step()
    assert method.drawn == 0


def test_ring_overwrites_the_oldest_and_gives_each_row_once() -> None:
    ring = Ring(6, 1)
    assert not ring.sample(4)[1].any()
    for k in range(4):
        ring.add(torch.full((2, 1), float(k)))
        rows, valid = ring.sample(5)
        assert int(valid.sum()) == min(2 * (k + 1), 5)
    assert ring.rows.flatten().tolist() == [3, 3, 1, 1, 2, 2] and ring.next == 2 and ring.filled == 6
    ring.rows.copy_(torch.arange(6.0).view(6, 1))
    assert sorted(ring.sample(9)[0].flatten().tolist()) == [0, 1, 2, 3, 4, 5]
    odd = Ring(5, dtype=torch.int64)
    for k in range(3):
        odd.add(torch.full((2,), k))
    assert odd.rows.tolist() == [2, 0, 1, 1, 2] and odd.next == 1


def test_head_of_cmi_keeps_its_moments_from_round_to_round() -> None:
    method = tiny.seeded_method("cmi", tiny.tiny_data())
    update = method.phases()[0].updates[0]
    schedule = {"optimizer": {"name": "adam", "betas": [0.5, 0.999]}, "lr": 0.001, "decay": "constant"}
    stepper = Rounds(update.trains, schedule)
    train_mode(method, method.phases()[0])
    batch = next(method.phases()[0].source(Untouchable()).epoch(1))
    for steps in (1, 2):
        stepper.set_lr(steps - 1, 2, 1)
        stepper.step(update.loss(batch))
        method.after_step()
        state = stepper.optimizer.state
        assert state[method.head[0].weight]["step"] == steps and state[method.latents.codes]["step"] == 1
    made, head = stepper.optimizer.param_groups
    assert tuple(made["betas"]) == (0.5, 0.999) and tuple(head["betas"]) == (0.9, 0.999)
    assert {id(p) for p in head["params"]} == {id(p) for p in method.head.parameters()}
    saved = stepper.state_dict()
    other = Rounds(update.trains, schedule)
    other.load_state_dict(saved)
    assert torch.equal(other.optimizer.state[method.head[0].weight]["exp_avg"], state[method.head[0].weight]["exp_avg"])


def test_student_of_dfq_sees_what_the_generator_makes_in_eval_mode() -> None:
    dfq = tiny.seeded_method("dfq", tiny.tiny_data())
    train_mode(dfq, dfq.phases()[0])
    counted = dfq.generator.first.num_batches_tracked.clone()
    dfq.student_loss(next(dfq.phases()[0].source(Untouchable()).epoch(1)))
    assert torch.equal(dfq.generator.first.num_batches_tracked, counted)
    assert dfq.generator.training


def test_cmi_reads_stages_where_it_is_told_to() -> None:
    pair = ("cifar_resnet14", "cifar_resnet8")
    method = tiny.seeded_method("cmi", tiny.tiny_data(), pair, "method.features=stages")
    means = method.instances(torch.randn(2, 3, 16, 16))[1]
    assert means.shape == (2, method.width()) == (2, 16 + 16 + 32)
    with pytest.raises(ValueError, match="batchnorm or stages"):
        tiny.seeded_method("cmi", tiny.tiny_data(), pair, "method.features=blocks")


def test_resized_crop_of_the_whole_share_shows_all_of_the_short_side() -> None:
    torch.manual_seed(0)
    ramp = torch.linspace(-1, 1, 16).expand(64, 1, 16, 16)
    seen = resized_crop(ramp, 0.25, flip=False)
    spans = (seen[:, 0, 8, -1] - seen[:, 0, 8, 0]) / 2
    assert seen.shape == ramp.shape and 0.25 < spans.min() < 0.6 and 0.9 < spans.max() <= 1.01
    mirrored = resized_crop(ramp, 0.25, flip=True)
    falling = (mirrored[:, 0, 8, -1] < mirrored[:, 0, 8, 0]).double().mean()
    assert 0.25 < falling < 0.75 and (seen[:, 0, 8, -1] > seen[:, 0, 8, 0]).all()


def test_crops_and_flips_of_made_images_are_those_of_training_images() -> None:
    info = tiny.tiny_data().info
    black = (0 - info.mean[0]) / info.std[0]
    images = torch.arange(3 * 5 * 5.0).view(1, 3, 5, 5).expand(40, 3, 5, 5).clone().requires_grad_()
    torch.manual_seed(0)
    seen = CropFlip(info, pad=1, flip=True)(images)
    framed = torch.nn.functional.pad(images.detach()[:1], (1,) * 4, value=black)
    windows = [framed[0, :, y : y + 5, x : x + 5] for y in range(3) for x in range(3)]
    windows += [window.flip(2) for window in windows]
    which = {next(k for k, window in enumerate(windows) if torch.equal(window, image)) for image in seen}
    assert len(which) > 10
    seen.sum().backward()
    assert images.grad.sum() == (seen.detach() != black).sum()
    same = CropFlip(info, pad=0, flip=False)(images)
    assert torch.equal(same, images)


def test_pixels_are_normalised_as_the_data_are() -> None:
    pixels = Pixels((0.5, 0.25), (0.5, 2.0))
    made = pixels(torch.zeros(1, 2, 3, 3))
    assert made[0, :, 0, 0].tolist() == [0.0, 0.125]
    held = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 2, 16, 16)
    again = pixels.rounded(pixels.normalised(held) + 1e-5)
    assert torch.equal(again, held) and pixels.rounded(torch.full((1, 2, 1, 1), 9.0)).unique().tolist() == [255]


def test_restart_draws_weights_as_the_authors_of_cmi_do() -> None:
    torch.manual_seed(0)
    generator = Generator(64, 3, 16)
    generator.restart()
    assert generator.project.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert generator.first.weight.mean().item() == pytest.approx(1.0, abs=0.01)
    assert generator.project.bias.abs().max() == generator.first.bias.abs().max() == 0


@pytest.mark.parametrize("size", [8, 16, 30])
def test_generator_fits_the_data(size: int) -> None:
    made = Generator(7, 2, size)(torch.randn(4, 7)).detach()
    assert made.shape == (4, 2, size, size)
    assert made.mean().abs() < 1e-4 and made.var(correction=0).item() == pytest.approx(1, abs=1e-2)


def test_generators_are_those_of_the_authors() -> None:
    made = {name: tiny.seeded_method(name, tiny.tiny_data()).generator for name in ("dafl", "zskt", "dfq", "cmi")}
    assert made["dafl"].middle[1].eps == made["dafl"].upper[1].eps == 0.8 and made["dafl"].first.eps == 1e-5
    assert [type(m).__name__ for m in made["dafl"].last[1:]] == ["Tanh", "BatchNorm2d"]
    assert not made["dafl"].last[2].affine
    assert [type(m).__name__ for m in made["zskt"].last[1:]] == ["BatchNorm2d"] and made["zskt"].last[1].affine
    assert made["dfq"].project.out_features == 256 * 16 and made["cmi"].project.out_features == 128 * 16
    assert isinstance(made["dfq"].last[1], Pixels) and isinstance(made["cmi"].last[1], Pixels)


def test_both_nets_of_zskt_are_clipped() -> None:
    method = tiny.seeded_method("zskt", tiny.tiny_data())
    assert [update.optimizer["clip_grad"] for update in method.phases()[0].updates] == [5.0, 5.0]


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
    images = method.generator(batch.inputs)
    with torch.no_grad():
        gap = (method.ask(images, False).logits - method.teacher(images).logits).abs().mean()
    assert method.terms(images, method.teacher(images))["adversarial"].item() == pytest.approx(-gap.item(), rel=1e-5)
