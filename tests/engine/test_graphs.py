"""Steps that are recorded and replayed: with a graph for the CPU that keeps a CUDA graph's rules."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distill.batch import Batch
from distill.config import OptimizerSpec
from distill.engine import cuda_graphs
from distill.engine.cuda_graphs import GraphedStep, GraphedTeacher, without_graphs
from distill.engine.fit import Fit
from distill.engine.optim import Stepper
from distill.engine.state import Options
from distill.engine.static_buffers import StaticBuffers
from distill.engine.trace import traced
from distill.method import teacher_forward
from distill.runtime import autocast
from distill.sweep.packed import shared
from tests import tiny
from tests.replay import Replay

CPU = torch.device("cpu")
EAGER = {  # methods whose steps are not all recorded on the CPU, and why
    "cmi": "drawn on the host",
    "fcfd": "drawn on the host",
    "kdsvd": "waits for the device",  # eigh
    "mhgd": "waits for the device",
    "nas-kd": "drawn on the host",
    "ofa-kd": "waits for the device",  # F.one_hot looks at labels on the CPU alone
    "random-teacher": "drawn on the host",
}
SHORT = {"lwf", "dafl", "dfq", "zskt"}  # tasks or epochs of a step or two


class Refused(Replay):
    """A graph that cannot be made: the loop is the one around graphs, and every step runs eagerly."""

    def capture(self, work: Callable[[], Any]) -> Any:
        raise RuntimeError("this operation cannot be captured")


def trained(
    name: str, folder: Path, graph: type[Replay], epochs: int, *overrides: str, why: str | None = None, images: int = 22
) -> tuple[Fit, list[GraphedStep]]:
    """Train on batches of four, the last of two; return the loop and what recorded its phases.

    why: what forbids to record anything.
    """
    data = tiny.tiny_data(images=images)
    method = tiny.seeded_method(name, data, tiny.SMALLEST, *overrides)
    fit = tiny.fit(method, data, folder)
    fit.options.graph = graph
    fit.schedule = replace(fit.schedule, epochs=epochs, lr=0.001)  # small, so that differences of rounding stay small
    fit.source = data.source(batch_size=4, seed=1)
    found: list[GraphedStep] = []
    begin = fit._begin

    def noting(phase: Any) -> None:
        begin(phase)
        assert fit.graphed
        fit.graphed.why = why or fit.graphed.why
        found.append(fit.graphed)

    fit._begin, fit.save = noting, lambda **how: True  # type: ignore[method-assign]
    torch.manual_seed(3)
    for _ in fit.steps():
        pass
    return fit, found


def numbers(row: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in row.items() if isinstance(value, int | float)}


@pytest.mark.parametrize("name", tiny.METHODS)
def test_replayed_steps_are_the_eager_ones(name: str, tmp_path: Path) -> None:
    """Whatever a method keeps in Python, no step is replayed that would have done something else."""
    overrides = ("method.batch_size=4",) if name == "semckd" else ()
    why = "it is what the others are compared with"
    eager, _ = trained(name, tmp_path / "eager", Refused, 2, *overrides, why=why, images=18)
    graphed, found = trained(name, tmp_path / "graphed", Replay, 2, *overrides, images=18)
    exact = 1e-4 if name == "reviewkd" else 1e-6  # whose kernels round by how its maps happen to lie in memory
    rows = [[numbers(row) for row in fit.callback.rows] for fit in (eager, graphed)]  # type: ignore[attr-defined]
    assert rows[1] == [pytest.approx(row, rel=exact) for row in rows[0]]
    torch.testing.assert_close(graphed.method.state_dict(), eager.method.state_dict(), rtol=exact, atol=10 * exact)
    reasons = [each.why for each in found if each.why]
    if name in EAGER:
        assert reasons and all(EAGER[name] in reason for reason in reasons)
    else:
        assert not reasons and (name in SHORT or sum(each.replayed for each in found) >= 3)


def test_the_short_last_batch_has_a_graph_of_its_own(tmp_path: Path) -> None:
    fit, (graphed,) = trained("kd", tmp_path, Replay, 5)
    assert graphed.replayed == 2 + 4 * 4 + 2  # epochs: two of five, four of five each; the short one from the fourth on
    assert fit.at.total == 30


def test_what_changes_with_the_epoch_is_recorded_anew(tmp_path: Path) -> None:
    """dkd's weight rises over the first epochs: each has a graph with its own."""
    _, (graphed,) = trained("dkd", tmp_path, Replay, 3)
    assert graphed._generation == 2 and graphed.replayed == 2 + 3 + 3


