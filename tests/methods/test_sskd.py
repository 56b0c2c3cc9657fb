"""sskd: Knowledge Distillation Meets Self-Supervision."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from distill import config
from distill.batch import Batch
from distill.config import OptimizerSpec
from distill.data import ArraySource, Split
from distill.engine.optim import Stepper
from distill.engine.update import train_mode
from distill.methods import sskd
from distill.methods.sskd import SSKD, crop_similarities, kept, rotate, selected_kl
from tests import tiny
from tests.methods.given_later_features import B, batch, changed, info, made, rand, same_value_and_gradient, take_steps


def test_rotations_are_four_views_of_each_image_side_by_side() -> None:
    views = [torch.arange(2 * 1 * 3 * 3.0).view(2, 1, 3, 3) + 100 * k for k in range(4)]
    turned = rotate(views)
    for k, view in enumerate(views):
        one = view[1, 0].tolist()
        for _ in range(k):
            one = [[one[r][2 - c] for r in range(3)] for c in range(3)]  # a quarter turn, by hand
        assert turned[4 + k, 0].tolist() == one


def test_similarities_are_cosines_of_turned_with_upright() -> None:
    x = rand(8, 3)
    out = crop_similarities(x).tolist()
    rows = x.tolist()
    cosine = lambda a, b: sum(p * q for p, q in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)  # noqa: E731
    for i in range(6):
        for j in range(2):
            assert out[i][j] == pytest.approx(cosine(rows[4 * (i // 3) + 1 + i % 3], rows[4 * j]), rel=1e-9)


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.75, 1.0])
def test_kept_are_all_right_ones_and_the_least_wrong(ratio: float) -> None:
    scores, targets = rand(30, 5), torch.arange(30) % 5
    ranks = [
        sorted(row, reverse=True).index(row[y])
        for row, y in zip(scores.tolist(), targets.tolist(), strict=True)
    ]
    wrong = sum(rank > 0 for rank in ranks)
    order = sorted(range(30), key=lambda i: ranks[i])[: 30 - wrong + int(wrong * ratio)]
    assert kept(scores, targets, ratio).nonzero().flatten().tolist() == sorted(order)


def test_selected_kl() -> None:
    keep, temperature = torch.tensor([True, False, True]), 2.0

    def slow(student: Tensor, target: Tensor) -> float:
        total = 0.0
        for i in (0, 2):
            s, t = ([v / temperature for v in x[i].tolist()] for x in (student, target))
            ls, lt = (math.log(sum(math.exp(v) for v in x)) for x in (s, t))
            total += sum(math.exp(b - lt) * ((b - lt) - (a - ls)) for a, b in zip(s, t, strict=True))
        return total / 2 * temperature**2

    loss = lambda s, t: selected_kl(s, t, keep, temperature)  # noqa: E731
    same_value_and_gradient(loss, slow, rand(3, 4), rand(3, 4, seed=1))
    nothing = selected_kl(rand(2, 3), rand(2, 3), torch.tensor([False, False]), 1.0)
    assert nothing.item() == 0


def cropped_batch(seed: int = 0) -> Batch:
    one = batch(seed=seed)
    one.views = {f"crop_{k}": one.inputs.roll(k, dims=3) for k in (1, 2, 3)}
    return one


def test_sskd_labels_are_learnt_from_upright_images_alone() -> None:
    method = made(SSKD).eval()
    one = cropped_batch()
    losses = method.loss(one)
    logits = method.student(one.inputs).logits
    assert losses["ce"].item() == pytest.approx(0.1 * F.cross_entropy(logits, one.labels).item(), rel=1e-4)
    torch.testing.assert_close(method.counted[0], logits.detach(), rtol=1e-4, atol=1e-5)
    turned = torch.cat([torch.rot90(one.views[f"crop_{k}"], k, (2, 3)) for k in (1, 2, 3)])
    with torch.no_grad():
        s, t = method.student(turned).logits, method.teacher(turned).logits
    expected = 2.7 * 16 * F.kl_div((s / 4).log_softmax(1), (t / 4).softmax(1), reduction="batchmean").item()
    assert losses["turned"].item() == pytest.approx(expected, rel=1e-3), "ratio 1 keeps all"
    assert set(losses) == {"ce", "kd", "turned", "similar"}


def test_sskd_phases_train_the_teachers_head_and_then_the_student() -> None:
    method = made(SSKD, init_epochs=60)
    head, distill = method.phases()
    assert head.epochs == 60 and head.schedule == {"lr": 0.05, "milestones": [30, 45]} and not head.evaluates
    first = {n.split(".")[0] for n in changed(method, lambda: take_steps(method, 0, make=cropped_batch))}
    second = {n.split(".")[0] for n in changed(method, lambda: take_steps(method, 1, make=cropped_batch))}
    assert first == {"teacher_head"} and second == {"student", "student_head"}
    assert len(made(SSKD, init_epochs=0).phases()) == 1
    assert made(SSKD, init_epochs=30, head_milestones=[10, 20]).phases()[0].schedule["milestones"] == [10, 20]


@pytest.mark.parametrize("number", [0, 1])
def test_sskd_flips_each_image_once_and_crops_each_of_its_four_views(number: int) -> None:
    """The law that the authors' data set was measured to have (tests/reference/views.json): of 3000 images half are
    flipped, all four views of one alike, and their crops are drawn one by one."""
    size, pad, count = 8, 4, 3000
    places = torch.arange(size * size * 2, dtype=torch.uint8).view(size, size, 2) + 1  # no pixel is like another
    labels = torch.arange(count) % 6
    data = dataclasses.replace(info(), labels=labels, num_train=count, size=size, in_chans=2, mean=(0, 0), std=(1, 1))
    split = Split(places.expand(count, -1, -1, -1), labels)
    phase = made(SSKD, init_epochs=1).phases()[number]
    source = phase.source(ArraySource(split, data, batch_size=1000, seed=1, pad=pad))
    flipped, crops = [], []
    for one in source.epoch(1):
        views = [one.inputs, *(one.views[f"crop_{k}"] for k in (1, 2, 3))]
        found = [where(view, places, pad) for view in views]
        assert all(torch.equal(flip, found[0][0]) for flip, _ in found)
        flipped.append(found[0][0])
        crops.append(torch.stack([offset for _, offset in found]))
    offsets = torch.cat(crops, dim=1)  # [4,N,2]
    assert torch.cat(flipped).double().mean().item() == pytest.approx(0.5, abs=0.03)
    assert (offsets[0] == offsets[1]).all(1).double().mean() < 0.03  # 1 in 81
    assert (offsets == offsets[0]).all(2).all(0).double().mean() < 0.002
    assert offsets.double().std().item() == pytest.approx(2.58, abs=0.05)


def where(view: Tensor, places: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    """Of crops [B,2,S,S] of one image, whether each is flipped [B] and where it was cut [B,2]."""
    split = Split(places[None], torch.zeros(1, dtype=torch.long))
    data = dataclasses.replace(info(), size=len(places), mean=(0, 0), std=(1, 1))
    source = ArraySource(split, data, batch_size=1, seed=0, pad=pad)
    every = source.crops[0].flatten(0, 1)  # [81,S,S,2]
    pixels = (view * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    matches = [(pixels[:, None] == crops).flatten(2).all(2) for crops in (every, every.flip(2))]
    index = (matches[0] | matches[1]).long().argmax(1)
    assert (matches[0] ^ matches[1]).any(1).all()
    return matches[1].any(1), torch.stack([index // (2 * pad + 1), index % (2 * pad + 1)], dim=1)


def test_sskd_head_learns_which_image_was_turned() -> None:
    method = made(SSKD)
    one, phase = cropped_batch(), method.phases()[0]
    train_mode(method, phase)
    views = [one.inputs, *one.views.values()]
    expected = F.cross_entropy(
        crop_similarities(method.teacher_head(method.teacher(rotate(views)).embedding)),
        torch.arange(B).repeat_interleave(3),
    )
    assert method.head_loss(one)["head"].item() == pytest.approx(expected.item(), rel=1e-5)
    stepper = Stepper(phase.updates[0].trains, OptimizerSpec(lr=0.05, optimizer={"name": "sgd", "momentum": 0.9}))
    for _ in range(10):
        stepper.step(method.head_loss(one))
    assert method.head_loss(one)["head"] < expected
    assert sskd.positives(2, torch.device("cpu")).tolist() == [0, 0, 0, 1, 1, 1]


def test_sskd_takes_the_papers_epochs_on_cifar100() -> None:
    cfg = tiny.composed("dataset=cifar100", "method=sskd")
    assert config.plain(cfg, "method.init_epochs") == 60
    assert config.plain(tiny.composed("method=sskd"), "method.init_epochs") == 1
