"""srrl: Knowledge Distillation via Softmax Regression Representation Learning."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from distill.methods.srrl import SRRL, feature_matching_loss, softmax_regression_loss
from distill.parts.probing import linear_layer
from tests import tiny
from tests.methods.given_later_features import (
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


def test_a_teacher_with_two_heads_has_no_one_layer_that_gives_its_logits() -> None:
    vit = {"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}
    teacher = tiny.net("deit_tiny_distilled_patch16_224", **vit)
    with pytest.raises(ValueError, match="is not one linear layer"):
        tiny.make("srrl", tiny.net("cifar_resnet8"), teacher, tiny.tiny_data())


def test_a_teacher_whose_patches_vote_too_has_no_one_layer_that_gives_its_logits() -> None:
    teacher = tiny.net("test_vit", 1, img_size=16, patch_size=8)
    linear_layer(teacher)
    teacher.model.aux_head = nn.Linear(teacher.embedding_dim, tiny.CLASSES)  # as VOLO has it
    with pytest.raises(ValueError, match="is not one linear layer"):
        linear_layer(teacher)
    assert [type(head) for head in teacher.classifiers] == [nn.Linear, nn.Linear]
