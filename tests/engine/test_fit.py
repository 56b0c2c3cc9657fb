"""The loop: schedule, modes, non-finite losses, kills, signals, damaged checkpoints, full disks."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distill import config, parallel
from distill.cli.command import read_command
from distill.config import OptimizerSpec
from distill.engine.checkpoint import SaveError, load_state, save
from distill.engine.evaluate import Evaluation, scores
from distill.engine.optim import Stepper, learning_rate, make_optimizer, without_sgds
from distill.engine.state import Speed
from distill.engine.update import train_mode
from distill.errors import NonFinite, OtherVersion, Stopped
from distill.method import Phase, Update
from distill.run import make_schedule
from distill.signals import StopSignals
from tests import tiny

CRD = OptimizerSpec(lr=0.05, milestones=(150, 180, 210), gamma=0.1, decay="step")


@pytest.mark.parametrize(
    ("epoch", "lr"),
    [(1, 0.05), (150, 0.05), (151, 0.005), (180, 0.005), (181, 5e-4), (210, 5e-4), (211, 5e-5), (240, 5e-5)],
)
def test_the_rate_drops_after_the_milestone(epoch: int, lr: float) -> None:
    for step in (0, 781):
        assert learning_rate(CRD, (epoch - 1) * 782 + step, 782, 240) == pytest.approx(lr)


def test_warm_up_and_cosine() -> None:
    cosine = OptimizerSpec(lr=1.0, decay="cosine", warmup_epochs=2)
    rates = [learning_rate(cosine, step, 10, 10) for step in range(100)]
    assert rates[:20] == pytest.approx([(i + 1) / 20 for i in range(20)])
    assert rates[20] == pytest.approx(1.0) and rates[60] == pytest.approx(0.5)
    assert rates == rates[:20] + sorted(rates[20:], reverse=True)
    assert rates[99] < 0.001


def test_exponential_falls_after_every_epoch_and_linear_at_every_step() -> None:
    exponential = OptimizerSpec(lr=10.0, decay="exponential", gamma=0.998)
    rates = {epoch: learning_rate(exponential, (epoch - 1) * 600 + 599, 600, 3000) for epoch in (1, 2, 501, 3000)}
    assert rates == pytest.approx({1: 10.0, 2: 9.98, 501: 10 * 0.998**500, 3000: 10 * 0.998**2999})
    linear = OptimizerSpec(lr=1.0, decay="linear", warmup_epochs=2, lr_min=0.2)
    rates = [learning_rate(linear, step, 10, 10) for step in range(100)]
    assert rates[19] == pytest.approx(1.0) and rates[20] == pytest.approx(1.0) and rates[60] == pytest.approx(0.6)
    assert rates[20:] == pytest.approx([1 - 0.8 * (step - 20) / 80 for step in range(20, 100)])
    with pytest.raises(ValueError, match="exponential, cosine"):
        learning_rate(OptimizerSpec(lr=1.0, decay="poly"), 0, 1, 1)


def test_rates_by_epoch_are_those_of_timms_and_torchs_schedulers() -> None:
    from timm.scheduler import CosineLRScheduler
    from torch.optim.lr_scheduler import CosineAnnealingLR

    def sgd() -> torch.optim.SGD:
        return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)

    timms = CosineLRScheduler(sgd(), t_initial=12, lr_min=1e-3, warmup_t=3, warmup_lr_init=1e-4)
    ours = OptimizerSpec(lr=0.1, decay="cosine", lr_min=1e-3, by_epoch=True, warmup_epochs=3, warmup_lr=1e-4)
    rates = [learning_rate(ours, step, 7, 12) for step in range(12 * 7)]
    assert rates == pytest.approx([timms._get_lr(epoch)[0] for epoch in range(12) for _ in range(7)])
    torchs = CosineAnnealingLR(sgd(), T_max=12)
    plain = OptimizerSpec(lr=0.1, decay="cosine", by_epoch=True)
    for epoch in range(12):
        assert learning_rate(plain, epoch * 7 + 6, 7, 12) == pytest.approx(torchs.get_last_lr()[0])
        torchs.optimizer.step()
        torchs.step()


def test_late_rates_are_those_of_deits_loop() -> None:
    """facebookresearch/deit, main.py: lr_scheduler.step(epoch) behind the epoch."""
    from timm.scheduler import CosineLRScheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    timms = CosineLRScheduler(optimizer, t_initial=12, lr_min=1e-3, warmup_t=3, warmup_lr_init=1e-4)
    theirs = []
    for epoch in range(12):
        theirs += [optimizer.param_groups[0]["lr"]] * 7
        timms.step(epoch)
    ours = OptimizerSpec(lr=0.1, decay="cosine", lr_min=1e-3, by_epoch="late", warmup_epochs=3, warmup_lr=1e-4)
    assert [learning_rate(ours, step, 7, 12) for step in range(12 * 7)] == pytest.approx(theirs)


def test_a_warm_up_begins_where_it_is_told() -> None:
    spec = OptimizerSpec(lr=1.0, decay="constant", warmup_epochs=2, warmup_lr=0.5)
    assert [learning_rate(spec, step, 5, 4) for step in (0, 5, 10)] == pytest.approx([0.5, 0.75, 1.0])


PLAIN = {"name": "sgd", "momentum": 0.99}
RISING = OptimizerSpec(lr=0.1, decay="constant", momentum_start=0.5, momentum_epochs=500, optimizer=PLAIN)


@pytest.mark.parametrize(("epoch", "value"), [(0, 0.5), (250, 0.745), (499, 0.98902), (500, 0.99), (2999, 0.99)])
def test_momentum_rises_by_epochs(epoch: int, value: float) -> None:
    stepper = Stepper([torch.nn.Linear(2, 2)], RISING)
    for step in (0, 599):  # within an epoch it stays: a recorded step is recorded anew once an epoch at most
        stepper.set_lr(epoch * 600 + step, 600, 3000)
        (group,) = stepper.optimizer.param_groups
        assert group["momentum"] == pytest.approx(value) and group["dampening"] == 0


def test_damped_steps_are_those_of_the_dropout_paper() -> None:
    """dw <- p dw - (1 - p) lr g, from dw = 0 on (Hinton et al. 2012, appendix A.1, at one rate)."""
    layer = torch.nn.Linear(3, 1, bias=False).double()
    stepper = Stepper([layer], RISING.merged({"momentum_epochs": 2, "damped": True}))
    expected, moved = layer.weight.detach().clone(), torch.zeros(1, 3, dtype=torch.float64)
    for step in range(7):
        p = (0.5, 0.745, 0.99, 0.99)[step // 2]
        moved = p * moved - (1 - p) * 0.1 * 3 * expected**2
        expected = expected + moved
        stepper.set_lr(step, 2, 4)
        stepper.step({"cubes": (layer.weight**3).sum()})
        assert torch.allclose(layer.weight, expected, rtol=1e-12)


def test_weights_into_a_unit_are_shortened_to_the_limit() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.Linear(4, 5))
    conv, norm, linear = net
    free = Stepper([torch.nn.ModuleList(net)], OptimizerSpec(lr=0.0, optimizer={"name": "sgd"}, max_norm=0.6))
    before = [p.detach().clone() for p in net.parameters()]
    free.step({"sum": torch.stack([p.square().sum() for p in net.parameters()]).sum()})
    for old, new in zip(before, net.parameters(), strict=True):
        lengths = old.flatten(1).norm(dim=1) if old.ndim > 1 else torch.zeros(len(old))
        scale = (0.6 / lengths).clamp(max=1).view(-1, *[1] * (old.ndim - 1))
        assert torch.allclose(new, old * scale, rtol=1e-5)
    assert (conv.weight.flatten(1).norm(dim=1) <= 0.6001).all() and linear.weight.norm(dim=1).max() <= 0.6001
    assert norm.weight.eq(1).all() and before[0].flatten(1).norm(dim=1).max() > 0.6


@pytest.mark.parametrize("optimizer", [{"name": "sgd", "momentum": 0.9}, {"name": "adam"}, {"name": "lamb"}])
def test_a_restart_at_a_milestone_is_a_new_optimiser(optimizer: dict) -> None:
    schedule = OptimizerSpec(lr=0.1, milestones=(2,), optimizer=optimizer, restart=True)
    torch.manual_seed(0)
    first = torch.nn.Linear(3, 2)

    def train(layer: torch.nn.Linear, stepper: Stepper, steps: range) -> None:
        for step in steps:
            stepper.set_lr(step, 2, 4)
            stepper.step({"cubes": (layer.weight**3).sum() + layer.bias.square().sum()})

    stepper = Stepper([first], schedule)
    train(first, stepper, range(4))
    second = torch.nn.Linear(3, 2)
    second.load_state_dict(first.state_dict())
    train(first, stepper, range(4, 8))
    train(second, Stepper([second], schedule), range(4, 8))
    assert torch.equal(first.weight, second.weight) and stepper.lr == pytest.approx(0.01)


def test_a_run_with_rising_momentum_restarts_and_limits_resumes_to_the_bit(tmp_path: Path) -> None:
    keys = {"momentum_start": 0.3, "momentum_epochs": 2, "damped": True, "max_norm": 0.5, "restart": True}
    keys |= {"epochs": 3, "milestones": [1, 2]}

    def trained(folder: Path, stop: int | None) -> dict[str, torch.Tensor]:
        data = tiny.tiny_data()
        fit = tiny.fit(tiny.seeded_method("kd", data), data, folder)
        fit.schedule = fit.schedule.merged(keys)
        fit.restore()
        for step, _ in enumerate(fit.steps(), 1):
            if step == stop:  # an epoch's last step, or none
                break
        return fit.method.student.state_dict()

    whole = trained(tmp_path / "whole", None)
    trained(tmp_path / "cut", 4)  # goes on from the epoch's end, three steps in
    again = trained(tmp_path / "cut", None)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    rows = [w.flatten(1).norm(dim=1).max() for w in whole.values() if w.ndim > 1]
    assert max(rows) <= 0.5001


def test_sgd_is_the_protocols_step_by_step() -> None:
    """v = m v + g + wd w; w -= lr v: no Nesterov, no dampening, decay on every parameter."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(3, dtype=torch.float64))
    options = {"name": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4}
    optimizer = make_optimizer([weight], options, lr=0.05)
    expected, velocity = weight.detach().clone(), torch.zeros(3, dtype=torch.float64)
    for _ in range(4):
        optimizer.zero_grad()
        (weight**3).sum().backward()
        gradient = 3 * expected**2 + 5e-4 * expected
        velocity = 0.9 * velocity + gradient
        expected = expected - 0.05 * velocity
        optimizer.step()
        assert torch.allclose(weight, expected, rtol=1e-12)


