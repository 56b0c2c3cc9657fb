"""reviewkd: Distilling Knowledge via Knowledge Review."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from distill import config
from distill.engine.update import train_mode
from distill.methods.reviewkd import BatchNorm, Fusion, ReviewKD, hcl_loss
from tests import tiny
from tests.methods.given_later_features import B, batch, cell_means, made, rand, same_value_and_gradient


def slow_hcl(student: Tensor, target: Tensor) -> float:
    s, t = student.tolist(), target.tolist()
    side, maps = len(s[0][0]), [(a, b) for x, y in zip(s, t, strict=True) for a, b in zip(x, y, strict=True)]

    def mse(size: int) -> float:
        total = 0.0
        for a, b in maps:
            p, q = (cell_means(a, size), cell_means(b, size)) if size < side else (a, b)
            total += sum((p[r][c] - q[r][c]) ** 2 for r in range(len(p)) for c in range(len(p)))
        return total / (len(maps) * min(size, side) ** 2)

    value, share, norm = mse(side), 1.0, 1.0
    for size in (4, 2, 1):
        if size < side:
            share /= 2
            value, norm = value + share * mse(size), norm + share
    return value / norm


@pytest.mark.parametrize("side", [1, 2, 4, 6, 7, 8])
def test_hcl_loss(side: int) -> None:
    same_value_and_gradient(hcl_loss, slow_hcl, rand(2, 3, side, side), rand(2, 3, side, side, seed=1))


def test_reviewkd_fusion_equals_the_concatenation_of_the_paper() -> None:
    """Gates from the small map and repeated are those of the repeated map, concatenated."""
    torch.manual_seed(0)
    fusion = Fusion(3, 4, 5, deepest=False).double().eval()
    feature, deeper = rand(2, 3, 8, 8), rand(2, 4, 4, 4, seed=1)
    x, up = fusion.enter(feature), F.interpolate(deeper, size=(8, 8), mode="nearest")
    gate = fusion.gates(torch.cat([x, up], 1)).sigmoid()
    expected = x * gate[:, :1] + up * gate[:, 1:]
    out, kept_map = fusion(feature, deeper, (8, 8))
    torch.testing.assert_close(kept_map, expected)
    torch.testing.assert_close(out, fusion.leave(expected))
    assert fusion(feature, deeper, (16, 16))[0].shape == (2, 5, 16, 16)


def test_reviewkd_reads_shapes_from_the_nets_and_goes_from_deep_to_shallow() -> None:
    method = made(ReviewKD, "cifar_MobileNetV2", "cifar_vgg8", width=24)
    student, target = method.student(batch().inputs), method.teach(batch())
    levels = method.levels(student, preact=False)
    wanted = method.levels(target, preact=True)
    assert levels[-1].shape == (B, method.student.embedding_dim, 1, 1)
    assert torch.equal(wanted[0], target.preacts[0]) and (wanted[0] < 0).any(), (
        "teacher maps are before the ReLU"
    )
    levels = [level.detach().requires_grad_() for level in levels]
    reviewed = method.review(levels, [t.shape[2:] for t in wanted])
    assert [r.shape for r in reviewed] == [t.shape for t in wanted]
    assert {f.enter[0].out_channels for f in method.fusions} == {24}
    grad = torch.autograd.grad(reviewed[-1].sum(), levels, allow_unused=True, retain_graph=True)
    assert [g is not None for g in grad] == [False] * 4 + [True], "the deepest level sees nothing but itself"
    grad = torch.autograd.grad(reviewed[0].square().sum(), levels, allow_unused=True)
    assert all(g is not None for g in grad), "the shallowest reviews all"


@pytest.mark.parametrize(("first", "shares"), [(1, [1 / 20, 1 / 2, 1, 1]), (0, [0, 9 / 20, 19 / 20, 1])])
def test_reviewkd_warm_up_counts_epochs_from_one_or_from_zero(first: int, shares: list[float]) -> None:
    method = made(ReviewKD, warmup=20, first_epoch=first).eval()
    s, t = method.student(batch().inputs), method.teach(batch())
    values = []
    for method.epoch in (1, 10, 20, 35):
        values.append(method.distill(s, t, batch())["review"].item())
    assert [v / values[-1] for v in values] == pytest.approx(shares, rel=1e-5)


def test_reviewkd_asks_its_teacher_as_the_authors_loop_for_the_data_set_does() -> None:
    live, still = made(ReviewKD, teacher_mode="train"), made(ReviewKD)
    before = {name: value.clone() for name, value in live.teacher.state_dict().items()}
    seen, other = live.teach(batch()).embedding, still.teach(batch()).embedding
    assert not torch.allclose(seen, other)
    assert all(torch.equal(value, before[name]) for name, value in live.teacher.state_dict().items())
    live.teacher.train()
    with torch.no_grad():
        assert torch.equal(live.teacher(batch().inputs).embedding, seen)
    for words, mode in ((("dataset=cifar100",), "train"), (("dataset=imagenet", "pair=resnet34_resnet18"), "eval")):
        assert config.plain(tiny.composed(*words, "method=reviewkd"), "method.teacher_mode") == mode


def test_reviewkd_refuses_another_mode_and_another_first_epoch() -> None:
    with pytest.raises(ValueError, match="teacher_mode is 'live': it is one of train, eval"):
        made(ReviewKD, teacher_mode="live")
    with pytest.raises(ValueError, match="first_epoch is 2"):
        made(ReviewKD, first_epoch=2)


def test_reviewkd_takes_a_last_batch_of_one_image() -> None:
    norm = BatchNorm(4).train()
    assert torch.equal(
        norm(torch.ones(1, 4, 1, 1)), F.batch_norm(torch.ones(1, 4, 1, 1), torch.zeros(4), torch.ones(4))
    )
    method = made(ReviewKD)
    train_mode(method, method.phases()[0])
    assert math.isfinite(method.loss(batch(1))["review"].item())


def test_reviewkd_refuses_unequal_stages() -> None:
    with pytest.raises(ValueError, match=r"resnet8 has stages .*vgg8 .*method=semckd"):
        made(ReviewKD, teacher_name="cifar_vgg8")


@pytest.mark.parametrize(
    ("pair", "weight"), [("resnet56 resnet20", 0.6), ("resnet32x4 ShuffleV2", 8.0), ("vgg13 vgg8", 5.0)]
)
def test_reviewkd_weights_of_pairs(pair: str, weight: float) -> None:
    t, s = pair.split()
    cfg = tiny.composed("dataset=cifar100", "method=reviewkd", f"teacher={t}", f"student={s}")
    assert config.plain(cfg, "method.weight") == weight
