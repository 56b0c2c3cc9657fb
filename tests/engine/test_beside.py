"""Epochs that are measured beside the steps of the next one are told as those that steps wait for."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distill.contract.waiting import NoWait
from distill.engine import evaluate
from distill.engine.beside import Beside
from distill.engine.evaluate import Evaluation
from distill.engine.fit import Fit
from distill.errors import Stopped
from tests import tiny
from tests.replay import Replay, streams


class Teller(tiny.NullCallback):
    """Keeps what is told, in order: rows, and the weights that are the best."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Any] = []

    def step(self, row: dict[str, Any]) -> None:
        self.told.append({key: value for key, value in row.items() if key != "images_per_second"})

    def best(self, net: torch.nn.Module) -> None:
        self.told.append([value.tolist() for value in net.state_dict().values()])

    def epoch(self, row: dict[str, Any]) -> None:
        super().epoch(row)
        self.told.append(self.rows[-1])


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nets are asked about their 8 images in three parts, and steps are on streams."""
    monkeypatch.setattr(evaluate, "AT_ONCE", 3)
    with streams():
        yield


def loop(folder: Path, *, overlap: bool = True, method: str = "none", ema: float = 0.0) -> Fit:
    """Four epochs of three steps, whose losses are read after the last."""
    data = tiny.tiny_data(images=12)
    fit = tiny.fit(tiny.seeded_method(method, data, tiny.SMALLEST), data, folder)
    fit.evaluate, fit.callback = Evaluation(data, nullcontext), Teller()
    fit.options.graph, fit.options.overlap = Replay, overlap
    fit.options.log_every, fit.options.epoch_seconds = 50, 1e9
    fit.schedule = replace(fit.schedule, epochs=4, lr=0.01, ema=ema)
    fit.source = data.source(batch_size=4, seed=1)
    return fit


def run(fit: Fit, each: Callable[[], None] = lambda: None) -> Fit:
    torch.manual_seed(3)
    for _ in fit.steps():
        each()
    return fit


def told(fit: Fit) -> list[Any]:
    found: list[Any] = fit.callback.told  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_rows_and_best_weights_are_those_of_steps_that_wait(ema: float, tmp_path: Path) -> None:
    one, other = (run(loop(tmp_path / str(way), overlap=way, ema=ema)) for way in (False, True))
    assert (one.measuring.told_late, other.measuring.told_late) == (0, 3)
    assert told(other) == told(one) and other.score == one.score and ("student" in one.score.beside) == bool(ema)


def test_a_batch_is_measured_after_each_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit, seen = loop(tmp_path), list[tuple[int, int]]()
    advance = Beside.advance

    def noted(self: Beside) -> bool:
        seen.append((fit.at.epoch, fit.at.step))
        return advance(self)

    monkeypatch.setattr(Beside, "advance", noted)
    run(fit)
    assert seen[:3] == [(2, 0), (2, 1), (2, 2)] and max(epoch for epoch, _ in seen) == 4


@pytest.mark.parametrize(("at", "saved", "rows"), [(7, 8, [1, 2]), (6, 7, [1, 2])], ids=["beside a step", "before it"])
def test_a_run_that_is_stopped_while_it_is_measured_goes_on_to_the_same_end(
    at: int, saved: int, rows: list[int], tmp_path: Path
) -> None:
    whole = run(loop(tmp_path / "whole"))
    fit = loop(tmp_path / "cut")
    pending: list[bool] = []

    def stop() -> None:
        if fit.at.total == at:
            pending.append(bool(fit.measuring.pending))
            os.kill(os.getpid(), signal.SIGTERM)

    with fit.stop, pytest.raises(Stopped):
        run(fit, stop)
    again = loop(tmp_path / "cut")
    assert again.restore() == saved and pending == [at == 7]
    run(again)
    assert [row["epoch"] for row in fit.callback.rows] == rows  # type: ignore[attr-defined]
    assert [*told(fit), *told(again)] == told(whole) and again.score == whole.score
    assert all(map(torch.equal, again.method.state_dict().values(), whole.method.state_dict().values()))


def test_where_the_two_ways_differ_steps_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    right = told(run(loop(tmp_path / "right", overlap=False)))
    monkeypatch.setattr(Beside, "accuracies", lambda self: {"": -1.0})
    with caplog.at_level(logging.WARNING):
        fit = run(loop(tmp_path / "wrong"))
    assert told(fit) == right and fit.measuring.told_late == 1 and caplog.text.count("from now on steps wait") == 1


@pytest.mark.parametrize("why", ["eager", "candidates", "data"])
def test_steps_wait_where_nothing_would_be_gained_or_more_is_measured(why: str, tmp_path: Path) -> None:
    fit = loop(tmp_path, method="mcl" if why == "candidates" else "none")
    fit.schedule = replace(fit.schedule, epochs=2)
    if why == "eager":
        fit.method.steps_alike = False
    if why == "data":
        fit.evaluate = lambda net: 50.0
    assert run(fit).measuring.told_late == 0 and len(fit.callback.rows) == 2  # type: ignore[attr-defined]


def test_nothing_waits_until_it_is_asked_what_was_found() -> None:
    meta = torch.device("meta")
    images, labels = torch.empty(4, 3, 16, 16, device=meta), torch.empty(4, dtype=torch.long, device=meta)
    beside = Beside(lambda: iter([(images, labels)] * 2), nullcontext, meta)
    net = tiny.net("cifar_resnet8").to(meta)
    with NoWait(set()):
        for _ in range(2):  # copied, then written
            beside.begin({"": net})
            assert [beside.advance() for _ in range(3)] == [True, True, False]
    assert beside.found()[""][0].shape == (8, tiny.CLASSES)
