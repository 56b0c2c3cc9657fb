"""simkd: Knowledge Distillation with the Reused Teacher Classifier."""

from __future__ import annotations

import pytest
import torch

from distill.config import resolve
from distill.methods.simkd import ReusedModel, SimKD, simkd_loss
from distill.models import build
from distill.run import make_schedule
from tests import tiny
from tests.methods.given_later_features import (
    K,
    batch,
    changed,
    info,
    made,
    net,
    rand,
    same_value_and_gradient,
    slow_mse,
    take_steps,
    teacher,
)


def test_simkd_loss() -> None:
    same_value_and_gradient(simkd_loss, slow_mse, rand(2, 3, 2, 2), rand(2, 3, 2, 2, seed=1))


def test_its_parts_are_put_together_where_the_teacher_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run's teacher is on the GPU when methods are made, and the student is not yet."""
    moved: list[tuple[str, torch.device]] = []

    class Put(torch.nn.Module):
        def to(self, device: torch.device) -> Put:
            moved.append((type(self).__name__, device))
            return self

    def read(self: ReusedModel, inputs: torch.Tensor) -> torch.Tensor:
        seen.append({name for name, device in moved if device == self.teacher.probe().device})
        return run(self, inputs)

    seen, run = list[set[str]](), ReusedModel.forward_features
    monkeypatch.setattr(torch.nn.Module, "to", Put.to)
    monkeypatch.setattr(ReusedModel, "forward_features", read)
    made(SimKD, "cifar_resnet8", "cifar_resnet14")
    assert seen and seen[0] >= {"FeatureNet", "Projector"}


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


def test_smoothing_of_labels_that_are_not_read_is_refused_before_a_teacher_is_loaded() -> None:
    words = ("method=simkd", "schedule.label_smoothing=0.1")
    with pytest.raises(ValueError, match="cannot honour schedule.label_smoothing=0.1: it reads no labels unless"):
        make_schedule(resolve(tiny.composed(*words)), images=100)
    assert make_schedule(resolve(tiny.composed(*words, "method.ce=1.0")), images=100).label_smoothing == 0.1
