"""--dry-run lists what a command would run, with state and time, and runs nothing; flags may stand anywhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from distill import config, own_losses, preflight
from distill.cli import main as cli
from distill.cli.command import BASE, read_command
from distill.config import RunSpec, resolve, resolving
from distill.run_folder import RunFolder
from distill.sweep import steps
from distill.sweep.checked import with_seed
from distill.sweep.compose import Composer
from distill.sweep.lean import LeanLoader
from distill.sweep.speeds import Measured, Speeds
from distill.sweep.spread import over_cores
from distill.sweep.timed_method import MethodSeconds, PhaseSeconds
from tests import tiny

TINY = ["student=resnet8", "teacher=resnet14", "teacher.weights=none", "dataset.fraction=0.1", "schedule.epochs=4"]
REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["distill"])
    monkeypatch.setattr(steps.Steps, "seconds", lambda self, spec: (None, ""))


def lines(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> list[str]:
    assert cli.main([*words, "--dry-run"]) == code
    return capsys.readouterr().out.splitlines()


def folders(*words: str) -> list[Path]:
    plan = read_command([*words, "--dry-run"]).jobs
    assert plan is not None
    return [Path(config.identity(make())["folder"]) for _, make in plan]


def finished(folder: Path, **result: Any) -> None:
    """A folder as a finished run leaves it."""
    method, student, teacher = folder.parent.name.rpartition("-")[0], "resnet8", "resnet14"
    folder.mkdir(parents=True)
    whole = {
        "dataset": "digits", "teacher": teacher, "student": student, "method": method, "device": "cpu: test",
        "hash": folder.parent.name.rpartition("-")[2], "epochs": 4, "seconds": 100.0, "images_per_second": 50.0,
        "accuracy": {"last": 50.0},
    } | result  # fmt: skip
    RunFolder(folder).finish(whole)


def cut_off(folder: Path, ended: int, **more: Any) -> None:
    """A folder as a run of 4 epochs leaves it that was cut off after some."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "step-000000007.ckpt").touch()
    rows = [
        {"kind": "epoch", "phase": "distill", "epoch": k + 1, "epochs": 4, "step": 3 * (k + 1), **more}
        for k in range(ended)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text + '{"kind": "step", "epo')


def test_a_damaged_result_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["-m", *TINY, "method=kd", "seed=1,2"]
    (one, _, *_) = folders(*words)
    finished(one)
    (one / "result.json").write_text("{")
    said = lines(capsys, *words, code=2)
    assert any(re.match(r"cannot run +seed=1: .*/s1 has DONE, but its result.json is damaged", line) for line in said)


def test_states_and_times(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["-m", *TINY, "method=kd,at", "seed=1,2,3"]
    kd1, kd2, kd3, at1, *_ = folders(*words)
    finished(kd1)
    cut_off(kd2, 3)
    kd3.mkdir(parents=True)
    with FileLock(kd3 / ".lock"):
        out = lines(capsys, *words)
    rows = {str(word): line for line in out[:6] for word in re.findall(r"method=\w+ seed=\d", line)}
    assert rows["method=kd seed=1"].startswith("done ") and "~" not in rows["method=kd seed=1"]
    assert rows["method=kd seed=2"].startswith("cut off at epoch 3 of 4 ")
    assert "~0:25 (measured, other seeds)" in rows["method=kd seed=2"]  # a quarter of 100 s is left
    assert rows["method=kd seed=3"].startswith("running ")
    assert "~1:40 (measured, other methods of the pair)" in rows["method=at seed=1"]
    assert out[7:12] == ["6 runs", "  1 done", "  1 running now: about 1:40", "  1 cut off: about 0:25",
                         "  3 to run: about 5:00"]  # fmt: skip
    assert "Time left, one run after the other: about 7:05" in out and out[-2] == "Measured on cpu: test."
    assert out[-1].startswith("the rate never falls: training ends after 4 epochs, and schedule.milestones has 12, 16")
    assert not at1.exists()


@pytest.mark.parametrize(
    ("method", "words", "rate"),
    [("kd", ["schedule.batch_size=64"], 6.4), ("dafl", ["method.batch_size=640"], 64.0)],  # which makes its images
)
def test_a_run_that_was_cut_off_tells_its_own_speed(
    method: str, words: list[str], rate: float, capsys: pytest.CaptureFixture[str]
) -> None:
    there = [word for word in TINY if method != "dafl" or not word.startswith("dataset.")]  # it sees no images
    words = [*there, f"method={method}", *words]
    (folder,) = folders(*words)
    cut_off(folder, 3, images_per_second=rate)
    out = lines(capsys, *words)  # an epoch of 3 steps of 64 images is left
    assert out[0].startswith("cut off at epoch 3 of 4 ") and "~0:30 (measured, the run itself)" in out[0]


def test_phases_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*TINY, "method=ft", "schedule.init_epochs=2"]
    (folder,) = folders(*words)
    cut_off(folder, 1, phase="paraphraser", epochs=2)
    assert "cut off at epoch 1 of 2 of phase paraphraser" in lines(capsys, *words)[0]


