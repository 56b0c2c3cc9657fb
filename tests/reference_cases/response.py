"""Soft targets, and what is computed of logits alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from distill.losses import kd_loss
from distill.methods.ctkd import curriculum
from distill.methods.ofa_kd import ofa_loss
from distill.models import Outputs
from distill.models.fake_quant import BucketWeights
from tests import tiny
from tests.reference_cases import Reference, case
from tests.reference_cases.given import Given, batch, losses, method, total


def kd(ref: Reference) -> None:
    student, hyper = ref.input("s"), ref.hyper
    ce, soft = F.cross_entropy(student, ref.input("label")), kd_loss(student, ref.input("t"), hyper["T"])
    ref.value("ce", ce)
    ref.value("kd", soft)
    built = method("kd", Given(student), [Given(ref.input("t"))], f"method.temperature={hyper['T']}")
    ref.total(total(losses(built, ref.input("label"))))


for file in ("kd_T1", "kd_T4"):
    case(file)(kd)


def term(name: str, part: str, *settings: str, weight: str = "", names: tuple[str, ...] = ()) -> Callable:
    """A comparison of a method with its settings: `part` is the sum of its terms `names` over the file's `weight`."""

    def compare(ref: Reference) -> None:
        options = [setting.format(**ref.hyper) for setting in settings]
        teachers = [Given(ref.input("t"))] if "t" in ref.inputs else []
        parts = losses(method(name, Given(ref.input("s")), teachers, *options), ref.input("label"))
        if part:
            own = torch.stack([value for name, value in parts.items() if name in (names or parts.keys() - {"ce"})])
            ref.value(part, own.sum() / (ref.hyper[weight] if weight else 1))
        ref.total(total(parts))

    return compare


case("logit-standardization")(term("logit-standardization", "kd", weight="kd"))
case("logit-mse")(term("logit-mse", "mse", weight="lambda_"))
case("dist")(term("dist", "dist", weight="kdw"))
case("nkd")(term("nkd", "nkd"))
case("wsld")(term("wsld", "wsld"))
case("label-smoothing")(term("label-smoothing", "", "method.spread=others"))

DKD = ("method.temperature={T}", "method.alpha={alpha}", "method.beta={beta}", "method.warmup_epochs=0")


def dkd(ref: Reference) -> None:
    options = [setting.format(**ref.hyper) for setting in DKD]
    parts = losses(method("dkd", Given(ref.input("s")), [Given(ref.input("t"))], *options), ref.input("label"))
    ref.value("target", parts["tckd"] / ref.hyper["alpha"])
    ref.value("non_target", parts["nckd"] / ref.hyper["beta"])
    ref.value("dkd", parts["tckd"] + parts["nckd"])
    ref.total(total(parts))


case("dkd_T4")(dkd)
case("dkd_T1_hard", single={"expect/target": 1e-4}, why="a sure teacher's 1 - p has few digits left in fp32")(dkd)
case("dkd_standardize")(term("dkd", "dkd", *DKD, "method.standardize=true"))


def ctkd(ref: Reference) -> None:
    built = method("ctkd", Given(ref.input("s")), [Given(ref.input("t"))])
    ref.load(built, "global.", {"global_T": "theta"}.__getitem__)
    built.epoch = ref.hyper["epoch"]
    parts = losses(built, ref.input("label"))
    ref.value("temperature", built.temperature_of(ref.input("s"), ref.input("t")))
    ref.value("kd", parts["kd"] / ref.hyper["alpha"])
    ref.total(total(parts))


for file in ("ctkd_epoch1", "ctkd_epoch3", "ctkd_epoch10"):
    why = "theta's gradient is a small difference: the authors' own fp32 value is 4e-3 from that of fp64"
    case(file, single={"grad_head/*": 1e-2}, why=why)(ctkd)


@case("ctkd_curriculum")
def ctkd_curriculum(ref: Reference) -> None:
    for loops in (5, 10):
        strengths = [-curriculum(epoch, loops) for epoch in ref.input("epoch").tolist()]
        ref.value(f"lambda_loops{loops}", torch.tensor(strengths))


def ofa(ref: Reference) -> None:
    hyper = ref.hyper
    ref.total(ofa_loss(ref.input("s"), ref.input("t"), ref.input("label"), hyper["eps"], hyper["T"]))


for file in ("ofa-kd_eps1", "ofa-kd_eps1.5"):
    case(file)(ofa)


@case("quantized-distillation_quantiser")
def quantiser(ref: Reference) -> None:
    weight = ref.input("weight")
    for bits in (2, 4, 8):
        for bucket in (0, 256):
            made = BucketWeights(weight, bits, bucket or weight.numel())(weight)
            ref.value(f"bits{bits}_bucket{bucket}", made)


@case("quantized-distillation_loss")
def quantised(ref: Reference) -> None:
    built = method("quantized-distillation", tiny.net("cifar_resnet8"), [tiny.net("cifar_resnet8")])
    soft = built.soft_targets(ref.input("s"), ref.input("t"))
    ref.value("kl_mean", soft / built.temperature**2)
    labels = built.supervised(ref.input("s"), batch(ref.input("label")))
    ref.value("ce", labels["ce"] / built.ce)
    ref.total(labels["ce"] + built.kd * soft)


def mlkd(ref: Reference, *settings: str) -> None:
    hyper = ref.hyper
    temperatures = [hyper["T"], *hyper["other_T"]]
    answers = [Outputs(ref.input(f"{side}_strong"), [], torch.zeros(1)) for side in "st"]
    student, teacher = (Given(ref.input(f"{side}_weak"), more=[each]) for side, each in zip("st", answers, strict=True))
    weights = (f"method.{key}={hyper[name]}" for key, name in (("ce", "ce"), ("kd", "kd"), ("weight", "kd")))
    more = (f"method.temperatures={temperatures}", f"method.standardize={hyper['standardize']}")
    built = method("mlkd", student, [teacher], *weights, *more, *settings)
    asked = batch(ref.input("label"))
    asked.views["strong"] = asked.inputs
    parts = built.loss(asked)
    for ours, theirs in (("ce", "ce"), ("kd", "kd"), ("class", "cc"), ("batch", "bc")):
        ref.value(theirs, parts[ours])
    ref.total(total(parts))


for file in ("mlkd_plain", "mlkd_standardize"):
    case(file)(mlkd)
