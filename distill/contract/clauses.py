"""The clauses of the contract, one function each: it returns where a method keeps its word, and raises Broken."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.batch import Batch, Mixed
from distill.config.check import MAPS
from distill.config.needs import LABELS, OF_A_CLASSIFIER
from distill.contract.gradients import backward, not_finite, reached
from distill.contract.waiting import why_it_waits
from distill.contract.world import CLASSES, PAIR, World, folder
from distill.engine.update import checked, joined
from distill.method import Losses, Method, Phase
from distill.teachers.cache import NotCached

_PAIRS = (("cifar_vgg8", "cifar_MobileNetV2"), ("cifar_resnet8", "vit_tiny_patch16_224"),
         ("vit_tiny_patch16_224", "cifar_resnet8"))  # fmt: skip
_SHARE = 0.7
_DRAWS = 8  # steps after which one that draws what it does has done all that it does


class Broken(Exception):
    """What a method does otherwise than it owes, in a sentence."""


def its_yaml_lists_the_keywords_of_its_constructor(world: World) -> None:
    """Each keyword-only argument is a key of the YAML, which also says what it reads and how many teachers it takes."""
    node = world.spec.method.node
    kind, known = world.kind, set()
    if not issubclass(kind, Method):
        raise Broken(f"{kind.__name__} is no subclass of distill.method.Method")
    for call in (vars(cls)["__init__"] for cls in kind.__mro__ if "__init__" in vars(cls)):
        parameters = inspect.signature(call).parameters.values()
        known |= {each.name for each in parameters if each.kind is each.KEYWORD_ONLY}
        if not any(each.kind is each.VAR_KEYWORD for each in parameters):
            break
    written = set(node) - {"name", "_target_", "about"}
    if written != known:
        raise Broken(f"the YAML has {_named(written - known)} too many and lacks {_named(known - written)}")
    if missing := {"kind", "taps", "phases", "teachers"} - set(node.get("about") or {}):
        raise Broken(f"the YAML's about lacks {_named(missing)}")


def its_losses_are_named_finite_numbers(world: World) -> None:
    """Each update returns a dictionary of scalars in fp32, on whole batches and on the short one at the end; they and
    their gradients are finite.
    """
    method = world.method()
    for phase in method.phases():
        for batch in world.begun(method, phase):
            losses: Losses = {}
            for update in phase.updates:
                losses = joined(losses, own := checked(update.loss(batch)))
                _refuse_other_numbers(own)
                backward(method, own)
                if odd := not_finite(method):
                    raise Broken(f"the gradients of {_named(odd)} are not finite: of sqrt at 0 they are infinite, say")


def everything_trainable_is_trained_and_no_teacher_is(world: World) -> None:
    """Every parameter that requires grad gets a gradient from some update; teachers stay as they are, to the bit."""
    method = world.method()
    _refuse_held(method)
    before = [{key: value.clone() for key, value in teacher.state_dict().items()} for teacher in method.teachers]
    wanted: dict[int, str] = {}
    got: set[int] = set()
    for phase in method.phases():
        batches = world.begun(method, phase)
        wanted |= {id(p): name for name, p in method.named_parameters() if p.requires_grad}
        there = dict(method.named_parameters())
        for step, batch in enumerate(islice(cycle(batches), _DRAWS)):
            if step > 1 and (method.steps_alike or wanted.keys() <= got):
                break
            for update in phase.updates:
                got |= reached(method, update, batch)
            method.after_step()
        if late := dict(method.named_parameters()).keys() - there.keys():
            raise Broken(f"a step makes {_named(late)}, which no optimiser has: make it in __init__")
        method.after_epoch()
    if never := sorted(name for key, name in wanted.items() if key not in got):
        raise Broken(
            f"no update trains {_named(never)}: list its module in an Update's trains, or set requires_grad=False"
        )
    for teacher, old in zip(method.teachers, before, strict=True):
        if changed := [key for key, value in teacher.state_dict().items() if not torch.equal(value, old[key])]:
            raise Broken(f"the teacher's {_named(changed)} changes: ask it by self.teach, and leave its mode alone")


def a_step_leaves_modes_as_they_are(world: World) -> None:
    """What a step puts in eval or train mode it puts back: the loop sets modes when an epoch begins, not each step."""
    method = world.method()
    for phase in method.phases():
        batch = world.begun(method, phase)[0]
        modes = {name: module.training for name, module in method.named_modules()}
        for update in phase.updates:
            update.loss(batch)
        method.after_step()
        for name, module in method.named_modules():
            if module.training != modes.get(name, module.training):
                mode = "train" if module.training else "eval"
                raise Broken(f"a step leaves {name or 'the method'} in {mode} mode: put it back as it was")


def the_running_accuracy_is_told(world: World) -> None:
    """A step of the last phase calls self.supervised or self.count."""
    method = world.method()
    phase = method.phases()[-1]
    batch = world.begun(method, phase)[0]
    for update in phase.updates:
        update.loss(batch)
    if method.counted is None:
        raise Broken(
            "no step says how many are right: call self.supervised(logits, batch), or self.count(logits, labels)"
        )


def mixed_labels_change_what_reads_labels(world: World) -> None:
    """A loss that depends on the labels depends on both of a mixed image's, unless `refuses` says why it cannot."""
    method = world.method()
    if "mixup" in method.refuses:
        return
    for phase in method.phases():
        batch = world.begun(method, phase)[0]
        others = batch.classes.roll(1)
        rows = _SHARE * F.one_hot(batch.classes, CLASSES).float() + (1 - _SHARE) * F.one_hot(others, CLASSES)
        mixed = replace(batch, targets=Mixed(rows, others, torch.tensor(_SHARE)))
        plain, other, both = (_losses(phase, each) for each in (batch, replace(batch, labels=others), mixed))
        for name in (name for name in plain if plain[name] != other[name]):
            if both[name] == plain[name]:
                raise Broken(f"the loss '{name}' reads a mixed image's first label alone: take self.supervised or "
                             "self.by_label, or say refuses = {'mixup': why}")  # fmt: skip


