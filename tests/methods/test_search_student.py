"""The search of a student: what several methods share."""

from __future__ import annotations

import torch

from distill import config
from distill.models import build
from distill.models.supernet import Supernet
from tests import tiny


def test_nets_run_on_the_corner_of_the_largest() -> None:
    net = tiny.net("cifar_resnet14", 1).train()
    supernet, images = Supernet(net, [1, 2], [0.5, 1.0]), torch.randn(6, 3, 16, 16)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    supernet.run(0, images, keep_statistics=True)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    supernet.run(0, images).logits.sum().backward()
    mean, old = net.model.layer2[0].bn1.running_mean, before["model.layer2.0.bn1.running_mean"]
    assert not torch.equal(mean[:16], old[:16]) and torch.equal(mean[16:], old[16:])
    gradient = net.model.layer2[0].conv2.weight.grad
    assert (
        gradient[:16, :16].abs().sum() > 0 and gradient[16:].abs().sum() == gradient[:, 16:].abs().sum() == 0
    )
    assert net.model.layer2[1].conv1.weight.grad is None, "the second block is not part of it"
    net.eval()
    for number in range(4):
        made = supernet.extract(number).eval()
        assert torch.allclose(made(images).logits, supernet.run(number, images).logits, atol=1e-5)
    assert torch.allclose(supernet.extract(3).eval()(images).logits, net(images).logits, atol=1e-5)


def test_the_sweep_goes_over_the_same_space() -> None:
    cfg = tiny.composed("experiment=student_sweep")
    made = build("cifar_resnet20", 10, in_chans=1, size=8, args=config.plain(cfg, "student.args"))
    assert made.macs() == build("cifar_resnet20", 10, in_chans=1, size=8).macs()
    asked = tiny.composed("experiment=student_search")
    widths = [[round(w * c) for c in (16, 16, 32, 64)] for w in asked.method.widths]
    assert [6 * n + 2 for n in asked.method.depths] == [8, 14, 20] and widths[0] == [4, 4, 8, 16]
