"""kd-proj: VkD."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from distill.methods import kd_proj
from distill.methods.kd_proj import KDProj
from tests import tiny
from tests.methods.given_later_features import (
    batch,
    info,
    made,
    net,
    rand,
    same_value_and_gradient,
    slow_mse,
    take_steps,
    teacher,
)


def test_kd_proj_distances() -> None:
    def smooth(a: Tensor, b: Tensor) -> float:
        gaps = [abs(p - q) for p, q in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)]
        return sum(g * g / 2 if g < 1 else g - 0.5 for g in gaps) / len(gaps)

    def logsum(a: Tensor, b: Tensor) -> float:
        return math.log(
            sum(abs(p - q) ** 4 for p, q in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True))
        )

    for kind, slow in (("smooth_l1", smooth), ("logsum", logsum), ("mse", slow_mse)):
        loss = lambda s, t, kind=kind: kd_proj.distance(s, t, kind)  # noqa: E731
        same_value_and_gradient(loss, slow, rand(3, 4), rand(3, 4, seed=1))
    assert math.isfinite(kd_proj.distance(torch.ones(2, 2), torch.ones(2, 2), "logsum").item())


def test_kd_proj_normalisations() -> None:
    x = rand(40, 5) * 3 + 1
    for how, axis, eps in (("batch", 0, 1e-4), ("standard", 1, 1e-5)):
        out = kd_proj.normalise(x, how).tolist()
        rows = x.tolist() if axis else x.T.tolist()
        for i, row in enumerate(rows[:4]):
            mean = sum(row) / len(row)
            deviation = math.sqrt(sum((v - mean) ** 2 for v in row) / len(row) + eps)
            for j in (0, 3):
                got = out[i][j] if axis else out[j][i]
                assert got == pytest.approx((row[j] - mean) / deviation, rel=1e-9)
    white = kd_proj.normalise(x, "whiten")
    torch.testing.assert_close(white.T @ white / 40, torch.eye(5, dtype=torch.float64), rtol=0, atol=0.01)
    few = kd_proj.normalise(rand(3, 8), "whiten")
    assert torch.isfinite(few).all(), "fewer samples than features"
    maps = rand(2, 3, 2, 2)
    flat = kd_proj.normalise(maps.permute(0, 2, 3, 1).reshape(8, 3), "batch")
    torch.testing.assert_close(kd_proj.normalise(maps, "batch").permute(0, 2, 3, 1).reshape(8, 3), flat)
    assert torch.equal(kd_proj.normalise(rand(1, 4), "batch"), torch.zeros(1, 4, dtype=torch.float64)), (
        "a batch of one"
    )


@pytest.mark.parametrize("pair", [("cifar_resnet8", "cifar_wrn_16_2"), ("cifar_wrn_16_2", "cifar_resnet8")])
def test_vkd_stays_orthogonal_while_it_is_trained(pair: tuple[str, str]) -> None:
    method = made(KDProj, *pair)
    before = method.project.matrix().detach()
    take_steps(method, 0, steps=3)
    weight = method.project.matrix().detach()
    product = weight.T @ weight if weight.shape[0] > weight.shape[1] else weight @ weight.T
    torch.testing.assert_close(product, torch.eye(len(product)), rtol=0, atol=1e-5)
    assert weight.shape == (method.teacher.embedding_dim, method.student.embedding_dim)
    assert (weight - before).abs().max() > 1e-4
    x = rand(4, weight.shape[1]).float()
    with torch.autocast("cpu", torch.bfloat16):
        out = method.projected(x)
    torch.testing.assert_close(out, x @ weight.T, rtol=1e-4, atol=1e-5)


def test_vkd_cayley_transform_by_its_definition() -> None:
    """(I + A/2)^-1 (I - A/2) B with A = M B^T - B M^T in full, for a matrix far from its base."""
    torch.manual_seed(0)
    linear = kd_proj.OrthogonalLinear(3, 7)
    linear.move.data.normal_()
    m, b = linear.move.double(), linear.base.double()
    a, one = m @ b.T - b @ m.T, torch.eye(7, dtype=torch.float64)
    expected = torch.linalg.inv(one + a / 2) @ (one - a / 2) @ b
    torch.testing.assert_close(linear.matrix().double(), expected, rtol=1e-4, atol=1e-5)
    maps = tiny.by_hand(KDProj, net(), [teacher()], info(), tap="map")
    x = rand(2, 64, 4, 4).float()
    torch.testing.assert_close(maps.projected(x)[1, :, 2, 3], maps.project.matrix() @ x[1, :, 2, 3])


def test_kd_proj_refuses_other_choices() -> None:
    with pytest.raises(ValueError, match="one of smooth_l1, mse, logsum"):
        made(KDProj, distance="l2")


def test_vkd_taps_the_patch_tokens_and_parts_labels_from_the_teacher_where_there_are_two_heads() -> None:
    student = net("deit_tiny_distilled_patch16_224", patch_size=4, embed_dim=32, depth=2, num_heads=2)
    method = tiny.by_hand(KDProj, student, [teacher()], info()).eval()
    out, labels = method.student(batch().inputs), batch().labels
    assert out.tokens is not None and out.heads is not None
    model = method.student.model
    tokens = model.forward_features(batch().inputs)[:, 2:]
    torch.testing.assert_close(method.tapped(out), tokens.mean(1))
    losses, taught = method.loss(batch()), method.teach(batch())
    whole = model.forward_features(batch().inputs)
    first, second = model.head(whole[:, 0]), model.head_dist(whole[:, 1])
    torch.testing.assert_close(out.logits, (first + second) / 2)
    assert losses["ce"].item() == pytest.approx(nn.functional.cross_entropy(first, labels).item(), rel=1e-5)
    assert losses["kd"].item() == pytest.approx(method.soft_targets(second, taught.logits).item(), rel=1e-5)


def test_srd_is_the_log_of_the_sum_over_batch_normalised_sides() -> None:
    method = tiny.make("srd", net(), teacher(), tiny.tiny_data())
    s, t = method.student(batch().inputs), method.teach(batch())
    z = method.project(s.embedding)
    sides = [(x - x.mean(0)) / (x.var(0, correction=0) + 1e-4).sqrt() for x in (z, t.embedding)]
    expected = 2 * math.log((sides[0] - sides[1]).double().pow(4).sum().item())
    assert method.distill(s, t, batch())["proj"].item() == pytest.approx(expected, rel=1e-5)
