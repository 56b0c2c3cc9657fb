"""What only a GPU can show: graphs that CUDA records, steps that nothing waits for, packed runs on streams.

DISTILL_REHEARSAL=1 runs the same lines on the CPU, with a graph that keeps a CUDA graph's rules.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distill.config import resolve
from distill.data import Data, Split
from distill.engine import evaluate
from distill.engine.beside import Beside, Predicted
from distill.engine.cuda_graphs import CudaGraph
from distill.engine.evaluate import Evaluation, predict
from distill.engine.fit import Fit
from distill.models import FeatureNet
from distill.run import Experiment
from distill.signals import StopSignals
from tests import tiny
from tests.engine.test_graphs import EAGER
from tests.replay import Replay, streams
from tests.sweep.test_packed import SMALL, pack, together, within

THERE = torch.cuda.is_available()
REHEARSAL = not THERE and os.environ.get("DISTILL_REHEARSAL") == "1"
pytestmark = pytest.mark.skipif(not THERE and not REHEARSAL, reason="no CUDA device")
DEVICE = "cuda" if THERE else "cpu"
GRAPH = CudaGraph if THERE else Replay
ALONE = set() if REHEARSAL else {"ofa-kd"}  # recorded on a GPU alone
WAIT = {"kdsvd", "mhgd"}  # in torch.linalg.eigh
NOISY = {"zskt": 0.06}  # an adversary and ten steps of its student amplify what two orders of summing differ by


@pytest.fixture(autouse=True)
def _streams() -> Iterator[None]:
    """In a rehearsal steps have streams that keep CUDA's rules."""
    with streams() if REHEARSAL else nullcontext():
        yield


def there(data: Data) -> Data:
    """The data on the GPU."""
    train, test = (Split(part.images.to(DEVICE), part.labels.to(DEVICE)) for part in (data.train, data.test))
    return replace(data, train=train, test=test)


def loop(name: str, folder: Path, *, graph: bool, batch: int = 4) -> Fit:
    data = there(tiny.tiny_data())
    method = tiny.seeded_method(name, data, ("cifar_resnet14", "cifar_resnet8"), *semckd(name, batch)).to(DEVICE)
    for teacher in method.teachers:
        teacher.to(DEVICE)
    fit = tiny.fit(method, data, folder)
    fit.options.graph, fit.schedule = GRAPH if graph else None, replace(fit.schedule, lr=0.001)
    fit.source = data.source(batch_size=batch, seed=1)
    return fit


def sync_is(mode: str) -> None:
    """What torch does when a call waits for the device."""
    if THERE:
        torch.cuda.set_sync_debug_mode(mode)


DRAWN = {"fcfd", "nas-kd", "random-teacher"}  # a later step may run what no step before it did


def semckd(name: str, batch: int) -> tuple[str, ...]:
    return (f"method.batch_size={batch}",) if name == "semckd" else ()


@pytest.mark.parametrize("name", tiny.METHODS)
def test_steps_that_cuda_replays_are_the_eager_ones(name: str, tmp_path: Path) -> None:
    fits = [loop(name, tmp_path / str(graph), graph=graph) for graph in (False, True)]
    for fit in fits:
        torch.manual_seed(3)
        for _ in fit.steps():
            pass
    assert fits[1].graphed is not None
    if name in set(EAGER) - ALONE:
        assert fits[1].graphed.why
    else:
        assert fits[1].graphed.why is None, fits[1].graphed.why
    for eager, graphed in zip(fits[0].callback.rows, fits[1].callback.rows, strict=True):  # type: ignore[attr-defined]
        assert graphed["loss"] == pytest.approx(eager["loss"], rel=NOISY.get(name, 0.02))


@pytest.mark.parametrize("name", [name for name in tiny.METHODS if name not in WAIT | DRAWN])
def test_nothing_in_a_step_waits(name: str, tmp_path: Path) -> None:
    """torch's own check of synchronising calls, beside tests/test_no_sync.py, which needs no GPU."""
    fit = loop(name, tmp_path, graph=False)
    work, calls = fit._work, 0

    def checked(*args: object) -> object:
        nonlocal calls
        calls += 1
        sync_is("error" if calls > 1 else "default")
        try:
            return work(*args)  # type: ignore[arg-type]
        finally:
            sync_is("default")

    fit._work = checked  # type: ignore[assignment, method-assign]
    for _ in zip(range(4), fit.steps(), strict=False):
        pass
    assert calls >= 2


def test_epochs_measured_beside_steps_are_worth_what_they_are_worth_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each net, as it was when its epoch ended: its logits, asked for in small parts, while steps go on."""
    monkeypatch.setattr(evaluate, "AT_ONCE", 3)
    fit = loop("kd", tmp_path, graph=True)
    fit.schedule, fit.options.epoch_seconds = replace(fit.schedule, epochs=12, ema=0.5), 1e9
    fit.evaluate = measured = Evaluation(there(tiny.tiny_data()), fit.options.autocast)
    begin, found, right, seen = Beside.begin, Beside.found, [], []

    def began(self: Beside, nets: Mapping[str, FeatureNet]) -> None:
        begin(self, nets)
        right.append({name: predict(net, measured.data.evaluation(3), self.autocast)[0] for name, net in nets.items()})

    def noted(self: Beside) -> dict[str, Predicted]:
        seen.append({name: logits for name, (logits, _) in found(self).items()})
        return found(self)

    monkeypatch.setattr(Beside, "begin", began)
    monkeypatch.setattr(Beside, "found", noted)
    torch.manual_seed(3)
    for _ in fit.steps():
        pass
    assert fit.measuring.told_late == len(seen) == 11 and fit.options.overlap
    torch.testing.assert_close(seen, right, rtol=0, atol=0)
    if THERE:
        assert fit.graphed and fit.graphed.replayed > 40


def test_packed_runs_overlap_and_give_what_runs_alone_give(tmp_path: Path) -> None:
    options = [*SMALL, "teacher.weights=none", "schedule.batch_size=8", f"device={DEVICE}", f"output={tmp_path}"]
    specs = [resolve(tiny.composed(*options, f"method={name}")) for name in ("kd", "crd", "at")]
    with StopSignals() as stop:
        alone = [Experiment(within(spec, tmp_path / "alone"), stop, quiet=True) for spec in specs]
        for one in alone:
            together([one])
        packed = pack(specs, tmp_path, stop)
        together(packed)
    for one, other in zip(alone, packed, strict=True):
        assert REHEARSAL or (other.fit.graphed and other.fit.graphed.replayed > 20)
        assert other.fit.score.last == pytest.approx(one.fit.score.last, abs=10)