def test_a_weight_of_other_classes_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    out = lines(capsys, "-m", *TINY, "method=ttm,kd", "seed=1,2")
    assert [line for line in out if "was published for" in line] == [
        "method.weight=45 was published for 100 classes, and digits has 10: another may be needed (distill search)"
    ]


def test_teachers_that_would_be_trained_are_listed_before_their_first_student(
    capsys: pytest.CaptureFixture[str],
) -> None:
    chain = ["-m", "student=resnet8", "teacher=resnet20", "teacher.chain=[resnet20,resnet14]", "method=kd", "seed=1,2"]
    out = lines(capsys, *chain)
    wanted = ["teacher resnet20 seed=0", "teacher resnet14 taught by resnet20 seed=0", "seed=1", "seed=2"]
    assert [line.split("  ")[1] for line in out[:4]] == wanted
    assert "  4 to run, 2 of them teachers: no estimate" in out
    first, _ = folders(*chain)
    plan = read_command([*chain, "--dry-run"]).jobs or []
    root = config.teacher_config(config.teacher_config(plan[0][1]()))
    finished(Path(config.identity(root)["folder"]), teacher=None, student="resnet20", method="none")
    assert lines(capsys, *chain)[0].startswith("to run  teacher resnet14 taught by resnet20")
    assert not first.exists()


def test_a_teacher_that_is_a_run_of_the_sweep_too_is_listed_once(capsys: pytest.CaptureFixture[str]) -> None:
    out = lines(capsys, "-m", "teacher=resnet14", "student=resnet14", "method=kd,none", "seed=0")
    assert [line for line in out if "to run  " in line and "method=" in line] == out[:2]
    assert "2 runs" in out


def test_what_cannot_be_is_listed_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    out = lines(capsys, "-m", *TINY, "method=none,kd", "teacher.seeds=null,[0,1]", "seed=1", code=2)
    refused = [line for line in out if line.startswith("cannot run")]
    assert len(refused) == 1
    assert "method=kd teacher.seeds=[0,1]: method=kd takes 1 teacher, and 2 are named" in refused[0]
    assert "  1 that cannot run" in out and "  2 to run: no estimate" in out


def test_nothing_is_written_or_imported(tmp_path: Path) -> None:
    code = "import sys; from distill.cli.main import main; sys.exit(main(sys.argv[1:]) or 'wandb' in sys.modules)"
    words = [*TINY, "--dry-run", "method=kd"]
    env = os.environ | {"PYTHONPATH": str(REPO)}
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^1 run\n  1 to run: about 0:[0-5]\d$", done.stdout, re.M)  # by a timed step
    assert not list(tmp_path.iterdir())


def test_a_mistake_is_one_even_dry(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["method=kdd", "--dry-run"]) == 2
    assert "did you mean kd" in capsys.readouterr().err


