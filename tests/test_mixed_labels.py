"""What every method owes the labels: mixed and smoothed ones change its losses or the run is refused in a sentence, and
the running accuracy is told.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from distill.batch import Batch, Mixed
from distill.cli.main import main
from distill.config import class_of, load_node
from distill.criterion import CrossEntropy
from distill.engine.update import train_mode
from distill.method import Losses, Method, Phase, refuse
from tests import tiny

# terms of which labels choose samples, or classes: those of the greater share
CHOOSES = {("sskd", "turned"), ("bss", "bss"), ("ofa-kd", "kd"), ("ofa-kd", "exits")}
SHARE = 0.7
RECIPE = {"accumulate", "repeats", "drawn", "ema", "no_decay", "layer_decay"}  # refused by the YAML alone


def mixed(batch: Batch) -> Batch:
    """The same images as if they were mixed with their neighbours of another class, by a share that is not one."""
    others = batch.labels.roll(1)
    targets = SHARE * F.one_hot(batch.labels, tiny.CLASSES).float() + (1 - SHARE) * F.one_hot(others, tiny.CLASSES)
    return replace(batch, targets=Mixed(targets, others, torch.tensor(SHARE)))


def losses_of(phase: Phase, batch: Batch) -> Losses:
    """The losses of all updates of a step, with the same random draws every time."""
    torch.manual_seed(3)
    batch, found = replace(batch, views=dict(batch.views)), {}
    for update in phase.updates:
        found |= {name: value.detach() for name, value in update.loss(batch).items()}
    return found


def begun(method: Method, data, phase: Phase) -> Batch:
    """Begin a phase and return its first batch."""
    if phase.begin:
        phase.begin()
    method.epoch, method.epochs = 2, 2
    method.before_epoch()
    train_mode(method, phase)
    source = data.source(batch_size=8, seed=3)
    return next((phase.source(source) if phase.source else source).epoch(1))


@dataclass
class Told:
    """The losses of a method's first step in each phase, by its labels."""

    name: str
    method: Method
    plain: list[Losses] = field(default_factory=list)
    other: list[Losses] = field(default_factory=list)  # with labels of other images of the batch
    mixed: list[Losses] = field(default_factory=list)  # with those at a smaller share; none where that is refused
    smooth: list[tuple[Losses, Losses]] = field(default_factory=list)  # hard labels again, and smoothed ones


@pytest.fixture(scope="module", params=tiny.METHODS)
def told(request: pytest.FixtureRequest) -> Told:
    data = tiny.tiny_data()
    method = tiny.seeded_method(request.param, data, tiny.SMALLEST)
    told = Told(request.param, method)
    for phase in method.phases():
        batch, method.counted = begun(method, data, phase), None
        told.plain.append(losses_of(phase, batch))
        if "mixup" not in method.refuses:
            within = replace(batch, labels=batch.labels.roll(1))  # labels of the batch, so that they are of the phase's
            told.other.append(losses_of(phase, within))
            told.mixed.append(losses_of(phase, mixed(batch)))
        if "label_smoothing" not in method.refuses:
            hard = losses_of(phase, batch)
            method.criterion, before = CrossEntropy(0.1), method.criterion
            told.smooth.append((hard, losses_of(phase, batch)))
            method.criterion = before
    return told


def test_terms_that_read_labels_read_mixed_ones(told: Told) -> None:
    if "mixup" in told.method.refuses:
        said = f"method={re.escape(told.name)} cannot honour schedule.mixup=0.1: .*; set schedule.mixup=0"
        with pytest.raises(ValueError, match=said):
            refuse(told.method, told.name, {"mixup": 0.1})
        return
    read = set()
    for plain, other, both in zip(told.plain, told.other, told.mixed, strict=True):
        for term in (term for term in plain if plain[term] != other[term] and (told.name, term) not in CHOOSES):
            assert both[term] != plain[term], f"{term} reads the label of the greater share alone"
            read.add(term)
    assert read or told.name == "simkd", "which learns from no labels"


@pytest.mark.parametrize("name", tiny.METHODS)
def test_the_yaml_says_what_the_class_refuses(name: str) -> None:
    node = load_node("method", name)
    told = dict(node.about.get("refuses") or {})
    assert {key: why for key, why in told.items() if key not in RECIPE} == dict(class_of(node).refuses)


def test_smoothed_labels_change_a_loss_or_are_refused(told: Told) -> None:
    if "label_smoothing" in told.method.refuses:
        said = f"method={re.escape(told.name)} cannot honour schedule.label_smoothing=0.1: "
        with pytest.raises(ValueError, match=said):
            refuse(told.method, told.name, {"label_smoothing": 0.1})
        return
    assert any(hard[term] != smooth[term] for hard, smooth in told.smooth for term in hard)


def test_the_last_phase_leaves_what_its_running_accuracy_counts(told: Told) -> None:
    logits, labels = told.method.counted
    assert logits.shape == (len(labels), tiny.CLASSES) and not logits.requires_grad


def test_a_method_that_cannot_mix_is_refused_before_a_teacher_is_trained(output: Path, capsys) -> None:
    options = ["student=resnet8", "teacher=resnet8", "teacher.seed=3", "dataset.fraction=0.1", "schedule.epochs=1"]
    assert main(["method=crd", *options, "+schedule.mixup=0.2", f"output={output}"]) == 2
    said = capsys.readouterr().err
    assert "method=crd cannot honour schedule.mixup=0.2: its memory holds" in said and "Traceback" not in said
    assert not list(output.rglob("*.safetensors"))
