"""ban: Born-Again Neural Networks."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional as F

from distill.methods.ban import BAN, confidence_weighted, permute_dark_knowledge
from tests import tiny
from tests.slow import draw, gradient_agrees, one_step, slow_ce, softmax, student


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