@pytest.mark.parametrize(("word", "steps_taken"), [("schedule.lr=0.01,0.02,0.03", 1), ("method.temperature=1,2,3", 3)])
def test_jobs_of_other_rates_share_the_step_that_shows_their_losses(
    word: str, steps_taken: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    monkeypatch.setattr(own_losses, "check_losses", lambda spec, info: taken.append(spec.hash))
    assert "  3 to run: no estimate" in lines(capsys, "-m", *TINY, "method=kd", word)
    assert len(taken) == steps_taken


def test_estimates_are_of_the_nearest_runs_and_none_where_there_are_none() -> None:
    plan = read_command([*TINY, "method=kd", "student=resnet20", "--dry-run"]).jobs
    assert plan is not None
    spec = config.resolve(plan[0][1]())

    def measured(hash: str, method: str, student: str, seconds: float) -> Measured:
        return Measured("digits", "resnet14", student, method, hash, "cpu", seconds)

    runs = [measured(spec.hash, "kd", "resnet20", 1.0), measured("0" * 8, "kd", "resnet20", 2.0),
            measured("1" * 8, "crd", "resnet20", 3.0), measured("2" * 8, "kd", "resnet8", 4.0)]  # fmt: skip
    told = [Speeds(runs[first:]).estimate(spec) for first in range(5)]
    assert [each.seconds for each in told] == [4.0, 8.0, 12.0, None, None]
    assert [each.source for each in told[1:4]] == [
        "measured, other settings", "measured, other methods of the pair", "no estimate"
    ]  # fmt: skip
    speeds = Speeds(runs)
    assert speeds.estimate(spec).seconds == 4.0
    speeds.runs.clear()  # a plan of many seeds compares a configuration with many runs once
    assert speeds.estimate(replace(spec, seed=7)).seconds == 4.0


@pytest.mark.parametrize(
    ("argv", "sorted_"),
    [
        ("student=resnet8 -m method=kd", "-m student=resnet8 method=kd"),
        ("seed=1 --cfg job method=kd --resolve threads=3", "--cfg job --resolve seed=1 method=kd threads=3"),
        ("seed=1 --config-dir=. ~pair -c job -p x +c=2", "--config-dir=. -c job -p x seed=1 ~pair +c=2"),
        ("seed=1 --info", "--info seed=1"),
        ("seed=1 -i plugins method=kd --dry-run", "-i plugins seed=1 method=kd"),
        ("method.weight=-1 dataset.omit=[-2] --help", "--help method.weight=-1 dataset.omit=[-2]"),
    ],
)
def test_flags_go_first(argv: str, sorted_: str) -> None:
    assert read_command(argv.split()).argv == sorted_.split()


@pytest.mark.parametrize("argv", ["seed=1 --cfg", "--info seed=1", "seed=1 --bogus"])
def test_a_flag_that_cannot_be_read_is_refused_in_a_sentence(argv: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv.split()) == 2
    said = capsys.readouterr().err
    assert said.startswith("distill: ") and said.count("\n") == 1 and "--hydra-help" in said


def test_a_flag_in_the_middle(capsys: pytest.CaptureFixture[str]) -> None:
    out = lines(capsys, *TINY[:2], "-m", *TINY[2:], "method=kd,at", "seed=1")
    assert "2 runs" in out and "method=kd" in out[0] and "method=at" in out[1]


def test_a_method_that_does_not_fit_is_listed_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    out = lines(capsys, "-m", "teacher=resnet14", "student=vgg8", "method=fsp,none", "seed=1,2", code=2)
    refused = [line for line in out if line.startswith("cannot run")]
    assert len(refused) == 2 and "  2 to run: no estimate" in out


def test_seeds_are_resolved_once_and_right() -> None:
    words = ("student.upstream={dataset: {classes: [0, 1]}, schedule: digits}",)
    one, two = (resolve(tiny.composed(*words, f"seed={seed}")) for seed in (1, 2))
    other = with_seed(one, 2)
    places = [(s.folder, s.below, s.alone, s.seed, s.student.upstream.folder) for s in (two, other)]
    assert places[0] == places[1] and [t.training.folder for t in other.teachers] == [two.teachers[0].training.folder]


def test_a_seed_that_reaches_the_teacher_makes_other_runs_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("-m", *TINY[:2], "method=kd", "teacher.seed=${seed}", "seed=1,2")
    finished(folders(*words)[1])
    out = lines(capsys, *words)
    assert [line.split()[0] for line in out if "seed=2" in line] == ["done"]
    assert ["seed=1" in line for line in out if "teacher resnet14" in line] == [True]


def test_what_runs_of_a_sweep_share_is_done_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: dict[str, list[Any]] = {"compose": [], "build": [], "fit": [], "teacher": [], "load": []}

    def count(what: str, owner: Any, name: str) -> None:
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **more: (done[what].append(args), original(*args, **more))[1])

    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)  # in this process
    monkeypatch.setattr(preflight, "_prototypes", {})
    count("compose", Composer, "_composed")
    count("teacher", resolving, "teacher_config")
    count("build", preflight, "build_net")
    count("fit", preflight, "check_fit")
    count("load", preflight, "load_data")
    out = lines(capsys, "-m", "teacher=resnet14,resnet20", "student=resnet8", "method=none,kd,at,sp", "seed=1,2,3")
    assert "  23 to run, 2 of them teachers: no estimate" in out  # none is the same for both
    assert len(done["compose"]) == 8 and not done["load"]
    assert len(done["teacher"]) == 2 and len(done["fit"]) == 7 + 2
    assert sorted(net for net, *_ in done["build"]) == ["cifar_resnet14", "cifar_resnet20", "cifar_resnet8"]


