"""BiT: the HyperRule's table, schedule, resolution and draws, where its students start, MixUp, and its nets."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from distill import config
from distill.batch import Batch, Mixed
from distill.config import OptimizerSpec, ScheduleSpec
from distill.config.upstream import check_start, upstream_config
from distill.content.parts import Arrays, Part
from distill.criterion import CrossEntropy
from distill.data import Adapt, load_data, loading
from distill.data.pairs import Partners
from distill.data.strong import StrongSource
from distill.data.views import random_window, squeezed
from distill.engine import hyperrule as bit
from distill.engine.checkpoint import export
from distill.engine.hyperrule import by_rule
from distill.engine.optim import learning_rate
from distill.finished_run import open_run, student
from distill.method import refuse
from distill.methods.crd import CRD
from distill.models import FeatureNet, build
from distill.models.bit_resnet import StdConv
from distill.run import make_method, run
from distill.start import begin, own_constants
from distill.sweep.plan import items_of
from distill.sweep.speeds import Speeds
from distill.teachers.forward import Teachers
from tests import tiny

TABLE = [  # the authors' bit_hyperrule.py: training images, pixels -> steps, resize, crop, MixUp
    (1_000, 32, (100, 200, 300, 400, 500), 160, 128, 0.0),
    (19_999, 95, (100, 200, 300, 400, 500), 160, 128, 0.0),
    (20_000, 96, (500, 3_000, 6_000, 9_000, 10_000), 512, 480, 0.1),
    (50_000, 32, (500, 3_000, 6_000, 9_000, 10_000), 160, 128, 0.1),
    (499_999, 224, (500, 3_000, 6_000, 9_000, 10_000), 512, 480, 0.1),
    (500_000, 224, (500, 6_000, 12_000, 18_000, 20_000), 512, 480, 0.1),
    (1_281_167, 224, (500, 6_000, 12_000, 18_000, 20_000), 512, 480, 0.1),
]


@pytest.mark.parametrize(("images", "side", "steps", "resize", "crop", "mixup"), TABLE)
def test_the_table(images: int, side: int, steps: tuple[int, ...], resize: int, crop: int, mixup: float) -> None:
    assert (bit.steps(images), bit.resolution(side, side), bit.mixup(images)) == (steps, (resize, crop), mixup)


def schedule(*overrides: str) -> ScheduleSpec:
    cfg = tiny.composed("schedule=bit", "schedule.batch_size=512", *overrides)
    return config.resolve(cfg).schedule


@pytest.mark.parametrize("images", [40, 1_437, 50_000])
def test_the_schedule_falls_at_the_rules_steps(images: int) -> None:
    made = by_rule(schedule(), images)
    epoch = made.drawn or -(-images // 512)
    warm, *falls, end = bit.steps(images)
    assert (made.epochs - 1) * epoch < end <= made.epochs * epoch

    def rate(step: int) -> float:
        return learning_rate(made, step, epoch, made.epochs)

    assert rate(0) == pytest.approx(0.003 / warm) and rate(warm - 1) == pytest.approx(0.003) == rate(warm)
    for k, fall in enumerate(falls):
        assert rate(fall - 1) == pytest.approx(0.003 / 10**k) and rate(fall) == pytest.approx(0.003 / 10 ** (k + 1))
    assert made.mixup == (0.1 if images >= 20_000 else 0.0) and bool(made.drawn) == (images < 512)
    assert by_rule(schedule("schedule.mixup=0.3"), images).mixup == 0.3
    assert (made.optimizer["momentum"], made.optimizer["weight_decay"]) == (0.9, 0.0)


# ---- resolution


def images_of(count: int, side: int) -> Arrays:
    generator = np.random.default_rng(0)
    parts = [
        Part(generator.integers(256, size=(n, side, side, 3), dtype=np.uint8), np.arange(n) % 10) for n in (count, 20)
    ]
    return Arrays(*parts, [str(k) for k in range(10)])


@pytest.mark.parametrize(("dataset", "side", "resize", "crop"), [("cifar10", 32, 160, 128), ("stl10", 96, 512, 480)])
def test_the_rules_resolution_is_that_of_the_batches(
    monkeypatch: pytest.MonkeyPatch, dataset: str, side: int, resize: int, crop: int
) -> None:
    """stl10 is stored at 96 x 96 and configured at 32: what counts is how it is stored."""
    arrays = images_of(20, side)
    monkeypatch.setattr(loading, "fetched", lambda *_: arrays)
    spec = config.resolve(tiny.composed("schedule=bit", f"dataset={dataset}", "dataset.flip=false"))
    data = load_data(spec.dataset, adapt=bit.adapt(spec.schedule, spec.dataset))
    batch = next(data.source(batch_size=2, seed=3).epoch(1))
    assert batch.inputs.shape == (2, 3, crop, crop) and data.info.size == crop and data.resize == resize
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (data.info.mean, data.info.std))
    shown = (batch.inputs * std + mean) * 255
    places = resize - crop + 1
    for image, index, view in zip(shown, batch.index.tolist(), batch.crop.tolist(), strict=True):
        whole = Image.fromarray(arrays.train.images[index]).resize((resize, resize), Image.Resampling.BILINEAR)
        top, left = divmod(view // 2, places)
        wanted = torch.from_numpy(np.array(whole)[top : top + crop, left : left + crop]).permute(2, 0, 1)
        assert (image - wanted).abs().max() < 1.01, "the crop of the resized image, nothing padded"
    seen, _ = next(data.evaluation(1))
    whole = Image.fromarray(arrays.test.images[0]).resize((crop, crop), Image.Resampling.BILINEAR)
    assert ((seen[0] * std + mean) * 255 - torch.from_numpy(np.array(whole)).permute(2, 0, 1)).abs().max() < 1.01


def test_crops_of_the_rule_are_numbered_for_the_teachers_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "fetched", lambda *_: images_of(20, 32))
    spec = config.resolve(tiny.composed("schedule=bit", "dataset=cifar10"))
    data = load_data(spec.dataset, adapt=bit.adapt(spec.schedule, spec.dataset))
    assert data.view_count == 2 * 33**2
    source = data.source(batch_size=20, seed=1)
    views = torch.cat([batch.crop for epoch in range(1, 5) for batch in source.epoch(epoch)])
    assert 2 * 81 < int(views.max()) < data.view_count


def test_folders_are_resized_and_cropped_by_the_size_of_their_first_image(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for name in "ab":
            (tmp_path / part / name).mkdir(parents=True)
            for k in range(2):
                pixels = np.full((60, 80, 3), 100 * k, dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{k}.png")
    cfg = tiny.composed("schedule=bit", "dataset=folder", f"dataset.root={tmp_path}", "dataset.workers=0")
    spec = config.resolve(cfg)
    data = load_data(spec.dataset, adapt=bit.adapt(spec.schedule, spec.dataset))
    batch = next(data.source(batch_size=3, seed=1).epoch(1))
    assert batch.inputs.shape == (3, 3, 128, 128) and data.train.resize == 160
    assert next(data.evaluation(4))[0].shape == (4, 3, 128, 128)


def test_a_crop_of_a_folders_image_is_a_window_of_the_resized_one() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(256, size=(30, 20, 3), dtype=np.uint8))
    whole = np.array(squeezed(image, 40))
    seen = set()
    for seed in range(40):
        crop = np.array(random_window(squeezed(image, 40), 32, True, seed))
        places = [
            (y, x, mirrored) for y in range(9) for x in range(9) for mirrored in (False, True)
            if np.array_equal(crop[:, ::-1] if mirrored else crop, whole[y : y + 32, x : x + 32])
        ]  # fmt: skip
        assert len(places) == 1
        seen |= set(places)
    assert len(seen) > 30 and {mirrored for *_, mirrored in seen} == {False, True}


def adapt(*overrides: str) -> Adapt | None:
    """What the rule makes of the dataset's keys."""
    spec = config.resolve(tiny.composed(*overrides))
    return bit.adapt(spec.schedule, spec.dataset)


