"""none, kd, fitnet, crd, dml against slow independent arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from distill.batch import Batch
from distill.data import DataInfo
from distill.losses import kd_loss, kl_div, pool_to
from distill.methods.crd import EPS, Memory, NegativeSampler
from distill.models.reading import frozen_statistics
from distill.parts.heads import conv_regressor, stage
from tests import tiny


def softmax(row: list[float], t: float) -> list[float]:
    top = max(row)
    exps = [math.exp((value - top) / t) for value in row]
    return [value / sum(exps) for value in exps]


def slow_kd(student: Tensor, teacher: Tensor, t: float) -> float:
    total = 0.0
    for s, q in zip(student.tolist(), teacher.tolist(), strict=True):
        total += sum(a * (math.log(a) - math.log(b)) for a, b in zip(softmax(q, t), softmax(s, t), strict=True))
    return t * t * total / len(student)


@pytest.mark.parametrize("t", [1.0, 4.0, 20.0])
def test_kd_value_and_gradient(t: float) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 7, dtype=torch.float64) * 3, torch.randn(5, 7, dtype=torch.float64) * 3
    student.requires_grad_()
    loss = kd_loss(student, teacher, t)
    assert loss.item() == pytest.approx(slow_kd(student, teacher, t), rel=1e-10)
    loss.backward()
    for i, j in ((0, 0), (2, 3), (4, 6)):
        nudged = student.detach().clone()
        nudged[i, j] += 1e-5
        up = slow_kd(nudged, teacher, t)
        nudged[i, j] -= 2e-5
        assert student.grad[i, j].item() == pytest.approx((up - slow_kd(nudged, teacher, t)) / 2e-5, abs=1e-6)


def test_kl_is_summed_over_classes_not_averaged() -> None:
    student, teacher = torch.randn(4, 100), torch.randn(4, 100)
    wrong = nn.KLDivLoss(reduction="mean")(student.log_softmax(1), teacher.softmax(1))
    assert kl_div(student, teacher).item() == pytest.approx(100 * wrong.item(), rel=1e-4)


def test_losses_leave_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = kd_loss(torch.ones(2, 3, dtype=torch.bfloat16), torch.zeros(2, 3), 4.0)
    assert half.dtype == torch.float32


def test_pool_to_shrinks_the_larger_map() -> None:
    big = torch.arange(16.0).reshape(1, 1, 4, 4)
    a, b = pool_to(big, torch.zeros(1, 3, 2, 2))
    assert a.flatten().tolist() == [2.5, 4.5, 10.5, 12.5] and b.shape == (1, 3, 2, 2)


@pytest.mark.parametrize(
    ("student", "teacher", "kind"),
    [
        ((4, 16, 16), (6, 8, 8), nn.Conv2d),
        ((4, 8, 8), (6, 16, 16), nn.ConvTranspose2d),
        ((4, 8, 8), (6, 8, 8), nn.Conv2d),
        ((4, 9, 9), (6, 7, 7), nn.Conv2d),
    ],
)
def test_regressors_reach_the_teachers_shape(student, teacher, kind) -> None:
    regressor = conv_regressor(student, teacher)
    assert isinstance(regressor[0], kind) and isinstance(regressor[-1], nn.ReLU)
    assert tuple(regressor(torch.randn(2, *student)).shape) == (2, *teacher)


def test_regressors_refuse_what_one_convolution_cannot_do() -> None:
    with pytest.raises(ValueError, match=r"\(4, 4, 4\).*\(6, 32, 32\)"):
        conv_regressor((4, 4, 4), (6, 32, 32))
    with pytest.raises(ValueError, match="stage 4 of net does not exist"):
        stage([(1, 2, 2)] * 3, 4, "net")


def info(labels: Tensor, classes: int) -> DataInfo:
    return DataInfo("t", classes, len(labels), 3, 16, (0.5,) * 3, (0.25,) * 3, labels, [str(k) for k in range(classes)])


@pytest.mark.parametrize(("count", "replace"), [(9, False), (12, False), (200, True)])
def test_negatives_are_never_of_the_samples_class(count: int, replace: bool) -> None:
    torch.manual_seed(0)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 2, 1, 0, 3, 3, 0])
    sampler = NegativeSampler(labels, 4, count)
    assert sampler.replace is replace
    drawn = sampler(torch.tensor([0, 1, 2, 3]))
    assert drawn.shape == (4, count)
    for label, row in enumerate(drawn):
        assert (labels[row] != label).all()
        if not replace:
            assert len(set(row.tolist())) == count


@pytest.mark.parametrize("count", [4, 40])
def test_negatives_are_uniform_over_the_other_classes(count: int) -> None:
    torch.manual_seed(1)
    labels = torch.tensor([2, 0, 1, 0, 2, 2, 1, 0, 2, 1])
    sampler = NegativeSampler(labels, 3, count)
    seen = torch.bincount(torch.cat([sampler(torch.tensor([1])).flatten() for _ in range(4000 // count)]), minlength=10)
    others = seen[labels != 1].float()
    assert seen[labels == 1].sum() == 0 and others.numel() == 7
    expected = others.sum() / 7
    assert ((others - expected) ** 2 / expected).sum() < 22.5  # chi-square with 6 degrees of freedom, p = 0.001


def test_no_negatives_are_refused() -> None:
    with pytest.raises(ValueError, match="method.negatives is 0"):
        NegativeSampler(torch.arange(6), 6, 0)


def test_one_class_has_no_negatives() -> None:
    with pytest.raises(ValueError, match="two classes"):
        NegativeSampler(torch.zeros(5, dtype=torch.int64), 2, 3)


PAIR = ("cifar_resnet14", "cifar_resnet8")


def slow_nce(positive: Tensor, negative: Tensor, total: int) -> Tensor:
    """The authors' ContrastLoss on scores P [B] and [B,M], term by term."""
    noise = negative.shape[1] / total
    loss = torch.zeros((), dtype=positive.dtype)
    for p, row in zip(positive, negative, strict=True):
        loss = loss - torch.log(p / (p + noise + EPS)) - sum(torch.log(noise / (n + noise + EPS)) for n in row)
    return loss / len(positive)