def its_taps_name_logits_and_labels_that_it_reads(world: World) -> None:
    """One whose taps name neither logits nor labels works, with ce and kd at 0, on nets and images that have none."""
    taps = world.spec.method.taps
    if not world.spec.teachers or taps & {*OF_A_CLASSIFIER, LABELS}:
        return
    without = world.without_classes()
    try:
        method = without.method(PAIR if "tokens" not in taps else None)
    except ValueError as refusal:
        if not {"ce", "kd"} & set(re.findall(r"\w+", str(refusal))):
            raise Broken(f"{str(refusal).rstrip('.')}: name what it reads in about.taps") from refusal
        return  # it is nothing without ce and kd, and says so
    for phase in method.phases():
        batch = without.begun(method, phase)[0]
        for update in phase.updates:
            try:
                update.loss(batch)
            except (AttributeError, TypeError, ValueError) as error:
                named = f"{type(error).__name__}: {str(error).splitlines()[0][:90]}"
                raise Broken(f"it reads logits or labels that its about.taps do not name ({named})") from error


def its_taps_name_the_teachers_maps_and_embedding_that_it_reads(world: World) -> None:
    """Without what its taps do not name it works as well: a teacher whose answers are kept in a file has no more."""
    method = world.method()
    named = world.spec.method.taps | ({"features"} if world.spec.method.taps & MAPS else set())
    absent: dict[str, Any] = {name: NotCached(name) for name in {"features", "embedding"} - named}
    live = method.teacher_forward
    method.teacher_forward = lambda teacher, batch: replace(live(teacher, batch), **absent)
    for phase in method.phases():
        batch = world.begun(method, phase)[0]
        for update in phase.updates:
            update.loss(batch)


def losses_stay_close_in_bf16(world: World) -> None:
    """Under autocast each loss is still fp32, and what it is without, but for rounding."""
    found: list[dict[str, Tensor]] = []
    for enabled in (False, True):
        method = world.method()
        phase = method.phases()[-1]
        batch = world.begun(method, phase)[0]
        torch.manual_seed(5)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            found.append(phase.updates[0].loss(batch))
    for name, exact in found[0].items():
        rounded = found[1][name]
        if rounded.dtype != torch.float32:
            raise Broken(f"the loss '{name}' is {rounded.dtype} under autocast: compute it in @full_precision")
        if not abs(rounded.item() - exact.item()) <= 0.2 + 0.35 * abs(exact.item()):
            raise Broken(f"the loss '{name}' is {rounded.item():.4g} in bf16 and {exact.item():.4g} in fp32")


