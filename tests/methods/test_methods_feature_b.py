"""Methods on features, second half: losses against loops in float64, others' traps, and what is trained."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill import config
from distill.batch import Batch
from distill.data import ArraySource, DataInfo, Split
from distill.data.views import random_view
from distill.engine.fit import merge, train_mode
from distill.engine.optim import Stepper
from distill.method import Method
from distill.methods import cat_kd, kd_proj, sskd
from distill.methods.afd_attention import AFDAttention, afd_loss
from distill.methods.cat_kd import CATKD, cat_loss
from distill.methods.crd import CRD
from distill.methods.kd_proj import KDProj
from distill.methods.mgd import MGD, mgd_loss
from distill.methods.norm import NORM
from distill.methods.ofa_kd import OFAKD, TokenExit, ofa_loss
from distill.methods.reviewkd import BatchNorm, Fusion, ReviewKD, hcl_loss
from distill.methods.semckd import SemCKD, gram, semckd_loss
from distill.methods.simkd import ReusedModel, SimKD, simkd_loss
from distill.methods.srrl import SRRL, feature_matching_loss, linear_layer, softmax_regression_loss
from distill.methods.sskd import SSKD, kept, rotate, selected_kl, similarities
from distill.models import FeatureNet, Outputs, build
from distill.models.reading import frozen_statistics
from distill.teachers.cache import HOLDS
from distill.teachers.prepared import Prepared
from tests import tiny

B, K = 8, 6


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def info() -> DataInfo:
    return tiny.tiny_data().info


def net(name: str = "cifar_resnet8", seed: int = 0, **args: Any) -> FeatureNet:
    return tiny.net(name, seed, **args)


def teacher(name: str = "cifar_resnet14", **args: Any) -> FeatureNet:
    return tiny.frozen(net(name, 9, **args))


def made(
    kind: type[Method], student: str = "cifar_resnet8", taught_by: str = "cifar_resnet14", **options: Any
) -> Any:
    torch.manual_seed(3)
    return tiny.by_hand(kind, net(student), [teacher(taught_by)], info(), **options)


def batch(count: int = B, seed: int = 0) -> Batch:
    images = rand(count, 3, 16, 16, seed=seed).float()
    return Batch(images, torch.arange(count) % K, torch.arange(count))


def outputs(maps: list[Tensor], embedding: Tensor | None = None, logits: Tensor | None = None) -> Outputs:
    pooled = maps[-1].mean((2, 3)) if embedding is None else embedding
    return Outputs(rand(len(pooled), K).float() if logits is None else logits, maps, pooled)


def same_value_and_gradient(loss: Any, slow: Any, *inputs: Tensor) -> None:
    """Value, and gradient for the first input, against the slow version's finite differences (float64)."""
    x = inputs[0].clone().requires_grad_(True)
    value = loss(x, *inputs[1:])
    assert value.item() == pytest.approx(slow(inputs[0], *inputs[1:]), rel=1e-9)
    value.backward()
    assert x.grad is not None
    flat, step = inputs[0].flatten(), 1e-5
    for i in range(0, flat.numel(), max(flat.numel() // 12, 1)):
        ends = []
        for sign in (1, -1):
            moved = flat.clone()
            moved[i] += sign * step
            ends.append(slow(moved.view(inputs[0].shape), *inputs[1:]))
        numeric = (ends[0] - ends[1]) / (2 * step)
        assert x.grad.flatten()[i].item() == pytest.approx(numeric, rel=2e-4, abs=1e-8)


def changed(method: Method, run: Any) -> set[str]:
    """Names of the parameters that `run` changes, up to the second dot."""
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    run()
    return {name for name, p in method.named_parameters() if not torch.equal(p, before[name])}


def take_steps(method: Method, number: int, steps: int = 2, make: Callable[[int], Batch] | None = None) -> None:
    """Train the method's phase `number` for a few steps, as the loop does."""
    phase = method.phases()[number]
    schedule = {"lr": 0.05, "optimizer": {"name": "sgd", "momentum": 0.9, "weight_decay": 5e-4}}
    steppers = [Stepper(u.trains, merge(schedule, phase.schedule)) for u in phase.updates]
    train_mode(method, phase)
    for step in range(steps):
        for update, stepper in zip(phase.updates, steppers, strict=True):
            stepper.step(update.loss(make(step) if make else batch(seed=step)))


def cell_means(x: list, size: int) -> list:
    """Adaptive average pooling of a square map, by its definition."""
    n = len(x)
    edges = [(math.floor(i * n / size), math.ceil((i + 1) * n / size)) for i in range(size)]

    def mean(rows: tuple[int, int], cols: tuple[int, int]) -> float:
        cells = [x[r][c] for r in range(*rows) for c in range(*cols)]
        return sum(cells) / len(cells)

    return [[mean(rows, cols) for cols in edges] for rows in edges]


# ------------------------------------------------------------------ reviewkd


def slow_hcl(student: Tensor, target: Tensor) -> float:
    s, t = student.tolist(), target.tolist()
    side, maps = len(s[0][0]), [(a, b) for x, y in zip(s, t, strict=True) for a, b in zip(x, y, strict=True)]

    def mse(size: int) -> float:
        total = 0.0
        for a, b in maps:
            p, q = (cell_means(a, size), cell_means(b, size)) if size < side else (a, b)
            total += sum((p[r][c] - q[r][c]) ** 2 for r in range(len(p)) for c in range(len(p)))
        return total / (len(maps) * min(size, side) ** 2)

    value, share, norm = mse(side), 1.0, 1.0
    for size in (4, 2, 1):
        if size < side:
            share /= 2
            value, norm = value + share * mse(size), norm + share
    return value / norm


@pytest.mark.parametrize("side", [1, 2, 4, 6, 7, 8])
def test_hcl_loss(side: int) -> None:
    same_value_and_gradient(hcl_loss, slow_hcl, rand(2, 3, side, side), rand(2, 3, side, side, seed=1))


def test_reviewkd_fusion_equals_the_concatenation_of_the_paper() -> None:
    """Gates from the small map and repeated are those of the repeated map, concatenated."""
    torch.manual_seed(0)
    fusion = Fusion(3, 4, 5, deepest=False).double().eval()
    feature, deeper = rand(2, 3, 8, 8), rand(2, 4, 4, 4, seed=1)
    x, up = fusion.enter(feature), F.interpolate(deeper, size=(8, 8), mode="nearest")
    gate = fusion.gates(torch.cat([x, up], 1)).sigmoid()
    expected = x * gate[:, :1] + up * gate[:, 1:]
    out, kept_map = fusion(feature, deeper, (8, 8))
    torch.testing.assert_close(kept_map, expected)
    torch.testing.assert_close(out, fusion.leave(expected))
    assert fusion(feature, deeper, (16, 16))[0].shape == (2, 5, 16, 16)


def test_reviewkd_reads_shapes_from_the_nets_and_goes_from_deep_to_shallow() -> None:
    method = made(ReviewKD, "cifar_MobileNetV2", "cifar_vgg8", width=24)
    student, target = method.student(batch().inputs), method.teach(batch())
    levels = method.levels(student, preact=False)
    wanted = method.levels(target, preact=True)
    assert levels[-1].shape == (B, method.student.embedding_dim, 1, 1)
    assert torch.equal(wanted[0], target.preacts[0]) and (wanted[0] < 0).any(), (
        "teacher maps are before the ReLU"
    )
    levels = [level.detach().requires_grad_() for level in levels]
    reviewed = method.review(levels, [t.shape[2:] for t in wanted])
    assert [r.shape for r in reviewed] == [t.shape for t in wanted]
    assert {f.enter[0].out_channels for f in method.fusions} == {24}
    grad = torch.autograd.grad(reviewed[-1].sum(), levels, allow_unused=True, retain_graph=True)
    assert [g is not None for g in grad] == [False] * 4 + [True], "the deepest level sees nothing but itself"
    grad = torch.autograd.grad(reviewed[0].square().sum(), levels, allow_unused=True)
    assert all(g is not None for g in grad), "the shallowest reviews all"


@pytest.mark.parametrize(("first", "shares"), [(1, [1 / 20, 1 / 2, 1, 1]), (0, [0, 9 / 20, 19 / 20, 1])])
def test_reviewkd_warm_up_counts_epochs_from_one_or_from_zero(first: int, shares: list[float]) -> None:
    method = made(ReviewKD, warmup=20, first_epoch=first).eval()
    s, t = method.student(batch().inputs), method.teach(batch())
    values = []
    for method.epoch in (1, 10, 20, 35):
        values.append(method.distill(s, t, batch())["review"].item())
    assert [v / values[-1] for v in values] == pytest.approx(shares, rel=1e-5)


def test_reviewkd_asks_its_teacher_as_the_authors_loop_for_the_data_set_does() -> None:
    live, still = made(ReviewKD, teacher_mode="train"), made(ReviewKD)
    before = {name: value.clone() for name, value in live.teacher.state_dict().items()}
    seen, other = live.teach(batch()).embedding, still.teach(batch()).embedding
    assert not torch.allclose(seen, other)
    assert all(torch.equal(value, before[name]) for name, value in live.teacher.state_dict().items())
    live.teacher.train()
    with torch.no_grad():
        assert torch.equal(live.teacher(batch().inputs).embedding, seen)
    for words, mode in ((("dataset=cifar100",), "train"), (("dataset=imagenet", "pair=resnet34_resnet18"), "eval")):
        assert config.plain(tiny.composed(*words, "method=reviewkd"), "method.teacher_mode") == mode


@pytest.mark.parametrize("name", ["ofd", "reviewkd", "nkd", "wsld", "mgd"])
def test_a_teacher_in_train_mode_answers_itself_and_no_folded_copy_or_cache_of_it(name: str) -> None:
    words = ("method.teacher_mode=train",)
    method = tiny.make(name, tiny.net("cifar_resnet8"), tiny.net("cifar_resnet14"), tiny.tiny_data(), *words)
    wanted = method.teach(batch()).logits
    method.consult = Prepared(list(method.teachers))
    assert torch.equal(method.teach(batch()).logits, wanted)
    method.teacher_mode = "eval"
    assert not torch.allclose(method.teach(batch()).logits, wanted)
    reads = config.reads(tiny.composed(f"method={name}", *words))
    assert not any(reads <= held for held in HOLDS.values()), "a cache would hold what the method reads"


def test_reviewkd_refuses_another_mode_and_another_first_epoch() -> None:
    with pytest.raises(ValueError, match="teacher_mode is 'live': it is one of train, eval"):
        made(ReviewKD, teacher_mode="live")
    with pytest.raises(ValueError, match="first_epoch is 2"):
        made(ReviewKD, first_epoch=2)


def test_reviewkd_takes_a_last_batch_of_one_image() -> None:
    norm = BatchNorm(4).train()
    assert torch.equal(
        norm(torch.ones(1, 4, 1, 1)), F.batch_norm(torch.ones(1, 4, 1, 1), torch.zeros(4), torch.ones(4))
    )
    method = made(ReviewKD)
    train_mode(method, method.phases()[0])
    assert math.isfinite(method.loss(batch(1))["review"].item())


def test_reviewkd_refuses_unequal_stages() -> None:
    with pytest.raises(ValueError, match=r"resnet8 has stages .*vgg8 .*method=semckd"):
        made(ReviewKD, taught_by="cifar_vgg8")


@pytest.mark.parametrize(
    ("pair", "weight"), [("resnet56 resnet20", 0.6), ("resnet32x4 ShuffleV2", 8.0), ("vgg13 vgg8", 5.0)]
)
def test_reviewkd_weights_of_pairs(pair: str, weight: float) -> None:
    t, s = pair.split()
    cfg = tiny.composed("dataset=cifar100", "method=reviewkd", f"teacher={t}", f"student={s}")
    assert config.plain(cfg, "method.weight") == weight


# ------------------------------------------------------------------ srrl


def slow_mse(a: Tensor, b: Tensor) -> float:
    x, y = a.flatten().tolist(), b.flatten().tolist()
    return sum((p - q) ** 2 for p, q in zip(x, y, strict=True)) / len(x)


@pytest.mark.parametrize("loss", [feature_matching_loss, softmax_regression_loss])
def test_srrl_losses(loss: Any) -> None:
    same_value_and_gradient(loss, slow_mse, rand(4, 5), rand(4, 5, seed=1))


def test_srrl_goes_through_the_teachers_frozen_classifier() -> None:
    method = made(SRRL, weight=2.0, regression=0.5)
    s, t = method.student(batch().inputs), method.teach(batch())
    method.eval()
    losses = method.distill(s, t, batch())
    projected = method.connector(s.features[-1]).mean((2, 3))
    again = method.teacher.classifier(projected)
    assert losses["regress"].item() == pytest.approx(slow_mse(again, t.logits) * 2 * 0.5, rel=1e-5)
    assert losses["match"].item() == pytest.approx(slow_mse(projected, t.embedding) * 2, rel=1e-5)
    names = changed(method, lambda: take_steps(method, 0))
    assert {name.split(".")[0] for name in names} == {"student", "connector"}
    assert not any(name.startswith("teacher") for name in method.state_dict())


def test_srrl_starts_its_connector_as_the_authors_of_each_form_do() -> None:
    spread = {form: made(SRRL, form=form).connector[0].weight.std().item() for form in ("map", "pooled")}
    assert spread["map"] == pytest.approx((2 / 64) ** 0.5, rel=0.05)
    assert spread["pooled"] == pytest.approx((1 / 64 / 3) ** 0.5, rel=0.05)  # torch's: uniform up to 1 / sqrt(in)


def test_srrl_projects_the_pooled_vector_of_nets_with_a_convolution_behind_their_stages() -> None:
    method = made(SRRL, "cifar_MobileNetV2", form="pooled")
    assert method.connector[0].in_channels == method.student.embedding_dim != method.student.channels[-1]
    with pytest.raises(ValueError, match="map, pooled"):
        made(SRRL, form="vector")


def test_srrl_leaves_the_relu_out_where_the_embedding_is_signed() -> None:
    assert any(isinstance(m, nn.ReLU) for m in made(SRRL).connector)
    vit = dict(patch_size=4, embed_dim=32, depth=4, num_heads=2)
    signed = tiny.by_hand(SRRL, net(), [teacher("vit_tiny_patch16_224", **vit)], info())
    assert not any(isinstance(m, nn.ReLU) for m in signed.connector)


def test_classifiers_that_are_wrapped_are_found_and_others_refused() -> None:
    assert linear_layer(net("cifar_MobileNetV2")).weight.shape == (K, 1280)
    odd = net()
    odd.model.fc = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, K))
    with pytest.raises(ValueError, match="method=crd"):
        tiny.by_hand(SRRL, net(), [odd], info())


