"""What is left to the machine: decided by a timed trial for long runs, by rule for short ones, kept by a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distill import parallel, runtime
from distill.config.run_spec import MachineSpec
from distill.engine import choices, trial
from distill.engine.choices import Choices, decide, without_trial
from distill.models import FeatureNet
from distill.run_folder import RunFolder
from tests import tiny

CPU = torch.device("cpu")
AUTO = MachineSpec("cpu", "auto", "auto", "auto", "auto", "auto", "auto", False)


class Own:
    """A step of a run, of which a second update is done twice; `made` counts how often it was asked for."""

    words, teacher, batch = "kd with cifar_resnet8", "cifar_resnet8", 4

    def __init__(self, count: float, alone: Own | None = None, **known_by: Any) -> None:
        self.alone = alone or self
        self.known_by, self.length = {"net": "cifar_resnet8", **known_by}, [int(count), 4]
        self.count, self.made = count, 0

    @property
    def teachers(self) -> list[FeatureNet]:
        return [tiny.frozen(tiny.net("cifar_resnet8"))]

    def step(self, precision: str) -> trial.Pieces:
        self.made += 1
        return [(lambda: None, 1), (lambda: None, 2)]

    def compile(self) -> None:
        pass


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, float]:
    """What each candidate of a trial takes, in its pieces; as many trials as there were are counted in "asked"."""
    seconds = {"": 1.0, "fp32": 0.3, "bf16": 0.1, "4": 0.1, "2": 0.05, "1": 0.2, "eager": 1.0, "compiled": 0.5}
    seconds["asked"] = 0

    def fastest(candidates: Mapping[str, Callable[[], None]], rounds: int = 4, clock: Any = None) -> dict[str, float]:
        seconds["asked"] += "/0" not in candidates
        return {name: seconds[name.partition("/")[0]] * (0.25 if name[-2:] in ("/1",) else 0.5 if "/" in name else 1.0)
                for name in candidates}  # fmt: skip

    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(choices, "why_compile", lambda setting, steps, device: (steps >= 4000, ""))
    monkeypatch.setattr(trial, "fastest", fastest)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(trial, "busy", lambda: False)
    monkeypatch.setattr(trial, "bf16_pays", lambda threads: False)
    monkeypatch.setattr(trial, "compile_forward", lambda net, batch: None)
    return seconds


def decided(steps: int, asked: MachineSpec = AUTO, **begun: Any) -> Choices:
    return decide(asked, CPU, steps, begun, Own(steps))


def test_a_short_run_pays_for_no_trial() -> None:
    own = Own(1035)
    assert decide(AUTO, CPU, 1035, {}, own) == without_trial(AUTO, CPU) and own.made == 0


def test_a_run_of_many_steps_that_are_soon_done_pays_for_none(times: dict[str, float]) -> None:
    times[""] = 0.01
    assert decided(5000) == without_trial(AUTO, CPU) and times["asked"] == 0


def test_what_is_fastest_is_taken_and_serves_the_next_run(times: dict[str, float]) -> None:
    found = decided(3000)
    assert (found.precision, found.threads, found.trained, found.frozen) == ("bf16", 2, False, True)
    assert "fp32 300.0 ms, bf16 100.0 ms" in found.why
    asked = times["asked"]
    times["bf16"] = 9.0  # a later trial would say otherwise
    assert decided(3000) == found and times["asked"] == asked


def test_a_gain_within_the_noise_is_none(times: dict[str, float]) -> None:
    times.update({"bf16": 0.29, "1": 0.3, "2": 0.3, "4": 0.31})
    found = decided(3000)
    assert (found.precision, found.threads) == ("fp32", None)


def test_threads_are_not_tried_on_a_busy_machine(times: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "busy", lambda: True)
    found = decided(3000)
    assert (found.precision, found.threads) == ("bf16", None) and "threads" not in found.why


def test_compiling_is_tried_where_a_run_takes_half_an_hour(times: dict[str, float]) -> None:
    times.update({"": 0.025, "compiled": 0.96})
    assert decided(70_000).frozen  # as by rule: 1750 s
    found = decided(80_000)
    assert not found.trained and not found.frozen and "compiled 960.0 ms" in found.why


def test_a_damaged_record_of_a_trial_is_made_again(times: dict[str, float], tmp_path: Path) -> None:
    found = decided(3000)
    file = min((tmp_path / "trials").glob("*.json"))
    assert json.loads(file.read_text())["of"]["net"] == "cifar_resnet8"
    file.write_text("{")
    assert decided(3000) == found


def test_a_run_that_goes_on_keeps_what_it_began_with(times: dict[str, float]) -> None:
    begun = Choices("fp32", 1, True, False, "a trial").to_record()
    assert decided(3000, **begun) == Choices("fp32", 1, True, False, "a trial")
    asked = replace(AUTO, precision="bf16", threads=3)
    assert (found := decided(3000, asked, **begun)).precision == "bf16" and found.threads == 3
    assert decided(3000, **{**begun, "precision": "fp64"}) == without_trial(AUTO, CPU)  # no record of ours
    assert times["asked"] == 0


def test_choices_are_those_of_a_run_that_was_cut_off(tmp_path: Path) -> None:
    (tmp_path / "tracking.json").write_text('{"choices": {"precision": "fp32"}}')
    assert RunFolder(tmp_path).choices == {}
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-000000001.ckpt").touch()
    assert RunFolder(tmp_path).choices == {"precision": "fp32"}


def test_processes_compute_in_one_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "bf16_pays", lambda threads: True)
    monkeypatch.setattr(parallel, "world", lambda: 2)
    for other, wanted in (("fp32", "fp32"), ("bf16", "bf16")):
        place = -list(runtime.DTYPES).index(other)
        monkeypatch.setattr(parallel, "agreed", lambda number, place=place: [max(number, place)])
        assert decide(AUTO, CPU, 9999, {}, Own(9999)).precision == wanted


def test_a_trial_leaves_random_numbers_threads_and_the_net_that_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choices, "SECONDS_FROM", 0.0)
    state, threads = torch.get_rng_state(), torch.get_num_threads()

    class Broken(Own):
        def step(self, precision: str) -> trial.Pieces:
            torch.randn(3)
            torch.set_num_threads(1)
            raise RuntimeError("no such net")

    assert decide(AUTO, CPU, 3000, {}, Broken(3000)) == without_trial(AUTO, CPU)
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads


def test_a_step_of_a_trial_is_one_of_training() -> None:
    net = tiny.net("cifar_resnet8")
    before = [p.detach().clone() for p in net.parameters()]
    seconds = trial.fastest({"fp32": trial.training_step(net, 4, "fp32")}, 2)
    assert seconds["fp32"] > 0 and any(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    trial.frozen_forward(tiny.net("cifar_resnet8"), 4, "bf16")()


@pytest.mark.parametrize(("bf16", "wanted"), [(0.5, "bf16"), (0.99, "fp32"), (9.0, "fp32")])
def test_a_short_run_computes_in_what_a_convolution_is_faster_in(
    bf16: float, wanted: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever the CPU is called; what was timed serves the next program."""
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path))
    asked: list[set[str]] = []

    def fastest(steps: Mapping[str, Callable[[], None]], rounds: int, clock: Any) -> dict[str, float]:
        for step in steps.values():
            step()
        asked.append(set(steps))
        return {"fp32": 1.0, "bf16": bf16}

    monkeypatch.setattr(trial, "fastest", fastest)
    state = torch.get_rng_state()
    for _ in range(2):
        trial.bf16_pays.cache_clear()
        assert without_trial(AUTO, CPU).precision == wanted
    trial.bf16_pays.cache_clear()
    assert asked == [{"fp32", "bf16"}] and torch.equal(torch.get_rng_state(), state)
    assert without_trial(replace(AUTO, precision="fp16"), CPU).precision == "fp16"