def test_the_rate_of_every_step_reaches_the_graph(tmp_path: Path) -> None:
    ends = []
    for graph in (Refused, Replay):
        data = tiny.tiny_data()
        fit = tiny.fit(tiny.seeded_method("kd", data), data, tmp_path / graph.__name__)
        fit.options.graph, fit.source = graph, data.source(batch_size=4, seed=1)
        fit.schedule = replace(fit.schedule, decay="cosine", epochs=3)
        for _ in fit.steps():
            pass
        ends.append((fit.method.state_dict(), fit.callback.rows, fit.graphed.replayed))
    assert ends[1][1] == ends[0][1] and ends[1][2] == 10
    assert all(torch.equal(ends[1][0][key], value) for key, value in ends[0][0].items())
    assert len({row["lr"] for row in ends[0][1]}) == 3


def test_a_rate_that_falls_within_an_epoch_reaches_the_graph_of_an_optimiser_of_timm(tmp_path: Path) -> None:
    """It is a number there, and no tensor that a graph could read."""
    ends = []
    for graph in (Refused, Replay):
        data = tiny.tiny_data()
        fit = tiny.fit(tiny.seeded_method("none", data), data, tmp_path / graph.__name__)
        fit.options.graph, fit.source = graph, data.source(batch_size=4, seed=1)
        falls = {"decay": "step", "milestones": (1.5,), "lr": 1e-4, "optimizer": {"name": "lion"}}
        fit.schedule = replace(fit.schedule, epochs=2, **falls)  # type: ignore[arg-type]
        for _ in fit.steps():
            pass
        ends.append((fit.method.state_dict(), fit.graphed.replayed))
    assert ends[1][1] > 2 and all(torch.equal(ends[1][0][key], value) for key, value in ends[0][0].items())


def test_an_optimiser_that_counts_its_steps_in_python_is_not_recorded(tmp_path: Path) -> None:
    """Each sixth step of lookahead is another one, which no two steps in a row tell."""
    ends = []
    for graph in (Refused, Replay):
        data = tiny.tiny_data()
        fit = tiny.fit(tiny.seeded_method("none", data), data, tmp_path / graph.__name__)
        fit.options.graph, fit.source = graph, data.source(batch_size=4, seed=1)
        constant = {"decay": "constant", "lr": 1e-4, "optimizer": {"name": "lookahead_lion"}}
        fit.schedule = replace(fit.schedule, epochs=2, **constant)  # type: ignore[arg-type]
        for _ in fit.steps():
            pass
        ends.append(fit.method.state_dict())
    assert fit.graphed and "lookahead_step" in (fit.graphed.why or "")
    assert all(torch.equal(ends[1][key], value) for key, value in ends[0].items())


def test_a_graph_that_cannot_be_made_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        _, (graphed,) = trained("kd", tmp_path, Refused, 2)
    assert graphed.replayed == 0 and graphed.why == "this operation cannot be captured"
    assert caplog.text.count("without a CUDA graph: this operation cannot be captured") == 1


def test_a_cut_off_run_goes_on_to_the_same_end(tmp_path: Path) -> None:
    whole, _ = trained("kd", tmp_path / "whole", Replay, 4)
    data = tiny.tiny_data()
    first = tiny.fit(tiny.seeded_method("kd", data, tiny.SMALLEST), data, tmp_path / "cut")
    for part in (first, tiny.fit(tiny.seeded_method("kd", data, tiny.SMALLEST), data, tmp_path / "cut")):
        part.options.graph, part.schedule = Replay, replace(part.schedule, epochs=4, lr=0.001)
        part.source = data.source(batch_size=4, seed=1)
        resumed = part.restore()
        for _ in part.steps():
            if part is first and part.at.total == 15:
                part.join()
                part.meter.flush("", 3)
                part.save()
                break
    assert resumed == 15
    for key, value in whole.method.state_dict().items():
        assert torch.equal(part.method.state_dict()[key], value)


