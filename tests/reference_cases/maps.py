"""Methods that compare the maps of stages."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from distill.methods.at import attention_loss
from distill.methods.cat_kd import cat_loss
from distill.methods.ft import FT
from distill.methods.kdsvd import KDSVD, compress, rbf_loss
from distill.methods.norm import normalised
from distill.methods.nst import nst_loss
from distill.methods.ofd import OFD
from distill.methods.reviewkd import hcl_loss
from distill.methods.semckd import SemCKD
from distill.models import Outputs
from tests.reference_cases import Reference, case
from tests.reference_cases.given import Given, batch, linear, losses, method, total

MAPS_ALONE = ("method.ce=0", "method.kd=0")  # what a file without labels and logits can say


def renamed(table: dict[str, str]) -> Callable[[str], str]:
    """From an authors' name, in which parts change as the table says, to ours."""
    return lambda name: ".".join(table.get(part, part) for part in name.split("."))


def maps(ref: Reference, side: str) -> list[Tensor]:
    """The inputs `<side>0`, `<side>1`, ... of a file."""
    return [ref.input(f"{side}{level}") for level in range(3)]


def pair(ref: Reference, *, preacts: bool = False) -> tuple[Given, list[Given]]:
    """Student and teacher that show the three maps of each."""
    return Given(features=maps(ref, "s"), preacts=preacts), [Given(features=maps(ref, "t"), preacts=preacts)]


def one_map(ref: Reference) -> tuple[Given, list[Given]]:
    """Student and teacher that show one map each."""
    return Given(features=[ref.input("s")]), [Given(features=[ref.input("t")])]


def by_level(name: str, level_loss: Callable) -> Callable[[Reference], None]:
    def compare(ref: Reference) -> None:
        for level, both in enumerate(zip(maps(ref, "s"), maps(ref, "t"), strict=True)):
            ref.value(f"level{level}", level_loss(*both))
        ref.total(total(losses(method(name, *pair(ref), *MAPS_ALONE))))

    return compare


case("at")(by_level("at", attention_loss))
case("nst")(by_level("nst", nst_loss))


@case("kdsvd", gradient=1e-4, why="two decompositions of one matrix")
def kdsvd(ref: Reference) -> None:
    built = method("kdsvd", *pair(ref), *MAPS_ALONE)
    assert isinstance(built, KDSVD)
    vectors = [compress(s, t, built.k) for s, t in zip(maps(ref, "s"), maps(ref, "t"), strict=True)]
    for level, (a, b) in enumerate(zip(vectors, vectors[1:], strict=False)):
        ref.value(f"level{level}", rbf_loss((a[0], b[0]), (a[1], b[1])))
    ref.total(total(losses(built)))


@case("ab")
def ab(ref: Reference) -> None:
    built = method("ab", *pair(ref, preacts=True))
    ref.load(built.connectors, "connector.connectors.", renamed({"conv": "0", "bn": "1"}))
    ref.total(total(built.match_only(batch(torch.zeros(4, dtype=torch.long)))))


def fitnet(ref: Reference) -> None:
    built = method("fitnet", *one_map(ref), *MAPS_ALONE, "method.hint_stage=1")
    ref.load(built.regressor, "regressor.", renamed({"conv": "0", "bn": "1"}))
    loss = total(losses(built))
    ref.value("hint", loss / ref.hyper["beta"])
    ref.total(loss)


for file in ("fitnet_same_hw", "fitnet_half_hw", "fitnet_double_hw"):
    case(file)(fitnet)


@case("ft")
def ft(ref: Reference) -> None:
    built = method("ft", *one_map(ref), *MAPS_ALONE)
    assert isinstance(built, FT)
    ref.load(built.paraphraser, "paraphraser.", renamed({"3": "2", "6": "4"}))
    ref.load(built.translator, "translator.encoder.")
    ref.value("rec", total(built.reconstruct(batch(torch.zeros(4, dtype=torch.long)))))
    total(built.reconstruct(batch(torch.zeros(4, dtype=torch.long)))).backward()
    theirs = renamed({"2": "3", "4": "6"})
    for name, parameter in built.paraphraser.named_parameters():
        ref.gradient(f"grad_rec/paraphraser.{theirs(name)}", parameter.grad)
    built.freeze()
    loss = total(losses(built))
    ref.value("factor", loss / ref.hyper["beta"])
    ref.total(loss)


@case("vid")
def vid(ref: Reference) -> None:
    built = method("vid", *one_map(ref), *MAPS_ALONE)
    regressor = built.regressors[0]
    torch.testing.assert_close(regressor.theta.data, ref["head/vid.log_scale"])
    ref.load(regressor, "vid.", renamed({"log_scale": "theta", "regressor": "mean"}))
    loss = total(losses(built))
    ref.value("vid", loss)
    ref.total(loss)


