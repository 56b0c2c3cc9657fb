"""Rotation, RandAugment, Cutout, reflected borders, batches by class: held against PIL, torchvision and arithmetic."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as V
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from torch import Tensor, nn

from distill.config import DataSpec
from distill.content.readers import Arrays, Part
from distill.data import ArraySource, Data, pil
from distill.data.arrays import bordered, seeded
from distill.data.augment import Augment, of, square, square_up_to, staged
from distill.data.class_batches import ClassBatches
from distill.data.loading import from_arrays
from distill.data.pairs import PeerViews
from distill.data.strong import StrongSource
from tests import tiny

CPU = torch.device("cpu")


def natural(seed: int, size: int = 32, chans: int = 3) -> Tensor:
    """A smooth uint8 image [C,H,W], noisy enough that its neighbours differ."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(1, chans, 5, 5, generator=generator)
    image = nn.functional.interpolate(small, size=size, mode="bicubic")[0]
    return (30 + 190 * image + 8 * torch.randn(chans, size, size, generator=generator)).clamp(0, 255).to(torch.uint8)


def to_pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy().squeeze())


def of_pil(image: Image.Image) -> Tensor:
    array = torch.from_numpy(np.array(image))
    return array.permute(2, 0, 1) if array.ndim == 3 else array[None]


def affine(image: Image.Image, *numbers: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, numbers)


PIL: dict[str, Callable[[Image.Image, float], Image.Image]] = {  # what each name means, in PIL's own functions
    "AutoContrast": lambda image, v: ImageOps.autocontrast(image),
    "Brightness": lambda image, v: ImageEnhance.Brightness(image).enhance(v),
    "Color": lambda image, v: ImageEnhance.Color(image).enhance(v),
    "Contrast": lambda image, v: ImageEnhance.Contrast(image).enhance(v),
    "Equalize": lambda image, v: ImageOps.equalize(image),
    "Identity": lambda image, v: image,
    "Posterize": lambda image, v: ImageOps.posterize(image, int(v)),
    "Rotate": lambda image, v: image.rotate(v),
    "Sharpness": lambda image, v: ImageEnhance.Sharpness(image).enhance(v),
    "ShearX": lambda image, v: affine(image, 1, v, 0, 0, 1, 0),
    "ShearY": lambda image, v: affine(image, 1, 0, 0, v, 1, 0),
    "Solarize": lambda image, v: ImageOps.solarize(image, v),
    "TranslateX": lambda image, v: affine(image, 1, 0, v * image.size[0], 0, 1, 0),
    "TranslateY": lambda image, v: affine(image, 1, 0, 0, 0, 1, v * image.size[1]),
}


def one_stage(images: Tensor, drawn: Tensor, share: Tensor) -> Tensor:
    made = images.clone()
    staged(drawn, share, images.shape[-1], len(images), CPU)(made, 0, 0)
    return made


@pytest.mark.parametrize("chans", [1, 3])
@pytest.mark.parametrize("name", pil.RANGES)
def test_each_operation_is_pils(name: str, chans: int) -> None:
    images = torch.stack([natural(k, chans=chans) for k in range(12)])
    share = torch.rand(12, generator=seeded(pil.NUMBER[name]), dtype=torch.float64)
    low, high = pil.RANGES[name]
    made = one_stage(images, torch.full((12,), pil.NUMBER[name]), share)
    expected = [PIL[name](to_pil(x), low + s * (high - low)) for x, s in zip(images, share.tolist(), strict=True)]
    gap = (made.int() - torch.stack([of_pil(each) for each in expected]).int()).abs()
    if name == "AutoContrast":  # where the quotient is whole, PIL's floats may fall short of it
        assert gap.max() <= 1 and (gap > 0).double().mean() < 0.02
    else:
        assert gap.max() == 0
    assert name == "Identity" or not torch.equal(made, images) or (name, chans) == ("Color", 1)


def test_images_of_one_colour_stay_as_pil_leaves_them() -> None:
    images = torch.full((2, 3, 8, 8), 77, dtype=torch.uint8)
    for name in ("AutoContrast", "Equalize", "Sharpness"):
        made = one_stage(images, torch.full((2,), pil.NUMBER[name]), torch.rand(2, dtype=torch.float64))
        assert torch.equal(made[0], of_pil(PIL[name](to_pil(images[0]), 0.5))), name


def test_a_stage_gives_each_image_its_own_operation_and_magnitude() -> None:
    images = torch.stack([natural(k, 16) for k in range(28)])
    drawn = torch.arange(28) % len(pil.RANGES)
    share = torch.rand(28, generator=seeded(4), dtype=torch.float64)
    stage = staged(drawn, share, 16, 11, CPU)
    for step in range(3):
        part = images[11 * step : 11 * step + 11].clone()
        stage(part, step, 11 * step)
        for k in range(len(part)):
            i = 11 * step + k
            assert torch.equal(part[k], one_stage(images[i : i + 1], drawn[i : i + 1], share[i : i + 1])[0])