class Own:
    """Of a class that is neither ours nor torch's, as a plugin's."""

    def __init__(self) -> None:
        self.count = 0


class Counting(torch.nn.Module):
    """Work that leaves something behind in Python."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.count, self.number, self.kept = kind, 0, 0, [torch.zeros(1)]
        self.own = Own()
        self.register_buffer("sum", torch.zeros(()))

    def step(self, batch: Batch) -> tuple[tuple[str, ...], torch.Tensor]:
        if self.kind == "counts":
            self.count += 1
        if self.kind == "keeps":
            self.kept[0] = batch.inputs.mean()[None]
        if self.kind == "reads":
            self.sum += batch.inputs.mean().item()
        if self.kind == "counts beside":
            self.own.count += 1
        if self.kind == "differs":
            self.sum += self.number
        self.sum += batch.inputs.sum()
        return ("loss",), torch.stack([self.sum.clone()])


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("counts", "each step changes method.count"),
        ("keeps", "each step changes method.kept[0]"),
        ("reads", "aten::_local_scalar_dense waits for the device"),
        ("counts beside", "each step changes method.own.count"),
        ("differs", "no two of its steps are the same"),
        ("nothing", None),
    ],
)
def test_work_that_cannot_be_repeated_is_found_out(kind: str, why: str | None) -> None:
    net, eager = Counting(kind), Counting(kind)
    graphed = GraphedStep(net.step, {"method": net}, CPU, Replay)
    for step in range(20):
        torch.manual_seed(step)
        net.number = eager.number = step
        batch = Batch(torch.rand(2, 3), torch.zeros(2), torch.zeros(2))
        graphed(batch, lambda: None)
        eager.step(batch)
    assert graphed.why == why and net.sum == eager.sum and net.count == eager.count
    assert (graphed.replayed > 10) == (why is None)


def test_a_step_that_asks_for_its_number_is_not_replayed(tmp_path: Path) -> None:
    """As of a plugin whose term begins after some steps of an epoch: those before it are alike."""
    ends = []
    for graph in (Refused, Replay):
        data = tiny.tiny_data()
        method = tiny.seeded_method("kd", data)

        def late(student: Any, teacher: Any, batch: Batch, method: Any = method) -> Any:
            return {"late": student.logits.square().mean()} if method.step > 3 else {}

        method.distill = late  # type: ignore[method-assign]
        fit = tiny.fit(method, data, tmp_path / graph.__name__)
        fit.options.graph, fit.source = graph, data.source(batch_size=4, seed=1)
        fit.schedule = replace(fit.schedule, epochs=1, lr=1e-3)
        for _ in fit.steps():
            pass
        ends.append(fit.method.state_dict())
    assert fit.graphed and "method._asked_step" in (fit.graphed.why or "")
    assert all(torch.equal(ends[1][key], value) for key, value in ends[0].items())


def test_teachers_are_asked_by_a_graph_for_batches_in_static_buffers_alone(tmp_path: Path) -> None:
    data, hold, asked, turn = tiny.tiny_data(), StaticBuffers(), [], []
    method = tiny.seeded_method("kd", data)

    def asks(teacher: Any, batch: Batch) -> Any:
        asked.append(len(turn) - 1)
        return teacher_forward(teacher, batch)

    teacher = GraphedTeacher(asks, hold, Replay)
    with torch.no_grad():
        for batch in data.source(batch_size=4, seed=1).epoch(1):
            turn.append(batch)
            held = hold(batch)
            assert torch.equal(teacher(method.teacher, held).logits, teacher_forward(method.teacher, batch).logits)
            assert torch.equal(teacher(method.teacher, batch).logits, teacher_forward(method.teacher, batch).logits)
    assert asked.count(0) == asked.count(1) == 2 and asked.count(2) == 1  # recorded at the second, then replayed


def test_a_teacher_is_recorded_on_a_stream_of_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    data, hold, streams = tiny.tiny_data(), StaticBuffers(), []
    monkeypatch.setattr(cuda_graphs, "side_stream", lambda device: f"of {device}")
    method = tiny.seeded_method("kd", data)
    teacher = GraphedTeacher(teacher_forward, hold, lambda stream: streams.append(stream) or Replay())
    with torch.no_grad():
        for _, batch in zip(range(2), data.source(batch_size=4, seed=1).epoch(1), strict=False):
            teacher(method.teacher, hold(batch))
    assert streams == ["of cpu"]


def test_packed_loops_share_what_their_teachers_say_and_no_answer_of_a_net_of_their_own() -> None:
    data, hold, options = tiny.tiny_data(), StaticBuffers(), Options(nullcontext, graph=Replay)
    teachers, own = tiny.seeded_method("kd", data).teachers, tiny.net("cifar_resnet8").train()
    forward, source = shared(teacher_forward, data.source(batch_size=4, seed=1), teachers, options, hold)
    with torch.no_grad():
        for batch in source.epoch(1):
            forward(own, batch)
        own.eval()  # as a net that was trained in the phase before
        for batch in source.epoch(2):
            assert torch.equal(forward(own, batch).logits, teacher_forward(own, batch).logits)
            said = forward(teachers[0], batch)
            forward(teachers[0], replace(batch, inputs=batch.inputs.clone()))  # as of a loop with batches of its own
            assert forward(teachers[0], batch).logits is said.logits


def test_packed_methods_that_prepare_a_phase_are_answered_in_full_precision() -> None:
    """As alone: class means and clusters are taken where autocast is off."""
    data, options = tiny.tiny_data(), Options(lambda: autocast(CPU, "bf16"), graph=Replay)
    (teacher,) = tiny.seeded_method("kd", data).teachers
    source = data.source(batch_size=4, seed=1)
    forward, source = shared(teacher_forward, source, [teacher], options, StaticBuffers())  # type: ignore[assignment]
    batch = next(iter(source.epoch(1)))
    with torch.no_grad():
        full = teacher_forward(teacher, batch).logits
        assert torch.equal(forward(teacher, batch).logits, full)
        with options.autocast():
            assert not torch.equal(forward(teacher, batch).logits, full)


def test_a_batch_is_written_when_all_steps_that_read_there_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where packed runs go on from different steps, and each asks for another batch in one turn."""
    hold, net, found = StaticBuffers(), Counting("nothing"), []
    first, second = (Batch(torch.full((2, 3), value), torch.zeros(2), torch.zeros(2)) for value in (1.0, 2.0))
    graphed, read = GraphedStep(net.step, {"method": net}, CPU, Replay, hold), hold(first)
    graphed(read, lambda: None)
    monkeypatch.setattr(graphed, "join", lambda: found.append(read.inputs.sum().item()))
    assert hold(read).inputs is read.inputs and not found, "nothing is written"
    hold(second)
    assert found == [6.0] and read.inputs.sum() == 12


