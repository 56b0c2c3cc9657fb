"""Methods with several teachers, specialists and assistants, against slow independent arithmetic."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from distill.engine.fit import train_mode
from distill.methods.aekd import AEKD, logit_gradients
from distill.methods.avg_multi_teacher import loss_to_mean, mean_of_losses
from distill.methods.ca_mkd import Resized, confidence, pointwise_regressor, weighted
from distill.methods.residual_kd import Together
from distill.methods.specialists import ensemble, specialist_loss, with_dustbin
from distill.methods.two_teacher import map_loss
from distill.parts.clusters import k_means
from distill.parts.min_norm import MinNorm
from distill.parts.one_class import OneClassSVM
from distill.parts.several import kl_rows
from tests import tiny


def softmax(row: list[float], t: float = 1.0) -> list[float]:
    top = max(row)
    exps = [math.exp((value - top) / t) for value in row]
    return [value / sum(exps) for value in exps]


def slow_kl(target: list[float], student: list[float]) -> float:
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(target, student, strict=True))


def logits(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(*shape, generator=generator, dtype=torch.float64)


def check_gradient(loss, at: Tensor) -> None:
    """The gradient of loss(at) at a few places against central differences."""
    at = at.clone().requires_grad_()
    loss(at).backward()
    for place in ((0, 0), (1, 2), (3, 4)):
        up, down = at.detach().clone(), at.detach().clone()
        up[place] += 1e-5
        down[place] -= 1e-5
        slope = (loss(up) - loss(down)).item() / 2e-5
        assert at.grad[place].item() == pytest.approx(slope, abs=1e-6)


def test_both_averages_by_hand() -> None:
    student, teachers, t = logits(4, 5), list(logits(3, 4, 5, seed=1)), 3.0
    losses = to_mean = 0.0
    for i in range(4):
        mine = softmax(student[i].tolist(), t)
        said = [softmax(each[i].tolist(), t) for each in teachers]
        losses += sum(slow_kl(p, mine) for p in said) / 3
        to_mean += slow_kl([sum(column) / 3 for column in zip(*said, strict=True)], mine)
    assert mean_of_losses(student, teachers, t).item() == pytest.approx(t * t * losses / 4, rel=1e-9)
    assert loss_to_mean(student, teachers, t).item() == pytest.approx(t * t * to_mean / 4, rel=1e-6)
    assert losses > to_mean  # different values ...
    check_gradient(lambda z: mean_of_losses(z, teachers, t), student)
    grads = []
    for average in (mean_of_losses, loss_to_mean):  # ... and the same gradient
        z = student.clone().requires_grad_()
        average(z, teachers, t).backward()
        grads.append(z.grad)
    assert torch.allclose(*grads, atol=1e-6)


def test_average_is_chosen_by_keyword_and_misspellings_are_refused() -> None:
    data = tiny.tiny_data()
    values = []
    for average in ("losses", "probabilities"):
        method = tiny.seeded_method(
            "avg-multi-teacher", data, ("cifar_resnet8", "cifar_resnet8"), f"method.average={average}"
        )
        values.append(method.loss(next(iter(data.source(batch_size=8, seed=1).epoch(1))))["kd"].item())
    assert values[0] > values[1] > 0
    with pytest.raises(ValueError, match="losses, probabilities"):
        tiny.seeded_method("avg-multi-teacher", data, ("cifar_resnet8", "cifar_resnet8"), "method.average=both")


def test_one_teacher_is_refused() -> None:
    net = tiny.net("cifar_resnet8")
    with pytest.raises(ValueError, match="two or more"):
        tiny.by_hand(AEKD, net, [tiny.frozen(tiny.net("cifar_resnet8"))], tiny.tiny_data().info)


def test_random_teacher_asks_one_teacher_a_step_and_follows_the_seed() -> None:
    data = tiny.tiny_data()
    pair = ("cifar_resnet8", "cifar_resnet8")

    def drawn(*overrides: str) -> list[int]:
        method = tiny.seeded_method("random-teacher", data, pair, *overrides)
        asked: list[int] = []
        method.teach = lambda batch, teacher: asked.append([t is teacher for t in method.teachers].index(True))  # type: ignore
        for _ in range(60):
            method.teach_all(None)
        assert len(asked) == 60
        return asked

    assert drawn() == drawn() and set(drawn()) == {0, 1, 2}
    assert set(drawn("method.odds=[1,0,1]")) == {0, 2}
    with pytest.raises(ValueError, match=r"method\.odds"):
        drawn("method.odds=[1,1]")


def test_two_teacher_takes_logits_from_the_first_and_the_map_from_the_second() -> None:
    data = tiny.tiny_data()
    batch = next(iter(data.source(batch_size=8, seed=1).epoch(1)))
    method = tiny.seeded_method("two-teacher", data, ("cifar_resnet14", "cifar_resnet8"))
    train_mode(method, method.phases()[0])
    before = {key: value.item() for key, value in method.loss(batch).items()}
    with torch.no_grad():
        method.teachers[1].classifier.weight.mul_(3)  # no logits are taken from it
    assert method.loss(batch)["kd"].item() == pytest.approx(before["kd"], rel=1e-6)
    with torch.no_grad():
        method.teachers[1].model.layer2[0].conv1.weight.mul_(3)
        method.teachers[0].model.layer3[0].conv1.weight.mul_(3)
    after = method.loss(batch)
    assert after["hint"].item() != pytest.approx(before["hint"], rel=1e-4)
    assert after["kd"].item() != pytest.approx(before["kd"], rel=1e-4)


def test_map_loss_is_a_mean() -> None:
    a, b = logits(2, 3, 2, 2), logits(2, 3, 2, 2, seed=1)
    slow = sum((x - y) ** 2 for x, y in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)) / 24
    assert map_loss(a, b).item() == pytest.approx(slow)


def brute_force(gram: np.ndarray, cap: float, parts: int) -> float:
    """The least squared length over a grid of weights that sum to one."""
    best = math.inf
    for bars in itertools.product(range(parts + 1), repeat=len(gram) - 1):
        if sum(bars) <= parts:
            weights = np.array([*bars, parts - sum(bars)]) / parts
            if weights.max() <= cap + 1e-9:
                best = min(best, float(weights @ gram @ weights))
    return best


@pytest.mark.parametrize("cap", [0.4, 0.5, 0.6, 1.0])
def test_min_norm_against_a_grid_and_its_own_optimality(cap: float) -> None:
    solve = MinNorm(4, cap)
    for seed in range(8):
        vectors = logits(4, 6 if seed % 2 else 2, seed=seed)  # two dimensions: dependent gradients
        gram = vectors @ vectors.T
        weights = solve(gram)
        assert weights.sum().item() == pytest.approx(1) and weights.min() >= 0 and weights.max() <= cap + 1e-9
        value = (weights @ gram @ weights).item()
        assert value <= brute_force(gram.numpy(), cap, 20) + 1e-8
        slope = gram @ weights  # no exchange of weight between two teachers may help
        takers, givers = weights < cap - 1e-7, weights > 1e-7
        assert slope[givers].max() <= slope[takers].min() + 1e-6 * gram.abs().max()


def test_min_norm_agrees_with_the_one_class_svm() -> None:
    svm = pytest.importorskip("sklearn.svm")
    for seed in range(5):
        vectors = logits(5, 7, seed=seed)
        gram = (vectors @ vectors.T).numpy()
        fitted = svm.OneClassSVM(kernel="precomputed", nu=1 / (0.6 * 5), tol=1e-10).fit(gram)
        wanted = np.zeros(5)
        wanted[fitted.support_] = fitted.dual_coef_[0] / fitted.dual_coef_.sum()
        assert np.allclose(MinNorm(5, 0.6)(torch.from_numpy(gram)).numpy(), wanted, atol=1e-4)


def test_min_norm_of_special_cases() -> None:
    equal = MinNorm(3, 0.6)(torch.ones(3, 3))
    assert torch.allclose(equal.sum(), torch.ones((), dtype=torch.float64)) and equal.max() <= 0.6 + 1e-9
    assert torch.allclose(
        MinNorm(3, 0.1)(torch.diag(torch.tensor([1.0, 5.0, 9.0]))), torch.full((3,), 1 / 3, dtype=torch.float64)
    )
    assert torch.isfinite(MinNorm(3, 0.6)(torch.zeros(3, 3))).all()
    with pytest.raises(ValueError, match="avg-multi-teacher"):
        MinNorm(30, 0.6)


@pytest.mark.parametrize("scale", [2e-4, 1e-3, 1e-2])
def test_the_authors_solver_stops_where_libsvm_stops(scale: float) -> None:
    svm = pytest.importorskip("sklearn.svm")
    moved = 0
    for seed in range(8):
        vectors = scale / 10 * logits(3, 100, seed=seed)
        gram = (vectors @ vectors.T).float().double()
        fitted = svm.OneClassSVM(kernel="precomputed", nu=1 / (0.6 * 3), tol=1e-6).fit(gram.numpy())
        wanted = np.zeros(3)
        wanted[fitted.support_] = fitted.dual_coef_[0] * 0.6
        found = OneClassSVM(3, 0.6)(gram).numpy()
        moved += not np.allclose(found, [0.6, 0.4, 0.0])
        assert np.allclose(found, wanted, atol=1e-6), seed
    assert moved == (0 if scale == 2e-4 else 8)  # gradients as short as at batches of 64: it does not move at all


def test_aekd_gradients_are_autograds() -> None:
    student, teachers = logits(6, 5).requires_grad_(), list(logits(3, 6, 5, seed=2))
    rows = []
    for m in range(3):
        (grad,) = torch.autograd.grad(kl_rows(student, teachers, 4.0)[m].mean(), student, retain_graph=True)
        rows.append(grad.mean(0))
    ours = logit_gradients(student, teachers, 4.0)
    ratio = torch.stack(rows) / ours
    assert torch.allclose(ratio, ratio.mean().expand_as(ratio), rtol=1e-6)  # the same up to a common factor


def test_aekd_with_hints_trains_each_regressor_from_the_second_epoch() -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method("aekd", data, ("cifar_resnet14", "cifar_resnet8"), "method.weight=100")
    train_mode(method, method.phases()[0])
    batch = next(iter(data.source(batch_size=8, seed=1).epoch(1)))
    for epoch, counts in ((1, False), (2, True)):
        method.epoch = epoch
        method.zero_grad()
        losses = method.loss(batch)
        assert (losses["hint"].item() > 0) is counts
        sum(losses.values()).backward()
        for head in method.regressors:  # the authors' torch.tensor([...]) would cut this
            assert bool(head[0].weight.grad.abs().sum() > 0) is counts


def test_confidence_by_hand() -> None:
    teachers, labels = list(logits(3, 4, 5, seed=3)), torch.tensor([0, 4, 2, 2])
    weights = confidence(teachers, labels)
    for i, label in enumerate(labels.tolist()):
        errors = [-math.log(softmax(each[i].tolist())[label]) for each in teachers]
        shares = softmax(errors)
        assert weights[:, i].tolist() == pytest.approx([(1 - share) / 2 for share in shares], rel=1e-6)
        assert weights[:, i].argmax() == int(np.argmin(errors))
    assert torch.allclose(weights.sum(0), torch.ones(4, dtype=torch.float64))


def test_ca_mkd_divides_by_the_number_of_teachers_once_more() -> None:
    assert weighted(torch.full((3, 4), 1 / 3), torch.ones(3, 4)).item() == pytest.approx(1 / 3)


def test_ca_mkd_resizes_a_map_before_it_is_regressed() -> None:
    small = torch.arange(4.0).reshape(1, 1, 2, 2)
    assert Resized(4, 4)(small)[0, 0, 0].tolist() == pytest.approx([0.0, 0.25, 0.75, 1.0])  # bilinear
    assert Resized(1, 1)(small).item() == pytest.approx(1.5)
    assert pointwise_regressor((3, 2, 2), (5, 4, 4))(torch.randn(2, 3, 2, 2)).shape == (2, 5, 4, 4)


@pytest.mark.parametrize("name, theirs", [("ca-mkd", True), ("avg-multi-teacher", True), ("aekd", False)])
def test_a_smaller_last_batch_is_left_out_where_the_authors_do(name: str, theirs: bool) -> None:
    data, pair = tiny.tiny_data(), ("cifar_resnet14", "cifar_resnet8")
    (phase,) = tiny.seeded_method(name, data, pair).phases()
    assert (phase.source is not None) == theirs
    (phase,) = tiny.seeded_method(name, data, pair, "method.drop_last=false").phases()
    assert phase.source is None
    (phase,) = tiny.seeded_method(name, data, pair, "method.drop_last=true").phases()
    source = data.source(batch_size=8, seed=1)
    assert [len(batch.labels) for batch in phase.source(source).epoch(1)] == [8, 8]  # of 22 images


def test_ca_mkd_weighs_maps_through_the_teachers_classifier_from_epoch_two() -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method("ca-mkd", data, ("cifar_resnet14", "cifar_resnet8"))
    train_mode(method, method.phases()[0])
    batch = next(iter(data.source(batch_size=8, seed=1).epoch(1)))
    assert method.loss(batch)["maps"].item() == 0
    method.epoch = 2
    student, teachers = method.student(batch.inputs), method.teach_all(batch)
    slow = 0.0
    regressed = [head(student.features[-1]) for head in method.regressors]
    for i, label in enumerate(batch.labels.tolist()):
        errors = [
            -math.log(softmax(net.classify(mine)[i].tolist())[label])
            for net, mine in zip(method.teachers, regressed, strict=True)
        ]
        for m, share in enumerate(softmax(errors)):
            apart = (regressed[m][i] - teachers[m].features[-1][i]).square().mean().item()
            slow += (1 - share) / 2 * apart / (3 * len(batch.labels))
    assert method.maps(student, teachers, batch.labels).item() == pytest.approx(slow, rel=1e-3)


def test_crd_ensemble_is_the_sum_of_crds_with_a_bank_pair_each() -> None:
    from distill.methods.crd import CRD

    data = tiny.tiny_data()
    method = tiny.seeded_method(
        "crd-ensemble", data, ("cifar_resnet14", "cifar_resnet8"), "method.negatives=6", "method.dim=8"
    )
    batch = next(iter(data.source(batch_size=8, seed=1).epoch(1)))
    assert len(method.critics) == 3
    method.eval()
    torch.manual_seed(3)
    losses = method.loss(batch)
    for m, critic in enumerate(method.critics):
        single = tiny.by_hand(CRD, method.student, [method.teachers[m]], data.info, negatives=6, dim=8)
        critics = {k: v for k, v in critic.state_dict().items() if not k.endswith(".z")}
        assert not single.load_state_dict(critics, strict=False).unexpected_keys
        single.eval()
        torch.manual_seed(3)
        assert losses[f"crd_{m}"].item() == pytest.approx(single.loss(batch)["crd"].item(), rel=1e-5)
    before = [critic.memory_student.bank.clone() for critic in method.critics]
    method.after_step()
    for bank, critic in zip(before, method.critics, strict=True):
        moved = (critic.memory_student.bank != bank).any(1).nonzero().flatten().tolist()
        assert moved == sorted(batch.index.tolist())


def test_dustbin_is_the_sum_of_the_other_classes() -> None:
    rows, members = logits(4, 5), torch.tensor([True, False, True, False, False])
    ours = with_dustbin(rows, members).softmax(1)
    for i in range(4):
        p = softmax(rows[i].tolist())
        assert ours[i].tolist() == pytest.approx([p[0], 0, p[2], 0, 0, p[1] + p[3] + p[4]], abs=1e-9)


def test_specialists_loss_is_that_of_half_and_half_sampling() -> None:
    rows, labels = logits(10, 4), torch.tensor([0, 1, 2, 3, 1, 1, 2, 3, 3, 2])
    members, share = torch.tensor([True, False, False, False]), torch.tensor(0.1)
    inside = outside = 0.0
    for row, label in zip(rows.tolist(), labels.tolist(), strict=True):
        p = softmax(row)
        if label == 0:
            inside += -math.log(p[0])
        else:
            outside += -math.log(1 - p[0]) / 9
    assert specialist_loss(rows, labels, members, share).item() == pytest.approx((inside + outside) / 2, rel=1e-6)


def objective(q: Tensor, p_g: Tensor, p_m: Tensor, members: Tensor, active: Tensor) -> Tensor:
    """Hinton's equation 5, written with loops."""
    total = (p_g * (p_g / q).log()).sum()
    for m, inside in enumerate(members):
        if active[m]:
            rest = q[~inside].sum()
            total = total + (p_m[m, -1] * (p_m[m, -1] / rest).log())
            for k in inside.nonzero().flatten().tolist():
                total = total + p_m[m, k] * (p_m[m, k] / q[k]).log()
    return total