def test_other_optimisers_come_from_timm_and_nonsense_is_named() -> None:
    weight = [torch.nn.Parameter(torch.ones(2, 2))]
    assert type(make_optimizer(weight, {"name": "adamw", "weight_decay": 0.01}, 1e-3)).__name__ == "AdamW"
    lamb = {"name": "lamb", "betas": (0.8, 0.9), "weight_decay": 0.01}
    assert make_optimizer(weight, lamb, 1e-3).param_groups[0]["betas"] == (0.8, 0.9)
    ahead = make_optimizer(weight, without_sgds({"name": "lookahead_sgd", "momentum": 0.5, "nesterov": False}), 0.1)
    assert (ahead.param_groups[0]["momentum"], ahead.param_groups[0]["nesterov"]) == (0.5, False)
    with pytest.raises(ValueError, match="the optimiser lamb has no option momentum"):
        make_optimizer(weight, {**lamb, "momentum": 0.9}, 1e-3)
    with pytest.raises(ValueError, match="the optimiser lamb has no option dampenin"):
        make_optimizer(weight, {**lamb, "dampenin": 0.9}, 1e-3)
    with pytest.raises(ValueError, match="schedule.optimizer.name=adamm"):
        make_optimizer(weight, {"name": "adamm", "weight_decay": 0.0}, 1e-3)