def unit(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return nn.functional.normalize(torch.randn(*shape, dtype=dtype), dim=1)


def test_nce_on_the_whole_bank_equals_loops_over_gathered_vectors() -> None:
    """Value and gradient against one dot product a slot, in float64, with a slot drawn twice; Z is set once."""
    torch.manual_seed(0)
    memory = Memory(30, 8).double()
    embedding = unit(4, 8, dtype=torch.float64).requires_grad_()
    slots = torch.randint(30, (4, 12))
    slots[:, 2] = slots[:, 1]
    rows = [[torch.exp((embedding[i] * memory.bank[j]).sum() / 0.07) for j in slots[i].tolist()] for i in range(4)]
    score = torch.stack([torch.stack(row) for row in rows])
    z = score.detach().mean() * 30
    slow = slow_nce(score[:, 0] / z, score[:, 1:] / z, 30)
    fast = memory.nce_loss(embedding, slots, 0.07)
    assert memory.z.item() == pytest.approx(z.item())
    assert fast.item() == pytest.approx(slow.item(), rel=1e-10)
    (wanted,), (found,) = (torch.autograd.grad(3 * loss, embedding) for loss in (slow, fast))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
    memory.nce_loss(embedding.flip(0), slots, 0.07)
    assert memory.z.item() == pytest.approx(z.item()), "Z belongs to the first batch"


def test_a_bfloat16_bank_gives_loss_and_gradient_within_its_rounding() -> None:
    torch.manual_seed(0)
    single, half = Memory(500, 32), Memory(500, 32, "bfloat16")
    single.bank.copy_(unit(500, 32))
    half.bank.copy_(single.bank)
    embedding, slots = unit(16, 32), torch.randint(500, (16, 201))
    losses, gradients = [], []
    for memory in (single, half):
        leaf = embedding.clone().requires_grad_()
        losses.append(memory.nce_loss(leaf, slots, 0.07))
        gradients.append(torch.autograd.grad(losses[-1], leaf)[0])
    assert gradients[1].dtype is torch.float32
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=2**-8)
    assert 0 < (gradients[1] - gradients[0]).norm() < 2**-6 * gradients[0].norm()


