"""ofa-kd: One-for-All."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.batch import Batch, Mixed
from distill.methods.ofa_kd import OFAKD, TokenExit, ofa_loss
from tests import tiny
from tests.methods.given_later_features import (
    B,
    K,
    batch,
    changed,
    info,
    made,
    net,
    rand,
    same_value_and_gradient,
    take_steps,
    teacher,
)


@pytest.mark.parametrize("eps", [1.0, 1.5])
def test_ofa_loss(eps: float) -> None:
    labels, temperature = torch.tensor([1, 0, 3]), 2.0

    def slow(student: Tensor, target: Tensor) -> float:
        total = 0.0
        for z, t, y in zip(student.tolist(), target.tolist(), labels.tolist(), strict=True):
            zs, ts = sum(math.exp(v / temperature) for v in z), sum(math.exp(v / temperature) for v in t)
            for c in range(4):
                p, label = math.exp(t[c] / temperature) / ts, float(c == y)
                total -= ((p + label) ** eps - label) * (z[c] / temperature - math.log(zs))
        return total / 3

    loss = lambda s, t: ofa_loss(s, t, labels, eps, temperature)  # noqa: E731
    same_value_and_gradient(loss, slow, rand(3, 4), rand(3, 4, seed=1))


def test_ofa_eps_one_is_cross_entropy_with_the_teacher_and_sure_students_stay_finite() -> None:
    z, t, y = rand(5, K), rand(5, K, seed=1), torch.arange(5)
    assert ofa_loss(z, t, y, 1.0).item() == pytest.approx(F.cross_entropy(z, t.softmax(1)).item())
    sure = torch.tensor([[0.0, 2000.0]], requires_grad=True)
    loss = ofa_loss(sure, torch.zeros(1, 2), torch.tensor([0]), 1.5)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(sure.grad).all()


def test_ofa_enhances_the_label_with_the_larger_share_of_a_mixed_image() -> None:
    """As the authors' code takes the largest of its targets, in the recipe with MixUp and CutMix too."""
    method = tiny.seeded_method("ofa-kd", tiny.tiny_data(), tiny.SMALLEST, "method.eps=1.5")
    labels = torch.arange(4)
    plain = Batch(torch.zeros(4, 3, 16, 16), labels, labels)
    shares = 0.7 * F.one_hot(labels, tiny.CLASSES) + 0.3 * F.one_hot(labels.roll(1), tiny.CLASSES)
    mixed = replace(plain, targets=Mixed(shares, labels.roll(1), torch.tensor(0.7)))
    logits, teacher_logits = rand(4, tiny.CLASSES), rand(4, tiny.CLASSES, seed=1)
    expected = ofa_loss(logits, teacher_logits, mixed.truth.argmax(1), 1.5)
    assert method.enhanced(logits, teacher_logits, mixed).item() == pytest.approx(expected.item())


def test_ofa_exits_follow_the_students_stages() -> None:
    method = made(OFAKD, eps=1.3, stages=[1, 3])
    halvings = [
        sum(m.stride == (2, 2) for m in e.modules() if isinstance(m, nn.Conv2d)) for e in method.exits
    ]
    assert halvings == [2, 0], "one halving for each stage that follows"
    s = method.student(batch().inputs)
    assert [leave(s.features[n - 1]).shape for leave, n in zip(method.exits, (1, 3), strict=True)] == [
        (B, K)
    ] * 2
    losses = method.loss(batch())
    assert set(losses) == {"ce", "kd", "exits"}
    with pytest.raises(ValueError, match="stage 4 of cifar_resnet8 does not exist"):
        made(OFAKD, stages=[4])


def test_ofa_token_exits_merge_down_to_the_grid() -> None:
    """14x14 patches go to 7x7 by one merging, as at 224 px; the grid of smaller images is an option."""
    exit_ = TokenExit((16, 14, 14), 24, 2, 7, K)
    assert (
        len(exit_.merge) == 1 and len(exit_.blocks) == 2 and exit_(torch.randn(2, 16, 14, 14)).shape == (2, K)
    )
    assert len(TokenExit((16, 15, 15), 16, 1, 7, K).merge) == 0
    assert len(TokenExit((16, 8, 8), 16, 1, 2, K).merge) == 2
    vit = dict(patch_size=4, embed_dim=32, depth=4, num_heads=2)
    method = tiny.by_hand(OFAKD, net("vit_tiny_patch16_224", 1, **vit), [teacher()], info())
    assert [len(e.blocks) for e in method.exits] == [3, 2, 1, 1]
    names = {n.split(".")[0] for n in changed(method, lambda: take_steps(method, 0))}
    assert names == {"student", "exits"}


def test_ofa_exits_of_a_class_token_read_it_behind_the_blocks() -> None:
    vit = dict(patch_size=4, embed_dim=32, depth=4, num_heads=2)
    method = tiny.by_hand(OFAKD, net("vit_tiny_patch16_224", 1, **vit), [teacher()], info()).eval()
    out, leave = method.student(batch().inputs), method.exits[1]
    assert out.prefixes is not None and out.prefixes[1].shape == (B, 1, 32)
    patches = leave.merge(out.features[1]).flatten(2).mT
    tokens = leave.blocks(torch.cat([out.prefixes[1], patches], 1))
    torch.testing.assert_close(method.leave(out)[1], leave.classify(tokens[:, 0]))


def test_ofa_students_of_shifted_windows_leave_through_token_exits() -> None:
    swin = net("swin_tiny_patch4_window7_224", 1, embed_dim=16, depths=(1, 1), num_heads=(1, 2), window_size=2)
    method = tiny.by_hand(OFAKD, swin, [teacher()], info(), grid=2)
    assert all(isinstance(leave, TokenExit) for leave in method.exits)
    assert [leave.classify.in_features for leave in method.exits] == [32, 32]
    assert [tuple(logits.shape) for logits in method.leave(swin(batch().inputs))] == [(B, K)] * 2


def test_ofa_has_four_exits_of_mobilenetv2_the_last_behind_its_convolution() -> None:
    method = tiny.by_hand(OFAKD, tiny.net("mobilenetv2_100"), [teacher()], info()).eval()
    assert [method.student.channels[number - 1] for number in method.stages] == [24, 32, 96, 320]
    last, out = method.exits[-1], method.student(batch().inputs)
    assert last[0].in_channels == 1280 == out.embedding.shape[1]
    final = method.student.model.forward_features(batch().inputs)
    torch.testing.assert_close(method.leave(out)[-1], last(final), rtol=1e-4, atol=1e-5)