def test_overrides_reach_schedule_and_optimiser() -> None:
    sgd = {"name": "sgd", "momentum": 0.9, "weight_decay": 1e-4}
    base = OptimizerSpec(lr=0.1, milestones=(3,), optimizer=sgd)
    merged = base.merged({"lr": 1.0, "weight_decay": 0.0})
    assert merged == OptimizerSpec(lr=1.0, milestones=(3.0,), optimizer={**sgd, "weight_decay": 0.0})
    assert base.merged({"name": "adam"}).optimizer == {"name": "adam"}
    own = base.merged({"name": "adam", "betas": [0.5, 0.999], "eps": 1e-6, "clip_grad": 5.0, "decay": "cosine"})
    assert own.optimizer == {"name": "adam", "betas": (0.5, 0.999), "eps": 1e-6}
    assert (own.clip_grad, own.decay) == (5.0, "cosine")
    weight = torch.nn.Parameter(torch.ones(2))
    group = make_optimizer([weight], own.optimizer, 1e-3).param_groups[0]
    assert tuple(group["betas"]) == (0.5, 0.999) and group["eps"] == 1e-6
    with pytest.raises(ValueError, match="adam has no option beta: it takes betas, eps"):
        make_optimizer([weight], {"name": "adam", "beta": 0.5}, 1e-3)
    with pytest.raises(ValueError, match="adam has no option momentum: it takes betas, eps"):
        make_optimizer([weight], base.merged({"name": "adam", "momentum": 0.9}).optimizer, 1e-3)