@pytest.mark.parametrize("override", ["dataset.size=128", "+dataset.resize=true", "dataset.pad=2"])
def test_a_resolution_of_the_users_is_refused_beside_the_rule(override: str) -> None:
    key = override.strip("+").split("=")[0]
    with pytest.raises(ValueError, match=rf"{key}=.* give schedule.resize and schedule.crop"):
        adapt("schedule=bit", "dataset=cifar10", override.strip("+"))


def test_a_resolution_of_the_schedules_is_taken() -> None:
    keys = adapt("schedule=bit", "dataset=cifar10", "schedule.resize=40", "schedule.crop=32")
    assert keys is not None and keys(32, 32) == {"size": 32, "resize": 40, "pad": 0}
    assert adapt("dataset=cifar10", "dataset.size=36") is None


def test_a_crop_larger_than_the_image_is_refused() -> None:
    spec = replace(config.resolve(tiny.composed()).dataset, size=64, resize=40, pad=0)
    with pytest.raises(ValueError, match="crops of 64 pixels do not fit in images of 40"):
        load_data(spec)


# ---- few shots


def test_few_images_are_drawn_with_replacement() -> None:
    data = tiny.tiny_data()
    source = data.source(batch_size=512, seed=1, drawn=3)
    batches = list(source.epoch(1))
    assert [len(batch.labels) for batch in batches] == [512] * 3
    counts = torch.cat([batch.index for batch in batches]).bincount(minlength=tiny.IMAGES)
    assert counts.min() >= 40 and counts.max() <= 105, "1,536 draws of 22: 70 each, with a deviation of 8"
    assert batches[0].index.bincount(minlength=tiny.IMAGES).unique().numel() > 5, "drawn, not repeated in turn"
    assert all(torch.equal(batch.labels, data.train.labels[batch.index]) for batch in batches)
    again = next(source.epoch(1, start=2))
    assert torch.equal(again.inputs, batches[2].inputs)