def test_work_is_spread_in_order_and_errors_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    here = os.getpid()
    found = list(over_cores(lambda number: (number, os.getpid() != here), 20))
    assert [number for number, _ in found] == list(range(20)) and all(elsewhere for _, elsewhere in found)
    assert list(over_cores(lambda number: os.getpid() == here, 3)) == [True] * 3
    with pytest.raises(ZeroDivisionError):
        list(over_cores(lambda number: 1 // (number - 15), 20))


def test_what_is_composed_without_hydras_node_is_what_hydra_composes(tmp_path: Path) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    text = "# @package _global_\ndefaults:\n  - override /dataset: cifar100\nschedule:\n  epochs: 7\n"
    (tmp_path / "mine" / "experiment" / "own.yaml").write_text(text + "hydra:\n  verbose: true\n")
    given = [["experiment=crd_table1", "pair=vgg13_vgg8", "method=fsp", "seed=3"],
             ["experiment=own", "method=crd", "++schedule.optimizer.betas=[0.5,0.9]", "hydra.verbose=false"],
             ["method=kd", "student.quantize={weights: 4}"],
             ["dataset=mnist", "teacher=none", "method=none", "++student.args.a=1", "tracking=offline"]]  # fmt: skip
    search = f"hydra.searchpath=[file://{tmp_path / 'mine'}]"
    config.register()
    with initialize_config_dir(str(config.conf_dir()), **BASE):
        lean = LeanLoader(GlobalHydra.instance().config_loader())
        for words in given:
            whole = compose("config", [*words, search], return_hydra_config=True)
            own = OmegaConf.masked_copy(whole, [str(key) for key in whole if key != "hydra"])
            found = lean.compose("config", [*words, search])
            assert OmegaConf.to_yaml(found) == OmegaConf.to_yaml(own)
            with pytest.raises(ConfigCompositionException, match="nothing"):
                lean.compose("config", [*words, search, "schedule.nothing=1"])


def test_where_no_run_has_told_each_net_is_timed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("distill.sweep.timed_method.method_seconds", raiser(ValueError))
    spec = resolve(tiny.composed(*TINY, "method=kd"))
    timed, by_nets = steps.Steps(budget=60.0), steps.BY_STEP + steps.NETS_ALONE
    first, how = timed.seconds(spec)
    timed.keep()
    monkeypatch.setattr("distill.timed_step.net_seconds", raiser(ZeroDivisionError))
    assert first is not None and first > 0 and steps.Steps().seconds(spec) == (first, by_nets) == (first, how)
    more = resolve(tiny.composed(*TINY, "method=kd", "schedule.epochs=40"))
    assert steps.Steps().seconds(more)[0] == pytest.approx(10 * first)
    other = resolve(tiny.composed(*TINY, "method=kd", "student=resnet20"))
    late = steps.Steps(budget=0.0)
    assert late.seconds(spec)[0] == first and late.seconds(other)[1] == steps.SCALED + steps.NETS_ALONE
    assert first / 10 < late.seconds(other)[0] < 10 * first
    late.keep()
    monkeypatch.setattr("distill.timed_step.macs_of", raiser(ZeroDivisionError))  # it is known by now
    again = steps.Steps(budget=0.0)
    assert [again.seconds(each) for each in (spec, other)] == [late.seconds(each) for each in (spec, other)]
    kept = json.loads((tmp_path / "cache" / "steps.json").read_text())
    older = {key: {"step": 0.1, "forward": 0.1} for key in kept}  # as a version before wrote them
    (tmp_path / "cache" / "steps.json").write_text(json.dumps(older))
    assert steps.Steps(budget=0.0).seconds(spec) == (None, "")
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "empty"))
    assert steps.Steps(budget=0.0).seconds(other) == (None, "")


def raiser(kind: type[Exception]) -> Any:
    def fail(*args: Any, **more: Any) -> Any:
        raise kind

    return fail


def test_a_methods_own_terms_are_in_the_estimate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """crld sees two views, and so takes twice as long: on its own pair, and where it is timed on small nets."""
    monkeypatch.undo()
    words = [*TINY, "student=resnet20"]
    plain, views = (resolve(tiny.composed(*words, f"method={method}")) for method in ("kd", "crld"))
    ratios: list[list[float]] = []
    while len(ratios) < 5 and not (ratios and all(1.3 < ratio < 6.0 for ratio in ratios[-1])):  # a machine may be busy
        monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / f"cache{len(ratios)}"))
        few, many = steps.Steps(budget=60.0), steps.Steps(budget=60.0, few=False)
        shared = [many.seconds(each) for each in (plain, views)]
        own = [few.seconds(each) for each in (plain, views)]
        assert {source for _, source in own} == {steps.BY_METHOD}
        assert {source for _, source in shared} == {steps.BY_STEP + steps.ON_SMALL}
        ratios.append([two / one for (one, _), (two, _) in (own, shared)])
    assert all(1.3 < ratio < 6.0 for ratio in ratios[-1]), ratios
    few.keep()
    monkeypatch.setattr("distill.sweep.timed_method.method_seconds", raiser(ZeroDivisionError))
    assert steps.Steps(budget=0.0).seconds(views) == own[1]
    many._left["net"], many._known = 1e-9, {key: kept for key, kept in many._known.items() if "phases" in kept}
    many._by_hash, many._timed_here = {}, []
    assert many.seconds(views)[1] == steps.SCALED + steps.ON_SMALL  # the small nets are timed all the same
    many._left, many._timed_here = {"net": 1e-9, "method": 0.0}, []
    many._known, many._by_hash = {key: kept for key, kept in many._known.items() if "phases" in kept}, {}
    assert many.seconds(views)[1] == steps.SCALED + steps.NETS_ALONE  # a scaled one is nothing to compare with