def test_rotation_is_torchvisions() -> None:
    images = torch.stack([natural(k) for k in range(20)])
    degrees = (2 * torch.rand(20, generator=seeded(1), dtype=torch.float64) - 1) * 15
    made = pil.warp(images, pil.fixed(pil.rotations(degrees, 32)))
    expected = [of_pil(V.rotate(to_pil(x), d)) for x, d in zip(images, degrees.tolist(), strict=True)]
    assert torch.equal(made, torch.stack(expected))


def test_rotations_are_uniform_and_fill_with_zeros() -> None:
    turns = Augment(32, rotate=15).epoch(seeded(0), 4000, 64, CPU).turns
    assert turns is not None
    degrees = torch.rad2deg(torch.asin(turns[:, 1] / -65536.0))
    assert degrees.abs().max() <= 15.01 and degrees.min() < -14.9 and degrees.max() > 14.9
    assert degrees.double().mean().item() == pytest.approx(0, abs=0.5)
    assert degrees.double().std().item() == pytest.approx(15 / 3**0.5, abs=0.2)
    white = Augment(32, rotate=15).epoch(seeded(0), 8, 8, CPU)(torch.full((8, 32, 32, 1), 255, dtype=torch.uint8), 0)
    assert sorted(white.unique().tolist()) == [0, 255]


def rectangle(image: Tensor, side: float, x: float, y: float) -> Tensor:
    """The square of FixMatch's Cutout about (x, y), drawn by PIL."""
    _, height, width = image.shape
    left, top = int(max(0, x - side / 2)), int(max(0, y - side / 2))
    drawn = to_pil(image)
    ImageDraw.Draw(drawn).rectangle((left, top, min(width, left + side), min(height, top + side)), (125, 123, 114))
    return of_pil(drawn)


def test_the_square_of_randaugment_is_pils_rectangle() -> None:
    images = torch.stack([natural(k) for k in range(200)])
    boxes = square_up_to(0.5, 32)(200, seeded(2))
    side, y, x = torch.rand(3, 200, generator=seeded(2), dtype=torch.float64)
    side, y, x = 32 * side, 32 + (1 - 32) * y, 32 + (1 - 32) * x  # low + (high - low) u of np.random.uniform(32)
    made = pil.blanked(images.permute(0, 2, 3, 1), boxes, torch.tensor([125, 123, 114], dtype=torch.uint8))
    for k in range(200):
        expected = rectangle(images[k], 0.5 * side[k].item(), x[k].item(), y[k].item())
        assert torch.equal(made[k].permute(2, 0, 1), expected), k


def test_cutout_blanks_a_square_about_a_pixel_drawn_anywhere() -> None:
    augment = of(DataSpec("toy", 8, (0.2,), (1.0,), cutout=4), 8, 1, (0.2,))
    assert augment is not None
    made = augment.epoch(seeded(0), 4000, 4000, CPU)(torch.full((4000, 8, 8, 1), 255, dtype=torch.uint8), 0)
    blank = made.squeeze(3) == 51
    assert torch.equal(blank | (made.squeeze(3) == 255), torch.ones_like(blank))
    areas = blank.flatten(1).sum(1)
    assert set(areas.tolist()) == {a * b for a in (2, 3, 4) for b in (2, 3, 4)}  # cut off at the edges
    assert blank[:, 4, 4].double().mean().item() == pytest.approx((4 / 8) ** 2, abs=0.02)
    assert blank[:, 0, 0].double().mean().item() == pytest.approx((3 / 8) ** 2, abs=0.02)
    assert square(5, 9)(100, seeded(1)).diff(dim=1)[:, [0, 2]].unique().tolist() == [4]


def test_operations_and_magnitudes_are_drawn_evenly() -> None:
    stage = Augment(32, operations=1).epoch(seeded(0), 28000, 28000, CPU).stages[0]
    shares = {name: count / 28000 for name, count in zip(pil.OPERATION_GROUPS, stage.counts[0], strict=True)}
    assert shares.pop("Move") == pytest.approx(5 / 14, abs=0.01)
    assert all(share == pytest.approx(1 / 14, abs=0.006) for share in shares.values()) and len(shares) == 9
    first = sum(stage.counts[0][: pil.OPERATION_GROUPS.index("Posterize")])
    bits = stage.levels[first : first + stage.counts[0][pil.OPERATION_GROUPS.index("Posterize")]]
    assert bits.unique().tolist() == [4, 5, 6, 7] and bits.mean().item() == pytest.approx(5.5, abs=0.1)


