"""Chains of teachers."""

from __future__ import annotations

from tests.reference_cases import Reference, case
from tests.reference_cases.given import Given, batch, method, total


@case("takd")
def takd(ref: Reference) -> None:
    """A step of the chain by tuned/cifar100-takd.yaml: lambda over the classes, since ours is a mean over the batch."""
    built = method("takd", Given(ref.input("s")), [Given(ref.input("t"))])
    losses, hyper = built.loss(batch(ref.input("label"))), ref.hyper
    ref.value("ce", losses["ce"] / (1 - hyper["lambda_"]))
    ref.value("kd_term", losses["kd"])
    ref.value("kl_mean", losses["kd"] / hyper["lambda_"] / hyper["T"] ** 2)
    ref.total(total(losses))