def test_inner_optimisation_finds_what_gradient_descent_on_logits_finds() -> None:
    members = torch.tensor([[1, 1, 0, 0, 0], [0, 1, 1, 1, 0], [0, 0, 0, 1, 1]], dtype=torch.bool)
    p_g = logits(1, 5, seed=1).mul(0.4).softmax(1)
    p_m = torch.stack(
        [with_dustbin(logits(1, 5, seed=m + 2).mul(0.4), members[m]).softmax(1)[0] for m in range(3)]
    )
    for active in ([True, True, False], [False, False, False], [True, True, True]):
        act = torch.tensor(active)
        q = ensemble(p_g, p_m[None], members, act[None], 400)[0]
        z = p_g[0].log().clone().requires_grad_()
        descent = torch.optim.LBFGS([z], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-15)

        def closure(z=z, act=act, descent=descent):
            descent.zero_grad()
            loss = objective(z.softmax(0), p_g[0], p_m, members, act)
            loss.backward()
            return loss

        descent.step(closure)
        assert torch.allclose(q, z.detach().softmax(0), atol=1e-5)
        assert q.sum().item() == pytest.approx(1)
        worth = [
            objective(ensemble(p_g, p_m[None], members, act[None], n)[0], p_g[0], p_m, members, act).item()
            for n in range(8)
        ]
        assert all(later <= sooner + 1e-12 for sooner, later in itertools.pairwise(worth))