def test_a_batch_that_one_run_has_for_itself_is_not_written_where_others_read() -> None:
    """As of mcl, whose batches have so many images of each class, packed with methods that share theirs."""
    hold, net = StaticBuffers(), Counting("nothing")
    of_all, own = (Batch(torch.full((2, 3), value), torch.zeros(2), torch.zeros(2)) for value in (1.0, 2.0))
    read = hold(of_all)
    GraphedStep(net.step, {"method": net}, CPU, Replay, hold)(own, lambda: None)
    assert torch.equal(read.inputs, torch.ones(2, 3)) and net.sum == 12


def test_a_static_batch_lies_where_the_first_of_its_shape_did() -> None:
    data, hold = tiny.tiny_data(), StaticBuffers()
    first, second, *_, last = data.source(batch_size=4, seed=1).epoch(1)
    one, two, short = hold(first), hold(second), hold(last)
    assert one.inputs is two.inputs and one.inputs is not short.inputs
    assert torch.equal(two.inputs, second.inputs) and torch.equal(two.index, second.index)
    assert hold(two).inputs is two.inputs and one.inputs.stride() == first.inputs.stride()


def test_a_traced_step_tells_generators_apart() -> None:
    def draw() -> None:
        import random

        random.random()

    assert traced(draw, {}, CPU)[2] == ["random"]
    assert traced(lambda: torch.rand(2), {}, CPU)[2] == []


