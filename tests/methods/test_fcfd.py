"""FCFD: bridges, what later stages make of bridged maps computed step by step, and the draw of mixed nets."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.nn import functional as F

from distill.config import OptimizerSpec
from distill.methods import fcfd
from distill.models.reading import evaluating
from tests import tiny
from tests.methods.given_response import agrees

G = torch.Generator().manual_seed(0)


def built(*overrides: str) -> fcfd.FCFD:
    made = tiny.seeded_method("fcfd", tiny.tiny_data(), ("cifar_resnet14", "cifar_resnet8x4"), *overrides)
    assert isinstance(made, fcfd.FCFD)
    return made


def test_last_maps_are_compared_by_position_and_by_their_rectified_means() -> None:
    ours, theirs = (torch.randn(2, 3, 2, 2, generator=G, dtype=torch.float64) for _ in range(2))

    def slow(rows: list) -> float:  # type: ignore[type-arg]
        import numpy as np

        a, b = np.array(rows), theirs.numpy()
        pooled = [np.maximum(x, 0).mean((2, 3)) for x in (a, b)]
        return float(((a - b) ** 2).mean() + ((pooled[0] - pooled[1]) ** 2).mean())

    agrees(lambda x: fcfd.last_map_loss(x, theirs), slow, ours)


@pytest.mark.parametrize(("size", "wanted"), [(8, 8), (8, 4), (4, 8)])
def test_bridges_lead_to_the_other_nets_map(size: int, wanted: int) -> None:
    lead = fcfd.bridge((3, size, size), (5, wanted, wanted), signed=False)
    shown = lead(torch.randn(2, 3, size, size))
    assert shown.shape == (2, 5, wanted, wanted) and shown.min() > -1.0
    with pytest.raises(ValueError, match="no bridge leads from"):
        fcfd.bridge((3, 9, 9), (5, 4, 4), signed=False)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_losses_are_those_of_paths_taken_by_hand(mode: str) -> None:
    """All four mixed nets, their stages called one by one on nets in the same mode."""
    method = built(f"method.teacher_mode={mode}", "method.paths=4", "method.weight=2.0", "method.mixture=0.5")
    method.epoch, method.warmup_epochs = 5, 20
    batch = next(iter(tiny.tiny_data().source(8, seed=1).epoch(1)))
    losses = method.loss(batch)
    ours, theirs = method.student.model, method.teacher.model
    theirs.train(mode == "train")
    images, t = batch.inputs, method.temperature
    maps, logits = [], []
    for net in (ours, theirs):
        x, shown = F.relu(net.bn1(net.conv1(images))), []
        for layer in (net.layer1, net.layer2, net.layer3):
            for block in layer:
                x = F.relu(block(x))
            shown.append(x)
        maps.append(shown)
        logits.append(net.fc(x.mean((2, 3))))
    target = [x.detach() for x in maps[1]]

    def later(net: torch.nn.Module, start: int, x: torch.Tensor) -> list[torch.Tensor]:
        shown = []
        for layer in (net.layer1, net.layer2, net.layer3)[start:]:
            for block in layer:
                x = F.relu(block(x))
            shown.append(x)
        return [*shown, net.fc(x.mean((2, 3)))]

    bridged = [lead(x) for lead, x in zip(method.to_teacher, maps[0], strict=True)]
    errors = [(bridged[k], k) for k in range(3)]
    mixed = []
    for start in (1, 2):
        *shown, said = later(theirs, start, bridged[start - 1])
        errors += [(x, start + j) for j, x in enumerate(shown)]
        mixed += [said, later(ours, start, method.to_student[start - 1](target[start - 1]))[-1]]
    total = sum(((x - target[k]) ** 2).mean() for x, k in errors)
    total += sum(((F.relu(x).mean((2, 3)) - target[2].mean((2, 3))) ** 2).mean() for x, k in errors if k == 2)
    assert losses["maps"].item() == pytest.approx(2.0 * 5 / 20 * total.item(), rel=2e-4)
    said = logits[1].detach()
    soft = [t * t * F.kl_div((x / t).log_softmax(1), (said / t).softmax(1), reduction="batchmean") for x in mixed]
    assert losses["mixture"].item() == pytest.approx(0.5 * sum(soft).item(), rel=2e-4)
    gradients = [
        torch.autograd.grad(loss, ours.conv1.weight)[0]
        for loss in (losses["maps"] + losses["mixture"], 2.0 * 5 / 20 * total + 0.5 * sum(soft))
    ]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-4)


def test_statistics_of_both_nets_know_nothing_of_mixed_paths() -> None:
    method = built("method.paths=4")
    batch = next(iter(tiny.tiny_data().source(8, seed=1).epoch(1)))
    alone = built("method.paths=0")
    for each in (method, alone):
        each.loss(batch)
    for net, other in ((method.student, alone.student), (method.teacher, alone.teacher)):
        for name, value in net.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name


def test_each_way_to_mix_is_drawn_equally_often() -> None:
    method, drawn = built(), Counter[tuple[str, int]]()
    for _ in range(200):
        paths = method.drawn()
        assert len(set(paths)) == 2
        drawn.update(paths)
    assert len(drawn) == 4 and all(70 <= count <= 130 for count in drawn.values())


def test_bridges_that_no_path_crosses_stay_as_they_are() -> None:
    """Whichever is crossed first: neither weight decay nor momentum moves the other one."""
    method, batch = built("method.paths=1"), next(iter(tiny.tiny_data().source(8, seed=1).epoch(1)))
    (update,) = method.phases()[0].updates
    options = {"name": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}
    assert update.stepper is not None
    stepper = update.stepper(update.trains, OptimizerSpec(lr=0.01, optimizer=options, clip_grad=5.0))
    for start in (2, 1, 2):
        method.drawn = lambda start=start: [("student", start)]  # type: ignore[method-assign,misc]
        before = [lead[0].weight.clone() for lead in method.to_student]
        stepper.step(method.loss(batch))
        moved = [not torch.equal(lead[0].weight, old) for lead, old in zip(method.to_student, before, strict=True)]
        assert moved == [start == 1, start == 2]


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "MobileNetV2", "ShuffleV2", "vgg8"])
def test_stages_lead_from_map_to_map_up_to_what_the_head_pools(name: str) -> None:
    net = tiny.net(f"cifar_{name}", 1)
    maps = fcfd.probed_maps(net)
    with torch.no_grad(), evaluating(net):
        torch.testing.assert_close(net.head(maps[-1]), net(net.probe()).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_stages_of_timm_nets_are_run_too(name: str) -> None:
    assert len(fcfd.probed_maps(tiny.build(name, 6, size=64, seed=0))) == 4


def test_nets_whose_stages_do_not_follow_one_another_are_refused() -> None:
    with pytest.raises(ValueError, match="do not lead from map to map: .*method=reviewkd"):
        fcfd.probed_maps(tiny.net("vit_tiny_patch16_224", patch_size=4, embed_dim=32, depth=4, num_heads=2))
