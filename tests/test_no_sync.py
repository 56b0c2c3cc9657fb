"""No training step waits for the device: it runs on torch's meta device, see distill.contract.waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from distill.config import DataSpec
from distill.contract.waiting import Answers, Waits, aten, autocast_on_meta, no_wait
from distill.data import Data, Split, augment, load_data
from distill.data.modality import views_of
from distill.data.pairs import PeerViews
from distill.engine import eager_optimizers
from distill.engine.update import train_mode
from distill.method import Method
from distill.methods.kd import KD
from distill.models import Outputs
from distill.runtime import sent
from tests import tiny
from tests.data.test_data import folder_config, write_folder

ALLOWED = {  # method: what its steps wait for, since torch has no form of it that does not wait
    "kdsvd": {aten._linalg_eigh},
    "mhgd": {aten._linalg_eigh},
}
VARIANTS = [
    "ban method.variant=cwtm", "ban method.variant=dkpp", "apprentice method.scheme=C", "dml method.alternate=false",
    "ft method.form=paper", "kd-proj method.teacher_norm=whiten", "kdcl method.variant=general",
    "kdcl method.variant=linear", "mgd method.mask=position", "label-smoothing method.spread=others",
]  # fmt: skip


def _unfused(optimizer: Any, *args: Any, fused: bool = False, **options: Any) -> Any:
    return optimizer(*args, **options)


def on_meta(data: Data) -> Data:
    return replace(data, train=Split(data.train.images.to("meta"), data.train.labels.to("meta")))


@pytest.fixture
def meta_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have autocast and optimisers take the meta device, for which there is neither autocast nor a fused step."""
    for name in ("SGD", "Adam", "AdamW"):
        monkeypatch.setattr(eager_optimizers, name, partial(_unfused, getattr(torch.optim, name)))
    with autocast_on_meta():
        yield


def second_step(case: str, number: int, folder: Path, allowed: Set[Any] = frozenset()) -> tuple[int, Set[Any]]:
    """Take a phase's first step on the CPU, where it may prepare, and its second, batch included, on the meta device.

    Return how many phases the method has, and what was waited for.
    """
    data = tiny.tiny_data()
    name, *options = case.split()
    method = tiny.seeded_method(name, data, tiny.SMALLEST, *options)
    fit = tiny.fit(method, data, folder)
    for phase in fit.phases[: number + 1]:
        fit._begin(phase)
    method.epoch, method.epochs = 1, 2
    method.before_epoch()
    train_mode(method, phase)
    source = phase.source(fit.source) if phase.source else fit.source
    fit._step(phase, next(iter(source.epoch(1))), source.steps)
    for net in (method, *method.teachers):
        net.to("meta")
    fit.steppers = [type(s)(u.trains, s.schedule) for u, s in zip(phase.updates, fit.steppers, strict=True)]
    source = on_meta(data).source(batch_size=8, seed=1)
    with Answers():
        batches = iter((phase.source(source) if phase.source else source).epoch(1))
        next(batches)
    with no_wait(allowed) as mode:
        fit._step(phase, next(batches), source.steps)
    return len(fit.phases), mode.seen


@pytest.mark.parametrize("case", [*tiny.METHODS, *VARIANTS])
def test_no_step_waits_for_the_device(case: str, tmp_path: Path, meta_steps: None) -> None:
    allowed, seen, number, phases = ALLOWED.get(case, set()), set(), 0, 1
    while number < phases:
        phases, waited = second_step(case, number, tmp_path, allowed)
        number, seen = number + 1, seen | waited
    assert seen == allowed, "what no longer waits needs no exception"


@pytest.mark.parametrize("view", ["gray", "L", "ab", "low-4"])
def test_no_batch_waits_for_the_device(view: str) -> None:
    data = on_meta(tiny.tiny_data())
    views = views_of({"student": view, "teacher": "ab"}, data.info)[1]
    batches = data.source(batch_size=8, seed=1, views=views, mixup=0.2).epoch(1)
    next(batches)
    with no_wait():
        assert len(list(batches)) == 2


@pytest.mark.parametrize("keys", [{"rotate": 15}, {"randaugment": 2}, {"cutout": 4}])
def test_no_augmented_batch_waits_for_the_device(keys: dict[str, int]) -> None:
    data = on_meta(tiny.tiny_data())
    spec = DataSpec("tiny", tiny.SIZE, data.info.mean, data.info.std, **keys)
    source = data.source(batch_size=8, seed=1, augment=augment.of(spec, tiny.SIZE, 3, data.info.mean))
    batches = PeerViews(source, 1).epoch(1)
    next(batches)
    with no_wait():
        assert len(list(batches)) == 2


def test_no_batch_of_a_folder_waits_for_the_device(tmp_path: Path) -> None:
    batches = load_data(folder_config(write_folder(tmp_path)), "meta").source(5, seed=1).epoch(1)
    with no_wait():
        assert [batch.inputs.device.type for batch in batches] == ["meta"] * 3


WAITS: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda x: x.sum().item(),
    "branch": lambda x: 1 if x.sum() > 0 else 0,
    "float": lambda x: float(x[0, 0].detach()),
    "print": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "numpy": lambda x: x.detach().numpy(),
    "mask": lambda x: x[x > 0],
    "mask put": lambda x: x.detach().index_put_((x[:, 0] > 0,), x.detach()[:1]),
    "masked_select": lambda x: x.masked_select(x > 0),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "unique": lambda x: x.unique(),
    "equal": lambda x: torch.equal(x, x),
    "bincount": lambda x: x[:, 0].long().bincount(),
    "one_hot": lambda x: F.one_hot(x[:, 0].long()),
    "repeat": lambda x: x.repeat_interleave(x[:, 0].long(), dim=0),
    "index": lambda x: x[x[0, 0].long()],
    "multinomial": lambda x: x.softmax(1).multinomial(1),
    "inverse": lambda x: torch.linalg.cholesky(x.T @ x),
    "eigh": lambda x: torch.linalg.eigh(x.T @ x),
    "numbers": lambda x: x + torch.tensor([1.0] * x.shape[1], device=x.device),
    "new_tensor": lambda x: x * x.new_tensor(2.0),
    "copy": lambda x: torch.randperm(len(x)).to(x.device),
    "host's index": lambda x: x[torch.randperm(len(x))],
    "host's value": lambda x: x.detach().copy_(torch.tensor(1.0)),
}


@pytest.mark.parametrize("what", WAITS)
def test_a_step_that_waits_is_found(what: str, tmp_path: Path, meta_steps: None, monkeypatch) -> None:
    passed = []

    def distill(self: Method, student: Outputs, *_: Any) -> dict[str, Tensor]:
        if student.logits.is_meta:
            WAITS[what](student.logits)
        passed.append(what)
        return {"own": student.logits.sum()}

    monkeypatch.setattr(KD, "distill", distill)
    with pytest.raises((Waits, TypeError)):
        second_step("kd", 0, tmp_path)
    assert passed == [what], "the step on the CPU passes, and no other"


def test_a_step_may_use_what_the_host_draws() -> None:
    x = torch.ones(4, 3, device="meta")
    with no_wait():
        shift, factor = int(torch.randint(3, ())), torch.rand(())
        made = torch.where(x.roll(shift, 1) > 0, x * factor, 0.0)
        made[x > 0] = 0.0
        assert sent(torch.randperm(4), x.device).is_meta