def test_k_means_finds_blocks_and_leaves_no_cluster_empty() -> None:
    block = torch.kron(torch.eye(3), torch.ones(2, 2))
    found = k_means(block + 0.01 * torch.eye(6), 3).tolist()
    assert found[0] == found[1] != found[2] == found[3] != found[4] == found[5] != found[0]
    assert sorted(set(k_means(torch.zeros(5, 2), 4).tolist())) == [0, 1, 2, 3]
    assert torch.equal(k_means(block, 2), k_means(block, 2))


def test_specialists_start_as_the_generalist_and_each_phase_trains_its_own() -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method("specialists", data, ("cifar_resnet14", "cifar_resnet8"), "method.specialists=3")
    first, second = method.phases()
    images = next(iter(data.evaluation(8)))[0]
    source = data.source(batch_size=8, seed=1)
    first.begin()
    first.source(source)
    assert sorted(torch.bincount(method.cluster, minlength=3).tolist())[0] > 0
    assert method.members.sum() == 6 and bool(method.clustered)
    clusters = method.cluster.clone()
    second.source(source)
    assert torch.equal(clusters, method.cluster)
    teacher = method.teacher(images).logits
    assert all(torch.equal(expert.eval()(images).logits, teacher) for expert in method.experts)
    assert [set(map(id, u.trains[0].parameters())) for u in first.updates] == [
        set(map(id, e.parameters())) for e in method.experts
    ]
    second.begin()
    assert not any(p.requires_grad for p in method.experts.parameters())
    said = method.reported()["ensemble"](images).exp()
    assert torch.allclose(said.sum(1), torch.ones(8), atol=1e-4)
    with pytest.raises(ValueError, match="specialists"):
        tiny.seeded_method("specialists", data, ("cifar_resnet14", "cifar_resnet8"), "method.specialists=7")