def test_a_bfloat16_bank_is_updated_in_fp32_and_kept_as_it_is() -> None:
    torch.manual_seed(0)
    memory, index, new = Memory(50, 8, "bfloat16"), torch.tensor([4, 7]), unit(2, 8)
    wanted = nn.functional.normalize(0.3 * memory.bank[index].float() + 0.7 * new, dim=1).bfloat16()
    memory.update(index, new, 0.3)
    assert torch.equal(memory.bank[index], wanted)
    again = Memory(50, 8, "bfloat16")
    again.load_state_dict(memory.state_dict())
    assert again.bank.dtype is torch.bfloat16 and torch.equal(again.bank, memory.bank)


@pytest.mark.parametrize("name", ["crd", "crd+kd", "crd-cross-modal", "crd-ensemble"])
def test_the_type_of_the_memory_banks_is_a_switch(name: str) -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method(name, data, PAIR, "method.bank=bfloat16", "method.negatives=4")
    banks = {key: value.dtype for key, value in method.state_dict().items() if key.endswith(".bank")}
    assert banks and set(banks.values()) == {torch.bfloat16}
    batch = next(iter(data.source(batch_size=8, seed=1).epoch(1)))
    assert all(loss.isfinite() for loss in method.loss(batch).values())
    with pytest.raises(ValueError, match="method.bank=int8 .* use float32 or bfloat16"):
        tiny.seeded_method(name, data, PAIR, "method.bank=int8")


def test_the_bank_moves_by_its_momentum_and_stays_on_the_sphere() -> None:
    memory = Memory(5, 3)
    before = memory.bank.clone()
    new = nn.functional.normalize(torch.randn(2, 3), dim=1)
    memory.update(torch.tensor([3, 1]), new, 0.5)
    for slot, vector in ((3, new[0]), (1, new[1])):
        mixed = 0.5 * before[slot] + 0.5 * vector
        assert torch.allclose(memory.bank[slot], mixed / mixed.norm(), atol=1e-6)
    assert torch.equal(memory.bank[[0, 2, 4]], before[[0, 2, 4]])


def test_crd_updates_its_banks_only_after_the_step() -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method("crd", data)
    method.train()
    batch = next(iter(data.source(batch_size=8, seed=1).epoch(1)))
    before = method.memory_student.bank.clone()
    method.loss(batch)["crd"].backward()
    assert torch.equal(method.memory_student.bank, before)
    method.after_step()
    changed = (method.memory_student.bank != before).any(1).nonzero().flatten()
    assert sorted(changed.tolist()) == sorted(batch.index.tolist())
    assert {"memory_student.bank", "memory_student.z", "memory_teacher.bank", "memory_teacher.z"} <= set(
        method.state_dict()
    )


