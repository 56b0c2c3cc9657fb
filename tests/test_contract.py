"""What every method owes: each test runs over all of conf/method/*.yaml, so a new method is covered by existing."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from itertools import cycle, islice
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from distill import config
from distill.batch import Batch
from distill.config.factory import keywords
from distill.engine.registered import check_registered
from distill.engine.update import checked, joined, train_mode
from distill.method import Method, Update
from distill.models import FeatureNet
from tests import tiny

PAIRS = [  # beside two ResNets, on which `steps` takes its steps
    ("cifar_vgg8", "cifar_MobileNetV2"),  # unequal in stages, sizes of maps and widths
    ("cifar_resnet8", "vit_tiny_patch16_224"),
    ("vit_tiny_patch16_224", "cifar_resnet8"),
    ("mnist_mlp", "mnist_mlp"),
]
SMALLER = {
    "vit_tiny_patch16_224": {"patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 2},
    "mnist_mlp": {"hidden": [16, 12]},
}


def small(name: str, seed: int) -> FeatureNet:
    return deepcopy(_small(name, seed))


@cache
def _small(name: str, seed: int) -> FeatureNet:
    return tiny.net(name, seed, **SMALLER.get(name, {}))


def batches(data, method: Method, phase) -> list[Batch]:
    source = data.source(batch_size=8, seed=3)
    return list((phase.source(source) if phase.source else source).epoch(1))


@pytest.mark.parametrize("name", tiny.METHODS)
def test_yaml_lists_exactly_the_constructor_keywords(name: str) -> None:
    node = OmegaConf.load(config.conf_dir() / "method" / f"{name}.yaml")
    assert node.name == name
    assert {"paper", "kind", "taps", "phases", "teachers", "aliases"} <= set(node.about)
    kind = config.class_of(node)
    assert issubclass(kind, Method)
    known, required = keywords(kind)
    assert known == required, "defaults live in the YAML alone"
    assert set(node) - {"name", "_target_", "about"} == known


@dataclass
class Steps:
    """What two steps of each update of each phase of a method computed, trained and left alone."""

    losses: list[dict[str, Tensor]]
    finite: bool  # every gradient
    untrained: list[str]  # parameters that ask for a gradient and never got one
    touched: list[str]  # parameters of teachers that got one
    changed: list[str]  # tensors of teachers that are no longer what they were
    saved: list[str]

@pytest.fixture(scope="module", params=tiny.METHODS)
def steps(request: pytest.FixtureRequest) -> Steps:
    data = tiny.tiny_data()
    method = tiny.seeded_method(request.param, data)
    before = [{k: v.clone() for k, v in t.state_dict().items()} for t in method.teachers]
    done, seen, wanted = Steps([], True, [], [], [], list(method.state_dict())), set[int](), dict[int, str]()
    check_registered(method)
    for phase in method.phases():
        if phase.begin:
            phase.begin()
        train_mode(method, phase)
        wanted |= {id(p): n for n, p in method.named_parameters() if p.requires_grad}
        method.epoch, method.epochs = 1, 2
        method.before_epoch()
        for step, batch in enumerate(islice(cycle(batches(data, method, phase)), 8)):  # two, more where they are drawn
            if step > 1 and (method.steps_alike or wanted.keys() <= seen):
                break
            losses: dict[str, Tensor] = {}
            for update in phase.updates:
                trained = taken(method, update, batch, done)
                losses = joined(losses, checked(done.losses[-1]))
                done.finite &= all(bool(torch.isfinite(p.grad).all()) for p in trained)
                seen |= {id(p) for p in trained}
            method.after_step()
        method.after_epoch()
    done.untrained = sorted(label for key, label in wanted.items() if key not in seen)
    for teacher, old in zip(method.teachers, before, strict=True):
        done.touched += [name for name, p in teacher.named_parameters() if p.grad is not None]
        done.changed += [key for key, value in teacher.state_dict().items() if not torch.equal(value, old[key])]
    return done


def taken(method: Method, update: Update, batch: Batch, done: Steps) -> list[Tensor]:
    """Take the backward pass of an update; the parameters that it trains and that have a gradient."""
    method.zero_grad(set_to_none=True)
    losses = update.loss(batch)
    done.losses.append({name: value.detach() for name, value in losses.items()})
    torch.stack(list(losses.values())).sum().backward()
    own = [p for module in update.trains for p in module.parameters() if p.requires_grad]
    return [p for p in own if p.grad is not None]


def test_losses_are_finite_numbers(steps: Steps) -> None:
    for losses in steps.losses:
        assert losses and all(value.shape == () and math.isfinite(value) for value in losses.values()), losses


def test_gradients_are_finite(steps: Steps) -> None:
    assert steps.finite


def test_every_parameter_is_trained(steps: Steps) -> None:
    assert steps.untrained == []


def test_teachers_get_no_gradient(steps: Steps) -> None:
    assert steps.touched == []


def test_teachers_stay_as_they_are(steps: Steps) -> None:
    assert steps.changed == []


def test_teachers_are_no_part_of_what_is_saved(steps: Steps) -> None:
    assert steps.saved and not any(key.startswith("_teachers") for key in steps.saved)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda p: f"{p[0]}-{p[1]}")
@pytest.mark.parametrize("name", tiny.METHODS)
def test_any_pair_works_or_is_refused_in_a_sentence(name: str, pair: tuple[str, str]) -> None:
    data = tiny.tiny_data()
    torch.manual_seed(0)
    try:
        method = tiny.make(name, small(pair[1], 1), small(pair[0], 2), data)
    except ValueError as refusal:
        text = str(refusal)
        assert len(text) > 40 and "method=" in text and "\n" not in text, text
        return
    phase = method.phases()[-1]
    if phase.begin:
        phase.begin()
    train_mode(method, phase)
    batch = batches(data, method, phase)[0]
    for update in phase.updates:
        losses = update.loss(batch)
        assert all(math.isfinite(value.item()) for value in losses.values())


@pytest.mark.parametrize("name", tiny.METHODS)
def test_losses_stay_close_under_bf16(name: str) -> None:
    data = tiny.tiny_data()
    values = []
    for enabled in (False, True):
        method = tiny.seeded_method(name, data, tiny.SMALLEST)
        phase = method.phases()[-1]
        if phase.begin:
            phase.begin()
        train_mode(method, phase)
        batch = batches(data, method, phase)[0]
        torch.manual_seed(5)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            losses = phase.updates[0].loss(batch)
        assert all(value.dtype == torch.float32 for value in losses.values())
        values.append({key: value.item() for key, value in losses.items()})
    for key, exact in values[0].items():
        assert math.isfinite(values[1][key])
        assert values[1][key] == pytest.approx(exact, rel=0.35, abs=0.2), key


@pytest.mark.parametrize("name", tiny.METHODS)
def test_resume_at_any_step_is_bit_identical(name: str, tmp_path: Path) -> None:
    """Stop in the last epoch, where there are more phases in the first and in between too, build all anew, go on: the
    final state and the logged rows are the same bits.
    """
    data = tiny.tiny_data(images=14)  # two batches an epoch

    def start(folder: Path):
        return tiny.fit(tiny.seeded_method(name, data, tiny.SMALLEST), data, folder)

    whole = start(tmp_path / "whole")
    whole._save = lambda **how: True  # nobody goes on with it
    total = sum(1 for _ in whole.steps())
    part = start(tmp_path / "cut")
    rows = []
    earlier = {0: [], 1: [1], 2: [1, total // 2]}[min(len(whole.phases) - 1, 2)]
    for stop in sorted({total - 1, *earlier}):
        for _ in part.steps():
            if part.at.total == stop:
                break
        part.meter.flush("cut", 1)
        part.save()
        rows += part.callback.rows
        part = start(tmp_path / "cut")
        torch.manual_seed(99)
        assert part.restore() == stop
    for _ in part.steps():
        pass
    for key, value in whole.method.state_dict().items():
        assert torch.equal(value, part.method.state_dict()[key]), key
    assert rows + part.callback.rows == whole.callback.rows


def test_every_method_module_has_a_yaml() -> None:
    targets = {
        OmegaConf.load(config.conf_dir() / "method" / f"{name}.yaml")._target_.split(".")[2] for name in tiny.METHODS
    }
    modules = {p.stem for p in (Path(config.__file__).parents[1] / "methods").glob("*.py")} - {"__init__"}
    assert modules == targets


def test_every_method_has_a_file_of_tests() -> None:
    modules = {path.stem for path in (Path(config.__file__).parents[1] / "methods").glob("*.py")} - {"__init__"}
    tested = {path.stem.removeprefix("test_") for path in (Path(__file__).parent / "methods").glob("test_*.py")}
    assert modules - tested == set()
