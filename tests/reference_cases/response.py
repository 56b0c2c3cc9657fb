"""Soft targets, and what is computed of logits alone."""

from __future__ import annotations

from torch.nn import functional as F

from distill.losses import kd_loss
from tests.reference_cases import Reference, case


def kd(ref: Reference) -> None:
    student, hyper = ref.input("s"), ref.hyper
    ce, soft = F.cross_entropy(student, ref.input("label")), kd_loss(student, ref.input("t"), hyper["T"])
    ref.value("ce", ce)
    ref.value("kd", soft)
    ref.total(hyper["ce"] * ce + hyper["kd"] * soft)


for file in ("kd_T1", "kd_T4"):
    case(file)(kd)