def test_fitnet_trains_hint_then_distils() -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method("fitnet", data)
    hint, distill = method.phases()
    assert (hint.name, hint.epochs, hint.evaluates) == ("hint", 1, False)
    batch = next(iter(data.source(batch_size=8, seed=1).epoch(1)))
    method.train()
    losses = hint.updates[0].loss(batch)
    losses["hint"].backward()
    deep = [p.grad for p in method.student.model.layer3.parameters()] + [method.student.model.fc.weight.grad]
    assert list(losses) == ["hint"] and all(grad is None for grad in deep)
    assert all(p.grad is not None for p in method.regressor.parameters())
    assert set(distill.updates[0].loss(batch)) == {"ce", "kd"}
    joint = tiny.seeded_method(
        "fitnet", data, ("cifar_resnet14", "cifar_resnet8"), "method.hint_epochs=0", "method.weight=100"
    )
    (phase,) = joint.phases()
    joint.train()
    losses = phase.updates[0].loss(batch)
    teacher, student = joint.teach(batch), joint.student(batch.inputs)
    expected = 100 * ((joint.regressor(student.features[1]) - teacher.features[1]) ** 2).mean()
    assert losses["fitnet"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_soft_targets_of_fitnet_fall_from_lambda_4_to_1() -> None:
    """TeacherDecayOverEpoch of the authors: start 5, saturate 400 of 500 epochs; lambda is 9 of ours, T^2."""
    method = tiny.seeded_method("fitnet", tiny.tiny_data())
    method.epochs = 500
    for epoch, theirs in ((1, 4.0), (4, 4.0), (5, 4 - 3 / 396), (202, 2.5), (400, 1.0), (500, 1.0)):
        method.epoch = epoch
        method.before_epoch()
        assert method.kd * 9 == pytest.approx(theirs, rel=1e-6), epoch


def test_dml_peers_see_each_other_as_just_updated() -> None:
    """Alternating: the second peer mimics the first peer's logits after the first peer's step."""
    data = tiny.tiny_data()
    method = tiny.seeded_method("dml", data)
    method.train()
    batch = next(iter(data.source(batch_size=8, seed=1).epoch(1)))
    first, second = method.phases()[0].updates
    assert [len(list(u.trains)) for u in (first, second)] == [1, 1] and second.trains[0] is method.others[0]
    sum(first.loss(batch).values()).backward()
    assert all(p.grad is None for p in method.others.parameters()), "mimicry sends no gradient to the other peer"
    with torch.no_grad():
        for p in method.student.parameters():
            p.sub_(0.1 * p.grad)
    with torch.no_grad(), frozen_statistics(method.student):
        after = method.student(batch.inputs).logits
        mine = method.others[0](batch.inputs).logits
    losses = second.loss(batch)
    assert losses["kd_1"].item() == pytest.approx(slow_kd(mine.double(), after.double(), 1.0), rel=1e-4)
    assert losses["ce_1"].item() == pytest.approx(nn.functional.cross_entropy(mine, batch.labels).item(), rel=1e-4)


def test_asking_a_peer_leaves_its_statistics_alone() -> None:
    net = tiny.net("cifar_resnet8").train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    images = torch.randn(4, 3, 16, 16)
    with torch.no_grad(), frozen_statistics(net):
        asked = net(images).logits
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    with torch.no_grad():
        assert torch.allclose(asked, net(images).logits, atol=1e-6), "it normalises with the batch, as in training"


def test_dml_cohorts_differ_and_are_checked() -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method(
        "dml",
        data,
        ("cifar_resnet14", "cifar_resnet8"),
        "method.peers=3",
        "method.models=[cifar_resnet8,cifar_wrn_16_1]",
    )
    assert [net.name for net in method.cohort] == ["cifar_resnet8", "cifar_resnet8", "cifar_wrn_16_1"]
    assert not torch.equal(method.cohort[0].model.conv1.weight, method.cohort[1].model.conv1.weight)
    with pytest.raises(ValueError, match="at least 2"):
        tiny.seeded_method("dml", data, ("cifar_resnet14", "cifar_resnet8"), "method.peers=1")
    batch = Batch(torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 3]), torch.arange(4))
    three = method.loss(batch)
    assert set(three) == {f"{term}{k}" for term in ("ce", "kd") for k in ("", "_1", "_2")}


def test_weights_of_zero_leave_terms_out() -> None:
    data = tiny.tiny_data()
    batch = next(iter(data.source(batch_size=8, seed=1).epoch(1)))
    assert set(tiny.seeded_method("kd", data, ("cifar_resnet14", "cifar_resnet8"), "method.ce=0").loss(batch)) == {"kd"}
    assert set(tiny.seeded_method("crd+kd", data).loss(batch)) == {"ce", "kd", "crd"}
    assert set(tiny.seeded_method("none", data).loss(batch)) == {"ce"}
