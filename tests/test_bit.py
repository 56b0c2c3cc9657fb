"""BiT: the HyperRule's table, its schedule to the step, MixUp, and its nets with standardised weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from distill import config
from distill.bit import hyperrule, resolve
from distill.data.pairs import Partners
from distill.data.strong import StrongSource
from distill.method import Batch, refuse
from distill.methods.crd import CRD
from distill.models import build
from distill.optim import learning_rate
from distill.run import run
from tests import tiny

TABLE = [  # the authors' code: training images, pixels -> steps, resize, crop, MixUp
    (1_000, 32, (100, 200, 300, 400, 500), 160, 128, 0.0),
    (19_999, 95, (100, 200, 300, 400, 500), 160, 128, 0.0),
    (20_000, 96, (500, 3_000, 6_000, 9_000, 10_000), 512, 480, 0.1),
    (50_000, 32, (500, 3_000, 6_000, 9_000, 10_000), 160, 128, 0.1),
    (499_999, 224, (500, 3_000, 6_000, 9_000, 10_000), 512, 480, 0.1),
    (500_000, 224, (500, 6_000, 12_000, 18_000, 20_000), 512, 480, 0.1),
    (1_281_167, 224, (500, 6_000, 12_000, 18_000, 20_000), 512, 480, 0.1),
]


@pytest.mark.parametrize(("images", "side", "steps", "resize", "crop", "mixup"), TABLE)
def test_the_table(
    images: int, side: int, steps: tuple[int, ...], resize: int, crop: int, mixup: float
) -> None:
    assert hyperrule(images, side, side) == (steps, resize, crop, mixup)


@pytest.mark.parametrize("images", [1_437, 50_000])
def test_the_schedule_falls_at_the_rules_steps(images: int) -> None:
    schedule = resolve(
        config.plain(tiny.composed("schedule=bit", "schedule.batch_size=512"), "schedule"), images, 128
    )
    epoch = -(-images // 512)
    warm, *falls, end = hyperrule(images, 128, 128).steps
    assert (schedule["epochs"] - 1) * epoch < end <= schedule["epochs"] * epoch

    def rate(step: int) -> float:
        return learning_rate(schedule, step, epoch, schedule["epochs"])

    assert rate(0) == pytest.approx(0.003 / warm) and rate(warm - 1) == pytest.approx(0.003) == rate(warm)
    for k, fall in enumerate(falls):
        assert rate(fall - 1) == pytest.approx(0.003 / 10**k) and rate(fall) == pytest.approx(
            0.003 / 10 ** (k + 1)
        )
    assert schedule["mixup"] == (0.1 if images >= 20_000 else 0.0)
    assert resolve({**schedule, "rule": "bit", "mixup": 0.3}, images, 128)["mixup"] == 0.3


def test_other_schedules_stay_and_other_rules_are_refused() -> None:
    plain = config.plain(tiny.composed(), "schedule")
    assert resolve(plain, 100, 32) is plain
    with pytest.raises(ValueError, match="the only rule is bit"):
        resolve({**plain, "rule": "bot"}, 100, 32)
    for step in (0, 11, 12, 13, 200):
        assert learning_rate({"lr": 1.0, "milestones": [4], "gamma": 0.1}, step, 3, 10) == (
            1.0 if step < 12 else 0.1
        )


def test_mixup_mixes_images_views_and_labels_alike() -> None:
    data = tiny.tiny_data()
    plain = list(data.source(batch_size=8, seed=1).epoch(2))
    mixed = list(data.source(batch_size=8, seed=1, mixup=0.8).epoch(2))
    shares = []
    for a, b in zip(plain, mixed, strict=True):
        assert torch.equal(a.labels, b.labels) and b.targets.shape == (len(a.labels), tiny.CLASSES)
        assert torch.allclose(b.targets.sum(1), torch.ones(len(a.labels)))
        i = next(i for i in range(len(a.labels)) if (b.targets[i] > 0).sum() == 2)
        share = b.targets[i, a.labels[i]].item()
        partner = next(
            j
            for j in range(len(a.labels))
            if torch.allclose(b.images[i], share * a.images[i] + (1 - share) * a.images[j], atol=1e-4)
        )
        assert b.targets[i, a.labels[partner]].item() == pytest.approx(1 - share, abs=1e-6)
        shares.append(share)
    assert min(shares) >= 0.5 and len(set(shares)) == len(shares)
    rest = next(data.source(batch_size=8, seed=1, mixup=0.8).epoch(2, start=2))
    assert torch.equal(rest.images, mixed[2].images) and torch.equal(rest.targets, mixed[2].targets)
    assert data.source(batch_size=8, seed=1, mixup=0.8).replace(drop_last=True).mixup == 0.8
    assert plain[0].targets is None


def test_soft_labels_enter_the_cross_entropy() -> None:
    method = tiny.seeded_method("none", tiny.tiny_data()).eval()
    images, labels = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
    targets = 0.7 * nn.functional.one_hot(labels, 6) + 0.3 * nn.functional.one_hot(labels.flip(0), 6)
    batch = Batch(images, labels, labels, targets=targets)
    logs = method.student(images).logits.log_softmax(1)
    wanted = -sum(0.7 * logs[i, labels[i]] + 0.3 * logs[i, labels[3 - i]] for i in range(4)) / 4
    assert method.loss(batch)["ce"].item() == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize("beside", [Partners, StrongSource])
def test_a_further_view_beside_mixed_images_is_refused(beside) -> None:
    with pytest.raises(ValueError, match="set schedule.mixup=0"):
        beside(tiny.tiny_data().source(batch_size=8, seed=1, mixup=0.8))


def test_the_rules_own_mixup_is_refused_for_a_method_that_cannot_mix() -> None:
    bit = config.plain(tiny.composed("schedule=bit"), "schedule")
    refuse(CRD, "crd", resolve(bit, 10_000, 128))
    with pytest.raises(ValueError, match="cannot honour schedule.mixup=0.1 .schedule=bit sets it.: its memory"):
        refuse(CRD, "crd", resolve(bit, 50_000, 128))


def test_a_loss_by_label_is_the_mean_over_both_labels_of_a_mixed_image() -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method("none", data)
    batch = next(data.source(batch_size=8, seed=1, mixup=0.8).epoch(1))
    logits = torch.randn(8, tiny.CLASSES)
    by_label = method.by_label(lambda labels: nn.functional.cross_entropy(logits, labels), batch)
    assert by_label.item() == pytest.approx(method.criterion(logits, batch).item(), rel=1e-5)
    assert by_label.item() != pytest.approx(nn.functional.cross_entropy(logits, batch.labels).item(), rel=1e-3)


def test_supervised_smooths_labels_and_is_what_the_running_accuracy_counts() -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method("none", data, ("cifar_resnet8", "cifar_resnet8"), "method.ce=2")
    batch, logits = next(data.source(batch_size=8, seed=1).epoch(1)), torch.randn(8, tiny.CLASSES)
    method.label_smoothing = 0.1
    logs = logits.log_softmax(1)
    plain, even = -logs.gather(1, batch.labels[:, None]).mean(), -logs.mean()
    wanted = 2 * (0.9 * plain + 0.1 * even).item()
    assert method.supervised(logits, batch)["ce"].item() == pytest.approx(wanted, rel=1e-5)
    assert batch.logits is not None and torch.equal(batch.logits, logits)
    method.ce = 0.0
    assert method.supervised(logits, batch) == {}


def test_bit_nets_teach_and_learn() -> None:
    """timm's BiT ResNetV2: GroupNorm and standardised convolutions, as teacher and as student."""
    bit = build("resnetv2_50x1_bit", tiny.CLASSES, size=16, seed=1)
    kinds = {type(module).__name__ for module in bit.model.modules()}
    assert "StdConv2d" in kinds and "GroupNormAct" in kinds and not any("BatchNorm" in kind for kind in kinds)
    assert len(bit.shapes) == 4 and bit.embedding_dim == 2048
    data = tiny.tiny_data()
    batch = next(data.source(batch_size=4, seed=1).epoch(1))
    for name in ("kd", "crd", "cross-modal-supervision"):
        method = tiny.make(name, tiny.net("cifar_resnet8", 1), bit, data)
        assert all(torch.isfinite(value) for value in method.loss(batch).values())
    student = tiny.make("none", bit.requires_grad_(True), bit, data)
    student.loss(batch)["ce"].backward()
    assert all(p.grad is not None for p in bit.parameters())
    with pytest.raises(ValueError, match="BatchNorm"):
        tiny.make("dfq", tiny.net("cifar_resnet8", 1), bit.requires_grad_(False), data)


def test_a_run_by_the_rule(output: Path) -> None:
    cfg = tiny.composed(
        "method=none", "student=resnet8", "schedule=bit", "schedule.batch_size=8", "dataset.fraction=0.1",
        "precision=fp32", f"output={output}", "log_every=500", "save_minutes=99", "schedule.mixup=0.1",
    )  # fmt: skip
    result = run(cfg, Path(config.identity(cfg)["folder"]), table=False)
    assert result["epochs"] == 28 and result["protocol"] == "bit", "18 steps an epoch, 500 in all"
