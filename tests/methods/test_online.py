"""On-line methods: what several methods share."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from distill.data.arrays import seeded
from distill.data.class_batches import ClassBatches
from distill.methods.dml import DML
from distill.methods.kdcl import KDCL
from distill.methods.mcl import MCL
from distill.methods.okddip import OKDDip
from distill.methods.one import ONE
from distill.parts.branches import Branch
from distill.parts.peers import Ensemble, make_peers, sigmoid_ramp
from tests import tiny
from tests.methods.given_online import rows
from tests.slow import softmax, student


def test_an_ensemble_averages_probabilities() -> None:
    nets = [student(seed).eval() for seed in (1, 2, 3)]
    images = torch.randn(4, 3, tiny.SIZE, tiny.SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = Ensemble(nets)(images).exp()
        each = [[softmax(row) for row in rows(net(images).logits)] for net in nets]
    for i, k in itertools.product(range(4), range(tiny.CLASSES)):
        assert found[i, k].item() == pytest.approx(sum(p[i][k] for p in each) / 3, rel=1e-4)


def test_the_ramp_counts_epochs_that_are_done() -> None:
    assert sigmoid_ramp(1, 80) == pytest.approx(math.exp(-5))
    assert sigmoid_ramp(41, 80) == pytest.approx(math.exp(-1.25))
    assert sigmoid_ramp(81, 80) == sigmoid_ramp(300, 80) == sigmoid_ramp(1, 0) == 1.0


def test_peers_have_weights_of_their_own_and_may_be_other_nets() -> None:
    torch.manual_seed(0)
    a, b = make_peers(student(), 3)
    assert not torch.equal(a.model.conv1.weight, b.model.conv1.weight)
    (other,) = make_peers(student(), 2, ["cifar_wrn_16_1"])
    assert other.name == "cifar_wrn_16_1" and other.num_classes == tiny.CLASSES
    with pytest.raises(ValueError, match="name 2 beside the student"):
        make_peers(student(), 3, ["cifar_resnet8"])


def test_a_branch_is_the_last_stage_and_what_follows() -> None:
    for name in ("cifar_resnet8", "cifar_wrn_16_1", "cifar_vgg8", "cifar_MobileNetV2", "cifar_ShuffleV2"):
        net = student(1, name)
        branch = Branch(net)
        assert 0 < sum(p.numel() for p in branch.parameters()) < net.params()
        kept = dict(branch.net.named_parameters())
        whole = dict(net.named_parameters())
        assert set(kept) < set(whole)
        with torch.no_grad():
            for key, parameter in kept.items():
                parameter.copy_(whole[key])
            for key, value in branch.net.named_buffers():
                value.copy_(dict(net.named_buffers())[key])
        net.eval(), branch.eval()
        images = torch.randn(2, 3, tiny.SIZE, tiny.SIZE)
        out = net(images)
        assert torch.allclose(branch(out.features[-2]), out.logits, atol=1e-5)


def test_a_net_that_cannot_be_divided_is_refused() -> None:
    vit = tiny.net("vit_tiny_patch16_224", 1, patch_size=4, embed_dim=32, depth=4, num_heads=2)
    with pytest.raises(ValueError, match="cannot be divided before stage -1: .* method=dml"):
        tiny.by_hand(ONE, vit, [], tiny.tiny_data().info)


def test_a_branch_tells_what_enters_its_classifier() -> None:
    net = student(1)
    branch = Branch(net).eval()
    feature = torch.randn(2, *net.shapes[-2])
    logits, embedding = branch.finish(feature)
    assert embedding.shape == (2, net.embedding_dim)
    assert torch.equal(branch.net.classifier(embedding), logits) and torch.equal(branch(feature), logits)


def test_each_of_several_processes_gets_whole_classes() -> None:
    labels = torch.arange(40) % 8
    batches = ClassBatches(labels, 8, 2, processes=2).order(3, seeded(0)).view(3, 8)
    for batch, rank in itertools.product(batches, range(2)):
        assert sorted(labels[batch[rank::2]].bincount().tolist(), reverse=True)[:3] == [2, 2, 0]
    with pytest.raises(ValueError, match="shared by 3 processes: give schedule.batch_size a multiple of 6"):
        ClassBatches(labels, 8, 2, processes=3)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda info: tiny.by_hand(DML, student(), [], info, peers=1), "at least 2 nets"),
        (lambda info: tiny.by_hand(ONE, student(), [], info, branches=1), "at least 2"),
        (lambda info: tiny.by_hand(OKDDip, student(), [], info, branches=2), "so 3"),
        (lambda info: tiny.by_hand(KDCL, student(), [], info, variant="best"), "naive, linear, minlogit, general"),
        (lambda info: tiny.by_hand(MCL, student(), [], info, tau=0.0), "temperature above 0"),
    ],
)
def test_mistakes_are_named(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(tiny.tiny_data().info)


@pytest.mark.parametrize(
    ("name", "override"),
    [
        ("kdcl", "method.variant=general"),
        ("kdcl", "method.variant=linear"),
        ("ban", "method.variant=dkpp"),
        ("rco", "method.route=[1,2]"),
        ("dml", "method.alternate=false"),
    ],
)
def test_variants_resume_to_the_same_bits(name: str, override: str, tmp_path) -> None:
    data = tiny.tiny_data()

    def start(folder):
        return tiny.fit(tiny.seeded_method(name, data, ("cifar_resnet8", "cifar_resnet8"), override), data, folder)

    whole = start(tmp_path / "whole")
    total = sum(1 for _ in whole.steps())
    first, steps = start(tmp_path / "cut"), []
    for _ in itertools.islice(first.steps(), total - 2):
        steps.append(first.at.total)
    first.meter.flush("cut", 1)
    first.save()
    second = start(tmp_path / "cut")
    assert second.restore() == total - 2 == steps[-1]
    for _ in second.steps():
        pass
    assert second.callback.rows[-1] == whole.callback.rows[-1]
    for key, value in whole.method.state_dict().items():
        assert torch.equal(value, second.method.state_dict()[key]), key