@pytest.mark.parametrize("key", ["schedule.optimizer", "method.generator_optimizer"])
def test_betas_of_the_command_line_reach_adam(key: str, tmp_path: Path) -> None:
    name = "adam" if key.startswith("schedule") else "sgd"
    texts = ["method=dafl", "student=resnet8", "teacher=resnet8", f"schedule.optimizer.name={name}"]
    cfg = tiny.composed(*read_command([*texts, f"{key}.betas=[0.5,0.99]", f"output={tmp_path}"]).argv)
    schedule = make_schedule(config.resolve(cfg), 100)
    if key.startswith("method"):
        schedule = schedule.merged(config.plain(cfg, key))
    stepper = Stepper([torch.nn.Linear(2, 2)], schedule)
    assert isinstance(stepper.optimizer, torch.optim.Adam) and stepper.optimizer.param_groups[0]["betas"] == (0.5, 0.99)


def test_another_optimiser_leaves_out_what_the_schedules_file_says_of_sgd() -> None:
    sgd = {"name": "sgd", "momentum": 0.8, "nesterov": False, "weight_decay": 1e-4}
    assert without_sgds(sgd) == sgd
    assert without_sgds({**sgd, "name": "adam"}) == {"name": "adam", "weight_decay": 1e-4}
    assert without_sgds({**sgd, "name": "rmsprop"}) == {"name": "rmsprop", "momentum": 0.8, "weight_decay": 1e-4}


def test_frozen_parts_stay_in_eval_and_the_rest_trains() -> None:
    method = tiny.seeded_method("fitnet", tiny.tiny_data())
    for p in method.student.model.layer1.parameters():
        p.requires_grad_(False)
    train_mode(method, Phase("p", [Update("u", method.loss, [method.student])]))
    assert method.student.model.layer2.training and not method.student.model.layer1.training
    assert not any(m.training for m in method.student.model.layer1.modules())
    assert not method.regressor.training


def test_an_update_without_parameters_is_refused() -> None:
    frozen = tiny.frozen(tiny.net("cifar_resnet8"))
    with pytest.raises(ValueError, match="nothing to train"):
        Stepper([frozen], OptimizerSpec(lr=0.1, optimizer={"name": "sgd"}))


def test_a_loss_that_is_not_finite_is_named_with_its_step(tmp_path: Path) -> None:
    data = tiny.tiny_data()
    method = tiny.seeded_method("kd", data)
    real, calls = method.soft_targets, []

    def poisoned(student, teacher):
        calls.append(1)
        return real(student, teacher) * (float("nan") if len(calls) == 5 else 1.0)

    method.soft_targets = poisoned
    fit = tiny.fit(method, data, tmp_path)
    with pytest.raises(NonFinite, match=r"'kd' is nan in phase distill, epoch 2, step 1"):
        list(fit.steps())
    saved = tiny.fit(tiny.seeded_method("kd", data), data, tmp_path)
    assert saved.restore() == 3, "the checkpoint is the one before the loss went wrong"