def test_the_rule_draws_where_a_step_would_have_fewer_images_than_a_batch() -> None:
    made = by_rule(schedule(), 511)
    assert (made.drawn, made.epochs, made.warmup_epochs) == (100, 5, 1.0)
    made = by_rule(schedule(), 512)
    assert (made.drawn, made.epochs, made.milestones) == (0, 500, (200, 300, 400, 500))


@pytest.mark.parametrize("name", ["crd", "ps-kd", "sskd", "cs-kd", "kdcl"])
def test_an_image_that_comes_several_times_in_a_batch_is_refused_where_it_may_come_once(name: str) -> None:
    spec = config.resolve(tiny.composed("schedule=bit", "schedule.batch_size=512", f"method={name}"))
    kind = config.class_of(spec.method.node)
    refuse(kind, name, vars(by_rule(spec.schedule, 512)), 1, spec.method.node)
    with pytest.raises(ValueError, match="some images several times for .*; lower schedule.batch_size"):
        refuse(kind, name, vars(by_rule(spec.schedule, 511)), 1, spec.method.node)


# ---- where a student starts


def test_the_head_starts_at_zero_and_nothing_else_does() -> None:
    data = tiny.tiny_data()
    for overrides, zero in (("schedule=bit", True), ("schedule=digits", False)):
        spec = config.resolve(tiny.composed("method=none", overrides))
        method = make_method(spec, data, Teachers(), torch.device("cpu"))
        weights = method.student.classifier.weight
        assert bool((weights == 0).all()) is zero
        others = [p for p in method.student.model.parameters() if p.ndim == 4]
        assert all(p.abs().sum() > 0 for p in others)


def test_a_classifier_of_several_layers_that_starts_at_zero_learns() -> None:
    net = build("repvit_m0_9", 4, seed=0).train()  # a BatchNorm, then a linear layer
    begin(net, None, zero_head=True)
    logits = net(torch.randn(4, 3, 32, 32)).logits
    assert not logits.any()
    logits[:, 0].sum().backward()
    assert net.model.head.head.l.weight.grad.abs().sum() > 0


def test_a_start_takes_all_but_the_classifier(tmp_path: Path) -> None:
    before, net = (build("cifar_resnet8", classes, size=16, seed=classes) for classes in (4, 6))
    export(before.model, tmp_path / "s.safetensors", {"model": "cifar_resnet8"})
    head = net.classifier.weight.clone()
    begin(net, tmp_path / "s.safetensors", zero_head=False)
    theirs, ours = before.model.state_dict(), net.model.state_dict()
    assert torch.equal(ours["fc.weight"], head)
    assert all(torch.equal(theirs[key], ours[key]) for key in ours if not key.startswith("fc."))
    with pytest.raises(ValueError, match="is no start for cifar_resnet14"):
        begin(build("cifar_resnet14", 6, size=16), tmp_path / "s.safetensors", zero_head=False)