# ------------------------------------------------------------------ semckd


def test_semckd_gram_and_loss() -> None:
    x = rand(3, 2, 2, 2)
    rows = x.flatten(1).tolist()
    expected = [[sum(a * b for a, b in zip(p, q, strict=True)) for q in rows] for p in rows]
    torch.testing.assert_close(gram(x), torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(gram(x.contiguous(memory_format=torch.channels_last)), gram(x))

    def slow(attention: Tensor, distances: Tensor) -> float:
        a, d = attention.tolist(), distances.tolist()
        return sum(a[b][i][j] * d[b][i][j] for b in range(3) for i in range(2) for j in range(4)) / (3 * 2)

    same_value_and_gradient(semckd_loss, slow, rand(3, 2, 4), rand(3, 2, 4, seed=1))


def test_semckd_pairs_every_stage_with_every_stage() -> None:
    method = made(SemCKD, taught_by="cifar_vgg8", batch_size=B).eval()
    s, t = method.student(batch().inputs), method.teach(batch())
    attention = method.attention(s.features, t.features)
    assert attention.shape == (B, 3, 4)
    torch.testing.assert_close(attention.sum(-1), torch.ones(B, 3))
    distances = method.distances(s.features, t.features)
    for i, j in ((0, 3), (2, 0), (1, 1)):
        source, target = s.features[i], t.features[j]
        side = min(source.shape[2], target.shape[2])
        source, target = F.adaptive_avg_pool2d(source, side), F.adaptive_avg_pool2d(target, side)
        expected = method.projections[i][j](source)
        for n in range(B):
            assert distances[n, i, j].item() == pytest.approx(slow_mse(expected[n], target[n]), rel=1e-4)
    loss = method.distill(s, t, batch())["semckd"]
    assert loss.item() == pytest.approx(
        400 * (attention * distances).double().sum().item() / (B * 3), rel=1e-4
    )


def test_semckd_leaves_the_partial_batch_out() -> None:
    method = made(SemCKD, batch_size=B)
    source = method.phases()[0].source(tiny.tiny_data().source(batch_size=B, seed=1))
    assert [len(b.labels) for b in source.epoch(1)] == [B, B]
    with pytest.raises(ValueError, match="batches of 8 and got one of 6"):
        method.loss(batch(6))
    names = {n.split(".")[0] for n in changed(method, lambda: take_steps(method, 0))}
    assert names == {"student", "queries", "keys", "projections"}


# ------------------------------------------------------------------ simkd


def test_simkd_loss() -> None:
    same_value_and_gradient(simkd_loss, slow_mse, rand(2, 3, 2, 2), rand(2, 3, 2, 2, seed=1))


@pytest.mark.parametrize(
    "pair", [("cifar_resnet8", "cifar_resnet14"), ("cifar_MobileNetV2", "cifar_wrn_16_2")]
)
def test_simkd_deploys_backbone_projector_and_the_teachers_tail(pair: tuple[str, str]) -> None:
    method = made(SimKD, *pair).eval()
    images = batch().inputs
    deployed = method.deployed()
    seen = deployed(images)
    projected = method.projector(method.student(images).features[-1])
    torch.testing.assert_close(seen.logits, method.teacher.classify(projected))
    torch.testing.assert_close(seen.logits, method.teacher.classifier(seen.embedding))
    torch.testing.assert_close(seen.logits, deployed.model(images))
    assert method.deployed() is deployed


def test_simkd_counts_and_exports_what_is_evaluated() -> None:
    method = made(SimKD)
    student, deployed = method.student, method.deployed()
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    parts = (
        count(student.model)
        - count(student.classifier)
        + count(method.projector)
        + count(method.teacher.classifier)
    )
    assert deployed.params() == parts
    state = deployed.model.state_dict()
    assert "backbone.fc.weight" not in state and "head.fc.weight" in state
    named = {key for key, _ in deployed.model.named_parameters()}
    assert sum(v.numel() for k, v in state.items() if k in named) == parts
    tail = K * 64
    side, (c, t) = 4 * 4, (64, 64)
    projector = side * (c * t // 2 + 9 * (t // 2) ** 2 + t * t // 2)
    assert deployed.macs() == student.macs() - K * student.embedding_dim + projector + tail


def test_simkd_trains_the_used_part_of_the_student_and_no_labels() -> None:
    method = made(SimKD, "cifar_MobileNetV2", "cifar_vgg8")
    names = changed(method, lambda: take_steps(method, 0))
    assert {n.split(".")[0] for n in names} == {"student", "projector"}
    assert not any("conv2" in n.split(".")[2] or "classifier" in n for n in names), "behind the last map"
    wrong = batch()
    wrong.labels = (wrong.labels + 1) % K
    method.eval()
    assert torch.equal(method.loss(batch())["simkd"], method.loss(wrong)["simkd"])
    assert set(made(SimKD, ce=1.0, kd=1.0).loss(batch())) == {"simkd", "ce", "kd"}


def test_simkd_state_holds_the_reused_classifier_and_loads_again() -> None:
    first, second = made(SimKD), made(SimKD)
    take_steps(first, 0)
    second.load_state_dict(first.state_dict())
    first.eval(), second.eval()
    assert torch.equal(first.deployed()(batch().inputs).logits, second.deployed()(batch().inputs).logits)
    assert isinstance(first.deployed().model, ReusedModel)


def test_simkd_refuses_other_classes_and_class_tokens() -> None:
    with pytest.raises(ValueError, match="5 classes and the data has 6.*method="):
        tiny.by_hand(SimKD, net(), [build("cifar_resnet8", 5, size=16)], info())
    vit = dict(patch_size=4, embed_dim=32, depth=4, num_heads=2)
    with pytest.raises(ValueError, match="method=srrl"):
        tiny.by_hand(SimKD, net(), [teacher("vit_tiny_patch16_224", **vit)], info())


# ------------------------------------------------------------------ mgd


def test_mgd_loss_is_a_sum_over_all_but_the_batch() -> None:
    def slow(a: Tensor, b: Tensor) -> float:
        return slow_mse(a, b) * a.numel() / len(a)

    same_value_and_gradient(mgd_loss, slow, rand(3, 2, 4, 4), rand(3, 2, 4, 4, seed=1))


@pytest.mark.parametrize(("mask", "shape"), [("channel", (64, 40, 1, 1)), ("position", (64, 1, 6, 6))])
def test_mgd_masks_whole_channels_or_positions(mask: str, shape: tuple[int, ...]) -> None:
    method = made(MGD, mask=mask, ratio=0.25)
    torch.manual_seed(0)
    keep = method.keep(torch.ones(64, 40, 6, 6))
    assert keep.shape == shape and set(keep.unique().tolist()) == {0.0, 1.0}
    assert keep.mean().item() == pytest.approx(0.75, abs=0.03), "ratio is the share that is masked out"


def test_mgd_generates_from_the_masked_map_and_aligns_other_channels() -> None:
    method = made(MGD, "cifar_resnet8", "cifar_wrn_16_2", weight=0.5, ratio=0.5)
    s, t = method.student(batch().inputs), method.teach(batch())
    torch.manual_seed(4)
    loss = method.distill(s, t, batch())["mgd"].item()
    torch.manual_seed(4)
    aligned = method.align(s.features[-1])
    masked = aligned * (torch.rand(B, 128, 1, 1) >= 0.5)
    expected = (method.generator(masked) - t.features[-1]).double().square().sum().item() / B * 0.5
    assert loss == pytest.approx(expected, rel=1e-5)
    assert isinstance(made(MGD).align, nn.Identity)
    mobile = made(MGD, "cifar_MobileNetV2", "cifar_vgg8")
    assert math.isfinite(mobile.loss(batch())["mgd"].item()), "sizes that differ are pooled"


# ------------------------------------------------------------------ cat-kd


def test_cat_loss() -> None:
    def slow(student: Tensor, target: Tensor) -> float:
        total, count = 0.0, 0
        for x, y in zip(student.flatten(0, 1).tolist(), target.flatten(0, 1).tolist(), strict=True):
            p, q = sum(cell_means(x, 2), []), sum(cell_means(y, 2), [])
            p = [v / math.sqrt(sum(u * u for u in p)) for v in p]
            q = [v / math.sqrt(sum(u * u for u in q)) for v in q]
            total += sum((a - b) ** 2 for a, b in zip(p, q, strict=True))
            count += 4
        return total / count

    loss = lambda s, t: cat_loss(s, t, 2)  # noqa: E731
    same_value_and_gradient(loss, slow, rand(2, 3, 5, 5), rand(2, 3, 4, 4, seed=1))
    zero = torch.zeros(1, 2, 4, 4, requires_grad=True)
    cat_loss(zero, torch.ones(1, 2, 4, 4), 2).backward()
    assert torch.isfinite(zero.grad).all(), "a map of zeros has no length"


@pytest.mark.parametrize("name", ["cifar_resnet8", "cifar_wrn_16_1", "cifar_MobileNetV2", "cifar_ShuffleV2"])
def test_cams_are_the_classifiers_weights_on_the_pooled_map(name: str) -> None:
    """Their mean over positions and the bias are the logits, without converting a checkpoint."""
    model = build(name, K, size=32, seed=1).eval()
    with torch.no_grad():
        linear_layer(model).bias.fill_(0.3)
        seen = model(rand(2, 3, 32, 32).float())
        cams = cat_kd.pointwise_cams(model, seen.features[-1])
    assert cams.shape == (2, K, *seen.features[-1].shape[2:])
    torch.testing.assert_close(cams.mean((2, 3)) + 0.3, seen.logits, rtol=1e-4, atol=1e-5)
    if name == "cifar_resnet8":
        torch.testing.assert_close(cams, cat_kd.weight_cams(model, seen.features[-1]))


def test_cat_kd_moves_batchnorm_statistics_once_a_step() -> None:
    counted, plain = made(CATKD, "cifar_wrn_16_1"), net("cifar_wrn_16_1")
    train_mode(counted, counted.phases()[0])
    counted.loss(batch())
    plain.train()(batch().inputs)
    key = "model.bn1.running_mean"
    torch.testing.assert_close(counted.student.state_dict()[key], plain.state_dict()[key])
    assert counted.student.state_dict()["model.bn1.num_batches_tracked"] == 1


def test_cat_kd_lays_weights_on_the_last_map_where_positions_are_not_classified() -> None:
    vit = dict(patch_size=4, embed_dim=32, depth=4, num_heads=2)
    method = tiny.by_hand(CATKD, net(), [teacher("vit_tiny_patch16_224", **vit)], info())
    assert (method._student_pointwise, method._teacher_pointwise) == (True, False)
    assert math.isfinite(method.loss(batch())["cat"].item())
    with pytest.raises(ValueError, match=r"pools class activation maps to 5x5.*\(64, 4, 4\).*method="):
        made(CATKD, size=5)


def test_cat_kd_takes_the_students_bias_away_unless_told_otherwise() -> None:
    method = made(CATKD)
    assert "student.model.fc.bias" not in changed(method, lambda: take_steps(method, 0))
    assert not method.student.classifier.bias.any()
    kept = made(CATKD, bias=True)
    assert "student.model.fc.bias" in changed(kept, lambda: take_steps(kept, 0))


def test_cat_kd_starts_its_classifier_as_the_authors_convolution_starts() -> None:
    wide = build("cifar_resnet8", 2000, seed=1)
    cat_kd.as_a_convolution_starts(wide)
    assert wide.classifier.weight.std().item() == pytest.approx((2 / 2000) ** 0.5, rel=0.01)
    vgg = build("cifar_vgg8", 2000, seed=1)
    cat_kd.as_a_convolution_starts(vgg)
    assert vgg.classifier.weight.abs().max().item() == pytest.approx(512**-0.5, rel=0.01)


def test_cat_kd_leaves_a_student_that_was_trained_before_as_it_is() -> None:
    data, teacher = tiny.tiny_data(), tiny.net("cifar_resnet14")
    for begun in (True, False):
        student = tiny.net("cifar_resnet8")
        student.begun, before = begun, student.classifier.weight.clone()
        tiny.make("cat-kd", student, teacher, data)
        assert torch.equal(student.classifier.weight, before) == begun


def test_cat_kd_weights_of_pairs() -> None:
    cfg = tiny.composed("dataset=cifar100", "method=cat-kd", "teacher=resnet32x4", "student=ShuffleV1")
    assert (config.plain(cfg, "method.weight"), config.plain(cfg, "method.size")) == (600.0, 4)
    cfg = tiny.composed("dataset=cifar100", "method=cat-kd", "teacher=resnet56", "student=resnet20")
    assert (config.plain(cfg, "method.weight"), config.plain(cfg, "method.size")) == (0.7, 2)


# ------------------------------------------------------------------ ofa-kd


@pytest.mark.parametrize("eps", [1.0, 1.5])
def test_ofa_loss(eps: float) -> None:
    labels, temperature = torch.tensor([1, 0, 3]), 2.0

    def slow(student: Tensor, target: Tensor) -> float:
        total = 0.0
        for z, t, y in zip(student.tolist(), target.tolist(), labels.tolist(), strict=True):
            zs, ts = sum(math.exp(v / temperature) for v in z), sum(math.exp(v / temperature) for v in t)
            for c in range(4):
                p, label = math.exp(t[c] / temperature) / ts, float(c == y)
                total -= ((p + label) ** eps - label) * (z[c] / temperature - math.log(zs))
        return total / 3

    loss = lambda s, t: ofa_loss(s, t, labels, eps, temperature)  # noqa: E731
    same_value_and_gradient(loss, slow, rand(3, 4), rand(3, 4, seed=1))


def test_ofa_eps_one_is_cross_entropy_with_the_teacher_and_sure_students_stay_finite() -> None:
    z, t, y = rand(5, K), rand(5, K, seed=1), torch.arange(5)
    assert ofa_loss(z, t, y, 1.0).item() == pytest.approx(F.cross_entropy(z, t.softmax(1)).item())
    sure = torch.tensor([[0.0, 2000.0]], requires_grad=True)
    loss = ofa_loss(sure, torch.zeros(1, 2), torch.tensor([0]), 1.5)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(sure.grad).all()


def test_ofa_exits_follow_the_students_stages() -> None:
    method = made(OFAKD, eps=1.3, stages=[1, 3])
    halvings = [
        sum(m.stride == (2, 2) for m in e.modules() if isinstance(m, nn.Conv2d)) for e in method.exits
    ]
    assert halvings == [2, 0], "one halving for each stage that follows"
    s = method.student(batch().inputs)
    assert [leave(s.features[n - 1]).shape for leave, n in zip(method.exits, (1, 3), strict=True)] == [
        (B, K)
    ] * 2
    losses = method.loss(batch())
    assert set(losses) == {"ce", "kd", "exits"}
    with pytest.raises(ValueError, match="stage 4 of cifar_resnet8 does not exist"):
        made(OFAKD, stages=[4])


def test_ofa_token_exits_merge_down_to_the_grid() -> None:
    """14x14 patches go to 7x7 by one merging, as at 224 px; the grid of smaller images is an option."""
    exit_ = TokenExit((16, 14, 14), 24, 2, 7, K)
    assert (
        len(exit_.merge) == 1 and len(exit_.blocks) == 2 and exit_(torch.randn(2, 16, 14, 14)).shape == (2, K)
    )
    assert len(TokenExit((16, 15, 15), 16, 1, 7, K).merge) == 0
    assert len(TokenExit((16, 8, 8), 16, 1, 2, K).merge) == 2
    vit = dict(patch_size=4, embed_dim=32, depth=4, num_heads=2)
    method = tiny.by_hand(OFAKD, net("vit_tiny_patch16_224", 1, **vit), [teacher()], info())
    assert [len(e.blocks) for e in method.exits] == [3, 2, 1, 1]
    names = {n.split(".")[0] for n in changed(method, lambda: take_steps(method, 0))}
    assert names == {"student", "exits"}


def test_ofa_exits_of_a_class_token_read_it_behind_the_blocks() -> None:
    vit = dict(patch_size=4, embed_dim=32, depth=4, num_heads=2)
    method = tiny.by_hand(OFAKD, net("vit_tiny_patch16_224", 1, **vit), [teacher()], info()).eval()
    out, leave = method.student(batch().inputs), method.exits[1]
    assert out.prefixes is not None and out.prefixes[1].shape == (B, 1, 32)
    patches = leave.merge(out.features[1]).flatten(2).mT
    tokens = leave.blocks(torch.cat([out.prefixes[1], patches], 1))
    torch.testing.assert_close(method.leave(out)[1], leave.classify(tokens[:, 0]))


def test_ofa_students_of_shifted_windows_leave_through_token_exits() -> None:
    swin = net("swin_tiny_patch4_window7_224", 1, embed_dim=16, depths=(1, 1), num_heads=(1, 2), window_size=2)
    method = tiny.by_hand(OFAKD, swin, [teacher()], info(), grid=2)
    assert all(isinstance(leave, TokenExit) for leave in method.exits)
    assert [leave.classify.in_features for leave in method.exits] == [32, 32]
    assert [tuple(logits.shape) for logits in method.leave(swin(batch().inputs))] == [(B, K)] * 2


def test_ofa_has_four_exits_of_mobilenetv2_the_last_behind_its_convolution() -> None:
    method = tiny.by_hand(OFAKD, tiny.net("mobilenetv2_100"), [teacher()], info()).eval()
    assert [method.student.channels[number - 1] for number in method.stages] == [24, 32, 96, 320]
    last, out = method.exits[-1], method.student(batch().inputs)
    assert last[0].in_channels == 1280 == out.embedding.shape[1]
    final = method.student.model.forward_features(batch().inputs)
    torch.testing.assert_close(method.leave(out)[-1], last(final), rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------ afd-attention


def test_afd_loss() -> None:
    scores = torch.rand(2, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def slow(student: Tensor, target: Tensor) -> float:
        total = 0.0
        for i in range(2):
            mass = sum(scores[i].tolist())
            for c in range(3):
                s, t = student[i, c].flatten().tolist(), target[i, c].flatten().tolist()
                ns, nt = (math.sqrt(sum(v * v for v in x)) + 1e-6 for x in (s, t))
                gap = sum((a / ns - b / nt) ** 2 for a, b in zip(s, t, strict=True)) / len(s)
                total += scores[i, c].item() / mass * gap
        return total / 2

    loss = lambda s, t: afd_loss(s, t, scores)  # noqa: E731
    same_value_and_gradient(loss, slow, rand(2, 3, 2, 2), rand(2, 3, 2, 2, seed=1))


def test_afd_attends_to_the_teacher_and_takes_the_mean_over_stages() -> None:
    method = made(AFDAttention, weight=500.0)
    s, t = method.student(batch().inputs), method.teach(batch())
    each = [
        afd_loss(a, b, attend(b.mean((2, 3)))).item()
        for attend, a, b in zip(method.attention, s.features, t.features, strict=True)
    ]
    assert method.distill(s, t, batch())["afd"].item() == pytest.approx(500 * sum(each) / 3, rel=1e-5)
    wide = method.attention[2][0]
    assert wide.weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.05) and not wide.bias.any()
    dead = torch.zeros(1, 2, 2, 2, requires_grad=True)
    afd_loss(dead, torch.zeros(1, 2, 2, 2), torch.ones(1, 2)).backward()
    assert torch.isfinite(dead.grad).all(), "a dead channel has no direction"
    with pytest.raises(ValueError, match=r"resnet8 has stages.*wrn_16_2.*method="):
        made(AFDAttention, taught_by="cifar_wrn_16_2")


# ------------------------------------------------------------------ kd-proj


def test_kd_proj_distances() -> None:
    def smooth(a: Tensor, b: Tensor) -> float:
        gaps = [abs(p - q) for p, q in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)]
        return sum(g * g / 2 if g < 1 else g - 0.5 for g in gaps) / len(gaps)

    def logsum(a: Tensor, b: Tensor) -> float:
        return math.log(
            sum(abs(p - q) ** 4 for p, q in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True))
        )

    for kind, slow in (("smooth_l1", smooth), ("logsum", logsum), ("mse", slow_mse)):
        loss = lambda s, t, kind=kind: kd_proj.distance(s, t, kind)  # noqa: E731
        same_value_and_gradient(loss, slow, rand(3, 4), rand(3, 4, seed=1))
    assert math.isfinite(kd_proj.distance(torch.ones(2, 2), torch.ones(2, 2), "logsum").item())


def test_kd_proj_normalisations() -> None:
    x = rand(40, 5) * 3 + 1
    for how, axis, eps in (("batch", 0, 1e-4), ("standard", 1, 1e-5)):
        out = kd_proj.normalise(x, how).tolist()
        rows = x.tolist() if axis else x.T.tolist()
        for i, row in enumerate(rows[:4]):
            mean = sum(row) / len(row)
            deviation = math.sqrt(sum((v - mean) ** 2 for v in row) / len(row) + eps)
            for j in (0, 3):
                got = out[i][j] if axis else out[j][i]
                assert got == pytest.approx((row[j] - mean) / deviation, rel=1e-9)
    white = kd_proj.normalise(x, "whiten")
    torch.testing.assert_close(white.T @ white / 40, torch.eye(5, dtype=torch.float64), rtol=0, atol=0.01)
    few = kd_proj.normalise(rand(3, 8), "whiten")
    assert torch.isfinite(few).all(), "fewer samples than features"
    maps = rand(2, 3, 2, 2)
    flat = kd_proj.normalise(maps.permute(0, 2, 3, 1).reshape(8, 3), "batch")
    torch.testing.assert_close(kd_proj.normalise(maps, "batch").permute(0, 2, 3, 1).reshape(8, 3), flat)
    assert torch.equal(kd_proj.normalise(rand(1, 4), "batch"), torch.zeros(1, 4, dtype=torch.float64)), (
        "a batch of one"
    )


@pytest.mark.parametrize("pair", [("cifar_resnet8", "cifar_wrn_16_2"), ("cifar_wrn_16_2", "cifar_resnet8")])
def test_vkd_stays_orthogonal_while_it_is_trained(pair: tuple[str, str]) -> None:
    method = made(KDProj, *pair)
    before = method.project.matrix().detach()
    take_steps(method, 0, steps=3)
    weight = method.project.matrix().detach()
    product = weight.T @ weight if weight.shape[0] > weight.shape[1] else weight @ weight.T
    torch.testing.assert_close(product, torch.eye(len(product)), rtol=0, atol=1e-5)
    assert weight.shape == (method.teacher.embedding_dim, method.student.embedding_dim)
    assert (weight - before).abs().max() > 1e-4
    x = rand(4, weight.shape[1]).float()
    with torch.autocast("cpu", torch.bfloat16):
        out = method.projected(x)
    torch.testing.assert_close(out, x @ weight.T, rtol=1e-4, atol=1e-5)


def test_vkd_cayley_transform_by_its_definition() -> None:
    """(I + A/2)^-1 (I - A/2) B with A = M B^T - B M^T in full, for a matrix far from its base."""
    torch.manual_seed(0)
    linear = kd_proj.OrthogonalLinear(3, 7)
    linear.move.data.normal_()
    m, b = linear.move.double(), linear.base.double()
    a, one = m @ b.T - b @ m.T, torch.eye(7, dtype=torch.float64)
    expected = torch.linalg.inv(one + a / 2) @ (one - a / 2) @ b
    torch.testing.assert_close(linear.matrix().double(), expected, rtol=1e-4, atol=1e-5)
    maps = tiny.by_hand(KDProj, net(), [teacher()], info(), tap="map")
    x = rand(2, 64, 4, 4).float()
    torch.testing.assert_close(maps.projected(x)[1, :, 2, 3], maps.project.matrix() @ x[1, :, 2, 3])


def test_kd_proj_refuses_other_choices() -> None:
    with pytest.raises(ValueError, match="one of smooth_l1, mse, logsum"):
        made(KDProj, distance="l2")


def test_vkd_taps_the_patch_tokens_and_parts_labels_from_the_teacher_where_there_are_two_heads() -> None:
    student = net("deit_tiny_distilled_patch16_224", patch_size=4, embed_dim=32, depth=2, num_heads=2)
    method = tiny.by_hand(KDProj, student, [teacher()], info()).eval()
    out, labels = method.student(batch().inputs), batch().labels
    assert out.tokens is not None and out.heads is not None
    model = method.student.model
    tokens = model.forward_features(batch().inputs)[:, 2:]
    torch.testing.assert_close(method.tapped(out), tokens.mean(1))
    losses, taught = method.loss(batch()), method.teach(batch())
    whole = model.forward_features(batch().inputs)
    first, second = model.head(whole[:, 0]), model.head_dist(whole[:, 1])
    torch.testing.assert_close(out.logits, (first + second) / 2)
    assert losses["ce"].item() == pytest.approx(nn.functional.cross_entropy(first, labels).item(), rel=1e-5)
    assert losses["kd"].item() == pytest.approx(method.soft_targets(second, taught.logits).item(), rel=1e-5)


def test_srd_is_the_log_of_the_sum_over_batch_normalised_sides() -> None:
    method = tiny.make("srd", net(), teacher(), tiny.tiny_data())
    s, t = method.student(batch().inputs), method.teach(batch())
    z = method.project(s.embedding)
    sides = [(x - x.mean(0)) / (x.var(0, correction=0) + 1e-4).sqrt() for x in (z, t.embedding)]
    expected = 2 * math.log((sides[0] - sides[1]).double().pow(4).sum().item())
    assert method.distill(s, t, batch())["proj"].item() == pytest.approx(expected, rel=1e-5)


# ------------------------------------------------------------------ norm


def test_norm_puts_its_transform_into_the_student_that_is_deployed() -> None:
    for name in ("cifar_resnet8", "cifar_wrn_16_1", "cifar_MobileNetV2"):
        method = made(NORM, name, copies=3)
        assert method.transform.widen[0].out_channels == 3 * 64
        take_steps(method, 0)
        deployed, images = method.deployed().eval(), batch().inputs
        method.eval()
        feature = method._steps[0](method.student(images).features[-1])
        torch.testing.assert_close(deployed(images).logits, method._steps[1](method.transform(feature)[1]))
        assert not torch.allclose(deployed(images).logits, method.student(images).logits)
        assert deployed.params() == method.student.params() + sum(p.numel() for p in method.transform.parameters())


def test_norm_runs_batchnorms_behind_the_last_map_on_the_transformed_map_alone() -> None:
    method = made(NORM, "cifar_wrn_16_1").train()
    norm = method.student.model.bn1
    before = norm.running_mean.clone()
    with frozen_statistics(method.student):
        feature = method.student(batch().inputs).features[-1]
        grown = method.transform(feature)[1]
    method.loss(batch())
    torch.testing.assert_close(norm.running_mean, 0.9 * before + 0.1 * grown.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert int(norm.num_batches_tracked) == 1


FACTORS = [(9, 240, 0.1), (10, 240, 0.5), (20, 240, 1.0), (179, 240, 1.0), (180, 240, 0.5), (240, 240, 0.1)]


@pytest.mark.parametrize("epoch, epochs, factor", [*FACTORS, (1, 24, 0.5), (2, 24, 1.0)])
def test_norm_weighs_by_epoch(epoch: int, epochs: int, factor: float) -> None:
    method = made(NORM)
    method.epoch, method.epochs = epoch, epochs
    assert method.factor() == factor


def test_norm_refuses_students_without_a_place_for_the_transform() -> None:
    vit = net("vit_tiny_patch16_224", patch_size=4, embed_dim=32, depth=4, num_heads=2)
    with pytest.raises(ValueError, match="vit_tiny.*method=kd-proj"):
        tiny.by_hand(NORM, vit, [teacher()], info())
    with pytest.raises(ValueError, match="rising"):
        made(NORM, weight_by_epoch=[[20, 1.0], [10, 0.1]])


# ------------------------------------------------------------------ sskd


def test_rotations_are_four_views_of_each_image_side_by_side() -> None:
    views = [torch.arange(2 * 1 * 3 * 3.0).view(2, 1, 3, 3) + 100 * k for k in range(4)]
    turned = rotate(views)
    for k, view in enumerate(views):
        one = view[1, 0].tolist()
        for _ in range(k):
            one = [[one[r][2 - c] for r in range(3)] for c in range(3)]  # a quarter turn, by hand
        assert turned[4 + k, 0].tolist() == one


def test_similarities_are_cosines_of_turned_with_upright() -> None:
    x = rand(8, 3)
    out = similarities(x).tolist()
    rows = x.tolist()
    cosine = lambda a, b: sum(p * q for p, q in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)  # noqa: E731
    for i in range(6):
        for j in range(2):
            assert out[i][j] == pytest.approx(cosine(rows[4 * (i // 3) + 1 + i % 3], rows[4 * j]), rel=1e-9)


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.75, 1.0])
def test_kept_are_all_right_ones_and_the_least_wrong(ratio: float) -> None:
    scores, targets = rand(30, 5), torch.arange(30) % 5
    ranks = [
        sorted(row, reverse=True).index(row[y])
        for row, y in zip(scores.tolist(), targets.tolist(), strict=True)
    ]
    wrong = sum(rank > 0 for rank in ranks)
    order = sorted(range(30), key=lambda i: ranks[i])[: 30 - wrong + int(wrong * ratio)]
    assert kept(scores, targets, ratio).nonzero().flatten().tolist() == sorted(order)


def test_selected_kl() -> None:
    keep, temperature = torch.tensor([True, False, True]), 2.0

    def slow(student: Tensor, target: Tensor) -> float:
        total = 0.0
        for i in (0, 2):
            s, t = ([v / temperature for v in x[i].tolist()] for x in (student, target))
            ls, lt = (math.log(sum(math.exp(v) for v in x)) for x in (s, t))
            total += sum(math.exp(b - lt) * ((b - lt) - (a - ls)) for a, b in zip(s, t, strict=True))
        return total / 2 * temperature**2

    loss = lambda s, t: selected_kl(s, t, keep, temperature)  # noqa: E731
    same_value_and_gradient(loss, slow, rand(3, 4), rand(3, 4, seed=1))
    nothing = selected_kl(rand(2, 3), rand(2, 3), torch.tensor([False, False]), 1.0)
    assert nothing.item() == 0


def cropped_batch(seed: int = 0) -> Batch:
    one = batch(seed=seed)
    one.views = {f"crop_{k}": one.inputs.roll(k, dims=3) for k in (1, 2, 3)}
    return one


def test_sskd_labels_are_learnt_from_upright_images_alone() -> None:
    method = made(SSKD).eval()
    one = cropped_batch()
    losses = method.loss(one)
    logits = method.student(one.inputs).logits
    assert losses["ce"].item() == pytest.approx(0.1 * F.cross_entropy(logits, one.labels).item(), rel=1e-4)
    torch.testing.assert_close(method.counted[0], logits.detach(), rtol=1e-4, atol=1e-5)
    turned = torch.cat([torch.rot90(one.views[f"crop_{k}"], k, (2, 3)) for k in (1, 2, 3)])
    with torch.no_grad():
        s, t = method.student(turned).logits, method.teacher(turned).logits
    expected = 2.7 * 16 * F.kl_div((s / 4).log_softmax(1), (t / 4).softmax(1), reduction="batchmean").item()
    assert losses["turned"].item() == pytest.approx(expected, rel=1e-3), "ratio 1 keeps all"
    assert set(losses) == {"ce", "kd", "turned", "similar"}


def test_sskd_phases_train_the_teachers_head_and_then_the_student() -> None:
    method = made(SSKD, init_epochs=60)
    head, distill = method.phases()
    assert head.epochs == 60 and head.schedule == {"lr": 0.05, "milestones": [30, 45]} and not head.evaluates
    first = {n.split(".")[0] for n in changed(method, lambda: take_steps(method, 0, make=cropped_batch))}
    second = {n.split(".")[0] for n in changed(method, lambda: take_steps(method, 1, make=cropped_batch))}
    assert first == {"teacher_head"} and second == {"student", "student_head"}
    assert len(made(SSKD, init_epochs=0).phases()) == 1


@pytest.mark.parametrize("number", [0, 1])
def test_sskd_flips_each_image_once_and_crops_each_of_its_four_views(number: int) -> None:
    """The law that the authors' data set was measured to have (tests/reference/views.json): of 3000 images half are
    flipped, all four views of one alike, and their crops are drawn one by one."""
    size, pad, count = 8, 4, 3000
    places = torch.arange(size * size * 2, dtype=torch.uint8).view(size, size, 2) + 1  # no pixel is like another
    labels = torch.arange(count) % 6
    data = dataclasses.replace(info(), labels=labels, num_train=count, size=size, in_chans=2, mean=(0, 0), std=(1, 1))
    split = Split(places.expand(count, -1, -1, -1), labels)
    phase = made(SSKD, init_epochs=1).phases()[number]
    source = phase.source(ArraySource(split, data, batch_size=1000, seed=1, pad=pad))
    flipped, crops = [], []
    for one in source.epoch(1):
        views = [one.inputs, *(one.views[f"crop_{k}"] for k in (1, 2, 3))]
        found = [where(view, places, pad) for view in views]
        assert all(torch.equal(flip, found[0][0]) for flip, _ in found)
        flipped.append(found[0][0])
        crops.append(torch.stack([offset for _, offset in found]))
    offsets = torch.cat(crops, dim=1)  # [4,N,2]
    assert torch.cat(flipped).double().mean().item() == pytest.approx(0.5, abs=0.03)
    assert (offsets[0] == offsets[1]).all(1).double().mean() < 0.03  # 1 in 81
    assert (offsets == offsets[0]).all(2).all(0).double().mean() < 0.002
    assert offsets.double().std().item() == pytest.approx(2.58, abs=0.05)


def where(view: Tensor, places: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    """Of crops [B,2,S,S] of one image, whether each is flipped [B] and where it was cut [B,2]."""
    split = Split(places[None], torch.zeros(1, dtype=torch.long))
    data = dataclasses.replace(info(), size=len(places), mean=(0, 0), std=(1, 1))
    source = ArraySource(split, data, batch_size=1, seed=0, pad=pad)
    every = source.crops[0].flatten(0, 1)  # [81,S,S,2]
    pixels = (view * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    matches = [(pixels[:, None] == crops).flatten(2).all(2) for crops in (every, every.flip(2))]
    index = (matches[0] | matches[1]).long().argmax(1)
    assert (matches[0] ^ matches[1]).any(1).all()
    return matches[1].any(1), torch.stack([index // (2 * pad + 1), index % (2 * pad + 1)], dim=1)


def test_folders_crop_an_image_several_times_with_one_flip() -> None:
    from PIL import Image

    image = Image.fromarray((torch.arange(64 * 64 * 3) % 251).to(torch.uint8).view(64, 64, 3).numpy())
    plain = [random_view(image, 16, False, seed, crop) for seed in range(20) for crop in range(3)]
    turned = [random_view(image, 16, True, seed, crop) for seed in range(20) for crop in range(3)]
    flips = [a.tobytes() != b.tobytes() for a, b in zip(plain, turned, strict=True)]
    assert 4 < sum(flips[::3]) < 16 and all(len(set(flips[k : k + 3])) == 1 for k in range(0, 60, 3))
    assert len({view.tobytes() for view in plain}) == 60


def test_sskd_head_learns_which_image_was_turned() -> None:
    method = made(SSKD)
    one, phase = cropped_batch(), method.phases()[0]
    train_mode(method, phase)
    views = [one.inputs, *one.views.values()]
    expected = F.cross_entropy(
        similarities(method.teacher_head(method.teacher(rotate(views)).embedding)),
        torch.arange(B).repeat_interleave(3),
    )
    assert method.head_loss(one)["head"].item() == pytest.approx(expected.item(), rel=1e-5)
    stepper = Stepper(phase.updates[0].trains, {"lr": 0.05, "optimizer": {"name": "sgd", "momentum": 0.9}})
    for _ in range(10):
        stepper.step(method.head_loss(one))
    assert method.head_loss(one)["head"] < expected
    assert sskd.positives(2, torch.device("cpu")).tolist() == [0, 0, 0, 1, 1, 1]


def test_sskd_takes_the_papers_epochs_on_cifar100() -> None:
    cfg = tiny.composed("dataset=cifar100", "method=sskd")
    assert config.plain(cfg, "method.init_epochs") == 60
    assert config.plain(tiny.composed("method=sskd"), "method.init_epochs") == 1


# ------------------------------------------------------------------ crd+kd


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