def test_fp16_scales_gradients_and_keeps_its_scale_on_resume(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 1)
    stepper = Stepper([module], OptimizerSpec(lr=0.1, optimizer={"name": "sgd"}), scale=True)
    stepper.scaler._init_scale = 8.0
    stepper.step({"a": module(torch.ones(1, 2)).sum()})
    state = stepper.state_dict()
    other = Stepper([module], OptimizerSpec(lr=0.1, optimizer={"name": "sgd"}), scale=True)
    other.load_state_dict(state)
    assert other.scaler.get_scale() == stepper.scaler.get_scale()


def child(method: str, folder: Path, die_at: int | None) -> int:
    """Train in a forked process, killed from within before step `die_at`; returns the wait status."""
    pid = os.fork()
    if pid == 0:
        try:
            data = tiny.tiny_data()
            fit = tiny.fit(tiny.seeded_method(method, data), data, folder)
            fit.options.save_seconds = 0.0  # a checkpoint at every step
            fit.restore()
            for _ in fit.steps():
                if fit.at.total == die_at:
                    os.kill(os.getpid(), signal.SIGKILL)
            torch.save({k: v.clone() for k, v in fit.method.state_dict().items()}, folder / "final.pt")
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitpid(pid, 0)[1]


@pytest.mark.parametrize("method", ["kd", "crd", "dml", "fitnet"])
def test_kill_nine_at_any_step_changes_nothing(method: str, tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    assert child(method, tmp_path / "whole", None) == 0
    for step in (1, 2, 4, 5):
        assert os.WTERMSIG(child(method, tmp_path / "killed", step)) == signal.SIGKILL
    assert child(method, tmp_path / "killed", None) == 0
    whole, killed = (torch.load(tmp_path / name / "final.pt") for name in ("whole", "killed"))
    assert whole.keys() == killed.keys() and all(torch.equal(whole[k], killed[k]) for k in whole)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGUSR2, 75), (signal.SIGINT, 130)]
)
def test_signals_save_at_the_next_step(number: int, code: int, tmp_path: Path) -> None:
    data = tiny.tiny_data()
    fit = tiny.fit(tiny.seeded_method("kd", data), data, tmp_path)
    before = signal.getsignal(number)
    with fit.stop, pytest.raises(Stopped, match=signal.Signals(number).name) as stopped:
        for _ in fit.steps():
            if fit.at.total == 2:
                os.kill(os.getpid(), number)
    assert stopped.value.code == code and signal.getsignal(number) == before
    assert tiny.fit(tiny.seeded_method("kd", data), data, tmp_path).restore() == 3


def test_a_signal_that_comes_as_an_epoch_ends_loses_none_of_it(tmp_path: Path) -> None:
    """However lately the last checkpoint was written: what prepares the next epoch is left at once."""
    data = tiny.tiny_data()
    fit = tiny.fit(tiny.seeded_method("kd", data), data, tmp_path)
    fit.options.epoch_seconds = fit.options.save_seconds = 1e9
    fit.options.evaluate_every, fit.stop.at_once = 99, True
    fit.method.after_epoch = lambda: os.kill(os.getpid(), signal.SIGTERM)
    with fit.stop, pytest.raises(Stopped):
        list(fit.steps())
    again = tiny.fit(tiny.seeded_method("kd", data), data, tmp_path)
    assert again.restore() == 3 and (again.at.epoch, again.at.step) == (2, 0)


def test_no_process_leaves_before_the_state_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, written = tiny.tiny_data(), []
    fit = tiny.fit(tiny.seeded_method("kd", data), data, tmp_path)
    monkeypatch.setattr(parallel, "barrier", lambda: written.append(len(fit.saving.checkpoints.paths())))
    with fit.stop, pytest.raises(Stopped):
        for _ in fit.steps():
            os.kill(os.getpid(), signal.SIGTERM)
    assert written == [1]


def test_several_processes_stop_at_the_end_of_an_epoch_that_is_shorter_than_log_every(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They agree where losses are read, and those of an epoch's last step always are."""
    data, asked = tiny.tiny_data(), []
    fit = tiny.fit(tiny.seeded_method("kd", data), data, tmp_path)
    fit.options.log_every = 50
    monkeypatch.setattr(parallel, "agreed", lambda *numbers: asked.append(fit.at.step) or [0, 0])
    steps = fit.steps()
    next(steps)
    monkeypatch.setattr(parallel, "world", lambda: 2)  # from here on it may not be asked to exchange anything
    for fit.at.step in (2, 3):
        fit._stop_requested()
    assert asked == [1, 3]


def test_a_second_interrupt_does_not_wait() -> None:
    with StopSignals() as stop, pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.received == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)