def test_a_start_may_have_its_authors_names(tmp_path: Path) -> None:
    args = {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}
    before, net = (build("convnext_tiny", classes, size=32, args=args, seed=classes) for classes in (4, 6))
    torch.save({"model": tiny.as_convnexts_authors(before.model.state_dict())}, file := tmp_path / "convnext.pth")
    head = net.classifier.weight.clone()
    begin(net, file, zero_head=False)
    theirs, ours = before.model.state_dict(), net.model.state_dict()
    assert torch.equal(ours["head.fc.weight"], head)
    assert all(torch.equal(theirs[key], ours[key]) for key in ours if not key.startswith("head.fc."))
    with pytest.raises(ValueError, match="is no start for convnext_tiny"):
        begin(build("convnext_tiny", 6, size=32, args={**args, "dims": [8, 8, 8, 16]}), file, zero_head=False)


def test_a_student_is_trained_upstream_once_and_goes_on(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[Path | None, torch.Tensor]] = []

    def noted(net: FeatureNet, weights: Path | None, zero_head: bool) -> None:
        begin(net, weights, zero_head)
        taken.append((weights, next(net.model.parameters()).clone()))

    monkeypatch.setattr("distill.start.begin", noted)
    cfg = tiny.composed(
        "method=none", "student=resnet8", "dataset.classes=[8,9,3]", "dataset.fraction=0.1", "precision=fp32",
        f"output={output}", "log_every=500", "schedule.epochs=1", "schedule.batch_size=64",
        "student.upstream={dataset:{classes:[0,1]},schedule:{name:digits,epochs:1}}",
    )  # fmt: skip
    before = upstream_config(cfg)
    assert before is not None and before.dataset.fraction == 1.0 and before.method.name == "none"
    result = run(cfg, Path(config.identity(cfg)["folder"]), table=False)
    folder = Path(config.identity(before)["folder"])
    assert [weights for weights, _ in taken] == [None, folder / "student.safetensors"]
    theirs = load_file(folder / "student.safetensors")
    assert torch.equal(taken[1][1], theirs[next(iter(build("cifar_resnet8", 2).model.state_dict()))])
    assert theirs["fc.weight"].shape[0] == 2
    assert result["input"] == {"size": 8, "channels": 1, "mean": [0.305861], "std": [0.37641]}
    assert result["setting"] == [
        "dataset.classes=[8, 9, 3]", "dataset.fraction=0.1", "student.upstream=classes=[0, 1]"
    ]  # fmt: skip
    opened = student(open_run(Path(config.identity(cfg)["folder"])), torch.device("cpu"))
    assert opened.num_classes == 3


def test_a_dry_run_lists_the_upstream_training_once(output: Path) -> None:
    words = ["student=resnet8", "method=none", f"output={output}", "student.upstream={schedule:digits}"]
    plan = [([f"seed={seed}", *words], partial(tiny.composed, f"seed={seed}", *words)) for seed in (1, 1, 2)]
    names = [item.name for item in items_of(plan, Speeds([]))]
    assert [name for name in names if name.startswith("upstream")] == [
        "upstream resnet8 seed=1", "upstream resnet8 seed=2"
    ]  # fmt: skip
    assert names.index("upstream resnet8 seed=1") == 0 and len(names) == 4


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["student.upstream={schedule:digit}"], "no schedule 'digit': did you mean digits"),
        (["student.upstream={dataset:{clases:[1,2]},schedule:digits}"], "no key 'clases': did you mean classes"),
        (["student.upstream={dataset:{classes:[1,2]}}"], "give {dataset: {KEY: VALUE}, schedule: NAME}"),
        (["student.upstream={schedule:digits}", "student.weights=pretrained"], "two places to start from"),
        (["student.weights=nowhere.pth"], "is no file"),
    ],
)
def test_a_start_that_cannot_be_is_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(ValueError) as found:
        check_start(tiny.composed(*overrides))
    assert words in str(found.value)


