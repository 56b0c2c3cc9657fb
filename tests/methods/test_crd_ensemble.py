"""crd-ensemble: Contrastive Representation Distillation."""

from __future__ import annotations

import pytest
import torch

from tests import tiny


def test_crd_ensemble_is_the_sum_of_crds_with_a_bank_pair_each() -> None:
    from distill.methods.crd import CRD

    data = tiny.tiny_data()
    method = tiny.seeded_method(
        "crd-ensemble", data, ("cifar_resnet14", "cifar_resnet8"), "method.negatives=6", "method.dim=8"
    )
    batch = next(iter(data.source(batch_size=8, seed=1).epoch(1)))
    assert len(method.critics) == 3
    method.eval()
    torch.manual_seed(3)
    losses = method.loss(batch)
    for m, critic in enumerate(method.critics):
        single = tiny.by_hand(CRD, method.student, [method.teachers[m]], data.info, negatives=6, dim=8)
        critics = {k: v for k, v in critic.state_dict().items() if not k.endswith(".z")}
        assert not single.load_state_dict(critics, strict=False).unexpected_keys
        single.eval()
        torch.manual_seed(3)
        assert losses[f"crd_{m}"].item() == pytest.approx(single.loss(batch)["crd"].item(), rel=1e-5)
    before = [critic.memory_student.bank.clone() for critic in method.critics]
    method.after_step()
    for bank, critic in zip(before, method.critics, strict=True):
        moved = (critic.memory_student.bank != bank).any(1).nonzero().flatten().tolist()
        assert moved == sorted(batch.index.tolist())