def test_a_full_disk_is_a_warning_and_training_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = tiny.tiny_data()
    fit = tiny.fit(tiny.seeded_method("kd", data), data, tmp_path)

    def refuse(*_):
        raise SaveError("no space left")

    fit.saving.checkpoints.save = refuse
    assert sum(1 for _ in fit.steps()) == 6
    assert "no space left" in caplog.text and "training goes on" in caplog.text


def test_training_goes_on_while_a_state_is_written_and_what_is_written_is_that_state(tmp_path: Path) -> None:
    data = tiny.tiny_data()
    fit = tiny.fit(tiny.seeded_method("none", data), data, tmp_path)
    save, done = fit.saving.checkpoints.save, threading.Event()
    written: list[dict[str, Any]] = []

    def slow(state: dict[str, Any], step: int) -> Path:
        assert written or done.wait(60), "the loop waited for the disk"
        written.append(state)
        return save(state, step)

    fit.saving.checkpoints.save = slow  # type: ignore[method-assign]
    net = fit.method.student
    for _ in fit.steps():
        if fit.at.total == 4:  # the second of the next epoch's
            now = {name: value.clone() for name, value in net.state_dict().items()}
            assert not written
            done.set()
    assert [state["at"]["total"] for state in written] == [3, 6]
    saved = {name.removeprefix("student."): value for name, value in written[0]["method"].items()}
    assert any(not torch.equal(saved[name], now[name]) for name in now)
    assert load_state(fit.saving.checkpoints.paths()[0])["at"]["total"] == 6  # nothing is left to be written


def test_a_damaged_newest_checkpoint_falls_back_to_the_previous(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tiny.tiny_data()
    whole = tiny.fit(tiny.seeded_method("crd", data), data, tmp_path)
    for _ in whole.steps():
        pass
    newest = max(tmp_path.glob("*.ckpt"))
    blob = bytearray(newest.read_bytes())
    blob[len(blob) // 2] ^= 1
    newest.write_bytes(blob)
    again = tiny.fit(tiny.seeded_method("crd", data), data, tmp_path)
    assert again.restore() == 3 and "corrupt" in caplog.text
    for _ in again.steps():
        pass
    state = again.method.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in whole.method.state_dict().items())


def rewritten(folder: Path, change: Callable[[dict], dict]) -> None:
    """Change the method's part of all checkpoints, as if another version had written it."""
    for path in folder.glob("*.ckpt"):
        state = load_state(path)
        save(path, {**state, "method": change(state["method"])})


def test_a_bank_that_older_checkpoints_call_otherwise_is_found(tmp_path: Path) -> None:
    data = tiny.tiny_data()
    whole = tiny.fit(tiny.seeded_method("ps-kd", data), data, tmp_path)
    for _ in whole.steps():
        pass
    rewritten(tmp_path, lambda state: {"past" if key == "past.bank" else key: state[key] for key in state})
    again = tiny.fit(tiny.seeded_method("ps-kd", data), data, tmp_path)
    assert again.restore() == 6
    assert torch.equal(again.method.past.bank, whole.method.past.bank)


def test_a_state_that_does_not_fit_the_method_is_of_another_version(tmp_path: Path) -> None:
    data = tiny.tiny_data()
    for _ in tiny.fit(tiny.seeded_method("kd", data), data, tmp_path).steps():
        pass
    rewritten(tmp_path, lambda state: {**state, "gone": torch.zeros(1)})
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OtherVersion, match=f'does not fit .*"gone".*made by distill.*or delete {tmp_path} to start'):
        tiny.fit(tiny.seeded_method("kd", data), data, tmp_path).restore()
    assert sorted(tmp_path.iterdir()) == before


def test_a_phase_without_logits_tells_no_train_accuracy(tmp_path: Path) -> None:
    data = tiny.tiny_data()
    fit = tiny.fit(tiny.seeded_method("ab", data), data, tmp_path)
    for _ in fit.steps():
        pass
    rows = fit.callback.rows
    assert ["train_accuracy" in row for row in rows] == [row["phase"] == "distill" for row in rows]
    assert {row["phase"] for row in fit.callback.rows} == {"init", "distill"}


