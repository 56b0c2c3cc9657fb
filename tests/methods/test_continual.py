"""Continual learning in three scenarios: what is asked, what is kept, what a task shows, how it is scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from distill import config
from distill.data.tasks import TaskStream
from distill.methods.continual import Continual, Scenario, dealt_classes, soft_loss
from distill.run import Experiment
from distill.signals import StopSignals
from tests import tiny
from tests.compositions import composed
from tests.methods.arithmetic import logits, softmax

PAIR = tiny.SMALLEST


def built(*overrides: str) -> Continual:
    method = tiny.seeded_method("continual", tiny.tiny_data(), PAIR, "method.tasks=3", "method.steps=4", *overrides)
    assert isinstance(method, Continual)
    return method


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_soft_loss_pads_what_was_not_known_with_zeros(reduction: str) -> None:
    current, recorded = logits(0, classes=6), logits(1, classes=4)
    targets = np.pad(softmax(recorded.numpy(), 2.0), ((0, 0), (0, 2)))
    entries = -targets * np.log(softmax(current.numpy(), 2.0)) * 2.0**2
    expected = entries.mean() if reduction == "mean" else entries.sum(-1).mean()
    assert soft_loss(current, recorded, 2.0, reduction).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_the_cross_entropy_is_among_the_scenarios_outputs(scenario: str) -> None:
    method = built(f"method.scenario={scenario}")
    method.epoch = 2
    shown = method.tasks[1]
    batch = next(iter(tiny.tiny_data().source(batch_size=8, seed=0).epoch(1)))
    rows = torch.isin(batch.labels, torch.tensor(shown))
    batch = batch.only(rows.nonzero().flatten())
    z = torch.randn(len(batch.labels), 6, generator=torch.Generator().manual_seed(3))
    asked = {"task": shown, "domain": [0, 1], "class": method.tasks[0] + shown}[scenario]
    rights = [shown.index(y) if scenario == "domain" else asked.index(y) for y in batch.labels.tolist()]
    said = softmax(z[:, asked].double().numpy())
    expected = -np.log(said[range(len(rights)), rights]).mean()
    assert method.own(z, batch).item() == pytest.approx(expected, rel=1e-5)


def test_a_task_is_an_epoch_of_whole_batches_of_its_classes() -> None:
    data = tiny.tiny_data()
    stream = TaskStream(data.source(batch_size=3, seed=1), [[0, 1], [4, 2]], 5)
    for epoch, classes in ((1, {0, 1}), (2, {4, 2})):
        batches = list(stream.epoch(epoch))
        assert [len(batch.labels) for batch in batches] == [3] * 5
        assert {label for batch in batches for label in batch.labels.tolist()} == classes
        first = [index for batch in batches[:2] for index in batch.index.tolist()]
        assert len(set(first)) == 6, "nothing is shown twice before all has been shown"
        later = list(stream.epoch(epoch, start=3))
        assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(later, batches[3:], strict=True))


def test_classes_are_dealt_as_the_authors_deal_them() -> None:
    """numpy.random.seed(1); permutation(10) is 2 9 6 4 0 3 1 7 8 5: label 0 goes to place 2. Seed 0 leaves all."""
    assert dealt_classes(10, 1).tolist() == [4, 6, 0, 5, 3, 9, 2, 7, 8, 1]
    assert dealt_classes(10, 0).tolist() == list(range(10))


def test_classes_are_dealt_by_the_runs_seed(tmp_path: Path) -> None:
    words = ["dataset=digits", "method=continual", "student=mlp30", "method.steps=2", f"output={tmp_path}"]
    for seed in (1, 3):
        spec = config.resolve(composed(*words, f"seed={seed}"))
        method = Experiment(spec, StopSignals(), quiet=True).method
        assert isinstance(method, Continual) and method.dealt.tolist() == dealt_classes(10, seed).tolist()


def test_joint_sees_all_so_far() -> None:
    method = built("method.strategy=joint")
    assert sorted(sum(method.tasks, [])) == list(range(6))
    stream = method.phases()[0].source(tiny.tiny_data().source(batch_size=2, seed=1))  # type: ignore[misc]
    seen = [set(torch.cat([b.labels for b in stream.epoch(k)]).tolist()) for k in (1, 3)]
    assert seen[0] <= set(method.tasks[0]) and len(seen[1]) > 2


def test_the_old_net_is_the_one_of_the_last_task() -> None:
    method = built()
    before = {name: value.clone() for name, value in method.student.state_dict().items()}
    method.after_epoch()
    with torch.no_grad():
        for parameter in method.student.parameters():
            parameter.add_(1)
    assert method.old is not None
    assert all(torch.equal(value, before[name]) for name, value in method.old.state_dict().items())


def test_scores_are_means_over_tasks_among_the_scenarios_outputs() -> None:
    tasks, labels = [[3, 0], [1, 2]], torch.tensor([3, 0, 0, 1, 2])
    z = torch.tensor([[0.0, 9, 0, 1], [0, 9, 0, 1], [1, 0, 9, 0], [0, 1, 0, 9], [9, 0, 1, 0]])
    found = {name: Scenario(None, tasks, name).measure(z, labels) for name in ("task", "domain", "class")}  # type: ignore[arg-type]
    assert found["task"]["task_1"] == pytest.approx(200 / 3) and found["task"]["task_2"] == 100
    assert found["class"]["average"] == 0
    assert found["domain"]["task_1"] == pytest.approx(100 / 3) and found["domain"]["task_2"] == 0