@case("ofd")
def ofd(ref: Reference) -> None:
    norms = [(ref.input(f"bn{level}_weight"), ref.input(f"bn{level}_bias")) for level in range(3)]
    teacher = Given(features=maps(ref, "t"), preacts=True, norms=norms)
    built = method("ofd", Given(features=maps(ref, "s"), preacts=True), [teacher], *MAPS_ALONE)
    assert isinstance(built, OFD)
    ref.load(built.connectors, "connectors.connectors.")
    for level in range(3):
        ref.value(f"margin{level}", built.get_buffer(f"margin_{level}"))
    loss = total(losses(built))
    ref.value("feat", loss / ref.hyper["w"])
    ref.total(loss)


@case("reviewkd_hcl")
def reviewkd_levels(ref: Reference) -> None:
    ref.total(torch.stack([hcl_loss(*both) for both in zip(maps(ref, "s"), maps(ref, "t"), strict=True)]).sum())


def fusion_name(name: str) -> str:
    """Of a tensor of the authors' ABF: the gates are one convolution here, theirs a sequence of it and a sigmoid."""
    block, _, rest = name.partition(".")
    return {"conv1": f"enter.{rest}", "conv2": f"leave.{rest}", "att_conv": f"gates.{rest[2:]}"}[block]


@case("reviewkd_chain_of_fusions")
def reviewkd(ref: Reference) -> None:
    student = Given(features=maps(ref, "s"), embedding=ref.input("s_pool"))
    teacher = Given(features=maps(ref, "t"), embedding=ref.input("t_pool"), preacts=True)
    words = ("method.weight=0.6", "method.width=64", "method.first_epoch=1")  # as mdistiller counts epochs
    built = method("reviewkd", student, [teacher], *words, *MAPS_ALONE)
    for deep, fusion in enumerate(reversed(built.fusions)):  # the authors count from the deepest
        ref.load(fusion, f"abfs.{deep}.", fusion_name)
    built.epoch = ref.hyper["epoch"]
    ref.total(total(losses(built)))


@case("afd-attention")
def afd(ref: Reference) -> None:
    built = method("afd-attention", *one_map(ref), *MAPS_ALONE, "method.squeeze=0.5")
    ref.load(built.attention[0], "afd.attention.")
    loss = total(losses(built))
    ref.value("afd", loss / ref.hyper["lambda_"])
    ref.total(loss)


@case("ickd")
def ickd(ref: Reference) -> None:
    built = method("ickd", *one_map(ref), *MAPS_ALONE)
    ref.load(built.embed, "ickd.embed_s.", renamed({"conv2d": "0", "l2norm": "1"}))
    loss = total(losses(built))
    ref.value("ickd", loss / ref.hyper["beta"])
    ref.total(loss)


@case("mgd")
def mgd(ref: Reference) -> None:
    built = method("mgd", *one_map(ref), *MAPS_ALONE)
    built.keep = lambda x: ref.input("mask")  # what the authors' class drew
    ref.load(built, "mgd.", renamed({"generation": "generator"}))
    ref.total(total(losses(built)))


def cat(ref: Reference) -> None:
    hyper = ref.hyper
    loss = cat_loss(ref.input("s"), ref.input("t"), hyper["size"], hyper["normalize"])
    ref.value("cat", loss)
    ref.total(hyper["weight"] * loss)


for file in ("cat-kd_norm_2", "cat-kd_norm_4", "cat-kd_raw_2"):
    case(file)(cat)


@case("semckd", single={"grad_head/*": 1e-4}, why="2e-5 apart with the kernels of a CPU with AVX2 alone")
def semckd(ref: Reference) -> None:
    built = method("semckd", *pair(ref), *MAPS_ALONE, "method.batch_size=8")
    assert isinstance(built, SemCKD)
    for level in range(3):
        for ours, name in ((built.queries, "query"), (built.keys, "key")):
            ref.load(ours[level], f"selfa.{name}_{level}.", renamed({"linear1": "0", "linear2": "2"}))
        for other, project in enumerate(built.projections[level]):
            ref.load(project, f"selfa.regressor{level}{other}.regressor.")
    ref.value("attention", built.attention(maps(ref, "s"), maps(ref, "t")))
    loss = total(losses(built))
    ref.value("semckd", loss / ref.hyper["beta"])
    ref.total(loss)


@case("simkd")
def simkd(ref: Reference) -> None:
    classifier = linear(ref.input("teacher_fc_weight"), ref.input("teacher_fc_bias"))
    teacher = Given(features=[ref.input("t")], classifier=classifier)
    built = method("simkd", Given(features=[ref.input("s")], classifier=torch.nn.Linear(24, 100)), [teacher])
    ref.load(built.projector, "transfer.")
    projected = built.projector(ref.input("s"))
    ref.value("pred", teacher.classify(projected))
    ref.total(total(losses(built)))


