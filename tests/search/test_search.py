"""The search draws, prunes, resumes after a kill, shares its trials among workers, and never sees the test set."""

from __future__ import annotations

import json
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

optuna = pytest.importorskip("optuna", reason="optuna is not installed: pip install optuna")

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution  # noqa: E402

from distill.cli import verbs  # noqa: E402
from distill.content.readers import READERS  # noqa: E402
from distill.result import Result  # noqa: E402
from distill.run_folder import RunFolder  # noqa: E402
from distill.search import space, study, trial  # noqa: E402
from distill.sweep.states import statuses  # noqa: E402
from tests import program  # noqa: E402

REPO = Path(__file__).resolve().parents[2]
TINY = ["student=resnet8", "teacher=resnet14", "teacher.weights=none", "dataset.fraction=0.1", "schedule.epochs=1",
        "method=kd", "device=cpu", "precision=fp32"]  # fmt: skip
SPACE = ["method.temperature=range(1,20)", "schedule.lr=tag(log,interval(0.01,0.1))"]


def main(arguments: Sequence[str]) -> int:
    return verbs.run("search", *arguments)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["distill"])


def only_study(where: str) -> Any:
    (name,) = optuna.get_all_study_names(study.storage(where))
    return optuna.load_study(study_name=name, storage=study.storage(where))


def results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("outputs/digits/*/*/s*/result.json"))]


def test_what_is_drawn_in_hydras_words() -> None:
    fixed, drawn = space.split([
        "method=kd", "seed=3", "a=range(1,20)", "b=range(2,11,3)", "c=range(0.5,2,0.5)", "d=interval(0.01,0.1)",
        "e=tag(log,interval(0.001,1))", "f=int(interval(1,8))", "g=x,y", "h=1,null",
    ])  # fmt: skip
    assert fixed == ["method=kd", "seed=3"]
    assert drawn["a"] == IntDistribution(1, 19) and drawn["b"] == IntDistribution(2, 8, step=3)
    assert drawn["c"] == FloatDistribution(0.5, 1.5, step=0.5) and drawn["d"] == FloatDistribution(0.01, 0.1)
    assert drawn["e"] == FloatDistribution(0.001, 1, log=True) and drawn["f"] == IntDistribution(1, 8)
    assert drawn["g"] == CategoricalDistribution(["x", "y"])
    assert drawn["h"] == CategoricalDistribution(["1", "null"])
    assert space.words({"a": 4, "g": "x"}) == ["a=4", "g=x"]


@pytest.mark.parametrize("text", ["a=range(5,5)", "a=interval(0.2,0.1)", "a=tag(log,interval(0,1))", "a=range(5,1,-1)"])
def test_an_empty_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text) + " cannot be drawn from .*: give "):
        space.split([text])


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["method=kd"], "nothing to search"),
        (["method=kd", "method.temprature=range(1,3)"], "did you mean method.temperature"),
        (["method=kd", "method.temperature=range(-3,2)"], "must be a number above 0"),
        (["method=kd", "schedule.ema=interval(0.5,1.5)"], "schedule.ema=1.5: schedule.ema is a decay"),
        (["method=kd", "dataset.shots=interval(1,9)"], "dataset.shots=1.0: dataset.shots must be a whole number"),
        ([*SPACE, "--seed", "-1"], "--seed is -1"),
        ([*TINY, *SPACE, "--storage", "nope://me:secret@host/x"], "nope://me:***@host/x cannot be opened"),
        ([*SPACE, "--no-pruning", "--warmup", "2"], "--no-pruning stops none"),
        ([*TINY, *SPACE, "hydra/launcher=packed"], "hydra/launcher=packed does nothing here, for trials run one after"),
        ([*TINY, *SPACE, "hydra.launcher.slots=2"], "hydra.launcher.slots=2 does nothing here"),
        (["experiment=self_distillation", "schedule.lr=interval(0.01,0.1)"], "a sweep over method, seed: give each"),
        (["experiment=self_distillation", "method=none", "schedule.lr=interval(0.01,0.1)"], "a sweep over seed: give"),
    ],
)
def test_mistakes_are_said_before_anything_runs(words: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert why in capsys.readouterr().err


@pytest.mark.parametrize("text", ["a=tag(log,range(1,9))", "a=tag(lgo,interval(1,9))", "a=tag(log,choice(1,9))"])
def test_a_tag_that_nothing_reads_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="nothing reads the tag l"):
        space.split([text])


