"""Relations between samples, and contrast with memories."""

from __future__ import annotations

import torch
from torch import Tensor

from distill.methods.sskd import crop_similarities, kept, parted, positives
from tests.reference_cases import Reference, case
from tests.reference_cases.given import Given, batch, distilled, method, total


def embeddings(ref: Reference, name: str) -> dict[str, Tensor]:
    """The losses of a method on embeddings, by its YAML."""
    student, teacher = Given(embedding=ref.input("s")), Given(embedding=ref.input("t"))
    return distilled(method(name, student, [teacher]))


@case("sp")
def sp(ref: Reference) -> None:
    built = method("sp", Given(features=[ref.input("s")]), [Given(features=[ref.input("t")])])
    loss = total(distilled(built))
    ref.value("sp", loss / ref.hyper["beta"])
    ref.total(loss)


@case("pkt", value=1e-4, why="the logarithm of a ratio near 1, in fp32")
def pkt(ref: Reference) -> None:
    loss = total(embeddings(ref, "pkt"))
    ref.value("pkt", loss / ref.hyper["beta"])
    ref.total(loss)


@case("rkd")
def rkd(ref: Reference) -> None:
    losses = embeddings(ref, "rkd")
    ref.value("distance", losses["distance"] / ref.hyper["w_d"])
    ref.value("angle", losses["angle"] / ref.hyper["w_a"])
    ref.total(total(losses))


@case("cc-kernel")
def cc_kernel(ref: Reference) -> None:
    loss = total(embeddings(ref, "cc-kernel"))
    ref.value("cc", loss / ref.hyper["lambda_"])
    ref.total(loss)


@case("cc")
def cc(ref: Reference) -> None:
    built = method("cc", Given(embedding=ref.input("s")), [Given(embedding=ref.input("t"))])
    ref.load(built.embed_student, "embed_s.linear.")
    ref.load(built.embed_teacher, "embed_t.linear.")
    loss = total(distilled(built))
    ref.value("cc", loss / ref.hyper["beta"])
    ref.total(loss)


@case("fsp")
def fsp(ref: Reference) -> None:
    """The first phase, in which the loss counts 1."""
    student, teacher = (
        Given(stem=ref.input(f"{net}0"), features=[ref.input(f"{net}1"), ref.input(f"{net}2")]) for net in "st"
    )
    built = method("fsp", student, [teacher])
    ref.total(total(built.match_only(batch(torch.zeros(len(ref.input("s0")), dtype=torch.long)))))


@case("irg", gradient=1e-4, why="differences of squared distances that nearly cancel, in fp32")
def irg(ref: Reference) -> None:
    def net(side: str) -> Given:
        maps = [ref.input(f"{side}f1"), ref.input(f"{side}f2")]
        return Given(ref.input(f"{side}logits"), features=maps, embedding=ref.input(f"{side}emb"))

    ref.total(total(distilled(method("irg", net(""), [net("t_")]))))


class Drawn(torch.nn.Module):
    """Negatives as a file has them, in place of the sampler's."""

    slots: Tensor

    def forward(self, labels: Tensor) -> Tensor:
        return self.slots


@case("crd")
def crd(ref: Reference) -> None:
    """Three steps, between which the banks move; the loss without its weight."""
    student, teacher = Given(embedding=ref.input("step0.s")), Given(embedding=ref.input("step0.t"))
    hyper = ref.hyper
    sizes = (f"method.dim={hyper['feat_dim']}", f"method.negatives={hyper['nce_k']}")
    built = method("crd", student, [teacher], *sizes, images=hyper["n_data"])
    ref.load(built.embed_student, "embed_s.linear.")
    ref.load(built.embed_teacher, "embed_t.linear.")
    built.memory_student.bank.copy_(ref.input("memory_s"))
    built.memory_teacher.bank.copy_(ref.input("memory_t"))
    built.sampler = Drawn()
    for step in range(3):
        embedded = [ref.input(f"step{step}.{net}") for net in "st"]
        built.sampler.slots = ref.input(f"step{step}.contrast")[:, 1:]
        index = ref.input(f"step{step}.index")
        loss = built.contrast(*embedded, batch(torch.zeros_like(index), index))
        ref.total(loss, f"step{step}", f"step{step}.")
        built.after_step()
    ref.value("memory_s_end", built.memory_student.bank)
    ref.value("memory_t_end", built.memory_teacher.bank)
    ref.value("Z", torch.stack([built.memory_teacher.z, built.memory_student.z]))  # of the student's side first


@case("sskd")
def sskd(ref: Reference) -> None:
    """Eight images in four rotations; the heads' outputs are given."""
    student, teacher = (
        Given(ref.input(f"{net}_logits"), embedding=ref.input(f"{net}_feat")) for net in "st"
    )
    built = method("sskd", student, [teacher])
    built.student_head = built.teacher_head = torch.nn.Identity()
    labels, hyper = ref.input("label"), ref.hyper
    seen = batch(labels)
    seen.views = {f"crop_{k}": seen.inputs for k in (1, 2, 3)}
    losses = built.loss(seen)
    for name, ours in {"ce": "ce", "kd": "kd", "tf": "turned", "ss": "similar"}.items():
        ref.value(name, losses[ours] / hyper[f"{name}_weight"])
    keep = kept(parted(ref.input("t_logits"))[1], labels.repeat_interleave(3), built.keep_turned)
    ref.value("kept_tf", keep.nonzero())
    taught = crop_similarities(ref.input("t_feat"))
    ref.value("kept_ss", kept(taught, positives(len(labels), labels.device), built.keep_similarity).nonzero())
    ref.total(total(losses))
