"""zskt: Zero-shot Knowledge Transfer via Adversarial Belief Matching."""

from __future__ import annotations

import pytest
import torch

from distill.batch import Batch
from distill.engine.update import train_mode
from distill.methods.zskt import divergence
from tests import tiny
from tests.methods.given_datafree import Untouchable


def test_divergence_of_zskt_is_a_mean_over_samples_and_classes() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 5), torch.randn(3, 5)
    each = torch.nn.functional.kl_div((student / 2).log_softmax(1), (teacher / 2).softmax(1), reduction="none")
    assert divergence(student, teacher, 2.0).item() == pytest.approx(each.mean().item(), rel=1e-5)


def test_zskt_generator_widens_what_the_student_closes() -> None:
    method = tiny.seeded_method("zskt", tiny.tiny_data())
    phase = method.phases()[0]
    train_mode(method, phase)
    noise = next(phase.source(Untouchable()).epoch(1))
    before = method.generator_loss(noise)["adversarial"].item()
    assert before < 0
    optimizer = torch.optim.Adam(method.generator.parameters(), lr=0.01)
    for _ in range(15):
        optimizer.zero_grad()
        loss = method.generator_loss(noise)["adversarial"]
        loss.backward()
        optimizer.step()
    assert loss.item() < 1.1 * before, "a larger gap"
    assert [update.repeat for update in phase.updates] == [1, 2]
    batch = Batch(noise.inputs, noise.labels, noise.index)
    assert set(method.student_loss(batch)) == {"kd", "at"}
    images = method.generator(noise.inputs).detach()
    assert batch.labels.shape == noise.labels.shape and images.shape == (8, 3, 16, 16)


def test_both_nets_of_zskt_are_clipped() -> None:
    method = tiny.seeded_method("zskt", tiny.tiny_data())
    assert [update.optimizer["clip_grad"] for update in method.phases()[0].updates] == [5.0, 5.0]
