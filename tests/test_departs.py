"""What methods do otherwise than their papers on purpose, and by how much: `about.departs`, each line with its test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from timm.layers import DropPath
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from distill import config
from distill.config.departs import departs as of_config
from distill.config.departs import departs_by_name
from distill.methods import kdsvd
from distill.methods.aekd import AEKD
from distill.methods.mhgd import MHGD
from distill.methods.residual_kd import ResidualKD
from distill.methods.specialists import with_dustbin
from distill.models import build
from distill.models.fake_quant import StepInputs, StepWeights
from distill.parts.clusters import k_means
from tests import tiny
from tests.reference_cases import Reference
from tests.reference_cases.chains import OFD_HEADS, compare
from tests.reference_cases.response import mlkd

SHOWN: dict[str, tuple[str, ...]] = {}
Test = Callable[..., None]


def departs(line: str, *figures: str) -> Callable[[Test], Test]:
    """Name the line that a test shows, as method or method:condition, and the figures in it that the test measures."""

    def register(test: Test) -> Test:
        assert line not in SHOWN
        SHOWN[line] = figures
        return test

    return register


def lines() -> Iterator[tuple[str, str]]:
    """(method or method:condition, sentence) of every YAML."""
    for method in config.options("method"):
        node = config.load_node("method", method)
        assert node is not None
        stated = node.about.get("departs")
        if isinstance(stated, Mapping):
            yield from ((f"{method}:{condition}", str(told)) for condition, told in stated.items())
        elif stated:
            yield method, str(stated)


def test_every_line_has_its_test_and_says_what_that_measures() -> None:
    told = dict(lines())
    assert set(told) == set(SHOWN)
    unsaid = {line: [figure for figure in figures if figure not in told[line]] for line, figures in SHOWN.items()}
    assert {line: missing for line, missing in unsaid.items() if missing} == {}
    assert all(SHOWN.values()), "by how much?"


def gradient(loss: Tensor, net: nn.Module) -> Tensor:
    """The gradient of a loss with respect to a net, as one vector."""
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return torch.cat([grad.flatten() for grad in found if grad is not None])


def apart(ours: Tensor, theirs: Tensor) -> float:
    """The length of the difference, as a share of theirs."""
    return ((ours - theirs).norm() / theirs.norm()).item()


def first_batch(size: int = 22) -> Any:
    return next(iter(tiny.tiny_data().source(batch_size=size, seed=1).epoch(1)))


# ---- against the authors' values


@pytest.mark.parametrize(("count", "least", "most"), [(2, 0.02, 0.12), (3, 0.2, 0.45), (5, 0.3, 0.55)])
def test_aekd_departs_from_the_authors_weights_at_their_batch_size(count: int, least: float, most: float) -> None:
    generator = torch.Generator().manual_seed(1)
    student = torch.randn(64, 100, generator=generator)
    teachers = list(torch.randn(count, 64, 100, generator=generator))
    found = {}
    for solver in ("exact", "authors"):
        nets = [tiny.net("cifar_resnet8")] * count
        method = tiny.by_hand(AEKD, nets[0], nets, tiny.tiny_data().info, solver=solver)
        found[solver] = method.weights(student, teachers)
    assert found["authors"].tolist() == pytest.approx([0.6, 0.4, *[0.0] * (count - 2)])
    assert least < (found["exact"] - found["authors"]).abs().max() < most


departs("aekd:solver=exact", "0.1 for two teachers", "0.5 for five")(
    test_aekd_departs_from_the_authors_weights_at_their_batch_size
)


@departs("mlkd:form=paper", "0.65 to 0.71")
def test_mlkd_of_the_paper_departs_from_its_authors_code() -> None:
    """The code's gradient is shorter, and in nearly the same direction."""
    ref = Reference("mlkd_plain")
    mlkd(ref, "method.form=paper")
    ours = torch.cat([ref.input(f"s_{view}").grad.flatten() for view in ("weak", "strong")])
    theirs = torch.cat([ref[f"grad/s_{view}"].flatten() for view in ("weak", "strong")])
    assert 0.5 < theirs.norm() / ours.norm() < 0.85
    assert torch.cosine_similarity(ours, theirs, dim=0) > 0.9


@departs("ofd:teacher_mode=eval", "18 to 41 %")
def test_ofd_of_a_still_teacher_departs_from_its_authors_code() -> None:
    """Here with nets of random weights; the figures are of trained ones."""
    ref = Reference("chain_ofd")
    compare(ref, "ofd", ("method.teacher_mode=eval",), OFD_HEADS, "student")
    assert ref.seen["expect/parts"] > 0.05