def test_nets_without_a_classifier_are_compared_by_their_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec: Any = SimpleNamespace(folder=tmp_path / "s1", dataset=SimpleNamespace(holdout=0.1))
    found = {"dataset": "photos", "student": "resnet8", "method": "proteus", "accuracy": {"last": None}}
    for measured, value in (({"knn": {"last": 61.5}}, 61.5), ({}, None)):
        monkeypatch.setattr(trial, "_train", lambda *_, now=found | measured: Result.from_json(now))
        made: Any = SimpleNamespace(set_user_attr=lambda *_: None)
        if value is not None:
            assert trial.run_trial(made, spec) == value
        else:
            with pytest.raises(ValueError, match="has no accuracy, which trials are compared by"):
                trial.run_trial(made, spec)


def test_trials_run_and_the_same_command_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*TINY, *SPACE, "--storage", "mine.journal"]
    assert main([*command, "--trials", "2"]) == 0
    first = [trial.params for trial in only_study("mine.journal").trials]
    assert main([*reversed(TINY), *SPACE, "--trials", "3", "--storage", "mine.journal"]) == 0  # the order is no matter
    out = capsys.readouterr().out
    trials = only_study("mine.journal").trials
    assert "2 of 3 trials so far" in out and len(trials) == 3 and [one.params for one in trials[:2]] == first
    values = {round(one.value, 2) for one in trials}
    assert values == {round(result["accuracy"]["last"], 2) for result in results(tmp_path)}
    for one in trials:
        assert 1 <= one.params["method.temperature"] <= 19 and 0.01 <= one.params["schedule.lr"] <= 0.1
    assert f"{max(one.value for one in trials):.2f}" in out and "held-out accuracy, %" in out
    best = shlex.split(out.strip().splitlines()[-1])
    assert best[:3] == ["python", "-m", "distill"] and not any("holdout" in word for word in best)
    top = max(trials, key=lambda one: one.value)
    assert f"schedule.lr={top.params['schedule.lr']}" in best
    assert any(result["command"].endswith(f"schedule.lr={top.params['schedule.lr']}") for result in results(tmp_path))


def test_the_test_set_is_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every test image and label replaced, the trials come out the same to the last digit."""
    assert main([*TINY, "output=outputs", *SPACE, "--trials", "2", "--storage", "a.journal"]) == 0
    (before,) = {result["evaluated_on"] for result in results(tmp_path)}
    def spoiled(read: Any) -> Any:
        def reader(root: Path) -> Any:
            arrays = read(root)
            arrays.test.images[:] = 255 - arrays.test.images
            arrays.test.labels[:] = np.roll(arrays.test.labels, 1)
            return arrays

        return reader

    for name, read in list(READERS.items()):
        monkeypatch.setitem(READERS, name, spoiled(read))
    (tmp_path / "outputs").rename(tmp_path / "first")
    assert main([*TINY, "output=outputs", *SPACE, "--trials", "2", "--storage", "b.journal"]) == 0
    values = [[one.value for one in only_study(where).trials] for where in ("a.journal", "b.journal")]
    assert before == "holdout" and values[0] == values[1]


def test_a_holdout_of_ones_own_is_kept(tmp_path: Path) -> None:
    cfg_words = [*TINY, "dataset.holdout=0.3", "method.temperature=2,3"]
    assert main([*cfg_words, "--trials", "1"]) == 0
    (where,) = (tmp_path / "outputs" / "search").glob("*.journal")  # the default storage
    assert "dataset.holdout=0.3" in shlex.split(results(tmp_path)[0]["command"])
    assert len(only_study(str(where)).trials) == 1


def test_bad_trials_are_stopped_early_and_cleanly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trials whose rate is next to nothing are stopped after one that learns has set the median; folders stay sound."""
    words = [TINY[0], TINY[3], "schedule.epochs=5", "method=none", "device=cpu", "precision=fp32", "save_minutes=0",
             "schedule.batch_size=16"]  # fmt: skip
    search = [*words, "schedule.lr=0.01,1e-9,1e-8,1e-7", "--startup", "1", "--warmup", "0", "--storage", "x.journal"]
    assert main([*search, "--trials", "4", "--seed", "300"]) == 0
    trials = only_study("x.journal").trials
    learned = [one for one in trials if one.params["schedule.lr"] == "0.01"]
    stopped = [one for one in trials if one.state.name == "PRUNED"]
    assert learned and all(one.state.name == "COMPLETE" for one in learned)
    assert stopped and all(float(one.params["schedule.lr"]) < 1e-6 for one in stopped)
    assert "pruned at" in capsys.readouterr().out
    for one in stopped:
        folder = Path(one.user_attrs["folder"])
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        reached = max(row["epoch"] for row in rows if row["kind"] == "epoch")
        assert reached == len(one.intermediate_values) < 5 and not (folder / "DONE").exists()
        assert not list((folder / "checkpoints").glob("*")) and not list(folder.glob("*.safetensors"))
    states = [one.state for one in statuses(Path("outputs"))]
    assert states == ["done"] * len(learned) + ["stopped early"] * len(stopped)  # no command goes on with them