WAITING: dict[str, Callable[[torch.Tensor], Any]] = {
    "aten::_to_copy copies between host and device": lambda x: x.sum().to("meta"),  # as torch.tensor(0.5, device=...)
    "aten::copy_ copies between host and device": lambda x: torch.zeros((), device="meta").copy_(x[0]),
    "aten::index counts the places of a mask": lambda x: x[x > 1],
    "aten::index_put_ counts the places of a mask": lambda x: x.clone().index_put_((x > 1,), x[:1]),
    "aten::bincount waits for the device": lambda x: x.long().bincount(),
    "aten::repeat_interleave waits for the device": lambda x: x.repeat_interleave(x.long()),
    "aten::unique_dim waits for the device": lambda x: x.unique(dim=0),
    "aten::unique_consecutive waits for the device": lambda x: x.unique_consecutive(),
}


@pytest.mark.parametrize("why", WAITING)
def test_what_a_graph_cannot_hold_is_found_before_it_is_recorded(why: str) -> None:
    """A capture that fails leaves CUDA's generator unusable, and a method of the user's own may do all of this."""
    waits = traced(lambda: WAITING[why](torch.tensor([1.0, 2.0])), {}, CPU)[1].waits
    assert waits and waits[0].startswith(why)


def test_numbers_of_the_host_and_masks_that_are_filled_may_be_recorded() -> None:
    def step() -> None:
        made = torch.zeros(2, device="meta") * torch.tensor(2.0)
        made[made > 1] = 0.0
        made.repeat_interleave(2)

    assert traced(step, {}, CPU)[1].waits == []


def test_graphs_are_for_gpus_and_say_what_forbids_them(caplog: pytest.LogCaptureFixture) -> None:
    assert without_graphs("auto", CPU, "bf16", 1, 32) and not caplog.records
    gpu = torch.device("cuda")
    with caplog.at_level(logging.INFO):
        assert not without_graphs("auto", gpu, "bf16", 1, 32) and not without_graphs(True, gpu, "bf16", 1, 224)
        assert not caplog.records
        assert without_graphs(False, gpu, "bf16", 1, 32) and without_graphs("auto", gpu, "fp16", 1, 32)
        assert without_graphs("auto", gpu, "fp32", 2, 32) and without_graphs("auto", gpu, "bf16", 1, 224)
        assert without_graphs("auto", gpu, "bf16", 1, 32, True)
    assert len(caplog.records) == 5


def test_rates_on_the_device_are_saved_as_numbers() -> None:
    net = torch.nn.Linear(2, 2)
    schedule = OptimizerSpec(lr=0.1, milestones=(1,), optimizer={"name": "sgd", "momentum": 0.9})
    stepper = Stepper([net], schedule, on_device=True)
    assert stepper.set_lr(1, 1, 2) == pytest.approx(0.01)
    place = stepper.optimizer.param_groups[0]["lr"]
    state = stepper.state_dict()
    assert state["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0.01)
    stepper.load_state_dict(state)
    assert stepper.optimizer.param_groups[0]["lr"] is place and place.item() == pytest.approx(0.01)


def test_a_run_that_began_without_graphs_is_recorded_where_it_goes_on_with_them() -> None:
    net, schedule = torch.nn.Linear(2, 2), OptimizerSpec(lr=0.1, milestones=(), optimizer={"name": "adam"})
    begun = Stepper([net], schedule)
    begun.step({"loss": net(torch.ones(1, 2)).sum()})
    stepper = Stepper([net], schedule, on_device=True)
    stepper.load_state_dict(begun.state_dict())
    (group,) = stepper.optimizer.param_groups
    assert group["capturable"] is True, "else torch refuses to record its steps"