def test_a_plugins_method_is_timed_anew_where_its_code_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "cache"))
    timed, alike = [], MethodSeconds((PhaseSeconds(epochs=None, shown=1.0, made=False, seconds=0.1),))
    monkeypatch.setattr("distill.sweep.timed_method.method_seconds", lambda *_, **more: timed.append(more) or alike)
    spec = resolve(tiny.composed(*TINY, "method=kd"))
    for code in (None, "one", "one", "other"):
        asked = steps.Steps(budget=60.0)
        own = {**spec.hashed, "method": {**spec.hashed["method"], "code": code}}
        assert asked.seconds(replace(spec, hashed=own))[1] == steps.BY_METHOD
        asked.keep()
    assert len(timed) == 3


def test_what_was_timed_beside_other_work_is_timed_anew_after_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It told ten times the time for good; what was too slow for the budget that day was never tried again."""
    monkeypatch.undo()
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "cache"))
    seconds, tried = iter([0.1, 0.01]), []
    def timed(*_: Any, **more: Any) -> MethodSeconds:
        tried.append(more)
        return MethodSeconds((PhaseSeconds(epochs=None, shown=1.0, made=False, seconds=next(seconds)),))

    monkeypatch.setattr("distill.sweep.timed_method.method_seconds", timed)
    spec, found = resolve(tiny.composed(*TINY, "method=kd")), []
    for budget, days in ((60.0, 0.0), (60.0, 0.9), (0.0, 1.1), (60.0, 1.1), (60.0, 1.2)):
        monkeypatch.setattr(steps, "time", SimpleNamespace(
            time=lambda now=days: 1e9 + 86_400 * now, monotonic=time.monotonic, process_time=time.process_time,
        ))  # fmt: skip
        asked = steps.Steps(budget=budget)
        found.append(asked.seconds(spec)[0])
        asked.keep()
    assert [each / found[0] for each in found] == pytest.approx([1, 1, 1, 0.1, 0.1]) and len(tried) == 2


def test_phases_are_put_together_and_carried_over_to_other_nets() -> None:
    alone = PhaseSeconds(epochs=3, shown=0.5, made=False, seconds=0.1)
    made = PhaseSeconds(epochs=None, shown=200.0, made=True, seconds=0.4)
    both = MethodSeconds((alone, made))
    assert both.whole(10, 1000) == pytest.approx(3 * 0.5 * 1000 * 0.1 + 10 * 200 * 0.4)
    assert MethodSeconds.read(json.loads(json.dumps(both.to_json()))) == both
    assert [each.seconds for each in both.on(0.2, 0.8).phases] == pytest.approx([0.4, (1.6 * 1.0) ** 0.5])
    wrong = [None, [], {"phases": [{"seconds": 1.0}]}, {"phases": 3}]
    wrong += [{"phases": [{**vars(made), key: value}]} for key, value in
              (("seconds", -1.0), ("seconds", "1"), ("shown", None), ("epochs", "2"), ("epochs", True))]  # fmt: skip
    assert not any(MethodSeconds.read(each) for each in wrong)


def test_what_takes_too_long_is_given_up_and_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "cache"))
    spec = resolve(tiny.composed(*TINY, "method=kd"))
    once = steps.Steps(budget=1e-9)
    assert once.seconds(spec)[1].endswith(steps.NETS_ALONE)
    once.keep()
    tried: list[RunSpec] = []
    monkeypatch.setattr("distill.sweep.timed_method.method_seconds", lambda spec, *args, **more: tried.append(spec))
    steps.Steps(budget=60.0).seconds(spec)
    assert [each.teachers[0].model for each in tried] == ["cifar_resnet8"]  # on small nets alone
