"""What a trained net is worth: the count of errors is that of the accuracy beside it."""

from __future__ import annotations

import torch

from distill.engine.evaluate import scores


def test_errors_are_those_of_the_accuracy_where_logits_are_equal() -> None:
    """Logits of bf16 are equal now and then; argmax takes the first class of them, topk any."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 100, generator=generator).bfloat16().float()
    labels = torch.randint(100, (4000,), generator=generator)
    best = logits.max(1, keepdim=True).values
    tied = (logits == best).sum(1) > 1
    labels[tied] = (logits == best).long()[tied].argmax(1)  # the first of them is right
    found = scores(logits, labels)
    wrong = int((logits.argmax(1) != labels).sum())
    assert tied.sum() > 10
    assert found["errors"] == wrong
    assert found["accuracy"] == 100 * (4000 - wrong) / 4000
    assert found["top5"] >= found["accuracy"]