# ---- as sources show them ----


def data(**changes) -> Data:
    images = torch.stack([natural(k, 16) for k in range(22)]).permute(0, 2, 3, 1).numpy()
    labels = np.arange(22) % 6
    part = Part(np.ascontiguousarray(images), labels)
    spec = DataSpec("toy", 16, (0.5,) * 3, (0.25,) * 3, **{"pad": 2, **changes})
    return from_arrays(Arrays(part, part, [str(k) for k in range(6)]), spec, CPU)


def pixels(batch_images: Tensor) -> Tensor:
    return ((batch_images * 0.25 + 0.5) * 255).round().to(torch.uint8)


@pytest.mark.parametrize("changes", [{"rotate": 15}, {"randaugment": 2}, {"cutout": 6}, {"pad_mode": "reflect"}])
def test_batches_stay_a_function_of_seed_epoch_and_step(changes) -> None:
    whole = list(data(**changes).source(8, seed=3).epoch(2))
    tail = list(data(**changes).source(8, seed=3).epoch(2, start=1))
    plain = list(data().source(8, seed=3).epoch(2))
    for a, b in zip(whole[1:], tail, strict=True):
        assert torch.equal(a.inputs, b.inputs)
    for a, b in zip(whole, plain, strict=True):
        assert torch.equal(a.index, b.index) and not torch.equal(a.inputs, b.inputs)
    assert not torch.equal(whole[0].inputs, next(data(**changes).source(8, seed=4).epoch(2)).inputs)


def test_order_crops_and_flips_stay_what_they_are_and_pixels_are_turned_after_them() -> None:
    turned, plain = (data(**changes).source(8, seed=3) for changes in ({"rotate": 15}, {}))
    matrices = turned._plan(1).augment.turns
    for step, (a, b) in enumerate(zip(turned.epoch(1), plain.epoch(1), strict=True)):
        expected = pil.warp(pixels(b.inputs), matrices[8 * step : 8 * step + len(a.index)])
        assert torch.equal(pixels(a.inputs), expected)


def test_views_without_number_are_not_numbered() -> None:
    turned = data(rotate=15)
    assert turned.view_count is None and next(turned.source(8, seed=0).epoch(1)).crop is None
    assert data(pad_mode="reflect").view_count == data().view_count == 50


def test_images_beside_are_augmented_too() -> None:
    turned, plain = (
        list(PeerViews(data(**changes).source(8, seed=3), 1).epoch(1)) for changes in ({"cutout": 6}, {})
    )
    for a, b in zip(turned, plain, strict=True):
        blank = pixels(a.views["peer_1"]) == 128
        assert blank.all(1).flatten(1).sum(1).min() >= 9  # 3 x 3 in a corner at least
        assert torch.equal(a.views["peer_1"][~blank], b.views["peer_1"][~blank])


def test_reflected_borders_are_torchvisions() -> None:
    image = natural(1, 8)
    expected = V.pad(to_pil(image), 4, padding_mode="reflect")
    made = bordered(image.permute(1, 2, 0)[None], 4, "reflect")
    assert torch.equal(made[0].permute(2, 0, 1), of_pil(expected))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"pad_mode": "mirror"}, "zeros or reflect"),
        ({"pad_mode": "reflect", "pad": 16}, "reflect 15 at most"),
        ({"rotate": 200}, "from 0 to 180"),
        ({"randaugment": 1.5}, "how many operations"),
        ({"cutout": 40}, "side of the square"),
    ],
)
def test_what_cannot_be_is_refused(changes, text) -> None:
    with pytest.raises(ValueError, match=text):
        data(**changes)


def test_randaugment_needs_grey_or_colour() -> None:
    with pytest.raises(ValueError, match="1 or 3 channels"):
        of(DataSpec("toy", 16, (0.5,) * 2, (1.0,) * 2, randaugment=2), 16, 2, (0.5, 0.5))


# ---- the strong view ----


def test_strong_views_are_a_function_of_seed_epoch_and_step_and_leave_the_rest_alone() -> None:
    small, state = tiny.tiny_data(), torch.get_rng_state()

    def views(seed: int, epoch: int, start: int = 0):
        return list(StrongSource(small.source(batch_size=8, seed=seed)).epoch(epoch, start))

    first, plain = views(1, 2), list(small.source(batch_size=8, seed=1).epoch(2))
    assert [len(b.labels) for b in first] == [8, 8, 6]
    for a, b in zip(first, plain, strict=True):
        assert torch.equal(a.inputs, b.inputs) and torch.equal(a.index, b.index)
        assert a.views["strong"].shape == a.inputs.shape
        assert a.views["strong"].is_contiguous(memory_format=torch.channels_last)
    for a, b in zip(first[1:], views(1, 2, start=1), strict=True):
        assert torch.equal(a.views["strong"], b.views["strong"])
    for other in (views(1, 3), views(2, 2)):
        assert not torch.equal(first[0].views["strong"], other[0].views["strong"])
    assert torch.equal(state, torch.get_rng_state())


