"""SDD: regions of the last map, the three losses of a region in loops, and the emphasis on what is complementary."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from distill.methods import sdd
from distill.methods.crld import soft_losses
from distill.methods.dkd import target_loss
from tests import tiny
from tests.methods.arithmetic import kl, softmax
from tests.methods.given_response import agrees

T, R, K = 2.5, 3, 4
G = torch.Generator().manual_seed(2)
STUDENT, TEACHER = (2 * torch.randn(5, R, K, generator=G, dtype=torch.float64) for _ in range(2))
LABELS = torch.tensor([0, 3, 2, 2, 1])


def soft(s: np.ndarray, t: np.ndarray, y: int) -> float:
    return float(T**2 * kl(softmax(t, T), softmax(s, T)))


def decoupled(s: np.ndarray, t: np.ndarray, y: int) -> float:
    def binary(z: np.ndarray) -> np.ndarray:
        p = softmax(z, T)
        return np.array([p[y], 1 - p[y]])

    others = kl(softmax(np.delete(t, y), T), softmax(np.delete(s, y), T))
    return float(T**2 * (1.5 * kl(binary(t), binary(s)) + 8 * others))


def normalised(s: np.ndarray, t: np.ndarray, y: int) -> float:
    spread = (softmax(t, T) * np.log(softmax(s, T))).sum()
    return float(-softmax(t)[y] * np.log(softmax(s)[y]) - 0.5 * T**2 * spread)


LOSSES: dict[str, tuple[sdd.RowLoss, Callable[[np.ndarray, np.ndarray, int], float]]] = {
    "kd": (lambda s, t, y: soft_losses(s, t, T), soft),
    "dkd": (lambda s, t, y: sdd.decoupled_losses(s, t, y, 1.5, 8.0, T), decoupled),
    "nkd": (lambda s, t, y: sdd.normalised_losses(s, t, y, 0.5, T), normalised),
}


@pytest.mark.parametrize("base", LOSSES)
def test_loss_is_the_mean_over_regions_with_what_contradicts_the_whole_map_counted_twice(base: str) -> None:
    ours, by_hand = LOSSES[base]
    contradicting = 0

    def slow(student: list) -> float:  # type: ignore[type-arg]
        nonlocal contradicting
        total = contradicting = 0
        for s, t, y in zip(np.array(student), TEACHER.numpy(), LABELS.tolist(), strict=True):
            for region in range(R):
                differs = (t[region].argmax() == y) != (t[0].argmax() == y)
                contradicting += differs
                total += (2 if differs else 1) * by_hand(s[region], t[region], y)
        return total / (len(LABELS) * R)

    agrees(lambda s: sdd.scale_decoupled_loss(s, TEACHER, LABELS, ours, 2.0), slow, STUDENT)
    assert 0 < contradicting < len(LABELS) * (R - 1)


def test_decoupled_rows_are_those_of_dkd() -> None:
    rows = sdd.decoupled_losses(STUDENT[:, 0], TEACHER[:, 0], LABELS, 1.0, 0.0, T)
    assert rows.mean().item() == pytest.approx(target_loss(STUDENT[:, 0], TEACHER[:, 0], LABELS, T).item(), rel=1e-9)


@pytest.mark.parametrize("name", ["cifar_resnet8", "cifar_MobileNetV2", "convnext_atto"])
def test_regions_are_the_cells_of_the_map_that_the_head_pools(name: str) -> None:
    """The whole map's logits are the net's own, also behind a head of convolutions or of a norm."""
    size = 64 if name == "convnext_atto" else 32
    net = tiny.build(name, tiny.CLASSES, size=size, seed=1)
    net.eval()
    with torch.no_grad():
        outputs = net(torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)))
        assert outputs.final is not None
        logits = sdd.region_logits(net, outputs.final, (1, 2))
        half = outputs.final[:, :, : outputs.final.shape[2] // 2, : outputs.final.shape[3] // 2]
        corner = net.head(half)
    torch.testing.assert_close(logits[:, 0], outputs.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits[:, 1], corner, rtol=1e-4, atol=1e-5)


def test_cells_of_two_a_side_are_means_of_sixteen() -> None:
    """Of 7 positions the sixteen have 0 and 1, 1 to 3, 3 to 5, 5 and 6 a side."""
    net = tiny.build("cifar_resnet8", tiny.CLASSES, size=32, seed=1).eval()
    line = np.array([[1, 1, 0, 0, 0, 0, 0], [0, 1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 1, 1]])
    shares = torch.from_numpy(line / line.sum(axis=1, keepdims=True)).float().view(2, 2, 7).mean(dim=1)
    maps = torch.randn(2, net.embedding_dim, 7, 7, generator=G)
    cells = torch.einsum("iy,jx,bcyx->bcij", shares, shares, maps)
    with torch.no_grad():
        logits = sdd.region_logits(net, maps, (1, 2))
        torch.testing.assert_close(logits[:, 4], net.head(cells[:, :, 1:, 1:]), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(logits[:, 0], net.head(cells), rtol=1e-4, atol=1e-5)


def test_soft_targets_have_no_warm_up_and_the_others_have() -> None:
    shares: dict[str, Tensor] = {}
    for base in ("kd", "dkd"):
        method = tiny.seeded_method("sdd", tiny.tiny_data(), tiny.SMALLEST, f"method.base={base}")
        batch = next(iter(tiny.tiny_data().source(8, seed=1).epoch(1)))
        losses = []
        for method.epoch in (5, 20):
            with torch.no_grad():
                losses.append(method.loss(batch)["regions"])
        shares[base] = losses[0] / losses[1]
    assert shares["kd"].item() == pytest.approx(1.0, rel=1e-5)
    assert shares["dkd"].item() == pytest.approx(0.25, rel=1e-5)


def test_a_net_whose_classifier_reads_no_map_is_refused() -> None:
    with pytest.raises(ValueError, match="classifies regions of the last map"):
        sdd.check_regions(tiny.build("test_vit", tiny.CLASSES, size=160, seed=1))