def test_values_that_were_stopped_early_are_not_trained_again_to_be_stopped_where_they_were(tmp_path: Path) -> None:
    folder, reported = tmp_path / "s1", []
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"kind": "epoch", "phase": "distill", "epoch": 1, "test_accuracy": 10.0}\n')
    RunFolder(folder).give_up()
    again: Any = SimpleNamespace(set_user_attr=lambda *_: None, report=lambda *seen: reported.append(seen),
                                 should_prune=lambda: reported == [(10.0, 1)])  # fmt: skip
    spec: Any = SimpleNamespace(folder=folder, dataset=SimpleNamespace(holdout=0.1))  # of which no run can be made
    assert trial.run_trial(again, spec) is None


def test_a_trial_whose_loss_is_not_finite_leaves_no_checkpoints(tmp_path: Path) -> None:
    words = [*TINY[:4], "schedule.epochs=3", *TINY[5:], "save_minutes=0", "schedule.lr=1e11,1e12", "--trials", "1"]
    assert main([*words, "method.temperature=2", "--storage", "n.journal"]) == 1
    (stopped,) = only_study("n.journal").trials
    assert stopped.state.name == "PRUNED" and "in phase distill" in stopped.user_attrs["why"]
    folder = Path(stopped.user_attrs["folder"])
    assert (folder / "tracking.json").is_file() and not list((folder / "checkpoints").glob("*"))
    assert [one.state for one in statuses(Path("outputs"), done=False)] == ["stopped early"]


