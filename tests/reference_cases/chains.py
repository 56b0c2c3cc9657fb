"""Whole optimiser steps: our nets, methods and loop beside the authors' own, from the same weights and batches."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill import config
from distill.batch import Batch
from distill.engine.checkpoint import Checkpoints
from distill.engine.fit import Fit
from distill.engine.state import Options
from distill.method import Method, Update
from distill.models import FeatureNet, build
from distill.signals import StopSignals
from tests.reference_cases import FOLDER, Reference, case
from tests.reference_cases.given import method
from tests.reference_cases.maps import fusion_name, renamed
from tests.reference_cases.relation import Drawn
from tests.tiny import NullCallback, composed, frozen

STEPS = 3
TWICE = {
    f"after_{what}/{name}.running_{part}": "the authors' net runs this BatchNorm twice a step, for its pre-activation"
    for what in ("norm", "sample")
    for name in ("student.bn1", *(f"{phase}student.block{b}.layer.0.bn1" for phase in ("init_", "") for b in (2, 3)))
    for part in ("mean", "var")
}
NETS = {"teacher": "resnet14", "student": "resnet8", "student2": "resnet8", "wrn_student": "wrn_16_1"}
Heads = Callable[[Reference, Any], None]


class Batches:
    """The three batches of the file, as one epoch."""

    steps = STEPS

    def __init__(self, file: Reference) -> None:
        self.file = file

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for step in range(start, STEPS):
            images, labels, index = (self.file[f"batch{step}/{part}"] for part in ("images", "labels", "index"))
            yield Batch(images.float(), labels, index)


def net(file: Reference, name: str) -> FeatureNet:
    """One of the file's nets, with its initial weights."""
    made = build(f"cifar_{NETS[name]}", 100)
    names = [key for key in file.arrays if key.startswith(f"{name}/")]
    state = {key.partition("/")[2]: file[key].float() for key in names}
    made.model.load_state_dict({**made.model.state_dict(), **state})
    return made


class Noted:
    """The losses of every update, in the order in which they were asked for: a row of terms each."""

    def __init__(self, fit: Fit) -> None:
        self.phases: list[list[dict[str, float]]] = []
        for phase in fit.phases:
            self.phases.append(rows := [])
            for update in phase.updates:
                self._watch(update, rows)

    @staticmethod
    def _watch(update: Update, rows: list[dict[str, float]]) -> None:
        loss = update.loss

        def noting(batch: Batch) -> dict[str, Tensor]:
            parts = loss(batch)
            rows.append({name: value.item() for name, value in parts.items()})
            return parts

        update.loss = noting

    def totals(self, phase: int) -> Tensor:
        return torch.tensor([sum(row.values()) for row in self.phases[phase]])

    def parts(self) -> Tensor:
        """Cross-entropy and the rest of each step of the last phase [steps,2]."""
        return torch.tensor([[row["ce"], sum(row.values()) - row["ce"]] for row in self.phases[-1]])


def loop(built: Method, source: Batches, folder: str, epoch: int, *overrides: str) -> Fit:
    """Our loop around a method: one epoch a phase, the last of them number `epoch`."""
    cfg = composed("dataset=cifar100", f"schedule.epochs={epoch}", "schedule.init_epochs=1", *overrides)
    options = Options(nullcontext, log_every=STEPS, save_seconds=1e9, evaluate_every=epoch + 1)
    fit = Fit(
        built, source, lambda net: 0.0, config.ScheduleSpec.of(config.plain(cfg, "schedule")), options,
        Checkpoints(Path(folder)), NullCallback(), StopSignals(),
    )  # fmt: skip
    fit.at.epoch = epoch
    return fit


def states(ref: Reference, built: Method) -> dict[str, Tensor]:
    """What is trained, buffers included, by the authors' names."""
    found = {f"student.{name}": value for name, value in built.student.model.state_dict().items()}
    for number, other in enumerate(getattr(built, "others", ()), 2):
        found |= {f"student{number}.{name}": value for name, value in other.model.state_dict().items()}
    for name, (module, ours) in ref.placed.items():
        found[name] = module.state_dict()[ours]
    return {name: value.detach().clone() for name, value in found.items()}


def compare(ref: Reference, name: str, overrides: tuple[str, ...], heads: Heads | None, student: str) -> Any:
    file, hyper = Reference("chain_nets"), ref.hyper
    epoch = hyper.get("epoch", 1)
    settings = ("method.init_epochs=1",) if "expect/init_losses" in ref.arrays else ()
    built = method(
        name, net(file, student), [frozen(net(file, "teacher"))], *settings, *overrides, images=hyper.get("n_data", 64)
    )
    if heads:
        heads(ref, built)
    with tempfile.TemporaryDirectory() as folder:
        fit = loop(built, Batches(file), folder, epoch, *(o for o in overrides if o.startswith("schedule.")))
        noted = Noted(fit)
        for step, _ in enumerate(fit.steps(), 1):
            if step == STEPS and len(fit.phases) > 1:
                hold(ref, built, "init_")
    report(ref, noted)
    hold(ref, built, "")
    return built


def report(ref: Reference, noted: Noted) -> None:
    if "expect/init_losses" in ref.arrays:
        ref.value("init_losses", noted.totals(0))
    ref.value("losses", noted.totals(-1))
    if "expect/parts" in ref.arrays:
        ref.value("parts", noted.parts())


