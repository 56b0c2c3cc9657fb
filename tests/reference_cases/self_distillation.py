"""Nets that teach themselves."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distill.models import Outputs
from tests.reference_cases import Reference, case
from tests.reference_cases.given import Given, batch, method, total


@case("cs-kd")
def cs_kd(ref: Reference) -> None:
    partner = Outputs(ref.input("partner"), [], ref.input("partner"))
    built = method("cs-kd", Given(ref.input("s"), more=[partner]))
    seen = batch(ref.input("label"))
    seen.views["partner"] = seen.inputs
    losses = built.loss(seen)
    ref.value("ce", losses["ce"])
    ref.value("kd", losses["kd"])
    ref.total(total(losses))


def ps_kd(ref: Reference) -> None:
    built = method("ps-kd", Given(ref.input("s")))
    built.past.bank[: len(ref.input("past"))] = ref.input("past")
    built.epoch, built.epochs = ref.hyper["epoch0"] + 1, ref.hyper["epochs"]
    ref.total(total(built.loss(batch(ref.input("label")))))


for epoch in (0, 149, 299):
    case(f"ps-kd_epoch{epoch}")(ps_kd)


@case("tf-kd-reg")
def tf_kd_reg(ref: Reference) -> None:
    ref.total(total(method("tf-kd-reg", Given(ref.input("s"))).loss(batch(ref.input("label")))))


@case("tf-kd-self")
def tf_kd_self(ref: Reference) -> None:
    """The second generation, whose teacher is the first."""
    built = method("tf-kd-self", Given(ref.input("s")))
    built.past[0] = Given(ref.input("t"))
    ref.total(total(built.next_loss(1, batch(ref.input("label")))))


class GivenExit(nn.Module):
    """An exit's embedding [B,D] and logits [B,K], whatever the map."""

    def __init__(self, embedding: Tensor, logits: Tensor) -> None:
        super().__init__()
        self.answer = embedding, logits

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        return self.answer


@case("byot")
def byot(ref: Reference) -> None:
    """Soft targets are the authors' cross-entropy; ours is the KL, less by the deep exit's entropy, a constant."""
    hyper, shallow = ref.hyper, (1, 2, 3)
    maps = [torch.zeros(16, 4, 4, 4)] * 4
    built = method("byot", Given(ref.input("z4"), features=maps, embedding=ref.input("f4")))
    built.exits = nn.ModuleList(GivenExit(ref.input(f"f{k}"), ref.input(f"z{k}")) for k in shallow)
    losses = built.loss(batch(ref.input("label")))
    deep = (ref.input("z4").detach() / hyper["T"]).log_softmax(1)
    entropy = -(deep.exp() * deep).sum(1).mean() * hyper["T"] ** 2 * len(shallow)
    ref.value("ce", losses["ce"] / (1 - hyper["alpha"]))
    ref.value("kd", losses["kd"] / hyper["alpha"] + entropy)
    ref.value("feature", losses["hint"] / hyper["beta"])
    ref.total(total(losses) + hyper["alpha"] * entropy)
    ref.gradient("grad/f4", torch.zeros_like(ref.input("f4")))  # no gradient reaches the deep exit's feature
    assert ref.input("f4").grad is None