def test_the_strong_view_is_crop_flip_two_operations_and_a_square() -> None:
    source = data().source(batch_size=22, seed=3)
    strong = StrongSource(source)
    batch = next(strong.epoch(1))
    generator = seeded(3, 1, 0x57)
    dy, dx = torch.randint(5, (22, 2), generator=generator).unbind(1)
    flips = torch.randint(2, (22, 1), generator=generator)
    crops = source.crops[batch.index, dy, dx]
    crops = torch.where(flips.bool()[:, :, None, None], crops.flip(2), crops)
    images = crops.permute(0, 3, 1, 2).contiguous()
    for _ in range(2):
        drawn = torch.randint(14, (22,), generator=generator)
        images = one_stage(images, drawn, torch.rand(22, generator=generator, dtype=torch.float64))
    boxes = square_up_to(0.5, 16)(22, generator)
    expected = pil.blanked(images.permute(0, 2, 3, 1), boxes, torch.tensor([125, 123, 114], dtype=torch.uint8))
    assert torch.equal(pixels(batch.views["strong"]), expected.permute(0, 3, 1, 2))


def test_strong_views_refuse_other_sources_odd_channels_and_images_that_are_changed_already() -> None:
    with pytest.raises(ValueError, match="method=dkd"):
        StrongSource(object())
    with pytest.raises(ValueError, match="2 channels"):
        StrongSource(tiny.tiny_data(in_chans=2).source(batch_size=8, seed=0))
    with pytest.raises(ValueError, match=r"dataset\.rotate"):
        StrongSource(data(rotate=15).source(batch_size=8, seed=0))
    grey = next(iter(StrongSource(tiny.tiny_data(in_chans=1).source(batch_size=8, seed=0)).epoch(1)))
    assert grey.views["strong"].shape == (8, 1, 16, 16)


# ---- batches by class ----


def by_class(per_class: int, batch_size: int = 8, seed: int = 3) -> ArraySource:
    return data().source(batch_size, seed=seed, per_class=per_class)


def test_batches_hold_distinct_classes_with_as_many_distinct_images_each() -> None:
    for per_class in (2, 3):
        source = by_class(per_class, batch_size=4 * per_class)
        for epoch in (1, 2):
            batches = list(source.epoch(epoch))
            assert len(batches) == source.steps == 22 // (4 * per_class)
            for batch in batches:
                groups = batch.labels.view(4, per_class)
                assert (groups == groups[:, :1]).all() and len(groups[:, 0].unique()) == 4
                assert all(len(row.unique()) == per_class for row in batch.index.view(4, per_class))
                assert torch.equal(batch.labels, source.split.labels[batch.index])


def test_batches_by_class_repeat_resume_and_differ() -> None:
    whole, tail, other = by_class(2).epoch(3), by_class(2).epoch(3, start=1), by_class(2, seed=4).epoch(3)
    first, *rest = list(whole)
    for a, b in zip(rest, tail, strict=True):
        assert torch.equal(a.inputs, b.inputs) and torch.equal(a.index, b.index)
    assert not torch.equal(first.index, next(other).index)


def test_classes_and_images_are_drawn_evenly() -> None:
    order = ClassBatches(torch.arange(40) % 8, 6, 2).order(8000, seeded(0))
    shares = order.bincount(minlength=40) / len(order)
    assert shares.double().sub(1 / 40).abs().max() < 0.0015
    pairs = order.view(-1, 2).sort(1).values
    kinds = torch.unique(pairs[pairs[:, 0] % 8 == 0], dim=0, return_counts=True)[1]
    assert len(kinds) == 10 and (kinds / kinds.sum() - 0.1).abs().max() < 0.02  # all pairs of five images


def test_an_image_that_comes_again_is_cropped_anew() -> None:
    source = data().source(8, seed=3, per_class=4)  # classes 0 to 3 have four images
    seen: dict[int, set[tuple[int, ...]]] = {}
    for epoch in range(1, 30):
        plan = source._plan(epoch)
        for image, draws in zip(plan.order.tolist(), plan.draws.tolist(), strict=True):
            seen.setdefault(image, set()).add(tuple(draws[:3]))
    assert all(len(each) > 10 for each in seen.values())


@pytest.mark.parametrize(("batch_size", "per_class"), [(9, 2), (14, 2), (10, 5)])
def test_batches_that_cannot_be_filled_are_refused(batch_size: int, per_class: int) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        by_class(per_class, batch_size)
