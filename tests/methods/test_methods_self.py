"""Self-distillation and teachers on their way: losses against slow arithmetic, and each method's traps."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from distill.config import DataSpec
from distill.data.arrays import seeded
from distill.data.folder import load_folder
from distill.data.pairs import Partners, PeerViews, same_class
from distill.engine.fit import train_mode
from distill.methods.ban import BAN, confidence_weighted, permute_dark_knowledge
from distill.methods.byot import BYOT, hint_loss
from distill.methods.cs_kd import CSKD
from distill.methods.eskd import ESKD
from distill.methods.ps_kd import PSKD, progressive_loss
from distill.methods.rco import RCO, even_route
from distill.methods.tf_kd_reg import virtual_teacher, virtual_teacher_loss
from distill.methods.tf_kd_self import TfKDSelf
from tests import tiny
from tests.slow import draw, gradient_agrees, one_step, slow_ce, slow_kl, softmax, student

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:reduction")  # torch on the reduction that the authors use


# ---- born-again networks and Tf-KD


def test_confidence_weights_sum_to_one_and_need_no_dark_knowledge() -> None:
    logits, taught, labels = draw(4, 5), 2 * draw(4, 5, seed=1), [0, 4, 2, 2]

    def slow(z: torch.Tensor) -> float:
        top = [max(softmax(row)) for row in taught.tolist()]
        return sum(w / sum(top) * ce for w, ce in zip(top, slow_ce(z.tolist(), labels), strict=True))

    target = torch.tensor(labels)

    def weighted(z: torch.Tensor, teacher: torch.Tensor = taught) -> torch.Tensor:
        return confidence_weighted(F.cross_entropy(z, target, reduction="none"), teacher)

    assert weighted(logits).item() == pytest.approx(slow(logits))
    gradient_agrees(weighted, slow, logits)
    even = torch.zeros(4, 5, dtype=torch.float64)
    plain = F.cross_entropy(logits, target).item()
    assert weighted(logits, even).item() == pytest.approx(plain)


def test_dark_knowledge_is_permuted_around_the_largest_value() -> None:
    taught = draw(200, 6)
    torch.manual_seed(0)
    permuted = permute_dark_knowledge(taught)
    top = taught.argmax(1)
    assert torch.equal(permuted.argmax(1), top)
    assert torch.equal(permuted.gather(1, top[:, None]), taught.gather(1, top[:, None]))
    assert torch.equal(permuted.sort(1).values, taught.sort(1).values)
    moved = (permuted != taught).double().sum() / (200 * 5)
    assert 0.7 < moved < 0.9  # a uniform permutation of five leaves one in five where it was
    assert not torch.equal(permute_dark_knowledge(taught), permuted)


@pytest.mark.parametrize("variant", ["plain", "cwtm", "dkpp"])
def test_generations_start_anew_and_are_taught_by_the_one_before(variant: str) -> None:
    data = tiny.tiny_data()
    torch.manual_seed(3)
    method = tiny.by_hand(BAN, student(), [], data.info, generations=2, variant=variant)
    phases = method.phases()
    assert [phase.name for phase in phases] == ["generation_0", "generation_1", "generation_2"]
    assert [phase.evaluates for phase in phases] == [False, False, True]
    batch = next(data.source(8, 1).epoch(1))
    starts = [method.student.state_dict()["model.conv1.weight"].clone()]
    for generation, phase in enumerate(phases):
        if phase.begin:
            ended = {k: v.clone() for k, v in method.student.state_dict().items()}
            phase.begin()
            teacher = method.past[generation - 1]
            assert all(torch.equal(value, ended[key]) for key, value in teacher.state_dict().items())
            starts.append(method.student.state_dict()["model.conv1.weight"].clone())
        moved = one_step(method, phase, batch)
        assert moved == {name for name, _ in method.named_parameters() if name.startswith("student.")}
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(starts, 2))
    assert set(method.reported()) == {"generation_0", "generation_1", "ensemble"}


@pytest.mark.parametrize(("variant", "ce"), [("plain", 1.0), ("dkpp", 0.0), ("cwtm", 0.0)])
def test_permuted_and_weighted_targets_have_no_further_term_of_labels(variant: str, ce: float) -> None:
    data = tiny.tiny_data()
    method = tiny.make("ban", student(), student(), data, f"method.variant={variant}")
    losses = method.next_loss(1, next(data.source(8, 1).epoch(1)))
    assert method.ce == ce and ("ce" in losses) is bool(ce)
    assert tiny.make("ban", student(), student(), data, f"method.variant={variant}", "method.ce=0.5").ce == 0.5


def test_the_seeds_of_the_generations_come_from_the_runs() -> None:
    data = tiny.tiny_data()
    seeds = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        seeds.append(tiny.by_hand(BAN, student(), [], data.info, generations=3).seeds)
    assert seeds[0] == seeds[1] != seeds[2] and len(set(seeds[0])) == 3


def test_tf_kd_self_weighs_like_the_authors_mean_over_classes_with_their_multiplier() -> None:
    data = tiny.tiny_data()
    torch.manual_seed(0)
    method = tiny.by_hand(TfKDSelf, student(), [], data.info, ce=0.05, kd=0.95 * 50 / tiny.CLASSES)
    batch = next(data.source(8, 1).epoch(1))
    first, second = method.phases()
    second.begin()
    train_mode(method, second)
    losses = second.updates[0].loss(batch)
    with torch.no_grad():
        s, t = method.student(batch.inputs).logits, method.past[0](batch.inputs).logits
        authors = torch.nn.KLDivLoss(reduction="mean")(F.log_softmax(s / 6, 1), F.softmax(t / 6, 1)) * 36 * 50
    assert losses["kd"].item() == pytest.approx(0.95 * authors.item(), rel=1e-4)
    assert not method.past[0].training and second.evaluates and not first.evaluates


def test_the_virtual_teacher_is_tempered_and_the_student_is_not() -> None:
    logits, labels = draw(3, 100), [7, 0, 99]

    def slow(z: torch.Tensor) -> float:
        total = 0.0
        for row, label in zip(z.tolist(), labels, strict=True):
            p = softmax([0.99 if c == label else 0.01 / 99 for c in range(100)], 20.0)
            total += sum(a * math.log(a / b) for a, b in zip(p, softmax(row), strict=True))
        return total / 3

    rows = virtual_teacher(100, 0.99, 20.0).double()
    target = torch.tensor(labels)
    assert rows.max() / rows.min() < 1.06  # all but uniform: the trap of tempering a distribution
    assert virtual_teacher_loss(logits, target, rows).item() == pytest.approx(slow(logits), rel=1e-5)
    gradient_agrees(lambda z: virtual_teacher_loss(z, target, rows), slow, logits[:, :100], 1e-6)
    mean = torch.nn.KLDivLoss(reduction="mean")(F.log_softmax(logits, 1), rows[target])
    assert virtual_teacher_loss(logits, target, rows).item() == pytest.approx(100 * mean.item(), rel=1e-6)


# ---- PS-KD


def test_progressive_targets_mix_labels_and_past_predictions() -> None:
    logits, past, labels, alpha = draw(4, 5), draw(4, 5, seed=1).softmax(1), [0, 4, 2, 2], 0.3

    def slow(z: torch.Tensor) -> float:
        total = 0.0
        for row, old, label in zip(z.tolist(), past.tolist(), labels, strict=True):
            target = [alpha * old[c] + (1 - alpha) * (c == label) for c in range(5)]
            total -= sum(t * math.log(p) for t, p in zip(target, softmax(row), strict=True))
        return total / 4

    target = torch.tensor(labels)
    assert progressive_loss(logits, target, past, alpha).item() == pytest.approx(slow(logits))
    gradient_agrees(lambda z: progressive_loss(z, target, past, alpha), slow, logits)


def test_past_predictions_are_one_hot_at_first_then_those_of_the_augmented_view() -> None:
    data = tiny.tiny_data()
    method = tiny.by_hand(PSKD, student(), [], data.info)
    method.epoch, method.epochs = 1, 4
    assert torch.equal(method.past.bank, F.one_hot(data.info.labels, tiny.CLASSES).float())
    assert "past.bank" in method.state_dict()
    batch = next(data.source(8, 1).epoch(1))
    logits = method.student(batch.inputs).logits
    first = method.loss(batch)["ce"]
    assert first.item() == pytest.approx(F.cross_entropy(logits, batch.labels).item(), rel=1e-5)
    before = method.past.bank.clone()
    method.after_step()
    seen = torch.zeros(tiny.IMAGES, dtype=torch.bool)
    seen[batch.index] = True
    assert torch.equal(method.past[~seen], before[~seen])
    assert torch.allclose(method.past[batch.index], logits.softmax(1))
    method.epoch = 2  # alpha_2 = 0.8 x 2 / 4
    mixed = 0.6 * F.one_hot(batch.labels, tiny.CLASSES) + 0.4 * logits.softmax(1)
    expected = -(mixed * logits.log_softmax(1)).sum(1).mean()
    assert method.loss(batch)["ce"].item() == pytest.approx(expected.item(), rel=1e-4)


# ---- CS-KD and its pairs


def test_partners_are_of_the_class_and_all_of_it_are_drawn() -> None:
    labels = torch.tensor([0, 1, 0, 2, 0, 1, 0])
    drawn = torch.stack([same_class(labels, seeded(1, epoch)) for epoch in range(200)])
    assert torch.equal(labels[drawn], labels.expand(200, -1))
    assert set(drawn[:, 0].tolist()) == {0, 2, 4, 6} and set(drawn[:, 1].tolist()) == {1, 5}
    assert set(drawn[:, 3].tolist()) == {3}  # alone in its class
    counts = [(drawn[:, 4] == other).sum().item() for other in (0, 2, 4, 6)]
    assert min(counts) > 30  # a quarter of 200 each


def test_views_beside_leave_the_batches_alone_and_resume_inside_an_epoch() -> None:
    data = tiny.tiny_data()
    plain = list(data.source(8, 5).epoch(2))
    for wrapped in (Partners(data.source(8, 5)), PeerViews(data.source(8, 5), 2)):
        whole, rest = list(wrapped.epoch(2)), list(wrapped.epoch(2, start=1))
        assert wrapped.steps == len(whole) == len(plain)
        for a, b in zip(plain, whole, strict=True):
            assert torch.equal(a.inputs, b.inputs) and torch.equal(a.index, b.index)
            assert all(view.shape == b.inputs.shape for view in b.views.values())
        for a, b in zip(whole[1:], rest, strict=True):
            assert all(torch.equal(view, b.views[name]) for name, view in a.views.items())
        again = next(wrapped.epoch(3)).views
        assert any(not torch.equal(view, again[name]) for name, view in whole[0].views.items())


def crops_of(image: torch.Tensor, pad: int, normalise) -> list[torch.Tensor]:
    padded = F.pad(image, (0, 0, pad, pad, pad, pad))
    found = []
    for dy, dx in itertools.product(range(2 * pad + 1), repeat=2):
        crop = padded[dy : dy + image.shape[0], dx : dx + image.shape[1]]
        found += [normalise(view[None])[0] for view in (crop, crop.flip(1))]
    return found


def test_a_partner_is_a_crop_of_an_image_of_the_class_and_a_peer_view_of_the_image_itself() -> None:
    data = tiny.tiny_data()
    source = data.source(8, 5)
    pairs, peers = next(Partners(source).epoch(1)), next(PeerViews(source, 1).epoch(1))
    for place in range(3):
        number, label = peers.index[place], pairs.labels[place]
        own = crops_of(data.train.images[number], data.pad, source.normalise)
        assert any(torch.equal(peers.views["peer_1"][place], crop) for crop in own)
        others = [i for i in range(tiny.IMAGES) if data.train.labels[i] == label]
        images = data.train.images[others]
        crops = [crop for image in images for crop in crops_of(image, data.pad, source.normalise)]
        assert any(torch.equal(pairs.views["partner"][place], crop) for crop in crops)


def test_folders_show_partners_and_views_too(tmp_path) -> None:
    for part, label, number in itertools.product(("train", "val"), range(3), range(3)):
        folder = tmp_path / part / f"class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.full((12, 12, 3), 80 * label + number, dtype=np.uint8)  # flat: every crop is the image
        Image.fromarray(pixels).save(folder / f"{number}.png")
    spec = DataSpec("flat", 8, (0.0,) * 3, (1 / 255,) * 3, root=tmp_path, workers=0)
    source = load_folder(spec, torch.device("cpu")).source(4, 1)
    apart = 0
    for batch in Partners(source).epoch(1):
        shade = batch.views["partner"].mean((1, 2, 3)).round()
        assert torch.equal(shade // 80, batch.labels.float())
        apart += (shade != batch.inputs.mean((1, 2, 3)).round()).sum().item()
    assert apart > 0
    whole, rest = list(PeerViews(source, 1).epoch(1)), list(PeerViews(source, 1).epoch(1, start=1))
    for a, b in zip(whole[1:], rest, strict=True):
        assert torch.equal(a.views["peer_1"], b.views["peer_1"])
        assert torch.allclose(a.views["peer_1"].mean((1, 2, 3)), a.inputs.mean((1, 2, 3)))


def test_a_source_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="list cannot show further images"):
        Partners([])


def test_cs_kd_teaches_from_the_partner_without_gradient_and_counts_the_first_half() -> None:
    data = tiny.tiny_data()
    method = tiny.by_hand(CSKD, student(), [], data.info)
    (phase,) = method.phases()
    batch = next(phase.source(data.source(8, 1)).epoch(1))
    batch.views["partner"].requires_grad_()
    train_mode(method, phase)
    losses = phase.updates[0].loss(batch)
    losses["kd"].backward()
    assert batch.views["partner"].grad is None
    assert method.counted[0].shape[0] == len(batch.labels) == 8
    with torch.no_grad():
        own = method.student(batch.inputs).logits.double().tolist()
        partner = method.student(batch.views["partner"]).logits.double().tolist()
    assert losses["kd"].item() == pytest.approx(16 * slow_kl(own, partner, 4.0), rel=1e-3, abs=1e-4)


# ---- BYOT


def test_exits_learn_from_the_end_which_learns_nothing_from_them() -> None:
    data = tiny.tiny_data()
    torch.manual_seed(0)
    method = tiny.by_hand(BYOT, student(), [], data.info, ce=0.0, kd=0.1, weight=1e-3)
    (phase,) = method.phases()
    train_mode(method, phase)
    batch = next(data.source(8, 1).epoch(1))
    losses = method.loss(batch)
    sum(losses.values()).backward()
    last_stage = [*method.student.model.layer3.parameters(), *method.student.classifier.parameters()]
    assert all(p.grad is None for p in last_stage)
    assert all(p.grad is not None for p in method.exits.parameters())
    assert method.student.model.layer1[0].conv1.weight.grad.abs().sum() > 0
    with torch.no_grad():
        out = method.student(batch.inputs)
        exits = [head(f) for head, f in zip(method.exits, out.features[:-1], strict=True)]
    z = out.logits.double().tolist()
    kd = sum(9 * slow_kl(logits.double().tolist(), z, 3.0) for _, logits in exits)
    hint = sum(
        (a - b) ** 2
        for embedding, _ in exits
        for x, y in zip(embedding.tolist(), out.embedding.tolist(), strict=True)
        for a, b in zip(x, y, strict=True)
    )
    assert losses["kd"].item() == pytest.approx(0.1 * kd, rel=1e-3)
    assert losses["hint"].item() == pytest.approx(1e-3 * hint, rel=1e-3)
    assert set(method.reported()) == {"exit_1", "exit_2", "ensemble"}
    assert method.reported()["exit_1"].eval()(batch.inputs).shape == (8, tiny.CLASSES)


def test_every_exit_has_cross_entropy_of_the_same_weight() -> None:
    data = tiny.tiny_data()
    method = tiny.by_hand(BYOT, student(), [], data.info, kd=0.0, weight=0.0).eval()
    batch = next(data.source(8, 1).epoch(1))
    out = method.student(batch.inputs)
    logits = [out.logits, *(head(f)[1] for head, f in zip(method.exits, out.features[:-1], strict=True))]
    labels = batch.labels.tolist()
    expected = sum(sum(slow_ce(each.double().tolist(), labels)) / 8 for each in logits)
    losses = method.loss(batch)
    assert set(losses) == {"ce"} and losses["ce"].item() == pytest.approx(0.9 * expected, rel=1e-4)


def test_the_hint_is_summed_over_the_batch() -> None:
    a, b = draw(3, 4), draw(3, 4, seed=1)

    def slow(x: torch.Tensor) -> float:
        return sum((x[i][j] - b[i][j]).item() ** 2 for i in range(3) for j in range(4))

    assert hint_loss(a, b).item() == pytest.approx(slow(a))
    gradient_agrees(lambda x: hint_loss(x, b), slow, a)


# ---- teachers on their way


def guided(kind, **keywords):
    data = tiny.tiny_data()
    torch.manual_seed(0)
    return data, tiny.by_hand(kind, student(), [tiny.frozen(tiny.net("cifar_resnet14", 2))], data.info, **keywords)


def test_eskd_trains_its_teacher_first_and_drops_it_late() -> None:
    data, method = guided(ESKD, teacher_epochs=2, share=0.5)
    first, second = method.phases()
    batch = next(data.source(8, 1).epoch(1))
    assert first.epochs == 2 and not first.evaluates and second.epochs is None
    assert all(name.startswith("guide.") for name in one_step(method, first, batch))
    assert all(name.startswith("student.") for name in one_step(method, second, batch))
    train_mode(method, second)
    method.epochs, calls = 4, []
    method.guide.register_forward_hook(lambda *_: calls.append(method.epoch))
    weights = {}
    for method.epoch in (1, 2, 3, 4):
        weights[method.epoch] = method.loss(batch)
    assert calls == [1, 2] and not method.guide.training
    assert set(weights[2]) == {"ce", "kd"} and set(weights[3]) == {"ce"}
    logits = method.student(batch.inputs).logits
    assert weights[4]["ce"].item() == pytest.approx(F.cross_entropy(logits, batch.labels).item(), rel=1e-4)


def test_eskd_without_teacher_epochs_takes_the_given_teacher() -> None:
    data, method = guided(ESKD, teacher_epochs=0)
    assert [phase.name for phase in method.phases()] == ["distill"] and method.reported() == {}
    batch = next(data.source(8, 1).epoch(1))
    assert torch.equal(method.teach(batch).logits, method.teacher(batch.inputs).logits)
    assert not any(key.startswith("guide") for key in method.state_dict())


def test_rco_copies_the_teacher_on_its_way_and_follows_in_order() -> None:
    data, method = guided(RCO, teacher_epochs=5, route=[1, 3, 5])
    first, second = method.phases()
    batch = next(data.source(8, 1).epoch(1))
    states = {}
    first.begin()
    for method.epoch in range(1, 6):
        one_step(method, first, batch)
        method.after_epoch()
        states[method.epoch] = {k: v.clone() for k, v in method.guide.state_dict().items()}
    for epoch, copy in zip((1, 3, 5), method.copies, strict=True):
        assert all(torch.equal(value, states[epoch][key]) for key, value in copy.state_dict().items())
    second.begin()
    method.epochs, order = 6, []
    for method.epoch in range(1, 7):
        order.append([copy is method.anchor() for copy in method.copies].index(True))
        method.after_epoch()  # the student's epochs are no epochs of the route
    assert order == [0, 0, 1, 1, 2, 2]
    assert all(torch.equal(value, states[1][key]) for key, value in method.copies[0].state_dict().items())
    assert all(name.startswith("student.") for name in one_step(method, second, batch))


def test_the_even_route_ends_with_the_trained_teacher() -> None:
    assert even_route(240, 4) == [60, 120, 180, 240]
    assert even_route(2, 4) == [1, 2]
    for route in ([3, 1], [0, 2], [1, 9]):
        with pytest.raises(ValueError, match=r"method\.route is"):
            guided(RCO, teacher_epochs=5, route=route)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda info: tiny.by_hand(BAN, student(), [], info, generations=0), "at least once"),
        (lambda info: tiny.by_hand(BAN, student(), [], info, variant="cwt"), "one of plain, cwtm, dkpp"),
        (lambda info: tiny.by_hand(PSKD, student(), [], info, alpha=1.5), "from 0 to 1"),
    ],
)
def test_mistakes_are_named(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(tiny.tiny_data().info)