@case("kd-proj_vkd")
def vkd(ref: Reference) -> None:
    """Two heads and patch tokens, as DeiT has them; the projection is a plain one here."""
    heads = (ref.input("s_cls_logits"), ref.input("s_dist_logits"))
    shown = Outputs(heads[0], [], torch.zeros(4, 48), tokens=ref.input("s_tokens"), heads=heads)
    student = Given(heads[0], embedding=torch.zeros(4, 48))
    student.answers = [shown]
    teacher = Given(ref.input("t_logits"), embedding=ref.input("t_map").mean((2, 3)))
    built = method("kd-proj", student, [teacher], "method.projection=linear")
    built.project = torch.nn.Linear(48, 64, bias=False)
    ref.load(built.project, "projector.")
    parts = built.loss(batch(ref.input("label")))
    for ours, theirs in (("ce", "ce"), ("kd", "kl"), ("proj", "feature")):
        ref.value(theirs, parts[ours])
    ref.total(total(parts))


def norm_of_epoch(ref: Reference) -> None:
    """The losses of given logits and of a given expanded map, in the file's epoch of 240."""
    feature, linear_layer = torch.zeros(4, 16, 4, 4, requires_grad=True), torch.nn.Linear(16, 100)
    student = Given(features=[feature], embedding=torch.zeros(4, 16), classifier=linear_layer)
    built = method("norm", student, [Given(ref.input("t_logits"), features=[ref.input("t_map")])])
    built.epoch, built.epochs = ref.hyper["epoch"], 240
    asked = batch(ref.input("label"))
    parts = built.losses(ref.input("s_logits"), ref.input("s_map"), built.teach(asked), asked)
    ref.value("ce", parts["ce"] / ref.hyper["gamma"])
    ref.value("weight", built.factor())
    ref.value("norm", parts["norm"] / built.factor())
    ref.value("kd", built.soft_targets(*(normalised(ref.input(f"{side}_logits"), built.scale) for side in "st")))
    ref.total(total(parts))


for file in ("norm_epoch5", "norm_epoch100", "norm_epoch220"):
    case(file)(norm_of_epoch)


@case("norm_student_transform")
def norm_transform(ref: Reference) -> None:
    feature = ref.input("s_map")
    student = Given(features=[feature], embedding=feature.mean((2, 3)).detach(), classifier=torch.nn.Linear(16, 100))
    teacher = Given(torch.zeros(6, 100), features=[ref.input("t_map")])
    built = method("norm", student, [teacher], "method.copies=4", "method.weight_by_epoch=[[1, 1.0]]")
    ref.load(built.transform.widen, "layer31.")
    ref.load(built.transform.back, "layer32.")
    ref.load(student.classifier, "fc.")
    ref.value("logits", built._steps[1](built.transform(feature)[1]))
    parts = built.loss(batch(ref.input("label")))
    ref.value("ce", parts["ce"] / ref.hyper["gamma"])
    ref.value("norm", parts["norm"])
    ref.total(total(parts))


NORMS = {"train": "batch", "eval": "untrained"}


def srd(ref: Reference) -> None:
    student = Given(logits=ref.input("s_logits"), embedding=ref.input("s"))
    teacher = Given(logits=ref.input("t_logits"), embedding=ref.input("t"))
    built = method("srd", student, [teacher], "method.ce=0", f"method.teacher_norm={NORMS[ref.hyper['teacher_bn']]}")
    ref.load(built.project, "linear.")
    ref.total(total(losses(built)))


case("srd_train")(srd)
case("srd_eval")(srd)


def srrl(ref: Reference) -> None:
    classifier = linear(ref.input("teacher_fc_weight"), ref.input("teacher_fc_bias"))
    form = ref.name.partition("_")[2]
    if form == "pooled":
        student, embedding = Given(embedding=ref.input("s_pool")), ref.input("t_pool")
    else:
        student, embedding = Given(features=[ref.input("s")]), ref.input("t").mean((2, 3))
    teacher = Given(ref.input("t_logits"), embedding=embedding, classifier=classifier)
    built = method("srrl", student, [teacher], *MAPS_ALONE, f"method.form={form}")
    ref.load(built.connector, {"map": "connector.Connectors.", "pooled": "connector."}[form])
    parts = losses(built)
    ref.value("L_FM", parts["match"])
    ref.value("L_SR", parts["regress"])
    ref.total(total(parts))


for file in ("srrl_map", "srrl_pooled"):
    case(file)(srrl)
