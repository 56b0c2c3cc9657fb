"""Losses of generators, and of students that see what they make."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from distill.losses import kd_loss, kl_div
from distill.methods.at import attention_loss
from distill.methods.cmi import contrast_loss, decision_divergence
from distill.methods.dafl import activation_loss
from distill.methods.zskt import divergence
from distill.parts.datafree import balance_loss, certainty_loss
from tests.reference_cases import Reference, case


@case("cmi_adversarial")
def cmi_adversarial(ref: Reference) -> None:
    student, teacher = ref.input("s"), ref.input("t")
    ref.value("agree", (student.argmax(1) == teacher.argmax(1)).double().mean())
    ref.total(-decision_divergence(student, teacher))


@case("cmi_contrastive")
def cmi_contrastive(ref: Reference) -> None:
    local, whole, tau = ref.input("local"), ref.input("glob"), ref.hyper["cr_T"]
    count, there = ref.hyper["N"], torch.ones(len(local), dtype=torch.bool)
    scores = (local @ whole.T / tau).detach()
    each = F.cross_entropy(scores, torch.arange(len(scores)), reduction="none")
    ref.value("current", each[:count].mean())
    ref.value("cached", contrast_loss(local, whole, tau, count, there).detach() - each[:count].mean())
    ref.total(contrast_loss(local, whole, tau, count, there))
    ref.gradient("grad/glob", torch.zeros_like(whole) if whole.grad is None else whole.grad)


@case("dfq")
def dfq(ref: Reference) -> None:
    student, teacher, hyper = ref.input("s"), ref.input("t"), ref.hyper
    terms = {"oh": certainty_loss(teacher), "adv": -kl_div(student, teacher), "balance": balance_loss(teacher)}
    for name, term in terms.items():
        ref.value(name, term)
    ref.total(sum(hyper[name] * term for name, term in terms.items()))


@case("zskt")
def zskt(ref: Reference) -> None:
    student, teacher = ref.input("s_logits"), ref.input("t_logits")
    gap = divergence(student, teacher, ref.hyper["KL_temperature"])
    attention = sum(attention_loss(ref.input(f"s{k}"), ref.input(f"t{k}")) for k in range(3))
    ref.value("divergence", gap)
    ref.value("generator", -gap)
    ref.value("at", attention)
    ref.total(gap + ref.hyper["AT_beta"] * attention)


@case("dafl")
def dafl(ref: Reference) -> None:
    teacher, student, hyper = ref.input("t_logits"), ref.input("s_logits"), ref.hyper
    one_hot, entropy = certainty_loss(teacher), balance_loss(teacher, 10.0)
    activation, kd = activation_loss(ref.input("t_feat")), kd_loss(student, teacher.detach(), 1.0)
    for name, term in (("one_hot", one_hot), ("entropy", entropy), ("activation", activation), ("kd", kd)):
        ref.value(name, term)
    ref.total(hyper["oh"] * one_hot + hyper["ie"] * entropy + hyper["a"] * activation + kd)