def hold(ref: Reference, built: Method, start: str) -> None:
    """Compare what is trained with `after_*/<start>...`."""
    for name, value in states(ref, built).items():
        if f"after_norm/{start}{name}" in ref.arrays:
            ref.after(f"{start}{name}", value)


def chain(
    stem: str, *overrides: str, heads: Heads | None = None, student: str = "student", run: Callable | None = None,
    single: dict[str, float] | None = None, **options: Any,
) -> None:  # fmt: skip
    """Register the comparison with chain_<stem>.npz, held to what its authors' code differs from itself."""
    with np.load(FOLDER / f"chain_{stem}.npz") as file:
        limits = json.loads(str(file["meta"]))["tolerance"]
    tolerances = {
        "expect/*": limits["losses_rel"],
        "after_norm/*": limits["norms_rel_to_max(norm,1e-3)"],
        "after_sample/*": limits["samples_abs"],
    }
    name = stem.removesuffix("_wrn")

    def steps(ref: Reference) -> None:
        compare(ref, name, overrides, heads, student)

    why = "ten times what two runs of the authors' code with other kernels differ by"
    case(f"chain_{stem}", single=tolerances | (single or {}), **({"why": why} | options))(run or steps)


def module(path: str, prefix: str, rename: Callable[[str], str] = str) -> Heads:
    """Heads of one module of ours, by its path, from the names that start with `prefix`."""
    return lambda ref, built: ref.load(built.get_submodule(path), prefix, rename)


def several(*heads: Heads) -> Heads:
    def put(ref: Reference, built: Any) -> None:
        for each in heads:
            each(ref, built)

    return put


EMBEDS = several(module("embed_student", "embed_s.linear."), module("embed_teacher", "embed_t.linear."))

chain("kd")
chain("at")
ORDER = "our Gram matrices are summed in another order than the authors' kernels, and three steps amplify it"
chain("nst", single={"after_norm/*": 1e-2, "after_sample/*": 5e-3}, why=ORDER)
chain("sp", single={"after_norm/*": 1e-4, "after_sample/*": 2e-4}, why=ORDER)
chain("pkt")
chain("rkd")
chain("dot")
chain("fitnet", heads=module("regressor", "regressor.", renamed({"conv": "0", "bn": "1"})))
chain("cc", heads=EMBEDS)
chain("fsp")
chain("ab")
chain("ab_wrn", student="wrn_student", leave=TWICE)
OFD_HEADS = module("connectors", "connectors.connectors.")
chain("ofd", heads=OFD_HEADS)


def vid(ref: Reference, built: Any) -> None:
    for level in range(3):
        ref.load(built.regressors[level], f"vid.{level}.", renamed({"log_scale": "theta", "regressor": "mean"}))


KERNELS = "a ReLU's input near zero has the other sign with the kernels of a CPU with AVX2 alone"
chain("vid", heads=vid, single={"after_norm/*": 1e-2, "after_sample/*": 3e-4}, why=KERNELS)
chain(
    "ft",
    heads=several(
        module("paraphraser", "paraphraser.", renamed({"3": "2", "6": "4"})),
        module("translator", "translator.encoder."),
    ),
    single={"after_norm/*": 2e-4, "after_sample/*": 2e-4}, why=KERNELS,
)  # fmt: skip


def fusions(ref: Reference, built: Any) -> None:
    for deep, fusion in enumerate(reversed(built.fusions)):
        ref.load(fusion, f"abfs.{deep}.", fusion_name)


chain(
    "reviewkd", "method.weight=0.6", "method.first_epoch=1", "method.teacher_mode=eval",  # as in mdistiller
    heads=fusions, single={"after_norm/*": 1e-3},
    why="the norm of a bias that is zero but for rounding is among them",
)  # fmt: skip


def peers(ref: Reference, built: Any) -> None:
    built.others[0].model.load_state_dict(net(Reference("chain_nets"), "student2").model.state_dict())


chain("dml", "schedule.lr=0.1", "schedule.optimizer.nesterov=true", heads=peers)


class Next(Drawn):
    """The negatives of one step after the other."""

    def __init__(self, ref: Reference) -> None:
        super().__init__()
        self.left = [ref.input(f"contrast{step}")[:, 1:] for step in range(STEPS)]

    def forward(self, labels: Tensor) -> Tensor:
        return self.left.pop(0)


def crd(name: str) -> Callable[[Reference], None]:
    """With the file's negatives and memories, of which every 97th value is compared."""

    def steps(ref: Reference) -> None:
        def heads(ref: Reference, built: Any) -> None:
            EMBEDS(ref, built)
            built.memory_student.bank.copy_(ref.input("memory_s"))
            built.memory_teacher.bank.copy_(ref.input("memory_t"))
            built.sampler = Next(ref)

        built = compare(ref, name, ("method.dim=32", "method.negatives=24"), heads, "student")
        student, teacher = built.memory_student, built.memory_teacher
        ref.value("memory_s_norm", student.bank.norm())
        for side, memory in (("s", student), ("t", teacher)):
            ref.value(f"memory_{side}_sample", memory.bank.flatten()[::97])
        ref.value("Z", torch.stack([teacher.z, student.z]))

    return steps


for name in ("crd", "crd+kd"):
    chain(name, run=crd(name))