def test_short_epochs_share_a_checkpoint(tmp_path: Path) -> None:
    data = tiny.tiny_data()
    fit = tiny.fit(tiny.seeded_method("none", data), data, tmp_path)
    fit.options.epoch_seconds, fit.schedule = 1e9, replace(fit.schedule, epochs=3)
    saved: list[int] = []
    save = fit.save
    fit.save = lambda **how: saved.append(fit.at.epoch) or save(**how)  # type: ignore[method-assign, func-returns-value]
    for _ in fit.steps():
        pass
    assert saved == [4]  # when the phase had ended


def test_memory_that_runs_out_while_loading_says_nothing_about_the_state(tmp_path: Path) -> None:
    data = tiny.tiny_data()
    fit = tiny.fit(tiny.seeded_method("none", data), data, tmp_path)
    with pytest.raises(torch.OutOfMemoryError), fit.saving.fitting({}):
        raise torch.OutOfMemoryError("out of memory")


def test_speed_counts_all_sessions_and_is_unknown_before_two_reads() -> None:
    speed = Speed()
    speed.resume()
    speed.read(100)
    assert speed.rate is None and speed.to_row()["images_per_second"] is None
    speed.images, speed.seconds, speed.waited, speed.began = 600, 3.0, 1.5, speed.began - 40
    later = Speed()
    later.load_state_dict(speed.state_dict())
    assert later.rate == 200 and later.waited == 1.5 and 40 <= later.seconds_spent < 45
    later.resume()
    later.read(100)  # warms up again
    assert later.images == 600


def test_checkpoints_after_short_epochs_take_a_small_share_of_the_time(tmp_path: Path) -> None:
    data = tiny.tiny_data()
    fit = tiny.fit(tiny.seeded_method("none", data), data, tmp_path)
    fit.saving.took, fit.schedule = 60.0, replace(fit.schedule, epochs=3)  # the last one took a minute
    saved: list[int] = []
    fit.save = lambda **how: not saved.append(fit.at.epoch)  # type: ignore[method-assign, func-returns-value]
    for _ in fit.steps():
        pass
    assert saved == [4]


def test_of_several_processes_the_first_tells_when_to_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the others, for whom a checkpoint takes no time, have one written after every epoch."""
    data = tiny.tiny_data()
    saving = tiny.fit(tiny.seeded_method("kd", data), data, tmp_path).saving
    saving.options.epoch_seconds = saving.options.save_seconds = 0.0
    saving.began -= 1.0
    for rank, tells in ((0, True), (1, False)):
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        assert (saving.due, saving.due_after_epoch) == (tells, tells)


def test_a_net_that_has_not_changed_is_not_evaluated_again() -> None:
    data = tiny.tiny_data()
    net, evaluation = tiny.seeded_method("none", data).student, Evaluation(data, nullcontext)
    asked: list[int] = []
    handle = net.register_forward_hook(lambda *_: asked.append(1))
    accuracy = evaluation(net)
    once = len(asked)
    logits, labels = evaluation.last_logits(net, unchanged=True)
    assert len(asked) == once and accuracy == scores(logits, labels)["accuracy"]
    evaluation.last_logits(net, unchanged=False)
    assert len(asked) == 2 * once
    handle.remove()


def test_the_best_epoch_is_counted_over_all_phases_that_are_measured(tmp_path: Path) -> None:
    data = tiny.tiny_data()
    fit = tiny.fit(tiny.seeded_method("none", data, tiny.SMALLEST), data, tmp_path)
    updates, accuracies = fit.phases[0].updates, iter((40.0, 60.0, 70.0, 50.0))
    ends = (("one", 2, True), ("unmeasured", 1, False), ("two", 2, True))
    fit.phases = [Phase(name, updates, epochs, evaluates=measured) for name, epochs, measured in ends]
    fit.evaluate = lambda net: next(accuracies)
    list(fit.steps())
    assert (fit.score.last, fit.score.best, fit.score.best_epoch) == (50.0, 70.0, 3)
    assert [row["epochs_left"] for row in fit.callback.rows] == [4, 3, 2, 1, 0]