def a_run_that_was_cut_off_goes_on_to_the_same_bits(world: World) -> None:
    """Stopped in the middle, built anew and resumed: the state is that of a run that never stopped."""
    with folder() as place:
        whole = world.fit(place / "whole")
        total = sum(1 for _ in whole.steps())
        part = world.fit(place / "cut")
        for stop in sorted({max(total // 2, 1), max(total - 1, 1)}):  # where an epoch ends, and within one
            for _ in part.steps():
                if part.at.total == stop:
                    break
            part.meter.flush("cut", 1)
            part.save()
            part = world.fit(place / "cut")
            torch.manual_seed(99)
            part.restore()
        for _ in part.steps():
            pass
        resumed = part.method.state_dict()
        if other := [key for key, value in whole.method.state_dict().items() if not torch.equal(value, resumed[key])]:
            raise Broken(f"{_named(other)} is another after a resume: keep what changes in buffers or parameters, and "
                         "draw with torch's generator")  # fmt: skip


def no_step_waits_for_the_device(world: World) -> None:
    """No step reads values on the host, which stops a GPU (.item(), if tensor:, boolean indexing, .tolist(), NumPy),
    or computes with a tensor that was made there, which fails on one.
    """
    if why := why_it_waits(world):
        raise Broken(why)


def another_pair_of_nets_works_or_is_refused_in_a_sentence(world: World) -> None:
    """VGG to MobileNet, CNN to ViT and back: finite losses, or a ValueError that names another method."""
    for pair in _PAIRS:
        try:
            method = world.method(pair)
        except ValueError as refusal:
            if len(str(refusal)) < 40 or "method=" not in str(refusal) or "\n" in str(refusal):
                raise Broken(
                    f"{pair[0]} to {pair[1]} is refused without a remedy ('{refusal}'): name what fits"
                ) from refusal
            continue
        phase = method.phases()[-1]
        batch = world.begun(method, phase)[0]
        if not all(math.isfinite(value.item()) for update in phase.updates for value in update.loss(batch).values()):
            raise Broken(f"losses of {pair[0]} to {pair[1]} are not finite")


CLAUSES: tuple[Callable[[World], None], ...] = (
    its_yaml_lists_the_keywords_of_its_constructor,
    its_losses_are_named_finite_numbers,
    everything_trainable_is_trained_and_no_teacher_is,
    a_step_leaves_modes_as_they_are,
    the_running_accuracy_is_told,
    mixed_labels_change_what_reads_labels,
    its_taps_name_logits_and_labels_that_it_reads,
    its_taps_name_the_teachers_maps_and_embedding_that_it_reads,
    losses_stay_close_in_bf16,
    a_run_that_was_cut_off_goes_on_to_the_same_bits,
    no_step_waits_for_the_device,
    another_pair_of_nets_works_or_is_refused_in_a_sentence,
)


def _refuse_other_numbers(losses: Losses) -> None:
    """Raise Broken for losses that are not in fp32, or not finite."""
    for name, value in losses.items():
        if value.dtype != torch.float32:
            raise Broken(f"the loss '{name}' is {value.dtype}, not fp32: compute it in @full_precision")
        if not math.isfinite(value.item()):
            raise Broken(f"the loss '{name}' is {value.item()}")


def _refuse_held(method: Method) -> None:
    """Raise Broken where a teacher is a part of the method."""
    for teacher in method.teachers:
        if held := [name for name, module in method.named_modules() if module is teacher]:
            raise Broken(f"self.{held[0]} makes the teacher a part of what is trained and saved: use self.teacher")


def _losses(phase: Phase, batch: Batch) -> dict[str, float]:
    """The losses of all updates of a step, with the same random draws every time."""
    torch.manual_seed(3)
    batch = replace(batch, views=dict(batch.views))
    return {name: value.item() for update in phase.updates for name, value in update.loss(batch).items()}


def _named(names: Any) -> str:
    words = sorted(map(str, names))
    return ", ".join(words[:4]) + f" and {len(words) - 4} more" * (len(words) > 4) if words else "nothing"


__all__ = ["CLAUSES", "PAIR", "Broken"]
