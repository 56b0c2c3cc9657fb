"""Several nets at once: losses against slow arithmetic, what trains, what is reported, and the traps."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from distill.data import Split
from distill.data.arrays import seeded
from distill.data.class_batches import ClassBatches
from distill.engine.evaluate import predict
from distill.engine.fit import train_mode
from distill.engine.optim import Stepper
from distill.methods.dml import DML
from distill.methods.kdcl import KDCL, general_weights, linear, min_logit, naive, soft_target_loss
from distill.methods.mcl import MCL, contrast, similarities
from distill.methods.okddip import OKDDip, attended
from distill.methods.one import ONE, gated
from distill.parts.branches import Branch
from distill.parts.peers import Ensemble, make_peers, sigmoid_ramp
from tests import tiny
from tests.slow import draw, gradient_agrees, one_step, slow_ce, slow_kl, softmax, student

torch.set_num_threads(1)


def first_batch(method, data):
    phase = method.phases()[0]
    source = data.source(8, 1)
    train_mode(method, phase)
    return phase, next((phase.source(source) if phase.source else source).epoch(1))


def rows(logits: torch.Tensor) -> list[list[float]]:
    return logits.detach().double().tolist()


# ---- what they share


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


@pytest.mark.parametrize("on_device", [False, True])
def test_a_peer_of_another_architecture_learns_at_the_rate_of_its_own_file(on_device: bool) -> None:
    options = ("method.peers=3", "method.models=[cifar_MobileNetV2,cifar_resnet8]")
    cfg = tiny.composed("method=kdcl", "student=resnet8", *options)
    assert list(cfg.method.rates) == [0.2, 1.0] and tiny.composed("method=kdcl").method.rates is None
    assert list(tiny.composed("method=kdcl", "student=ShuffleV1", *options).method.rates) == pytest.approx([1.0, 5.0])
    torch.manual_seed(0)
    given = {"models": list(cfg.method.models), "rates": list(cfg.method.rates)}
    method = tiny.by_hand(KDCL, student(), [], tiny.tiny_data().info, peers=3, **given)
    schedule = {"lr": 0.5, "milestones": [1], "optimizer": {"name": "sgd", "momentum": 0.0}}
    stepper = Stepper([method], schedule, on_device=on_device)
    nets, rates = {"others.0": 0.2, "others.1": 1.0, "student": 1.0}, {0: 0.5, 1: 0.05}
    for step, rate in rates.items():
        stepper.set_lr(step, 1, 2)
        before = {name: value.detach().clone() for name, value in method.named_parameters()}
        stepper.step({"sum": torch.stack([value.sum() for value in method.parameters()]).sum()})
        for name, value in method.named_parameters():
            scale = next(scale for net, scale in nets.items() if name.startswith(net))
            assert torch.allclose(before[name] - value, torch.tensor(rate * scale), atol=1e-5), name


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda info: tiny.by_hand(DML, student(), [], info, peers=3), {"peer_1", "peer_2", "ensemble"}),
        (lambda info: tiny.by_hand(KDCL, student(), [], info), {"peer_1", "ensemble"}),
        (lambda info: tiny.by_hand(MCL, student(), [], info), {"peer_1", "ensemble"}),
        (lambda info: tiny.by_hand(OKDDip, student(), [], info), {"peer_1", "peer_2", "peer_3", "ensemble"}),
        (lambda info: tiny.by_hand(ONE, student(), [], info), {"branch_1", "branch_2", "ensemble"}),
    ],
)
def test_every_net_is_reported_and_the_deployed_one_is_a_plain_classifier(make, names: set[str]) -> None:
    data = tiny.tiny_data()
    method = make(data.info)
    state = {key: value.clone() for key, value in method.state_dict().items()}
    found = {}
    for name, net in method.reported().items():
        found[name] = predict(net, data.evaluation(8))[0]
        assert found[name].shape == (8, tiny.CLASSES) and found[name].isfinite().all()
    assert set(found) == names
    assert all(torch.equal(value, state[key]) for key, value in method.state_dict().items())
    assert set(method.deployed().model.state_dict()) == set(student().model.state_dict())


# ---- DML


def test_mutual_learning_trains_one_peer_a_turn_on_what_the_others_now_say() -> None:
    data = tiny.tiny_data()
    torch.manual_seed(0)
    method = tiny.by_hand(DML, student(), [], data.info, peers=3)
    phase, batch = first_batch(method, data)
    for k, update in enumerate(phase.updates):
        losses = update.loss(batch)
        with torch.no_grad():
            said = [rows(method.ask(net, batch.inputs)) for net in method.cohort]
        name = f"_{k}" if k else ""
        expected = sum(slow_kl(said[k], said[j], 1.0) for j in range(3) if j != k) / 2
        assert losses[f"kd{name}"].item() == pytest.approx(expected, rel=1e-3, abs=1e-5)
        sum(losses.values()).backward()
        assert all(p.grad is None for j, net in enumerate(method.cohort) if j != k for p in net.parameters())
        torch.optim.SGD(update.trains[0].parameters(), lr=0.1).step()
        method.zero_grad(set_to_none=True)


# ---- ONE


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
    with pytest.raises(ValueError, match="cannot be divided before its last stage: .* method=dml"):
        tiny.by_hand(ONE, vit, [], tiny.tiny_data().info)


def test_the_gated_sum_of_logits() -> None:
    logits, weights = [draw(3, 4, seed=s) for s in (0, 1)], draw(3, 2, seed=2).softmax(1)

    def slow(z: torch.Tensor) -> float:
        both = (z, logits[1])
        places = itertools.product(range(3), range(2), range(4))
        return sum((b + 1) * (k + 2) * (weights[b, m] * both[m][b, k]).item() for b, m, k in places)

    def fast(z: torch.Tensor) -> torch.Tensor:
        scale = torch.outer(torch.arange(1.0, 4), torch.arange(2.0, 6)).double()
        return (gated([z, logits[1]], weights) * scale).sum()

    assert fast(logits[0]).item() == pytest.approx(slow(logits[0]))
    gradient_agrees(fast, slow, logits[0])


def test_one_sums_branches_and_ensemble_and_the_target_is_a_constant() -> None:
    data = tiny.tiny_data()
    torch.manual_seed(0)
    method = tiny.by_hand(ONE, student(), [], data.info, branches=3, ramp_epochs=4)
    method.epoch = 3
    _, batch = first_batch(method, data)
    losses = method.loss(batch)
    with torch.no_grad():
        out = method.student(batch.inputs)
        logits = [out.logits, *(branch(out.features[-2]) for branch in method.branches)]
        gate = method.gate(out.features[-2])
    assert torch.allclose(gate.sum(1), torch.ones(8)) and gate.shape == (8, 3)
    each = [rows(z) for z in logits]
    classes = range(tiny.CLASSES)
    mixed = [[sum(gate[b, m].item() * each[m][b][k] for m in range(3)) for k in classes] for b in range(8)]
    labels = batch.labels.tolist()
    assert losses["ce"].item() == pytest.approx(sum(sum(slow_ce(z, labels)) / 8 for z in each), rel=1e-4)
    assert losses["ce_ensemble"].item() == pytest.approx(sum(slow_ce(mixed, labels)) / 8, rel=1e-4)
    kd = 9 * math.exp(-5 * 0.25) * sum(slow_kl(z, mixed, 3.0) for z in each)
    assert losses["kd"].item() == pytest.approx(kd, rel=1e-3, abs=1e-5)
    losses["kd"].backward()
    assert all(p.grad is None for p in method.gate.parameters())


# ---- KDCL


def stacked(peers: int, samples: int = 5, classes: int = 4, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.stack([draw(samples, classes, seed=s) for s in range(peers)])


def test_the_naive_target_is_the_best_peers() -> None:
    logits, labels = stacked(3), [0, 3, 1, 1, 2]
    found = naive(logits, torch.tensor(labels))
    for b in range(5):
        errors = [slow_ce([rows(logits)[p][b]], [labels[b]])[0] for p in range(3)]
        assert torch.equal(found[b], logits[errors.index(min(errors)), b])


def test_the_least_logits_are_taken_after_the_label_is_subtracted() -> None:
    logits, labels = stacked(3), [0, 3, 1, 1, 2]
    found = min_logit(logits, torch.tensor(labels))
    for b, k in itertools.product(range(5), range(4)):
        expected = min((logits[p, b, k] - logits[p, b, labels[b]]).item() for p in range(3))
        assert found[b, k].item() == pytest.approx(expected)
    best = min(sum(slow_ce(rows(logits)[p], labels)) for p in range(3))
    assert sum(slow_ce(rows(found), labels)) <= best
    assert all(found[b, labels[b]] == 0 for b in range(5))


@pytest.mark.parametrize("peers", [2, 3])
def test_the_linear_target_is_the_best_convex_combination(peers: int) -> None:
    logits, labels = stacked(peers, samples=12), [0, 3, 1, 1, 2, 0, 2, 3, 1, 0, 2, 3]
    found = slow_ce(rows(linear(logits, torch.tensor(labels))), labels)
    grid = 40
    shares = [s for s in itertools.product(range(grid + 1), repeat=peers) if sum(s) == grid]
    inner = 0
    for b in range(12):
        errors = {}
        for share in shares:
            mixed = sum(a / grid * logits[p, b] for p, a in enumerate(share))
            errors[share] = (torch.logsumexp(mixed, 0) - mixed[labels[b]]).item()
        best = min(errors, key=errors.get)
        inner += max(best) < grid
        assert found[b] <= errors[best] + 1e-3
        assert found[b] >= errors[best] - 0.02  # no better than the grid allows
    assert inner >= 2  # some optima are no corner


def test_general_weights_have_the_least_error_and_stay_distributions() -> None:
    errors = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    weights = general_weights(errors)
    costs = {w / 100: (w * w * 2 + 2 * w * (100 - w) * 0.5 + (100 - w) ** 2) / 1e4 for w in range(101)}
    assert weights[0].item() == pytest.approx(min(costs, key=costs.get), abs=0.01)
    assert general_weights(torch.tensor([[4.0, 1.5], [1.5, 1.0]])).tolist() == [0.0, 1.0]
    assert general_weights(torch.zeros(2, 2)).tolist() == [0.5, 0.5]


def test_the_soft_target_loss_counts_the_kept_samples() -> None:
    logits, target = draw(4, 3), draw(4, 3, seed=1).softmax(1)
    keep = torch.tensor([1.0, 0, 1, 1], dtype=torch.float64)

    def slow(z: torch.Tensor) -> float:
        total = 0.0
        for b in (0, 2, 3):
            q = softmax(z[b].tolist(), 2.0)
            total += sum(t * math.log(t / p) for t, p in zip(target[b].tolist(), q, strict=True))
        return 4 * total / 3

    assert soft_target_loss(logits, target, keep, 2.0).item() == pytest.approx(slow(logits))
    gradient_agrees(lambda z: soft_target_loss(z, target, keep, 2.0), slow, logits)


@pytest.mark.parametrize("variant", ["naive", "linear", "minlogit", "general"])
def test_peers_see_views_of_their_own_and_learn_from_a_constant(variant: str) -> None:
    data = tiny.tiny_data()
    torch.manual_seed(0)
    method = tiny.by_hand(KDCL, student(), [], data.info, peers=3, variant=variant)
    phase, batch = first_batch(method, data)
    assert set(batch.views) == {"peer_1", "peer_2"}
    assert not torch.equal(batch.views["peer_1"], batch.views["peer_2"])
    seen = []
    for net in method.cohort:
        net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    losses = method.loss(batch)
    assert [id(x) for x in seen] == [id(batch.inputs), id(batch.views["peer_1"]), id(batch.views["peer_2"])]
    assert all(math.isfinite(value.item()) for value in losses.values())
    moved = one_step(method, phase, batch)
    assert {name.split(".")[0] for name in moved} == {"student", "others"}
    method.after_epoch()


def test_held_out_images_teach_nobody_and_weigh_the_peers() -> None:
    data = tiny.tiny_data()
    torch.manual_seed(0)
    method = tiny.by_hand(KDCL, student(), [], data.info, variant="general", held=0.3)
    assert method.held.sum() == 7 and {"held", "errors", "weights"} <= set(method.state_dict())
    phase, batch = first_batch(method, data)
    held = method.held[batch.index]
    assert 0 < held.sum() < 8
    wrong = batch.labels.clone()
    wrong[held] = (wrong[held] + 1) % tiny.CLASSES
    right = {key: value.item() for key, value in method.loss(batch).items()}
    batch.labels = wrong
    assert {key: value.item() for key, value in method.loss(batch).items()} == right
    method.after_step()
    with torch.no_grad():
        said = [method.student(batch.inputs).logits, method.others[0](batch.views["peer_1"]).logits]
    expected = [[0.0, 0.0], [0.0, 0.0]]
    for b in held.nonzero().flatten().tolist():
        p = [softmax(rows(z)[b]) for z in said]
        for i, j, k in itertools.product(range(2), range(2), range(tiny.CLASSES)):
            true = float(k == wrong[b])
            expected[i][j] += (p[i][k] - true) * (p[j][k] - true)
    assert torch.allclose(method.errors, torch.tensor(expected), rtol=1e-3)
    errors = method.errors.clone()
    method.after_epoch()
    assert torch.equal(method.weights, general_weights(errors)) and not method.errors.any()
    with pytest.raises(ValueError, match=r"method\.held is 0"):
        tiny.by_hand(KDCL, student(), [], data.info, variant="general", held=0)


# ---- OKDDip


def test_attention_mixes_the_peers_logits() -> None:
    logits, queries, keys = ([draw(2, w, seed=s + w) for s in range(3)] for w in (4, 5, 6))
    keys = [k[:, :5] for k in keys]
    found = attended(logits, queries, keys)
    for b, a in itertools.product(range(2), range(3)):
        alpha = softmax([(queries[a][b] * keys[c][b]).sum().item() for c in range(3)])
        for k in range(4):
            expected = sum(alpha[c] * logits[c][b, k].item() for c in range(3))
            assert found[a][b, k].item() == pytest.approx(expected)


def okddip(form: str, **options) -> OKDDip:
    torch.manual_seed(0)
    return tiny.by_hand(OKDDip, student(), [], tiny.tiny_data().info, form=form, ramp_epochs=0, **options)


@pytest.mark.parametrize("form", ["branches", "networks"])
def test_the_leader_learns_from_the_mean_of_the_peers_logits(form: str) -> None:
    method = okddip(form, ce=0.0)
    _, batch = first_batch(method, tiny.tiny_data())
    found = method.loss(batch)["kd_leader"].item()
    with torch.no_grad():
        leader, peers = method.forward_all(batch)
    each = [rows(logits) for logits, _ in peers]
    mean = [[sum(p[b][k] for p in each) / 3 for k in range(tiny.CLASSES)] for b in range(8)]
    assert found == pytest.approx(9 * slow_kl(rows(leader), mean, 3.0), rel=1e-3, abs=1e-5)


def test_the_leaders_loss_moves_the_peers_too_and_the_peers_loss_not_the_leader() -> None:
    method = okddip("networks", ce=0.0)
    _, batch = first_batch(method, tiny.tiny_data())
    method.loss(batch)["kd_leader"].backward()
    assert all(peer.classifier.weight.grad.abs().sum() > 0 for peer in method.peers)
    assert all(p.grad is None for p in method.query.parameters())
    method.zero_grad(set_to_none=True)
    method.loss(batch)["kd_peers"].backward()
    assert all(p.grad is None for p in method.student.parameters())
    assert all(p.grad.abs().sum() > 0 for p in (*method.query.parameters(), *method.key.parameters()))


def test_branches_share_all_stages_but_the_last_with_the_leader() -> None:
    method = okddip("branches")
    whole = {name for name, _ in method.student.named_parameters()}
    own = {name for name, _ in method.peers[0].net.named_parameters()}
    assert own < whole and {name.split(".")[1] for name in own} == {"layer3", "fc"}
    assert len(method.peers) == 3


def test_a_branch_tells_what_enters_its_classifier() -> None:
    net = student(1)
    branch = Branch(net).eval()
    feature = torch.randn(2, *net.shapes[-2])
    logits, embedding = branch.finish(feature)
    assert embedding.shape == (2, net.embedding_dim)
    assert torch.equal(branch.net.classifier(embedding), logits) and torch.equal(branch(feature), logits)


def test_peers_of_different_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"widths \[64, 512\].* method=dml"):
        okddip("networks", branches=3, models=["cifar_resnet8", "cifar_vgg8"])


def test_branches_of_other_architectures_are_refused() -> None:
    with pytest.raises(ValueError, match=r"method\.form=networks"):
        okddip("branches", branches=3, models=["cifar_resnet8", "cifar_resnet8"])


# ---- MCL


def slow_contrast(s: list[list[float]], labels: list[int]) -> float:
    total = 0.0
    for i in range(len(labels)):
        others = [j for j in range(len(labels)) if j != i]
        log_all = math.log(sum(math.exp(s[i][j]) for j in others))
        positives = [j for j in others if labels[j] == labels[i]]
        total -= sum(s[i][j] - log_all for j in positives) / len(positives)
    return total / len(labels)


def test_contrast_leaves_the_image_itself_out() -> None:
    labels = [0, 1, 0, 1, 1]
    s = 3 * draw(5, 5)
    target = torch.tensor(labels)
    assert contrast(s, target).item() == pytest.approx(slow_contrast(rows(s), labels))
    gradient_agrees(lambda x: contrast(x, target), lambda x: slow_contrast(rows(x), labels), s)


def test_similarities_are_cosines_between_any_two_nets() -> None:
    a, b = draw(3, 4), draw(3, 4, seed=1)
    s = similarities([a, b], 0.5)
    for i, j in itertools.product(range(3), repeat=2):
        x, y = rows(a)[i], rows(b)[j]
        dot = sum(u * v for u, v in zip(x, y, strict=True))
        cosine = dot / math.sqrt(sum(u * u for u in x) * sum(v * v for v in y))
        assert s[0][1][i, j].item() == pytest.approx(cosine / 0.5)
        assert s[1][0][j, i].item() == pytest.approx(cosine / 0.5)


def test_the_four_terms_of_a_cohort_of_three() -> None:
    data = tiny.tiny_data()
    torch.manual_seed(0)
    weights = {"kd": 1.0, "weight_vcl": 0.1, "weight_svcl": 2.0, "weight_icl": 0.3}
    method = tiny.by_hand(MCL, student(), [], data.info, peers=3, **weights)
    _, batch = first_batch(method, data)
    losses = method.loss(batch)
    labels = batch.labels.tolist()
    with torch.no_grad():
        outputs = [net(batch.inputs) for net in method.cohort]
        heads = [head(out.embedding) for head, out in zip(method.heads, outputs, strict=True)]
        s = [[rows(x) for x in line] for line in similarities(heads, 0.1)]
    pairs = [(a, b) for a in range(3) for b in range(3) if a != b]
    expected = {
        "vcl": 0.1 * sum(slow_contrast(s[a][a], labels) for a in range(3)),
        "svcl": 2.0 * 9 * sum(slow_kl(s[a][a], s[b][b], 3.0) for a, b in pairs),
        "icl": 0.3 * sum(slow_contrast(s[a][b], labels) for a, b in pairs),
        "sicl": 9 * sum(slow_kl(s[a][b], s[b][a], 3.0) for a, b in pairs),
        "ce": sum(sum(slow_ce(rows(out.logits), labels)) / 8 for out in outputs),
    }
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=2e-3, abs=1e-4), name
    mean = [[sum(o.logits[b, k].item() for o in outputs) / 3 for k in range(tiny.CLASSES)] for b in range(8)]
    kd = 9 * slow_kl(rows(outputs[0].logits), mean, 3.0)  # of three, the deployed one alone
    assert losses["kd"].item() == pytest.approx(kd, rel=1e-3, abs=1e-4)
    assert method.counted[0].shape == (8, tiny.CLASSES)


@pytest.mark.parametrize(("size", "found"), [(8, {2}), (12, {2}), (16, {4})])
def test_batches_have_two_images_a_class_or_as_many_as_its_classes_ask_for(size: int, found: set[int]) -> None:
    data = tiny.tiny_data()  # six classes
    images, labels = (torch.cat([part] * 2) for part in (data.train.images, data.train.labels))
    info = replace(data.info, labels=labels, num_train=len(labels))
    source = data.source(8, 1).replace(split=Split(images, labels), info=info, batch_size=size)
    (phase,) = tiny.by_hand(MCL, student(), [], data.info).phases()
    for batch in phase.source(source).epoch(1):
        counts = batch.labels.bincount()
        assert set(counts[counts > 0].tolist()) == found and len(batch.labels) == size
        assert len(batch.index.unique()) == size


def test_each_of_several_processes_gets_whole_classes() -> None:
    labels = torch.arange(40) % 8
    batches = ClassBatches(labels, 8, 2, processes=2).order(3, seeded(0)).view(3, 8)
    for batch, rank in itertools.product(batches, range(2)):
        assert sorted(labels[batch[rank::2]].bincount().tolist(), reverse=True)[:3] == [2, 2, 0]
    with pytest.raises(ValueError, match="shared by 3 processes: give schedule.batch_size a multiple of 6"):
        ClassBatches(labels, 8, 2, processes=3)


def test_soft_terms_have_constant_targets() -> None:
    data = tiny.tiny_data()
    torch.manual_seed(0)
    weights = {"weight_vcl": 0.0, "weight_icl": 0.0, "weight_sicl": 0.0}
    method = tiny.by_hand(MCL, student(), [], data.info, ce=0.0, **weights)
    embeddings = [draw(4, 3, seed=s).requires_grad_() for s in (0, 1)]
    labels = torch.tensor([0, 0, 1, 1])
    terms = method.contrastive(similarities(embeddings, 0.5), labels)
    assert set(terms) == {"svcl"}
    target = similarities([embeddings[1].detach()], 0.5)[0][0]
    own = similarities([embeddings[0]], 0.5)[0][0]
    alone = 9 * F.kl_div((own / 3).log_softmax(1), (target / 3).softmax(1), reduction="batchmean")
    (expected,) = torch.autograd.grad(alone, embeddings[0], retain_graph=True)
    (found,) = torch.autograd.grad(terms["svcl"], embeddings[0])
    assert torch.allclose(found, expected)


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
    first._save()
    second = start(tmp_path / "cut")
    assert second.restore() == total - 2 == steps[-1]
    for _ in second.steps():
        pass
    assert second.watch.rows[-1] == whole.watch.rows[-1]
    for key, value in whole.method.state_dict().items():
        assert torch.equal(value, second.method.state_dict()[key]), key


def test_mcl_tells_the_best_net_of_the_best_epoch(tmp_path) -> None:
    """As its authors print it: max over epochs of the best net's accuracy, whichever net that is."""
    data = tiny.tiny_data()
    method = tiny.seeded_method("mcl", data, ("cifar_resnet8", "cifar_resnet8"))
    fit = tiny.fit(method, data, tmp_path)
    measured = {id(method.student): iter((40.0, 60.0)), id(method.others[0]): iter((70.0, 50.0))}
    fit.evaluate = lambda net: next(measured[id(net)])
    list(fit.steps())
    assert (fit.score.last, fit.score.best, fit.score.best_net) == (60.0, 60.0, 70.0)
    assert len(list(tiny.seeded_method("dml", data).rivals())) == 0


def test_mcls_branches_share_the_first_stage_and_nothing_else() -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method(
        "mcl", data, ("cifar_resnet8", "cifar_resnet8"), "method.peers=4", "method.form=branches"
    )
    whole, branch = (sum(p.numel() for p in net.parameters()) for net in (method.student, method.others[0]))
    stem = sum(
        p.numel() for name, p in method.student.named_parameters() if name.split(".")[1] in ("conv1", "bn1", "layer1")
    )
    assert len(method.others) == 3 and branch == whole - stem
    phase, batch = first_batch(method, data)
    answers = method.answers(batch)
    shown = [net(batch.inputs) for net in method.cohort[1:]]
    assert all(torch.equal(one, other) for (one, _), other in zip(answers[1:], shown, strict=True))
    (grad,) = torch.autograd.grad(answers[3][0].sum(), next(method.student.parameters()))
    assert grad.abs().sum() > 0, "the shared stage learns from every branch"
    with pytest.raises(ValueError, match="has none that branches could share"):
        Branch(tiny.net("cifar_resnet8"), stages=3)
