"""The recipe of today in the loop: an average of weights, accumulated gradients, clipping, groups, BCE, drop path."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from timm.loss import BinaryCrossEntropy as TimmsBCE
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from timm.utils import ModelEmaV3, dispatch_clip_grad

from distill import start
from distill.batch import Batch, Mixed
from distill.config import OptimizerSpec, identity, resolve
from distill.config.check import check
from distill.criterion import BinaryCrossEntropy
from distill.engine.fit import Fit
from distill.engine.optim import Stepper
from distill.engine.update import parts_of
from tests import tiny

VIT = {"img_size": 16, "patch_size": 8}


def fit_of(folder: Path, *, student: str = "cifar_resnet8", args: dict | None = None, **keys) -> Fit:
    """A loop of none on a small net, with keys of the schedule."""
    torch.manual_seed(0)
    data = tiny.tiny_data()
    method = tiny.make("none", tiny.net(student, 1, **(args or {})), tiny.net("cifar_resnet8", 2), data)
    fit = tiny.fit(method, data, folder)
    fit.schedule = replace(fit.schedule, **keys)
    return fit


def run(fit: Fit) -> Fit:
    for _ in fit.steps():
        pass
    return fit


def test_accumulated_gradients_are_those_of_the_whole_batch_without_batchnorm(tmp_path: Path) -> None:
    whole, parts = (run(fit_of(tmp_path / str(n), student="test_vit", args=VIT, accumulate=n)) for n in (1, 3))
    mine = parts.method.state_dict()
    assert all(torch.allclose(value, mine[name], atol=2e-5) for name, value in whole.method.state_dict().items())
    rows = [[row[key] for row in fit.callback.rows for key in ("loss", "train_accuracy")] for fit in (whole, parts)]
    assert rows[0] == pytest.approx(rows[1], rel=1e-4)


def test_parts_differ_by_one_image_at_most() -> None:
    batch = Batch(torch.arange(7.0)[:, None], torch.arange(7), torch.arange(7), {"teacher": torch.arange(7)})
    parts = parts_of(batch, 3)
    assert [len(part.labels) for part in parts] == [2, 2, 3] and len(parts_of(batch, 9)) == 7
    assert torch.equal(torch.cat([part.views["teacher"] for part in parts]), batch.labels)


@pytest.mark.parametrize(("images", "parts", "sizes"), [
    (64, 8, [8] * 8), (16, 8, [8, 8]), (15, 8, [7, 8]), (3, 32, [3]), (5, 32, [2, 3]), (3, 64, [1, 1, 1]),
    (65, 8, [8] * 7 + [9]),
])  # fmt: skip
def test_a_short_batch_has_fewer_parts_and_none_of_one_image(images: int, parts: int, sizes: list[int]) -> None:
    rows = torch.arange(images)
    assert [len(part) for part in parts_of(Batch(rows[:, None].float(), rows, rows), parts, 64)] == sizes


def test_the_loop_cuts_the_last_batch_in_parts_of_the_usual_size(tmp_path: Path) -> None:
    fit, seen = fit_of(tmp_path, accumulate=4), []
    loss = fit.phases[0].updates[0].loss
    fit.phases[0].updates[0].loss = lambda batch: seen.append(len(batch)) or loss(batch)
    run(fit)
    assert seen[: len(seen) // 2] == [2] * 11


@pytest.mark.parametrize("keys", [{"ema": 0.6}, {"ema": 0.9, "ema_warmup": True}])
def test_the_average_is_timms(tmp_path: Path, keys: dict) -> None:
    fit = fit_of(tmp_path, **keys)
    theirs, steps = None, 0
    for _ in fit.steps():
        if theirs is None:
            begun, warm = tiny.net("cifar_resnet8", 1), bool(keys.get("ema_warmup"))
            theirs = ModelEmaV3(begun, decay=keys["ema"], use_warmup=warm)
        steps += 1
        theirs.update(fit.method.student, step=steps if keys.get("ema_warmup") else None)
    average = fit.deployed()
    assert average is fit.average.net and steps == 6
    assert all(torch.equal(a, b) for a, b in zip(average.state_dict().values(), theirs.module.state_dict().values(),
                                                 strict=True))  # fmt: skip
    assert not torch.equal(average.classifier.weight, fit.method.student.classifier.weight)
    assert not any(p.requires_grad for p in average.parameters()) and not average.training


def test_the_average_goes_on_to_the_same_bits_after_a_resume(tmp_path: Path) -> None:
    whole = run(fit_of(tmp_path / "whole", ema=0.6, ema_warmup=True, accumulate=2))
    part = fit_of(tmp_path / "cut", ema=0.6, ema_warmup=True, accumulate=2)
    for _ in part.steps():
        if part.at.total == 4:
            break
    part.meter.flush("cut", 1)
    part.save()
    again = fit_of(tmp_path / "cut", ema=0.6, ema_warmup=True, accumulate=2)
    again.restore()
    run(again)
    assert all(torch.equal(a, b) for a, b in zip(whole.average.state_dict().values(),
                                                 again.average.state_dict().values(), strict=True))  # fmt: skip


@pytest.mark.parametrize(("exports", "beside"), [(True, "student"), (False, "ema")])
def test_one_of_both_is_deployed_and_the_other_is_told(tmp_path: Path, exports: bool, beside: str) -> None:
    fit = run(fit_of(tmp_path, ema=0.9, ema_export=exports))
    nets = {"student": fit.method.student, "ema": fit.average.net}
    assert fit.deployed() is nets["ema" if exports else "student"] and fit.also_evaluated() == {beside: nets[beside]}
    last = fit.callback.rows[-1]
    assert last["test_accuracy"] == fit.evaluate(fit.deployed())
    assert last[f"{beside}_accuracy"] == fit.evaluate(nets[beside]) == fit.score.beside[beside]


@pytest.mark.parametrize("mode", ["norm", "value", "agc"])
def test_gradients_are_clipped_as_timm_does_it(mode: str) -> None:
    net = tiny.net("cifar_resnet8", 1)
    spec = OptimizerSpec(lr=1.0, clip_grad=0.01, clip_mode=mode, optimizer={"name": "sgd"})
    stepper = Stepper([net], spec)
    loss = net(torch.ones(4, 3, 16, 16)).logits.square().sum()
    theirs = copy.deepcopy(net)
    theirs(torch.ones(4, 3, 16, 16)).logits.square().sum().backward()
    heads = {id(p) for p in theirs.classifier.parameters()}
    clipped = [p for p in theirs.parameters() if mode != "agc" or id(p) not in heads]
    dispatch_clip_grad(clipped, 0.01, mode)
    expected = [p.detach() - p.grad for p in theirs.parameters()]
    stepper.step({"x": loss})
    assert all(torch.allclose(p, q, atol=1e-6) for p, q in zip(net.parameters(), expected, strict=True))


def test_norms_biases_positions_and_tokens_do_not_decay() -> None:
    net = tiny.net("test_vit", 1, **VIT)
    spec = OptimizerSpec(lr=1.0, no_decay=True, optimizer={"name": "adamw", "weight_decay": 0.5})
    groups = Stepper([net], spec).optimizer.param_groups
    names = {id(p): name for name, p in net.model.named_parameters()}
    decayed = {names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}
    spared = set(names.values()) - decayed
    assert {"cls_token", "pos_embed", "norm.weight", "head.bias"} <= spared and "head.weight" in decayed
    assert all(net.model.get_parameter(name).ndim > 1 for name in decayed)


def test_norms_and_biases_alone_do_not_decay() -> None:
    """What timm's optimiser makes of a wrapped net, whose no_weight_decay it does not see."""
    net = tiny.net("test_vit", 1, **VIT)
    spec = OptimizerSpec(lr=1.0, no_decay="norms", optimizer={"name": "adamw", "weight_decay": 0.5})
    mine = {id(p): g["weight_decay"] for g in Stepper([net], spec).optimizer.param_groups for p in g["params"]}
    groups = create_optimizer_v2(torch.nn.Sequential(net.model), "adamw", weight_decay=0.5).param_groups
    assert mine == {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert mine[id(net.model.pos_embed)] == mine[id(net.model.cls_token)] == 0.5


@pytest.mark.parametrize("name", ["adamw", "sgd", "lamb"])
def test_layers_have_the_rates_of_timms_groups(name: str) -> None:
    net = tiny.net("test_vit", 1, **VIT)
    spec = OptimizerSpec(lr=2.0, layer_decay=0.7, no_decay=True, optimizer={"name": name, "weight_decay": 0.1})
    stepper = Stepper([net], spec)
    stepper.use(4.0)
    mine = {id(p): (g["lr"] / 4.0, g["weight_decay"]) for g in stepper.optimizer.param_groups for p in g["params"]}
    spared = net.model.no_weight_decay()
    groups = param_groups_layer_decay(net.model, 0.1, no_weight_decay_list=spared, layer_decay=0.7)
    theirs = {id(p): (g["lr_scale"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert mine.keys() == theirs.keys() and len({rate for rate, _ in mine.values()}) > 3
    assert all(mine[key] == pytest.approx(theirs[key]) for key in mine)


def test_a_layers_share_is_of_its_nets_own_rate() -> None:
    net, slow = tiny.net("test_vit", 1, **VIT), tiny.net("test_vit", 1, **VIT)
    slow.lr_scale = 0.5
    spec = OptimizerSpec(lr=2.0, layer_decay=0.7, optimizer={"name": "sgd"})
    whole, half = ([group["lr_scale"] for group in Stepper([each], spec).groups()] for each in (net, slow))
    assert half == pytest.approx([0.5 * share for share in whole]) and min(whole) < 1.0 == max(whole)


@pytest.mark.parametrize(("smoothing", "threshold"), [(0.0, None), (0.1, None), (0.1, 0.2)])
def test_bce_is_timms(smoothing: float, threshold: float | None) -> None:
    logits, labels = torch.randn(5, 6, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 3, 5, 5, 1])
    batch = Batch(logits, labels, labels)
    theirs, mine = TimmsBCE(smoothing, threshold), BinaryCrossEntropy(smoothing, threshold)
    assert mine(logits, batch) == pytest.approx(theirs(logits, labels).item())
    assert mine(logits, batch, "none").mean() == pytest.approx(mine(logits, batch).item())
    on = torch.nn.functional.one_hot(torch.stack([labels, labels.flip(0)]), 6) * (1 - smoothing) + smoothing / 6
    rows = 0.7 * torch.nn.functional.one_hot(labels, 6) + 0.3 * torch.nn.functional.one_hot(labels.flip(0), 6)
    batch.targets = Mixed(rows, labels.flip(0), torch.tensor(0.7))
    assert mine(logits, batch) == pytest.approx(theirs(logits, 0.7 * on[0] + 0.3 * on[1]).item())


def test_blocks_that_are_computed_twice_give_the_same_gradient() -> None:
    once, twice = (tiny.net("test_vit", 1, **VIT).train() for _ in range(2))
    start.recompute(twice)
    calls = []
    twice.model.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    for net in (once, twice):
        net(torch.ones(2, 3, 16, 16)).logits.square().sum().backward()
    assert len(calls) == 2
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(once.parameters(), twice.parameters(), strict=True))


@pytest.mark.parametrize(("name", "text"), [
    ("cifar_resnet8", "count each batch twice"), ("mnist_mlp", "no such thing")])  # fmt: skip
def test_nets_that_are_not_computed_twice_say_so(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        start.recompute(tiny.net(name, 1))


def test_norms_of_timm_that_keep_a_variance_would_count_twice_too() -> None:
    from timm.layers import EvoNorm2dB0, EvoNorm2dS0

    net = tiny.net("test_vit", 1, **VIT)
    net.model.norm_pre = EvoNorm2dS0(64)  # keeps nothing
    start.recompute(net)
    net.model.norm_pre = EvoNorm2dB0(64)
    with pytest.raises(ValueError, match="its EvoNorm2dB0 would count each batch twice"):
        start.recompute(net)


@pytest.mark.parametrize("rate", [0.3, 0.5])
def test_a_student_that_drops_patches_is_read_without_maps_while_it_trains(rate: float) -> None:
    net = tiny.net("test_vit", 1, img_size=16, patch_size=2, patch_drop_rate=rate).train()  # 44 or 32 of 64 patches
    images = torch.randn(2, 3, 16, 16)
    torch.manual_seed(0)
    shown = net(images)
    torch.manual_seed(0)
    assert torch.equal(shown.logits, net.model(images)) and shown.features == []
    assert net.eval()(images).features[-1].shape[2:] == (8, 8)


def test_both_heads_of_a_net_with_two_are_spared_by_adaptive_clipping() -> None:
    net = tiny.net("deit_tiny_distilled_patch16_224", 1, patch_size=8, embed_dim=32, depth=2, num_heads=2)
    heads = Stepper([net], OptimizerSpec(lr=1.0, optimizer={"name": "sgd"})).heads
    assert heads == {id(p) for head in (net.model.head, net.model.head_dist) for p in head.parameters()}


def spec_of(*overrides: str) -> SimpleNamespace:
    return resolve(tiny.composed("method=none", "dataset=cifar100", *overrides))


def test_paths_are_dropped_where_the_student_has_some() -> None:
    spec = spec_of("student=timm", "student.model=test_vit", "schedule.drop_path=0.3")
    assert start.student_arguments(spec)["drop_path_rate"] == 0.3
    start.check_recipe(tiny.net("test_vit", 1, **VIT, **start.student_arguments(spec)), spec)
    with pytest.raises(ValueError, match="test_vit has no paths that are dropped"):
        start.check_recipe(tiny.net("test_vit", 1, **VIT), spec)
    fewer = tiny.net("test_vit", 1, **VIT, patch_drop_rate=0.5)
    start.check_recipe(fewer, spec_of("method=kd"))
    with pytest.raises(ValueError, match="patch_drop_rate: at reads its maps"):
        start.check_recipe(fewer, spec_of("method=at"))
    fewer.model.patch_drop_rate = 0.5  # as Hiera has it
    with pytest.raises(ValueError, match="test_vit is read with all its patches"):
        start.check_recipe(fewer, spec_of("method=kd"))
    with pytest.raises(ValueError, match="resnet8 has no paths that are dropped"):
        start.student_arguments(spec_of("student=resnet8", "schedule.drop_path=0.3"))
    with pytest.raises(ValueError, match="does not tell its layers"):
        start.check_recipe(tiny.net("cifar_resnet8"), spec_of("student=resnet8", "schedule.layer_decay=0.7"))


@pytest.mark.parametrize(("words", "text"), [
    ("method=kd schedule.clip_mode=agc", "nothing without schedule.clip_grad"),
    ("method=kd schedule.ema_warmup=true", "nothing without schedule.ema"),
    ("method=kd schedule.ema=1.0", "above 0 and below 1"),
    ("method=kd schedule.bce_threshold=0.2", "belongs to schedule.loss=bce"),
    ("method=kd schedule.accumulate=9", "no so many images"),
    ("method=kd schedule.no_decay=true schedule.optimizer.weight_decay=0", "no decay to spare"),
    ("method=rkd schedule.accumulate=2", "compares the images of a whole batch; leave schedule.accumulate null"),
    ("method=dot schedule.accumulate=2", "a way of its own"),
    ("method=deepkd schedule.layer_decay=0.7", "groups of its own"),
    ("method=nas-kd schedule.ema=0.9", "another one after the search"),
    ("method=residual-kd schedule.ema=0.9", "trains the assistant alone"),
    ("method=crd-cross-modal schedule.ema=0.9", "trains the last layer alone"),
    ("method=crd schedule.cutmix=1.0", "its memory holds an embedding"),
    ("method=crd schedule.repeats=3", "one view of each image a step"),
    ("method=sskd schedule.repeats=3", "each turned image's own among all of a batch"),
    ("method=specialists schedule.loss=bce", "a dustbin; leave schedule.loss null"),
    ("method=kd method.ce=0.0 schedule.loss=bce", "takes no cross-entropy"),
    ("method=simkd schedule.label_smoothing=0.1", "takes no cross-entropy"),
])  # fmt: skip
def test_what_cannot_be_honoured_is_refused(words: str, text: str) -> None:
    several = ["teacher.seeds=[0,1]"] if "specialists" in words else []
    with pytest.raises(ValueError, match=text):
        check(tiny.composed(*words.split(), *several))


@pytest.mark.parametrize("words", ["schedule.accumulate=1", "schedule.repeats=1", "schedule.loss=ce"])
def test_what_asks_for_nothing_is_not_refused(words: str) -> None:
    cfg = tiny.composed("method=crd", words)
    check(cfg)
    assert identity(cfg)["hash"] == identity(tiny.composed("method=crd"))["hash"]