def test_a_trial_that_fails_is_told_and_three_end_the_search(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[int] = []

    def fail(*_: Any) -> float:
        calls.append(1)
        raise ValueError("the data are not there: fetch them")

    monkeypatch.setattr(trial, "run_trial", fail)
    assert main([*TINY, *SPACE, "--storage", "f.journal", "--trials", "9"]) == 2
    assert len(calls) == 3 and "the last with: the data are not there: fetch them" in capsys.readouterr().err
    assert {one.state.name for one in only_study("f.journal").trials} == {"FAIL"}


def test_commands_name_the_folder_of_ones_own_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """That of a trial, which its result records, and the best one's: without it an own method is unknown."""
    given: list[list[str]] = []
    monkeypatch.setattr("distill.config.groups._own", [])
    monkeypatch.setattr(trial, "run_trial", lambda *_: given.append(sys.argv[1:]) or 50.0)
    (tmp_path / "own").mkdir()
    assert main([*TINY, SPACE[0], "--storage", "c.journal", "--trials", "1", "--config-dir", "own"]) == 0
    best = shlex.split(capsys.readouterr().out.strip().splitlines()[-1])
    assert given[0][:2] == best[3:5] == ["--config-dir", "own"] and best[5:] == [
        word for word in given[0][2:] if not word.startswith("dataset.holdout=")
    ]


def test_a_kill_costs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SIGKILL in the middle of a trial, and half a line at the journal's end: the trial goes on from its checkpoint."""
    words = [*TINY[:4], "schedule.epochs=6", *TINY[5:], "save_minutes=0", *SPACE, "--trials=1", "--storage=k.journal"]
    worker = program.start("search", *words)
    while not list(tmp_path.glob("outputs/digits/*/*/s1/checkpoints/step-00000000[3-9].ckpt")):
        assert worker.poll() is None
        time.sleep(0.01)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    with open("k.journal", "ab") as file:
        file.write(b'{"op_code":')
    assert main(words) == 0
    dead, revived = only_study("k.journal").trials
    assert (dead.state.name, revived.state.name) == ("FAIL", "COMPLETE")
    assert dead.params == revived.params and revived.user_attrs["continues"] == dead.number
    assert sorted(revived.intermediate_values) == list(range(1, 7))  # those before the kill are reported again
    (result,) = results(tmp_path)
    assert revived.value == result["accuracy"]["last"]
    assert "0 of 1 trials so far" not in capsys.readouterr().out


def test_an_epoch_that_is_run_again_after_a_kill_is_reported_once() -> None:
    reported: list[tuple[float, int]] = []

    class Trial:
        def report(self, value: float, step: int) -> None:
            reported.append((value, step))

    callback = trial.PruningCallback(Trial())
    hint = {"phase": "hint", "epoch": 1, "test_accuracy": None}
    rows = [{"phase": "distill", "epoch": epoch, "test_accuracy": 50.0 + epoch} for epoch in (1, 2, 2, 3)]
    features = {"phase": "distill", "epoch": 4, "knn_accuracy": 60.0}  # of a net without a classifier
    assert [callback._report(row) for row in [hint, *rows, features]] == [False, True, True, False, True, True]
    assert reported == [(51.0, 1), (52.0, 2), (53.0, 3), (60.0, 4)]


def test_a_worker_that_loses_the_race_for_the_tables_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def opened(where: str) -> str:
        tries.append(where)
        if len(tries) < 3:
            raise RuntimeError("UNIQUE constraint failed: alembic_version.version_num")
        return "storage"

    monkeypatch.setattr(study, "RDBStorage", opened)
    assert study.storage("sqlite:///w.db") == "storage" and len(tries) == 3


def searches(where: str, workers: int) -> list[study.Search]:
    how = {"study_name": "s", "direction": "maximize", "load_if_exists": True}
    made = [optuna.create_study(storage=study.storage(where), **how) for _ in range(workers)]
    return [study.Search(one, Path("search")) for one in made]


@pytest.mark.parametrize("where", ["race.journal", "sqlite:///race.db"])
def test_workers_that_ask_at_the_same_moment_draw_different_values(where: str) -> None:
    workers, space = searches(where, 4), {"x": FloatDistribution(0, 1)}
    together = threading.Barrier(len(workers))

    def ask(search: study.Search) -> Any:
        together.wait()
        return search.ask(space, 0, 99)

    with ThreadPoolExecutor(len(workers)) as pool:
        trials = list(pool.map(ask, workers))
    assert len({trial.params["x"] for trial in trials}) == len({trial.number for trial in trials}) == 4
    assert len({trial.user_attrs["worker"] for trial in trials}) == 4


@pytest.mark.parametrize("seed", range(6))
def test_values_that_another_worker_has_are_not_drawn_while_there_are_others(seed: int) -> None:
    first, second, third = searches("few.journal", 3)
    space = {"k": IntDistribution(1, 2)}
    drawn = [search.ask(space, seed, 9).params["k"] for search in (first, second)]
    assert sorted(drawn) == [1, 2]
    assert third.ask(space, seed, 9).params["k"] in (1, 2)  # there is no other left


def test_no_more_trials_are_begun_than_asked_for() -> None:
    first, second = searches("most.journal", 2)
    space = {"x": FloatDistribution(0, 1)}
    begun = [search.ask(space, 0, 3) is not None for search in (first, second, first, second)]
    assert begun == [True, True, True, False]


def test_two_workers_share_the_trials(tmp_path: Path) -> None:
    words = [*TINY, *SPACE, "--trials", "4", "--storage", "sqlite:///w.db"]
    workers = [program.start("search", *words) for _ in range(2)]
    outs = [worker.communicate() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outs
    trials = only_study("sqlite:///w.db").trials
    assert [one.state.name for one in trials] == ["COMPLETE"] * 4
    assert len({tuple(one.params.values()) for one in trials}) == len(results(tmp_path)) == 4