def test_pretrained_nets_of_bit_see_images_by_their_own_constants() -> None:
    net, info = build("cifar_resnet8", 6, size=16, seed=1), tiny.tiny_data().info
    image = torch.rand(2, 3, 16, 16)
    spec = replace(config.resolve(tiny.composed()).student, model="resnetv2_50x1_bit.goog_in21k", pretrained=True)
    plain = net((image - 0.5) / 0.5).logits
    own_constants(net, spec, info)
    seen = net((image - torch.tensor(info.mean).view(3, 1, 1)) / torch.tensor(info.std).view(3, 1, 1)).logits
    assert torch.allclose(seen, plain, atol=1e-5)
    assert [value for values in net.constants(info.mean, info.std) for value in values] == pytest.approx([0.5] * 6)
    other = build("cifar_resnet8", 6, size=16, seed=1)
    own_constants(other, replace(spec, pretrained=False), info)
    assert other.input_scale is None


def test_classes_are_kept_in_training_and_evaluation_and_counted_anew() -> None:
    spec = config.resolve(tiny.composed()).dataset
    whole, some = load_data(spec), load_data(replace(spec, classes=(7, 2)))
    assert some.info.class_names == ["7", "2"] and some.info.num_classes == 2
    for part in ("train", "test"):
        labels, all_labels = getattr(some, part).labels, getattr(whole, part).labels
        assert [(labels == k).sum() for k in (0, 1)] == [(all_labels == k).sum() for k in (7, 2)]
        assert torch.equal(getattr(some, part).images[labels == 1], getattr(whole, part).images[all_labels == 2])
    for classes, words in (([1], "two classes or more"), ([1, 1], "each once"), ([1, 10], "names class 10")):
        with pytest.raises(ValueError, match=words):
            load_data(replace(spec, classes=tuple(classes)))


# ---- the net


