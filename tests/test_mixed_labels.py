"""What every method owes the labels: mixed and smoothed ones change its losses or the run is refused in a sentence, and
the running accuracy is told.
"""

from __future__ import annotations

import re
from dataclasses import replace
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

CHOOSES = {("sskd", "turned"), ("bss", "bss")}  # labels choose samples there: those of the greater share
SHARE = 0.7
RECIPE = {"accumulate", "repeats", "ema", "no_decay", "layer_decay"}  # refused by the YAML alone


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


@pytest.mark.parametrize("name", tiny.METHODS)
def test_terms_that_read_labels_read_mixed_ones(name: str) -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method(name, data, tiny.SMALLEST)
    if "mixup" in method.refuses:
        said = f"method={re.escape(name)} cannot honour schedule.mixup=0.1: .*; set schedule.mixup=0"
        with pytest.raises(ValueError, match=said):
            refuse(method, name, {"mixup": 0.1})
        return
    read = set()
    for phase in method.phases():
        batch = begun(method, data, phase)
        within = batch.labels.roll(1)  # labels of the batch, so that they are of the phase's classes
        plain, other = losses_of(phase, batch), losses_of(phase, replace(batch, labels=within))
        both = losses_of(phase, mixed(batch))
        for term in (term for term in plain if plain[term] != other[term] and (name, term) not in CHOOSES):
            assert both[term] != plain[term], f"{term} reads the label of the greater share alone"
            read.add(term)
    assert read or name == "simkd", "which learns from no labels"


@pytest.mark.parametrize("name", tiny.METHODS)
def test_the_yaml_says_what_the_class_refuses(name: str) -> None:
    node = load_node("method", name)
    told = dict(node.about.get("refuses") or {})
    assert {key: why for key, why in told.items() if key not in RECIPE} == dict(class_of(node).refuses)


@pytest.mark.parametrize("name", tiny.METHODS)
def test_smoothed_labels_change_a_loss_or_are_refused(name: str) -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method(name, data, tiny.SMALLEST)
    if "label_smoothing" in method.refuses:
        with pytest.raises(ValueError, match=f"method={re.escape(name)} cannot honour schedule.label_smoothing=0.1: "):
            refuse(method, name, {"label_smoothing": 0.1})
        return
    changed = set()
    for phase in method.phases():
        batch = begun(method, data, phase)
        method.criterion = CrossEntropy()
        plain = losses_of(phase, batch)
        method.criterion = CrossEntropy(0.1)
        smooth = losses_of(phase, batch)
        changed |= {term for term in plain if plain[term] != smooth[term]}
    assert changed


@pytest.mark.parametrize("name", tiny.METHODS)
def test_the_last_phase_leaves_what_its_running_accuracy_counts(name: str) -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method(name, data, tiny.SMALLEST)
    for phase in method.phases():
        batch, method.counted = begun(method, data, phase), None
        for update in phase.updates:
            update.loss(batch)
    logits, labels = method.counted
    assert logits.shape == (len(labels), tiny.CLASSES) and not logits.requires_grad


def test_a_method_that_cannot_mix_is_refused_before_a_teacher_is_trained(output: Path, capsys) -> None:
    options = ["student=resnet8", "teacher=resnet8", "teacher.seed=3", "dataset.fraction=0.1", "schedule.epochs=1"]
    assert main(["method=crd", *options, "+schedule.mixup=0.2", f"output={output}"]) == 2
    said = capsys.readouterr().err
    assert "method=crd cannot honour schedule.mixup=0.2: its memory holds" in said and "Traceback" not in said
    assert not list(output.rglob("*.safetensors"))