@departs("cat-kd:bias=true", "0.072", "0.141")
def test_cat_kd_with_a_bias_starts_from_smaller_weights() -> None:
    """64 channels to 100 classes."""
    torch.manual_seed(0)  # else the draw is as far off as this once in sixty times
    spread = {}
    for bias in ("true", "false"):
        nets = [build("cifar_resnet8", 100, size=16, seed=seed) for seed in (1, 2)]
        tiny.make("cat-kd", nets[0], nets[1], tiny.tiny_data(), f"method.bias={bias}")
        spread[bias] = nets[0].classifier.weight.std().item()
    assert spread == {"true": pytest.approx(0.072, abs=0.002), "false": pytest.approx(0.141, abs=0.003)}


@departs("fcfd", "50 %")
def test_a_vggs_last_map_behind_its_relu_is_half_nothing() -> None:
    net = build("cifar_vgg8", 100, seed=0).eval()
    with torch.no_grad():
        outputs = net(torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert outputs.preacts is not None
    assert (outputs.preacts[-1] < 0).float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert (outputs.features[-1] == 0).float().mean().item() == pytest.approx(0.5, abs=0.03)


@departs("scalekd", "5 %")
def test_scalekds_teacher_skips_no_branch() -> None:
    """Of mmcls' Swin transformers, whose drop path rises to 0.1."""
    method = tiny.seeded_method("scalekd", tiny.tiny_data())
    method.train()
    assert not method.teacher.training
    sizes: dict[str, Any] = {"depths": (2, 2, 18, 2), "num_heads": (1,) * 4, "embed_dim": 8, "img_size": 32}
    net = SwinTransformer(**sizes, window_size=2, drop_path_rate=0.1)
    skipped = sum(part.drop_prob for part in net.modules() if isinstance(part, DropPath))
    assert skipped / (2 * 24) == pytest.approx(0.05)


# ---- quantisers


def convolutions() -> list[Tensor]:
    """The weights of an untrained resnet20, but for the first layer's."""
    net = build("cifar_resnet20", 10, size=32, seed=0)
    return [module.weight.detach() for module in net.modules() if isinstance(module, nn.Conv2d)][1:]


def rounding(rounded: Callable[[Tensor], Tensor]) -> float:
    weights = convolutions()
    return apart(torch.cat([rounded(w).flatten() for w in weights]), torch.cat([w.flatten() for w in weights]))


@torch.no_grad()
def learned(weight: Tensor) -> Tensor:
    """Weights as a learned step first rounds them to 4 bits."""
    return StepWeights(weight, 4)(weight)


def test_apprentice_rounds_more_finely_than_fixed_clipping() -> None:
    def clipped(weight: Tensor) -> Tensor:  # WRPN's: to [-1, 1], in steps of 1/7
        return (weight.clamp(-1, 1) * 7).round() / 7

    assert rounding(learned) == pytest.approx(0.17, abs=0.01)
    assert rounding(clipped) == pytest.approx(0.58, abs=0.01)
    inputs = torch.randn(8, 16, 16, 16, generator=torch.Generator().manual_seed(0)).relu()
    assert apart(StepInputs(8, False).train()(inputs), inputs) == pytest.approx(0.014, abs=0.002)
    assert apart((inputs.clamp(0, 1) * 255).round() / 255, inputs) == pytest.approx(0.39, abs=0.01)


departs("apprentice", "17 %", "58 %", "1.4 %", "39 %")(test_apprentice_rounds_more_finely_than_fixed_clipping)


@departs("qkd", "0.9 to 1.5", "17.4 %", "16.7 %")
def test_qkd_begins_with_other_ranges_than_the_largest_weights() -> None:
    ranges = [(StepWeights(w, 4).step * 7 / w.abs().max()).item() for w in convolutions()]
    assert (min(ranges), max(ranges)) == (pytest.approx(0.9, abs=0.05), pytest.approx(1.5, abs=0.05))

    def widest(weight: Tensor) -> Tensor:
        step = weight.abs().max() / 7
        return (weight / step).round() * step

    assert rounding(learned) == pytest.approx(0.174, abs=0.002)
    assert rounding(widest) == pytest.approx(0.167, abs=0.002)


@departs("quantized-distillation:ends=none", "2.1 %")
def test_whole_ends_in_full_precision_leave_out_the_last_weight() -> None:
    net = build("cifar_wrn_biased_10_4", 100, size=32, seed=0)
    teacher = build("cifar_resnet8", 100, size=32, seed=1)
    tiny.make("quantized-distillation", net, teacher, tiny.tiny_data(), "method.ends=null")
    left_out = {name for name, _ in net.model.named_parameters() if "parametrizations" not in name}
    assert left_out == {"conv1.weight", "conv1.bias", "fc.weight", "fc.bias"}
    count = sum(parameter.numel() for parameter in net.parameters())
    assert 100 * net.classifier.weight.numel() / count == pytest.approx(2.1, abs=0.05)


# ---- singular vectors


@pytest.fixture
def signs(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Have the teacher's singular vectors come out with signs drawn at random."""
    ours = kdsvd.leading_vectors

    def draw(seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)

        def drawn(maps: Tensor, count: int) -> tuple[Tensor, Tensor]:
            vectors, values = ours(maps, count)
            turned = torch.randint(2, (len(vectors), 1, 1), generator=generator) * 2 - 1
            return (vectors * turned if count == 1 else vectors), values

        monkeypatch.setattr(kdsvd, "leading_vectors", drawn)

    return draw


def by_signs(name: str, signs: Callable[[int], None]) -> tuple[list[float], list[float]]:
    """(how far the gradient of all losses, and how many times the method's term, is from ours) with drawn signs."""
    method = tiny.seeded_method(name, tiny.tiny_data(), ("cifar_wrn_16_2", "cifar_wrn_16_2")).train()
    if isinstance(method, MHGD):
        method.freeze()
        method.attention.eval()
    state, batch = {key: value.clone() for key, value in method.state_dict().items()}, first_batch()

    def seen() -> tuple[Tensor, Tensor]:
        method.load_state_dict(state)
        losses = method.loss(batch)
        return gradient(torch.stack(list(losses.values())).sum(), method.student), losses[name]

    ours, term = seen()
    gradients, terms = [], []
    for seed in range(2):
        signs(seed)
        theirs, other = seen()
        gradients.append((theirs - ours).norm().item() / ours.norm().item())
        terms.append((other / term).item())
    return gradients, terms


@departs("kdsvd", "10 to 20 %", "36 %")
def test_signs_of_kdsvds_vectors_turn_its_gradient(signs: Callable[[int], None]) -> None:
    gradients, terms = by_signs("kdsvd", signs)
    assert all(0.1 < share < 0.21 for share in gradients) and terms == pytest.approx([1.03, 1.03], abs=0.02)


@departs("mhgd", "2.3 times")
def test_signs_of_mhgds_vectors_change_its_graphs(signs: Callable[[int], None]) -> None:
    gradients, terms = by_signs("mhgd", signs)
    assert terms == pytest.approx([2.3, 2.3], abs=0.15) and min(gradients) > 0.5


# ---- what is computed at another place or time


@departs("lwf", "25 %")
def test_lwfs_old_answers_are_those_to_the_crop() -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method("lwf", data).train()
    method.start(1)
    recorded = next(iter(replace(data, pad=0, flip=False).source(batch_size=22, seed=1).epoch(1)))
    crops = first_batch()
    assert torch.equal(recorded.index, crops.index) and not torch.equal(recorded.inputs, crops.inputs)
    with torch.no_grad():
        told = [method.old[0].eval()(batch.inputs).logits for batch in (crops, recorded)]
    assert apart(*told) == pytest.approx(0.25, abs=0.01)


@departs("fm-adversarial", "15 %")
def test_the_adversarial_term_moves_the_nets_less_than_the_others() -> None:
    method = tiny.seeded_method("fm-adversarial", tiny.tiny_data()).train()
    losses = method.loss(first_batch())
    adversarial = gradient(losses["adversarial"], method.student).norm()
    assert (adversarial / gradient(losses["ce"] + losses["kd"], method.student).norm()).item() == pytest.approx(
        0.15, abs=0.01
    )


@departs("tf-kd-self", "method.ce=0.05 method.kd=0.475 method.temperature=6")
def test_tf_kd_self_is_kd_by_a_net_of_the_same_kind() -> None:
    data, words = tiny.tiny_data(), ("method.ce=0.05", "method.kd=0.475", "method.temperature=6")
    born = tiny.seeded_method("tf-kd-self", data)
    kd = tiny.seeded_method("kd", data, ("cifar_resnet8", "cifar_resnet8"), *words)
    kd.student.load_state_dict(born.student.state_dict())
    kd.teacher.load_state_dict(born.past[0].state_dict())
    for method in (kd, born):
        method.eval()
    ours, theirs = born.next_loss(1, first_batch()), kd.loss(first_batch())
    assert {key: value.item() for key, value in ours.items()} == pytest.approx(
        {key: value.item() for key, value in theirs.items()}, rel=1e-5
    )


@departs("residual-kd", "59 %", "2.0 times")
def test_residual_kd_sees_of_the_maps_what_pooling_leaves() -> None:
    method = tiny.seeded_method("residual-kd", tiny.tiny_data())
    assert isinstance(method, ResidualKD)
    images = torch.randn(32, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = [net.eval()(images).features[-1] for net in (method.student, method.teacher)]
    missed = maps[0] - maps[1]
    assert (missed.mean((2, 3)).square().mean() / missed.square().mean()).item() == pytest.approx(0.59, abs=0.02)
    size, more = (sum(p.numel() for p in net.parameters()) for net in (method.student, method.assistant))
    assert (size + more) / size == 2.0


# ---- specialists


def covariance() -> Tensor:
    """Of what a net might say of 3,000 images of 100 classes, which resemble each other in eight ways."""
    generator = torch.Generator().manual_seed(3)
    ways = torch.randn(100, 8, generator=generator).double()
    shown = ways[torch.randint(100, (3000,), generator=generator)]
    said = (shown @ ways.T / 2 + torch.randn(3000, 100, generator=generator)).softmax(1)
    centred = said - said.mean(0)
    return centred.T @ centred / len(said)


def on_line(points: Tensor, clusters: int) -> Tensor:
    """MacQueen's k-means: each point [n,d] in its turn moves the centre that it is nearest to."""
    centres, counts = points[:clusters].clone(), torch.ones(clusters)
    for point in points[clusters:]:
        nearest = (centres - point).norm(dim=1).argmin()
        counts[nearest] += 1
        centres[nearest] += (point - centres[nearest]) / counts[nearest]
    return torch.cdist(points, centres).argmin(1)


def within(points: Tensor, belongs: Tensor) -> float:
    """The sum of squared distances from the means of the clusters."""
    parts = [points[belongs == k] for k in belongs.unique()]
    return float(sum((part - part.mean(0)).square().sum() for part in parts))


@departs("specialists", "0.4 to 0.7", "2.1 times", "K outputs")
def test_specialists_clusters_are_tighter_and_their_loss_scatters_more() -> None:
    points = covariance()
    assert 0.4 < within(points, k_means(points, 10)) / within(points, on_line(points, 10)) < 0.7

    generator = torch.Generator().manual_seed(0)
    labels, members = torch.randint(10, (20000,), generator=generator), torch.arange(10) < 2
    logits = 2 * torch.randn(20000, 10, generator=generator) + 3 * F.one_hot(labels, 10)
    special = members[labels]
    targets, share = torch.where(special, labels, 10), special.double().mean()
    each = F.cross_entropy(with_dustbin(logits, members), targets, reduction="none").double()
    weighted = torch.where(special, 0.5 / share, 0.5 / (1 - share)) * each
    halves = each[special], each[~special]
    assert weighted.mean().item() == pytest.approx(sum(half.mean().item() for half in halves) / 2, rel=1e-6)
    sampled = sum(half.var().item() for half in halves) / 2  # of a batch's loss, times its size
    assert (weighted.var().item() / sampled) ** 0.5 == pytest.approx(2.1, abs=0.05)


@departs("unic", "2", "24", "0.29 times", "0.64 times")
def test_unic_has_two_heads_a_teacher_behind_the_last_norm() -> None:
    method = tiny.seeded_method("unic", tiny.tiny_data())
    heads = [len(own) for own in method.heads]
    assert heads == [2] * len(method.teachers) and 12 * heads[0] == 24
    net, before = build("deit_tiny_patch16_224", 100, size=64, seed=0).eval(), []
    net.model.norm.register_forward_pre_hook(lambda _, inputs: before.append(inputs[0]))
    with torch.no_grad():
        outputs = net(torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    behind = torch.cat([outputs.embedding[:, None], outputs.tokens], dim=1).norm(dim=2)
    shares = before[0].norm(dim=2) / behind
    assert shares[:, 0].mean().item() == pytest.approx(0.29, abs=0.01)
    assert shares[:, 1:].mean().item() == pytest.approx(0.64, abs=0.01)


@departs("am-radio", "4")
def test_am_radio_is_a_mean_of_what_the_paper_sums() -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method("am-radio", data)
    batch = next(data.source(batch_size=4, seed=1).epoch(1))
    student, two = method.student(batch.inputs), method.teach_all(batch)[:2]
    ours = method.learn(student, two, batch)["match"]
    theirs = sum(2 * method._cost(k, student, each).mean().item() for k, each in enumerate(two))  # of two terms each
    assert (4 * ours).item() == pytest.approx(theirs, rel=1e-5)


@departs("proteus:ce=1.0", "weight of 1")
@departs("pseudo-label-queue:ce=1.0", "weight of 1")
@pytest.mark.parametrize("name", ["proteus", "pseudo-label-queue"])
def test_labels_are_learnt_beside_a_backbone_where_there_are_some(name: str) -> None:
    data = tiny.tiny_data()
    method, batch = tiny.seeded_method(name, data), next(data.source(batch_size=4, seed=1).epoch(1))
    whole = F.cross_entropy(method.student(batch.inputs).logits, batch.labels)
    assert method.loss(batch)["ce"].item() == pytest.approx(whole.item(), rel=1e-5)
    nodes = [config.plain(tiny.of_method(name, f"dataset.labels={labels}"), "method") for labels in (True, False)]
    assert [of_config(node) for node in nodes] == [dict(lines())[f"{name}:ce=1.0"], None]
    assert departs_by_name(name) is None
