"""crd-cross-modal: Contrastive Representation Distillation across modalities."""

from __future__ import annotations

import torch

from distill.engine.update import train_mode
from tests import tiny
from tests.methods.given_crossmodal import data, method_on


def test_crd_across_modalities_transfers_and_then_probes() -> None:
    viewed = data(student="ab", teacher="L")
    method = method_on("crd-cross-modal", viewed, "method.negatives=4")
    transfer, probe = method.phases()
    assert not transfer.evaluates and probe.evaluates
    batch = next(viewed.source(batch_size=6, seed=1).epoch(1))
    assert set(method.loss(batch)) == {"crd"}, "no labels in the transfer"
    before = {key: value.clone() for key, value in method.student.state_dict().items()}
    train_mode(method, probe)
    optimizer = torch.optim.SGD(probe.updates[0].trains[0].parameters(), lr=0.1)
    method.probe_loss(batch)["ce"].backward()
    optimizer.step()
    moved = [key for key, value in method.student.state_dict().items() if not torch.equal(value, before[key])]
    assert moved == ["model.fc.weight", "model.fc.bias"]


def test_a_probe_trains_both_heads_of_a_net_with_two() -> None:
    vit = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    student = tiny.net("deit_tiny_distilled_patch16_224", 1, **vit)
    method = tiny.make("crd-cross-modal", student, tiny.net("cifar_resnet8"), tiny.tiny_data(), "method.negatives=4")
    assert method.phases()[-1].updates[0].trains == [student.model.head, student.model.head_dist]
