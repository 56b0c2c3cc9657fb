"""crd: Contrastive Representation Distillation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.methods.crd import CRD, EPS, Memory, NegativeSampler
from tests import tiny
from tests.methods.given_later_features import batch, net, teacher


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


def test_weights_of_zero_leave_terms_out() -> None:
    data = tiny.tiny_data()
    batch = next(iter(data.source(batch_size=8, seed=1).epoch(1)))
    assert set(tiny.seeded_method("kd", data, ("cifar_resnet14", "cifar_resnet8"), "method.ce=0").loss(batch)) == {"kd"}
    assert set(tiny.seeded_method("crd+kd", data).loss(batch)) == {"ce", "kd", "crd"}
    assert set(tiny.seeded_method("none", data).loss(batch)) == {"ce"}


def test_crd_kd_is_crd_with_one_times_kd() -> None:
    data = tiny.tiny_data()
    method = tiny.make("crd+kd", net(), teacher(), data, "method.negatives=4")
    assert isinstance(method, CRD) and (method.ce, method.kd, method.weight, method.temperature) == (
        1,
        1,
        0.8,
        4,
    )
    losses = method.loss(batch())
    assert set(losses) == {"ce", "kd", "crd"}
    s, t = (x / 4 for x in (method.student(batch().inputs).logits, method.teach(batch()).logits))
    expected = 16 * F.kl_div(s.log_softmax(1), t.softmax(1), reduction="batchmean").item()
    assert losses["kd"].item() == pytest.approx(expected, rel=1e-4)
