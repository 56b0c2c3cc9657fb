"""lwf: Learning without Forgetting."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from distill import config
from distill.data.tasks import ClassSource
from distill.engine.update import train_mode
from distill.methods.lwf import TaskHistory, old_loss, task_accuracy
from distill.run import run
from tests import tiny

PAIR = ("cifar_resnet14", "cifar_resnet8")


def lwf(*overrides: str):
    data = tiny.tiny_data()
    return data, tiny.seeded_method("lwf", data, PAIR, "method.tasks=3", *overrides)


def test_old_loss_is_the_papers() -> None:
    torch.manual_seed(0)
    current, recorded = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4)
    total, slope = 0.0, None
    for z, r in zip(current.tolist(), recorded.tolist(), strict=True):
        p = [math.exp(v) ** 0.5 for v in z]  # eq. 3: probabilities to the power 1/T, normalised again
        q = [math.exp(v) ** 0.5 for v in r]
        total -= sum(b / sum(q) * math.log(a / sum(p)) for a, b in zip(p, q, strict=True)) / 3
        slope = (p[0] / sum(p) - q[0] / sum(q)) / 2 / 3 if slope is None else slope
    loss = old_loss(current, recorded, 2.0)
    assert loss.item() == pytest.approx(total, rel=1e-5)
    loss.backward()
    assert current.grad[0, 0].item() == pytest.approx(slope, rel=1e-4)


def steps(method, phase, data, lr: float = 0.1) -> None:
    phase.begin()
    train_mode(method, phase)
    update = phase.updates[0]
    parameters = [p for module in update.trains for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(
        parameters, lr=lr, momentum=0.9, weight_decay=phase.schedule.get("weight_decay", 5e-4)
    )
    for batch in phase.source(data.source(batch_size=8, seed=3)).epoch(1):
        optimizer.zero_grad()
        sum(update.loss(batch).values()).backward()
        optimizer.step()


def test_phases_train_what_the_paper_says() -> None:
    data, method = lwf()
    names = [phase.name for phase in method.phases()]
    assert names == ["task 1", "warm-up 2", "task 2", "warm-up 3", "task 3"]
    first, warm, second, *_ = method.phases()
    steps(method, first, data)
    after_first = {key: value.clone() for key, value in method.student.state_dict().items()}
    steps(method, warm, data)
    moved = [key for key, v in method.student.state_dict().items() if not torch.equal(v, after_first[key])]
    assert moved == ["model.fc.weight", "model.fc.bias"]
    weight = method.student.model.fc.weight
    rows = [not torch.equal(weight[k], after_first["model.fc.weight"][k]) for k in range(6)]
    assert rows == [False, False, True, True, False, False], "only the new task's head moves in its warm-up"
    old = method.old[0].state_dict()
    assert all(torch.equal(old[key], value) for key, value in after_first.items())
    steps(method, second, data)
    assert all(torch.equal(old[key], value) for key, value in after_first.items()), "the old net stays"
    assert not torch.equal(method.student.model.conv1.weight, after_first["model.conv1.weight"])
    assert not any(p.requires_grad for p in method.old.parameters())


def test_a_warm_up_moves_both_heads_of_a_net_with_two() -> None:
    vit = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    student = tiny.net("deit_tiny_distilled_patch16_224", 1, **vit)
    method = tiny.make("lwf", student, tiny.net("cifar_resnet8"), tiny.tiny_data())
    assert method.phases()[1].updates[0].trains == [student.model.head, student.model.head_dist]


def test_losses_of_a_later_task() -> None:
    data, method = lwf("method.weight=2.0")
    for k in (1, 2):
        method.start(k)
    batch = next(ClassSource(data.source(batch_size=8, seed=3), [4, 5]).epoch(1))
    method.eval()
    with torch.no_grad():
        logits, before = method.student(batch.inputs).logits, method.old[1](batch.inputs).logits
    losses = method.loss(batch)
    total = 0.0
    for z, y in zip(logits.tolist(), batch.labels.tolist(), strict=True):
        total -= math.log(math.exp(z[y]) / (math.exp(z[4]) + math.exp(z[5]))) / len(batch.labels)
    assert losses["ce"].item() == pytest.approx(total, rel=1e-4)
    kept = sum(old_loss(logits[:, c], before[:, c], 2.0).item() for c in ([0, 1], [2, 3]))
    assert losses["old"].item() == pytest.approx(2 * kept, rel=1e-4)
    assert set(method.counted[0].argmax(1).tolist()) <= {4, 5}
    losses["ce"].backward()
    assert method.student.model.fc.weight.grad[:4].abs().sum() == 0
    with pytest.raises(ValueError, match="give 2 to 6"):
        lwf("method.tasks=1")


def test_accuracy_average_and_forgetting() -> None:
    labels = torch.tensor([0, 1, 0, 1, 2, 3])
    tasks = [[0, 1], [2, 3]]

    def logits(answers: list[int]) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor(answers), 4).float()

    early = logits([0, 1, 0, 1, 2, 2])  # task 1 all right
    late = logits([0, 1, 1, 0, 2, 3])  # task 1 half right, task 2 all right
    found = TaskHistory([], tasks)
    found.stages.extend([torch.nn.Identity(), torch.nn.Identity()])
    measured = found.measure(torch.cat([early, late], 1), labels)
    assert measured == {
        "task_1": 50.0, "task_2": 100.0, "task_1_learned": 100.0, "task_2_learned": 100.0,
        "average": 75.0, "forgetting": 50.0,
    }  # fmt: skip
    assert task_accuracy(logits([2, 1, 0, 3, 2, 3]), labels, [0, 1]) == 75.0, "among the task's own classes"


def test_a_run_tells_what_was_forgotten(output: Path) -> None:
    cfg = tiny.composed(
        "method=lwf", "student=resnet8", "dataset.fraction=0.3", "method.tasks=2", "schedule.batch_size=32",
        "precision=fp32", f"output={output}",
    )  # fmt: skip
    result = run(cfg, Path(config.identity(cfg)["folder"]), table=False)
    found = result["also"]["tasks"]
    assert set(found) == {"task_1", "task_2", "task_1_learned", "task_2_learned", "average", "forgetting"}
    assert found["average"] == pytest.approx((found["task_1"] + found["task_2"]) / 2)
    assert found["forgetting"] == pytest.approx(found["task_1_learned"] - found["task_1"])
    assert result["teacher"] is None and result["accuracy"]["last"] <= found["average"]
