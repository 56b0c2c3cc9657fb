"""fitnet: FitNets."""

from __future__ import annotations

import pytest

from tests import tiny


def test_fitnet_trains_hint_then_distils() -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method("fitnet", data)
    hint, distill = method.phases()
    assert (hint.name, hint.epochs, hint.evaluates) == ("hint", 1, False)
    batch = next(iter(data.source(batch_size=8, seed=1).epoch(1)))
    method.train()
    losses = hint.updates[0].loss(batch)
    losses["hint"].backward()
    deep = [p.grad for p in method.student.model.layer3.parameters()] + [method.student.model.fc.weight.grad]
    assert list(losses) == ["hint"] and all(grad is None for grad in deep)
    assert all(p.grad is not None for p in method.regressor.parameters())
    assert set(distill.updates[0].loss(batch)) == {"ce", "kd"}
    joint = tiny.seeded_method(
        "fitnet", data, ("cifar_resnet14", "cifar_resnet8"), "method.hint_epochs=0", "method.weight=100"
    )
    (phase,) = joint.phases()
    joint.train()
    losses = phase.updates[0].loss(batch)
    teacher, student = joint.teach(batch), joint.student(batch.inputs)
    expected = 100 * ((joint.regressor(student.features[1]) - teacher.features[1]) ** 2).mean()
    assert losses["fitnet"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_soft_targets_of_fitnet_fall_from_lambda_4_to_1() -> None:
    """TeacherDecayOverEpoch of the authors: start 5, saturate 400 of 500 epochs; lambda is 9 of ours, T^2."""
    method = tiny.seeded_method("fitnet", tiny.tiny_data())
    method.epochs = 500
    for epoch, theirs in ((1, 4.0), (4, 4.0), (5, 4 - 3 / 396), (202, 2.5), (400, 1.0), (500, 1.0)):
        method.epoch = epoch
        method.before_epoch()
        assert method.kd * 9 == pytest.approx(theirs, rel=1e-6), epoch
