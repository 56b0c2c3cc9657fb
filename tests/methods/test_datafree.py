"""Data-free methods: what several methods share."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from distill.data.noise import NoiseSource, SyntheticSource
from distill.models.generator import Generator, Pixels
from distill.parts.datafree import BatchNormInputs, statistics_loss
from distill.parts.synthetic_images import CropFlip, RingBuffer, resized_crop
from tests import tiny
from tests.methods.given_datafree import Untouchable, check_gradient

NAMES = ["dafl", "zskt", "deepinversion", "cmi", "dfq"]


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
    made = SyntheticSource(lambda: images, lambda: labels, batch_size=4, seed=3)
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


def test_statistics_loss() -> None:
    torch.manual_seed(0)
    x, mean, var = torch.randn(3, 4, 2, 2), torch.randn(4), torch.rand(4)
    assert statistics_loss(x, mean, var).item() == pytest.approx(slow_statistics(x, mean, var), rel=1e-5)
    check_gradient(lambda t: statistics_loss(t, mean.double(), var.double()), x)
    flat = torch.randn(6, 4)
    assert statistics_loss(flat, mean, var).item() == pytest.approx(slow_statistics(flat, mean, var), rel=1e-5)


def test_ring_overwrites_the_oldest_and_gives_each_row_once() -> None:
    ring = RingBuffer(6, 1)
    assert not ring.sample(4)[1].any()
    for k in range(4):
        ring.add(torch.full((2, 1), float(k)))
        rows, valid = ring.sample(5)
        assert int(valid.sum()) == min(2 * (k + 1), 5)
    assert ring.rows.flatten().tolist() == [3, 3, 1, 1, 2, 2] and ring.next == 2 and ring.filled == 6
    ring.rows.copy_(torch.arange(6.0).view(6, 1))
    assert sorted(ring.sample(9)[0].flatten().tolist()) == [0, 1, 2, 3, 4, 5]
    odd = RingBuffer(5, dtype=torch.int64)
    for k in range(3):
        odd.add(torch.full((2,), k))
    assert odd.rows.tolist() == [2, 0, 1, 1, 2] and odd.next == 1


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


def test_teachers_without_batchnorm_are_refused() -> None:
    vit = tiny.net("vit_tiny_patch16_224", patch_size=4, embed_dim=32, depth=2, num_heads=2)
    with pytest.raises(ValueError, match="method=dafl"):
        BatchNormInputs(vit, "dfq")
    with pytest.raises(ValueError, match="kl .* or l1"):
        tiny.seeded_method("dfq", tiny.tiny_data(), ("cifar_resnet14", "cifar_resnet8"), "method.discrepancy=l2")
