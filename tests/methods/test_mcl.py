"""mcl: Mutual Contrastive Learning for Visual Representation Learning."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from distill.data import Split
from distill.methods.mcl import MCL, contrast, peer_similarities
from distill.parts.branches import Branch
from tests import tiny
from tests.methods.given_online import first_batch, rows
from tests.slow import draw, gradient_agrees, slow_ce, slow_kl, student


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
    s = peer_similarities([a, b], 0.5)
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
        s = [[rows(x) for x in line] for line in peer_similarities(heads, 0.1)]
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


def test_soft_terms_have_constant_targets() -> None:
    data = tiny.tiny_data()
    torch.manual_seed(0)
    weights = {"weight_vcl": 0.0, "weight_icl": 0.0, "weight_sicl": 0.0}
    method = tiny.by_hand(MCL, student(), [], data.info, ce=0.0, **weights)
    embeddings = [draw(4, 3, seed=s).requires_grad_() for s in (0, 1)]
    labels = torch.tensor([0, 0, 1, 1])
    terms = method.contrastive(peer_similarities(embeddings, 0.5), labels)
    assert set(terms) == {"svcl"}
    target = peer_similarities([embeddings[1].detach()], 0.5)[0][0]
    own = peer_similarities([embeddings[0]], 0.5)[0][0]
    alone = 9 * F.kl_div((own / 3).log_softmax(1), (target / 3).softmax(1), reduction="batchmean")
    (expected,) = torch.autograd.grad(alone, embeddings[0], retain_graph=True)
    (found,) = torch.autograd.grad(terms["svcl"], embeddings[0])
    assert torch.allclose(found, expected)


def test_mcl_tells_the_best_net_of_the_best_epoch(tmp_path) -> None:
    """As its authors print it: max over epochs of the best net's accuracy, whichever net that is."""
    data = tiny.tiny_data()
    method = tiny.seeded_method("mcl", data, ("cifar_resnet8", "cifar_resnet8"))
    fit = tiny.fit(method, data, tmp_path)
    measured = {id(method.student): iter((40.0, 60.0)), id(method.others[0]): iter((70.0, 50.0))}
    fit.evaluate = lambda net: next(measured[id(net)])
    list(fit.steps())
    assert (fit.score.last, fit.score.best, fit.score.best_net) == (60.0, 60.0, 70.0)
    assert len(list(tiny.seeded_method("dml", data).candidate_nets())) == 0


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