def test_a_gpu_is_asked_for_its_own_precision_and_not_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    current = [0]

    class On:
        def __init__(self, device: torch.device) -> None:
            self.number = device.index

        def __enter__(self) -> None:
            current.append(self.number)

        def __exit__(self, *_: object) -> None:
            current.pop()

    monkeypatch.setattr(torch.cuda, "device", On)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: current[-1] == 1)
    assert [trial.pick_precision("auto", torch.device("cuda", number)) for number in (0, 1)] == ["fp32", "bf16"]


def test_what_is_asked_without_gradients_has_them_later_in_a_step() -> None:
    """cs-kd's partners and dml's peers are: torch 2.10 kept the weights' casts of the first pass, which have none."""
    net = torch.nn.Linear(2, 2)
    with runtime.autocast(CPU, "bf16"):
        with torch.no_grad():
            net(torch.ones(1, 2))
        said = net(torch.ones(1, 2))
    said.float().sum().backward()
    assert all(weight.grad is not None for weight in net.parameters())


def test_a_record_names_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """x86_64 was all of it: times of two machines stood as one device's."""
    monkeypatch.setattr(runtime, "cpu_entries", lambda: {"model name": "AMD EPYC 9R14", "flags": "avx2 fma"})
    assert runtime.describe_machine(CPU)["device"] == "cpu: AMD EPYC 9R14" and "fma" in runtime.cpu_flags()
    monkeypatch.setattr(runtime, "cpu_entries", dict)  # of another system
    assert runtime.describe_machine(CPU)["device"].removeprefix("cpu: ")