def test_the_thin_bit_net_is_timms_resnetv2() -> None:
    """Their ResNetV2 of the same depths and widths, with the authors' epsilon, gives the same logits."""
    from timm.layers import GroupNormAct, StdConv2d
    from timm.models.resnetv2 import ResNetV2

    theirs = ResNetV2(
        layers=(1, 1, 1, 1), channels=(32, 64, 128, 256), stem_chs=8, stem_type="fixed", num_classes=6,
        conv_layer=partial(StdConv2d, eps=1e-10),
        norm_layer=lambda width, **options: GroupNormAct(width, num_groups=min(32, width // 4), **options),
    ).eval()  # fmt: skip
    ours = build("bit_resnet14", 6, size=64, seed=1).model
    with torch.no_grad():
        for p in ours.parameters():
            p.copy_(torch.randn_like(p) * 0.5 + 0.1)
    names = {"stem_conv.weight": "stem.conv.weight", "fc.weight": "head.fc.weight", "fc.bias": "head.fc.bias"}
    names |= {f"gn.{end}": f"norm.{end}" for end in ("weight", "bias")}
    for i in range(1, 5):
        for k in range(1, 4):
            names[f"block{i}.0.conv{k}.weight"] = f"stages.{i - 1}.blocks.0.conv{k}.weight"
            names |= {f"block{i}.0.gn{k}.{end}": f"stages.{i - 1}.blocks.0.norm{k}.{end}" for end in ("weight", "bias")}
        names[f"block{i}.0.downsample.weight"] = f"stages.{i - 1}.blocks.0.downsample.conv.weight"
    state = {names[key]: value for key, value in ours.state_dict().items()}
    theirs.load_state_dict({key: v.view_as(theirs.state_dict()[key]) for key, v in state.items()})
    image = torch.randn(2, 3, 64, 64)
    assert torch.allclose(ours(image), theirs(image), rtol=1e-4, atol=1e-4)


def test_standardised_filters_have_mean_0_and_variance_1_whatever_the_weights_scale() -> None:
    conv = StdConv(3, 5, 3)
    image = torch.randn(2, 3, 8, 8)
    before = conv(image)
    with torch.no_grad():
        conv.weight.mul_(7.0).add_(2.0)
    assert torch.allclose(conv(image), before, atol=1e-4)
    ones = torch.zeros(1, 3, 8, 8)
    ones[:, :, 3, 3] = 1.0
    assert conv(ones).sum().abs() < 1e-4, "the sum over filters of mean 0"


def test_the_thin_bit_net_learns_alike_whatever_else_is_in_the_batch() -> None:
    net = build("bit_resnet14", 6, size=32, seed=1).train()
    images = torch.randn(4, 3, 32, 32)
    assert torch.allclose(net(images).logits[:1], net(images[:1]).logits, atol=1e-5)


# ---- schedules without the rule, and MixUp


def test_other_schedules_stay_and_other_rules_are_refused() -> None:
    plain = config.resolve(tiny.composed()).schedule
    assert by_rule(plain, 100) is plain
    with pytest.raises(ValueError, match="the only rule is hyperrule"):
        by_rule(replace(plain, rule="bot"), 100)
    for step in (0, 11, 12, 13, 200):
        assert learning_rate(OptimizerSpec(lr=1.0, milestones=(4,)), step, 3, 10) == (
            1.0 if step < 12 else 0.1
        )


def test_mixup_mixes_images_views_and_labels_alike() -> None:
    data = tiny.tiny_data()
    plain = list(data.source(batch_size=8, seed=1).epoch(2))
    mixed = list(data.source(batch_size=8, seed=1, mixup=0.8).epoch(2))
    shares = []
    for a, b in zip(plain, mixed, strict=True):
        assert torch.equal(a.labels, b.labels) and b.targets.probabilities.shape == (len(a.labels), tiny.CLASSES)
        assert torch.allclose(b.targets.probabilities.sum(1), torch.ones(len(a.labels)))
        i = next(i for i in range(len(a.labels)) if (b.targets.probabilities[i] > 0).sum() == 2)
        share = b.targets.probabilities[i, a.labels[i]].item()
        partner = next(
            j
            for j in range(len(a.labels))
            if torch.allclose(b.inputs[i], share * a.inputs[i] + (1 - share) * a.inputs[j], atol=1e-4)
        )
        assert b.targets.probabilities[i, a.labels[partner]].item() == pytest.approx(1 - share, abs=1e-6)
        shares.append(share)
    assert min(shares) >= 0.5 and len(set(shares)) == len(shares)
    rest = next(data.source(batch_size=8, seed=1, mixup=0.8).epoch(2, start=2))
    assert torch.equal(rest.inputs, mixed[2].inputs) and torch.equal(rest.truth, mixed[2].truth)
    assert data.source(batch_size=8, seed=1, mixup=0.8).replace(last_batch="drop").mixup == 0.8
    assert plain[0].targets is None


def test_soft_labels_enter_the_cross_entropy() -> None:
    method = tiny.seeded_method("none", tiny.tiny_data()).eval()
    images, labels = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
    targets = 0.7 * nn.functional.one_hot(labels, 6) + 0.3 * nn.functional.one_hot(labels.flip(0), 6)
    batch = Batch(images, labels, labels, targets=Mixed(targets, labels.flip(0), torch.tensor(0.7)))
    logs = method.student(images).logits.log_softmax(1)
    wanted = -sum(0.7 * logs[i, labels[i]] + 0.3 * logs[i, labels[3 - i]] for i in range(4)) / 4
    assert method.loss(batch)["ce"].item() == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize("beside", [Partners, StrongSource])
def test_a_further_view_beside_mixed_images_is_refused(beside) -> None:
    with pytest.raises(ValueError, match="set schedule.mixup=0"):
        beside(tiny.tiny_data().source(batch_size=8, seed=1, mixup=0.8))


def test_the_rules_own_mixup_is_refused_for_a_method_that_cannot_mix() -> None:
    bit = config.resolve(tiny.composed("schedule=bit")).schedule
    refuse(CRD, "crd", vars(by_rule(bit, 10_000)))
    with pytest.raises(ValueError, match="cannot honour schedule.mixup=0.1 .schedule=bit sets it.: its memory"):
        refuse(CRD, "crd", vars(by_rule(bit, 50_000)))


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
    method.criterion = CrossEntropy(0.1)
    logs = logits.log_softmax(1)
    plain, even = -logs.gather(1, batch.labels[:, None]).mean(), -logs.mean()
    wanted = 2 * (0.9 * plain + 0.1 * even).item()
    assert method.supervised(logits, batch)["ce"].item() == pytest.approx(wanted, rel=1e-5)
    assert torch.equal(method.counted[0], logits) and method.counted[1] is batch.labels
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
        "schedule.resize=10", "schedule.crop=8",
    )  # fmt: skip
    result = run(cfg, Path(config.identity(cfg)["folder"]), table=False)
    assert result["epochs"] == 28 and result["protocol"] == "bit", "18 steps an epoch, 500 in all"
