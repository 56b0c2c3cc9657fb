"""CutMix, random erasing, repeated augmentation and timm's transforms, beside timm's own, and resumed."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from timm.data import create_transform
from timm.data.mixup import rand_bbox
from timm.data.random_erasing import RandomErasing

from distill.batch import Batch
from distill.config import load_node
from distill.config.rules import AUTO_AUGMENT
from distill.data import erasing, load_data
from distill.data.arrays import seeded
from distill.data.mixup import cutmix_box, mix
from distill.data.timm_transforms import TimmTransforms, posterized, transformed_by_seed
from tests.data.test_data import folder_config, same, toy, write_folder

RECIPE = {"mixup": 0.8, "cutmix": 1.0, "erasing": 0.5, "repeats": 3}


def numbered(count: int = 6) -> Batch:
    """Images that are their own number everywhere, and a view of half the size."""
    images = torch.arange(float(count))[:, None, None, None]
    views = {"teacher": images.expand(count, 3, 8, 8).clone()}
    return Batch(images.expand(count, 3, 16, 16).clone(), torch.arange(count), torch.arange(count), views)


@pytest.mark.parametrize("share", [0.1, 0.37, 0.5, 0.93])
def test_the_box_of_cutmix_is_timms(share: float) -> None:
    for seed in range(10):
        np.random.seed(seed)
        assert cutmix_box(32, 40, share, np.random.RandomState(seed)) == tuple(map(int, rand_bbox((3, 32, 40), share)))


def test_labels_of_cutmix_have_the_share_of_their_pixels() -> None:
    greater = set()
    for seed in range(8):
        plain = numbered()
        made = mix(numbered(), 0.0, 6, seeded(seed), cutmix=1.0)
        assert made.targets is not None and float(made.targets.share) >= 0.5
        for row, target in zip(made.inputs, made.targets.probabilities, strict=True):
            assert torch.allclose(torch.tensor([(row[0] == k).float().mean() for k in range(6)]), target, atol=1e-6)
        assert torch.equal(made.targets.probabilities.argmax(1)[made.labels != made.targets.others],
                           made.labels[made.labels != made.targets.others])  # fmt: skip
        assert torch.equal(made.labels, made.index)
        greater.add(torch.equal(made.labels, plain.labels))
        smaller = made.views["teacher"][:, 0].flatten(1)
        assert all(set(view.tolist()) <= set(row[0].flatten().tolist())
                   for view, row in zip(smaller, made.inputs, strict=True))  # fmt: skip
    assert greater == {True, False}


def test_mixup_and_cutmix_take_turns() -> None:
    batches = [mix(numbered(), 0.8, 6, seeded(seed), cutmix=1.0).inputs for seed in range(40)]
    cut = sum(bool((batch == batch.round()).all()) for batch in batches)
    assert 10 <= cut <= 30


def test_boxes_that_are_erased_are_timms() -> None:
    for seed in range(12):
        random.seed(seed)
        image = torch.zeros(3, 32, 40)
        RandomErasing(0.7, mode="pixel", device="cpu")(image)
        rows, columns = (image[0].any(axis).nonzero().flatten().tolist() for axis in (1, 0))
        found = (rows[0], columns[0], len(rows), len(columns)) if rows else None
        assert found == erasing.erased_box(0.7, 32, 40, random.Random(seed))


def test_teacher_and_student_lose_the_same_pixels() -> None:
    batch = numbered()
    batch.views["teacher"] = batch.inputs.clone()
    erasing.erase(batch, 1.0, seeded(4))
    assert torch.equal(batch.inputs, batch.views["teacher"])
    share = (batch.inputs != numbered().inputs).float().mean((1, 2, 3))
    assert share.min() >= 0.01 and share.max() <= 0.36


@pytest.mark.parametrize("options", [{}, {"augment": None, "crops": 2}])
def test_an_epoch_that_goes_on_in_its_middle_is_the_same(options: dict) -> None:
    whole, rest = list(toy(**RECIPE, **options).epoch(2)), list(toy(**RECIPE, **options).epoch(2, start=2))
    assert torch.equal(whole[2].inputs, rest[0].inputs) and len(rest) == 2
    assert torch.equal(whole[2].targets.probabilities, rest[0].targets.probabilities)
    assert whole[2].crop is None if hasattr(whole[2], "crop") else True


def test_repeated_images_follow_each_other_in_other_views() -> None:
    batches = list(toy(repeats=3, pad=4).epoch(1))
    index = torch.cat([batch.index for batch in batches])
    assert len(index) == 50 and index[:48].view(16, 3).unique(dim=1).shape == (16, 1) and len(index.unique()) == 17
    images = batches[0].inputs
    assert not torch.equal(images[0], images[1]) or not torch.equal(images[0], images[2])


def test_repeats_do_not_go_with_batches_of_chosen_images() -> None:
    with pytest.raises(ValueError, match=r"schedule\.repeats=2: batches are drawn with replacement"):
        toy(repeats=2, drawn=3)


def test_none_of_it_changes_batches_that_ask_for_nothing() -> None:
    nothing = toy(cutmix=0.0, erasing=0.0, repeats=1)
    assert all(same(*pair) for pair in zip(toy().epoch(1), nothing.epoch(1), strict=True))


def test_images_of_a_folder_are_seen_by_timms_transform(tmp_path) -> None:
    keys = {"auto_augment": "rand-m9-mstd0.5-inc1", "interpolation": "bicubic", "erasing": 0.25}
    data = load_data(folder_config(write_folder(tmp_path), **keys))
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    source = data.source(5, seed=1, erasing=0.0)
    batches = list(source.epoch(1))
    assert random.getstate() == state[0] and np.random.get_state()[1].tolist() == state[1]
    assert torch.equal(torch.get_rng_state(), state[2])
    assert torch.equal(list(source.epoch(1, start=1))[1].inputs, batches[2].inputs)

    position, seed = source._plan(1)[0][3]
    random.seed(seed), np.random.seed(seed % 2**32), torch.manual_seed(seed)
    theirs = create_transform(14, is_training=True, auto_augment=keys["auto_augment"], interpolation="bicubic",
                              mean=data.info.mean, std=data.info.std)  # fmt: skip
    image = Image.open(data.train.paths[position])
    assert torch.allclose(theirs(image), batches[0].inputs[3], atol=1e-5)
    assert not torch.equal(next(data.source(5, seed=1).epoch(1)).inputs, batches[0].inputs)  # which erases


def test_images_are_evaluated_by_the_same_filter(tmp_path) -> None:
    write_folder(tmp_path)
    image = Image.open(tmp_path / "val" / "cat" / "2.png")
    data = load_data(folder_config(tmp_path, interpolation="bicubic"))
    theirs = create_transform(14, interpolation="bicubic", crop_pct=14 / 16, mean=data.info.mean, std=data.info.std)
    assert torch.allclose(next(data.evaluation(5))[0][2], theirs(image), atol=1e-5)


@pytest.mark.parametrize(("changes", "text"), [
    ({"in_chans": 1, "mean": [0.5], "std": [0.2]}, "for colour images"),
    ({"resize": 20}, "random resized crops"),
    ({"color_jitter": 0.4}, "no effect beside"),
])  # fmt: skip
def test_what_timms_transform_cannot_do_is_refused(tmp_path, changes, text) -> None:
    with pytest.raises(ValueError, match=text):
        load_data(folder_config(write_folder(tmp_path), auto_augment="v0", **changes))


@pytest.mark.parametrize(("word", "fine"), [
    ("rand-m9-mstd0.5-inc1", True), ("rand-m15-n2", True), ("original-mstd0.5", True), ("3a", True), ("v0r", True),
    ("rand-m9-x2", False), ("randm9", False), ("auto", False), ("rand-inc", False), (3, False), ("augmix-m3", False),
])  # fmt: skip
def test_words_that_timm_would_skip_or_fail_at_are_no_policies(word, fine) -> None:
    assert AUTO_AUGMENT[0](word) is fine


def test_every_data_set_says_what_it_can_be_asked_for() -> None:
    for name in ("digits", "cifar100", "folder", "imagenet"):
        node = load_node("dataset", name)
        assert "erasing" in node and ("auto_augment" in node) == (name in ("folder", "imagenet"))


def test_policies_may_keep_no_bit_which_pillow_refuses() -> None:
    image = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    assert all(posterized(image, bits) == ImageOps.posterize(image, bits) for bits in range(1, 9))
    assert not np.array(posterized(image, 0)).any()
    transform = TimmTransforms(auto_augment="rand-m10-inc1-n8").transform(8, True)
    for seed in range(20):
        transformed_by_seed(seed, transform, image)