def test_dustbins_are_corrected_by_the_oversampling() -> None:
    """Specialists that equal the generalist, but for the half-and-half prior: the correction undoes it exactly."""
    data = tiny.tiny_data()
    method = tiny.seeded_method("specialists", data, ("cifar_resnet8", "cifar_resnet8"), "method.specialists=2")
    method.cluster.copy_(torch.tensor([0, 0, 1, 1, 1, 1]))
    counts = torch.bincount(data.info.labels, minlength=6).double()
    share = method.shares[0].item()
    assert share == pytest.approx(((counts[0] + counts[1]) / counts.sum()).item())
    bias = method.together().bias[0].item()
    truth = 0.3  # P(special | image) with the data's own share; oversampling turns it into the odds below
    seen = truth * 0.5 / share / (truth * 0.5 / share + (1 - truth) * 0.5 / (1 - share))
    corrected = math.log((1 - seen) / seen) + bias
    assert corrected == pytest.approx(math.log((1 - truth) / truth), rel=1e-5)


def test_residual_phases_train_student_then_assistant() -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method("residual-kd", data, ("cifar_resnet14", "cifar_resnet8"))
    batch = next(iter(data.source(batch_size=8, seed=1).epoch(1)))
    groups = [
        {id(p) for module in phase.updates[0].trains for p in module.parameters()} for phase in method.phases()
    ]
    student = {id(p) for p in [*method.student.parameters(), *method.embed_student.parameters()]}
    assert groups[0] == student and not groups[1] & student
    train_mode(method, method.phases()[1])
    losses = method.assist(batch)
    known = method.embed_student(method.student(batch.inputs).embedding)
    missed = method.embed_assistant(method.assistant(batch.inputs).embedding)
    target = method.teacher(batch.inputs).embedding
    slow = (
        sum(
            (t - k - m) ** 2
            for t, k, m in zip(*(x.flatten().tolist() for x in (target, known, missed)), strict=True)
        )
        / target.numel()
    )
    assert losses["residual"].item() == pytest.approx(slow, rel=1e-3)
    sum(losses.values()).backward()
    assert all(p.grad is None for p in method.student.parameters())
    both = method.reported()["student+assistant"]
    assert isinstance(both, Together) and both(batch.inputs).shape == (8, 6)
    assert method.deployed() is method.student
