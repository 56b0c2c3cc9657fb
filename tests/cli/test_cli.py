"""The command line as a user sees it: exit codes, sentences, folders. A stub stands for training."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from distill import config
from distill.__main__ import main
from distill.cli import verbs
from distill.cli.command import read_command
from distill.cli.main import searched_value
from distill.config.hydra_keys import LAUNCHERS
from tests import program

REPO = Path(__file__).resolve().parents[2]
SEARCH = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(REPO)])

def words(command: str) -> list[str]:
    """A command line; its sweep stays in the process that has the stub."""
    return [*command.split(), *([] if "hydra/launcher" in command else ["hydra/launcher=basic"])]


def drive(commands: list[str], folder: Path, **env: str) -> list[dict[str, Any]]:
    """Run each command line (words separated by blanks) in `folder`; all in one process."""
    asked = json.dumps([words(command) for command in commands])
    done = program.run(module="tests.cli_driver", text=asked, cwd=folder, env=env, preload=program.LIGHT)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def distill(*argv: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return program.run(*argv, cwd=cwd, env=env, preload=program.LIGHT)


MISTAKES = {
    "method=crdd": "there is no method 'crdd': did you mean crd",
    "dataset=cifar1000": "there is no dataset 'cifar1000': did you mean cifar100",
    "student=resnet2o": "there is no student 'resnet2o': did you mean .*resnet20",
    "student=timm student.model=resnet1x8": r"there is no student model 'resnet1x8': did you mean .*resnet",
    "student=timm": r"student\.model has no value: give one",
    "pair=resnet56_resnet2": "there is no pair 'resnet56_resnet2': did you mean resnet56_resnet20",
    "metod=kd": "has no key 'metod' .*did you mean method",
    "methods=kd": "has no key 'methods' .*did you mean method",
    "scheduel.lr=1": r"has no key 'scheduel' \(scheduel\.lr\): did you mean schedule",
    "method.temprature=3": r"method \(kd\) has no key 'temprature' .*did you mean method\.temperature\?",
    "method=crd method.negativs=3": r"did you mean method\.negatives\?",
    "schedule.optimizer.nestrov=true": r"did you mean schedule\.optimizer\.nesterov\?",
    "schedule.optimizer.name=adam schedule.optimizer.momentum=0.9": "optimiser adam has no option momentum: it",
    "schedule.optimizer.betas=[0.5,0.9]": "the optimiser sgd has no option betas: it takes momentum",
    "schedule.lr=abc": "schedule.lr must be a number, not 'abc'",
    "schedule.epochs=1.5": "schedule.epochs must be a whole number, not 1.5",
    "seed=": "seed must be a whole number, not ''",
    "~seed": "~seed: every key is needed",
    "~schedule.optimizer.name": "~schedule.optimizer.name: every key is needed",
    "schedule.optimizer.name=''": "schedule.optimizer.name=: name an optimiser",
    "~method": "a run needs a method",
    "method.ce=0 method.kd=0": "leaves method=kd nothing to train by",
    "-m method=kd seed=range(3,1)": r"seed=range\(3,1\) stands for no run at all",
    "-m method=kd seed=range(1,1000000)": "stands for more than 10000 runs",
    "schedule.name=crd": "schedule.name=crd would call digits by another's name: choose it, schedule=crd",
    "method.name=crd": "method.name=crd would call kd by another's name",
    "method._target_=distill.methods.crd.CRD": r"method\._target_ is of the file of a method",
    "+method.about.departs=x": r"method\.about\.departs is of the file of a method",
    "+dataset.kind=mnist": "dataset.name=digits is the name of another data set than dataset.kind=mnist",
    "method=kd pair=null": "pair=null is how it stands: leave it away",
    "output=s3://bucket/x": r"output must be a path \(./2024 of a number\), no address",
    "dataset=folder dataset.root=2024": r"dataset\.root must be a path \(./2024 of a number\)",
    "schedule.warmup_epochs=30": "training ends after 20 epochs, before it",
    "schedule.decay=cosine schedule.lr_min=0.9": "is where the rate ends: give less than schedule.lr",
    "method=null": "method=null: a run needs a method",
    "+seed=3": r"\+seed=3: there is a key 'seed' already",
    "+schedule.polyak=0.999": "schedule has no key 'polyak'",
    "schedule.batch_size=0": "schedule.batch_size must be a whole number, at least 1",
    "method.kd=-1": "method.kd must be a number, not negative",
    "schedule.optimizer.name=SGD": "there is no optimiser 'SGD': did you mean sgd",
    "schedule.optimizer.name=adm": "there is no optimiser 'adm': did you mean adam",
    "schedule.optimizer.name=adam schedule.optimizer.betas=0.5": "optimizer.betas must be numbers in",
    "schedule.optimizer.name=adam schedule.optimizer.betas=[0.5,1.5]": "optimizer.betas must be numbers in",
    "schedule.optimizer.name=adam schedule.optimizer.eps=-1": "schedule.optimizer.eps must not be negative",
    "schedule.optimizer.nesterov=true schedule.optimizer.momentum=0": "nesterov=true needs a momentum above 0",
    "method=cmi method.optimizer.nam=adam": r"method\.optimizer has no key 'nam': did you mean name",
    "method=cmi method.optimizer.epochs=3": r"method\.optimizer has no key 'epochs'",
    "method=cmi method.generator_optimizer.beta=[0.5,0.9]": r"no key 'beta': did you mean betas",
    "method=cmi method.generator_optimizer.lr=-1": r"method\.generator_optimizer\.lr must be a number above 0",
    "method=cmi method.generator_optimizer.decay=foo": r"generator_optimizer\.decay must be one of step, expo",
    "method=zskt method.optimizer.clip_grad=-1": r"method\.optimizer\.clip_grad must be a number above 0",
    "schedule.milestones=[1,a]": r"schedule\.milestones must be a list, such as",
    "schedule.mixup=true": "schedule.mixup is an alpha: it must be in",
    "dataset.rotate=true": "dataset.rotate are degrees",
    "dataset.randaugment=1.5": "dataset.randaugment must be a whole number",
    "dataset.cutout=2.5": "dataset.cutout must be a whole number",
    "dataset.pad=-1": "dataset.pad must be a whole number, at least 0",
    "dataset.pad=0 dataset.pad_mode=reflect": "there are none: set dataset.pad",
    "method=mcl schedule.mixup=0.2": r"method=mcl cannot honour schedule\.mixup=0\.2: it contrasts images",
    "dataset.holdout=1.0": r"must be in \[0, 1\)",
    "device=gpu": "device must be one of auto, cpu, cuda",
    "precision=fp8": "precision must be one of auto, fp32, bf16, fp16",
    "teacher.weights=nowhere.pth": r"teacher\.weights=nowhere\.pth is no file",
    "output=/dev/null/x": r"output=/dev/null/x cannot be written \(Not a directory\): choose another",
    "seed=1,2": "seed=1,2 stands for several runs: add -m",
    "-m method=none output=a,b": "output=a,b: a sweep has one output folder: start one for each",
    "-m method=none schedule.lr=interval(0.01,1)": "an interval is drawn from, by distill search: for a sweep give",
    "-m seed=1,2 hydra/launcher=local,packed": "Hydra's own keys are of the sweep, and not of its runs: give one value",
    "-m seed=1,2 hydra.launcher.slots=1,2": "Hydra's own keys are of the sweep, and not of its runs: give one value",
    "method": "method cannot be read as key=value",
    "method.kd=[": r"method\.kd=\[ cannot be read as key=value",
    "hydra/launcher=slrum": "there is no hydra/launcher 'slrum'",
    "--cfg job method=crdd": "there is no method 'crdd'",
    "-m method=none,kdd,crd seed=1,2": "there is no method 'kdd': did you mean kd",
    "-m method=none,kd schedule.lr=0.1,abc": "schedule.lr must be a number, not 'abc'",
    "-m method=kd,crd method.weight=1.0": r"method \(kd\) has no key 'weight'",
    "-m method=crd,kd method.weight=1.0": r"method \(kd\) has no key 'weight'",
    "-m schedule.batch_size=64,0": "schedule.batch_size must be a whole number, at least 1",
    "--config-dir nowhere": "nowhere",
    "--dry-run output=/dev/null": r"output=/dev/null cannot be written \(Not a directory\): choose another",
    "schedule.milestones=[0]": "milestones must be a list, such as .*, each of which must be a number above 0",
    "student.args=3": r"student\.args must be a dictionary",
    "schedule.optimizer={betas:[0.9,0.9]}": "the optimiser sgd has no option betas",
    "-m seed=1,2 hydra/launcher=local hydra.launcher.slots=0": r"launcher\.slots must be a whole number, at least 1",
    "-m seed=1,2 hydra/launcher=local hydra.launcher={slots:x}": r"launcher\.slots must be a whole number",
    "-m seed=1,2 hydra/launcher=local +hydra.launcher.slot=2": r"no key 'slot' .*did you mean hydra\.launcher\.slots",
    "-m seed=1,2 hydra/launcher=packed hydra.launcher.slots=2": "hydra/launcher=packed has no key 'slots'",
    "-m seed=1,2 hydra/launcher=local hydra.launcher.slots.x=2": r"hydra\.launcher\.slots is no dictionary",
    "-m seed=1,2 +hydra.sweeper.params.seed=3": "give the keys themselves",
    "hydra/launcher=packed": "hydra/launcher=packed does nothing here: it is of several runs, and this is one",
    "hydra.sweeper.max_batch_size=2": "hydra.sweeper.max_batch_size=2 does nothing here",
    "hydra.run.dir=elsewhere": r"hydra\.run\.dir is not read: .* set output=FOLDER",
    "hydra.job.chdir=true": r"hydra\.job\.chdir is not read",
    "hydra.nosuch=1": r"hydra\.nosuch is not read",
}


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("mistakes")
    results = dict(zip(MISTAKES, drive(list(MISTAKES), folder), strict=True))
    results["the folder"] = {"left": sorted(path.name for path in folder.iterdir())}
    return results


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_one_sentence(command: str, mistakes: dict[str, dict[str, Any]]) -> None:
    result = mistakes[command]
    assert result["code"] == 2
    assert re.search(MISTAKES[command], result["err"]), result["err"]
    assert result["err"].startswith("distill: ") and result["err"].count("\n") == 1
    assert result["out"] == "" and not result["torch"]


def test_mistakes_leave_nothing_behind(mistakes: dict[str, dict[str, Any]]) -> None:
    assert mistakes["the folder"]["left"] == []


def test_a_mistake_is_found_within_a_second(tmp_path: Path) -> None:
    """On an idle machine, that is: where Hydra alone starts in 0.15 s of CPU time, and torch in 2."""
    mistake = ["-m", "distill", "student=timm", "student.model=resnet1x8"]
    seconds = [(cpu_seconds(mistake, tmp_path), cpu_seconds(["-c", "import hydra.main"], tmp_path)) for _ in range(3)]
    ours, hydras = map(min, zip(*seconds, strict=True))
    assert ours < 6 * hydras


def cpu_seconds(arguments: list[str], cwd: Path) -> float:
    """What a Python process needs of the CPU; what else the machine does counts but little."""
    before = os.times()
    subprocess.run([sys.executable, *arguments], cwd=cwd, env=os.environ | {"PYTHONPATH": SEARCH}, capture_output=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def test_full_errors_on_request(tmp_path: Path) -> None:
    done = distill("method=crdd", cwd=tmp_path, HYDRA_FULL_ERROR="1")
    assert done.returncode == 2 and "Traceback" in done.stderr
    ran = drive(["seed=90", "seed=1"], tmp_path, HYDRA_FULL_ERROR="1")
    assert "Traceback" in ran[0]["err"] and ran[1]["out"].endswith(" 1\n")  # still the user's in the job


def test_unknown_flags_and_what_a_launcher_refuses_are_usage_errors(tmp_path: Path) -> None:
    flag, gpu = drive(["--bogus", "-m seed=1,2 hydra/launcher=local hydra.launcher.gpus=[97]"], tmp_path)
    assert flag["code"] == gpu["code"] == 2
    assert re.match(r"distill: hydra\.launcher\.gpus=\['97'\]: no GPU 97: (there are|none is).*\n$", gpu["err"])


def test_every_key_of_a_launcher_has_a_kind() -> None:
    files = {path.stem: OmegaConf.load(path) for path in (config.conf_dir() / "hydra/launcher").glob("*.yaml")}
    assert {name: set(map(str, node)) - {"_target_"} for name, node in files.items()} == {
        name: set(keys) for name, keys in LAUNCHERS.items() if keys
    }


def test_exit_codes_of_runs(tmp_path: Path) -> None:
    wanted = {1: 0, 90: 2, 91: 3, 92: 4, 93: 75, 94: 130, 95: 130, 96: 1, 97: 2}
    results = dict(zip(wanted, drive([f"seed={seed}" for seed in wanted], tmp_path), strict=True))
    assert {seed: result["code"] for seed, result in results.items()} == wanted
    assert results[1]["err"] == ""
    assert results[90]["err"] == "distill: no such data: put it there\n"
    assert results[91]["err"] == "distill: ce is NaN at step 3\n"
    log = Path(re.search(r"traceback in (.+)\)", results[96]["err"])[1])
    assert results[96]["err"].count("\n") == 1 and "MemoryError: the memory does not suffice" in results[96]["err"]
    assert "Traceback" in log.read_text() and log.parent.name == "s96"


def test_a_search_is_given_the_score_even_where_it_is_0_or_that_of_neighbours() -> None:
    names = {"dataset": "digits", "student": "resnet8", "method": "kd"}
    assert searched_value({**names, "accuracy": {"last": 0.0}}) == 0.0
    assert searched_value({**names, "accuracy": {"last": None}, "knn": {"last": 61.5}}) == 61.5
    assert math.isnan(searched_value({**names, "accuracy": {"last": None}}))


def test_our_own_settings_do_not_leak_into_the_job(tmp_path: Path) -> None:
    (result,) = drive(["seed=1"], tmp_path)
    assert re.fullmatch(r"RAN kd 1 outputs/digits/resnet56-resnet20/kd-\w{8}/s1 None\n", result["out"])
    saved = next(tmp_path.glob("outputs/digits/resnet56-resnet20/kd-*/s1/.hydra/config.yaml"))
    assert "method:" in saved.read_text()  # Hydra keeps its notes in the same folder


def test_a_sweep_goes_on_after_failures_and_lists_them(tmp_path: Path) -> None:
    mixed, users, fine, stopped = drive(
        ["-m method=none,kd seed=1,90,96", "-m seed=90,97,1", "-m seed=1,2 method=none,kd", "-m seed=1,93,2"],
        tmp_path,
    )
    assert [line.split()[1:3] for line in mixed["out"].splitlines() if line.startswith("RAN")] == [
        [method, seed] for method in ("none", "kd") for seed in ("1", "90", "96")
    ]
    assert mixed["code"] == 1 and "4 runs of the sweep failed:" in mixed["err"]
    listed = mixed["err"].partition("sweep failed:\n")[2].splitlines()
    assert [line.partition(":")[0].strip() for line in listed] == [
        "method=none seed=90",
        "method=none seed=96",
        "method=kd seed=90",
        "method=kd seed=96",
    ]
    assert users["code"] == 2 and users["out"].count("RAN") == 3
    assert fine["code"] == 0 and fine["err"] == ""
    assert stopped["code"] == 75 and stopped["out"].count("RAN") == 2  # a signal ends the sweep


def test_other_names_of_methods(tmp_path: Path) -> None:
    alone, listed = drive(["method=hint", "-m method=none,hint,kd"], tmp_path)
    assert alone["out"].startswith("RAN fitnet") and alone["err"] == "distill: method=hint is fitnet here\n"
    assert [line.split()[1] for line in listed["out"].splitlines() if line.startswith("RAN")] == [
        "none",
        "fitnet",
        "kd",
    ]


def test_a_method_that_takes_over_another_does_not_take_its_other_names(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own/method").mkdir(parents=True)
    Path("own/method/mine.yaml").write_text("defaults: [kd, _self_]\nname: mine\nkd: 2.0\n")
    assert "method=kd" in read_command(["method=hinton", "--config-dir", "own"]).argv
    assert capsys.readouterr().err == "distill: method=hinton is kd here\n"


def test_stumbling_blocks_are_cleared_away(tmp_path: Path) -> None:
    pair, args, null = drive(
        ["+pair=wrn_40_2_wrn_16_2", "student.args.drop_rate=0.1", "threads=2 device=cuda:1 compile=true"],
        tmp_path,
    )
    assert "wrn_40_2-wrn_16_2/kd-" in pair["out"]
    assert args["code"] == 0 and args["out"].split()[3] != drive(["seed=1"], tmp_path)[0]["out"].split()[3]
    assert null["code"] == 0


def test_a_sweep_can_be_a_file(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "experiment").mkdir(parents=True)
    (mine / "method").mkdir()
    (mine / "experiment" / "two.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /dataset: cifar100\n"
        "hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      method: none,kd\n      seed: 1,2\n"
    )
    (mine / "experiment" / "bad.yaml").write_text(
        (mine / "experiment" / "two.yaml").read_text().replace("kd", "kdd")
    )
    good, fewer, bad, narrowed = drive(
        [
            f"--config-dir {mine} experiment=two",
            f"--config-dir {mine} experiment=two seed=3",
            f"--config-dir {mine} experiment=bad",
            f"--config-dir {mine} experiment=bad method=kd",
        ],
        tmp_path,
    )
    assert good["code"] == 0 and good["out"].count("outputs/cifar100/") == 4
    assert fewer["code"] == 0 and fewer["out"].count("RAN") == 2
    assert bad["code"] == 2 and "there is no method 'kdd'" in bad["err"] and "RAN" not in bad["out"]
    assert narrowed["code"] == 0 and narrowed["out"].count("RAN kd") == 2  # the file's own methods are not looked at


def test_help_fits_on_a_page(tmp_path: Path) -> None:
    done = distill("--help", cwd=tmp_path)
    assert done.returncode == 0 and not list(tmp_path.iterdir())
    lines = done.stdout.rstrip().splitlines()
    assert len(lines) <= 50 and max(map(len, lines)) <= 120
    for group in ("dataset", "schedule", "teacher", "student", "method", "pair", "tracking"):
        assert any(line.startswith(f"  {group} ") for line in lines), group
    text = done.stdout
    assert "crd" in text and text.count("python -m distill ") >= 4 and "result.json" in text and "75" in text


def test_help_examples_are_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config.register()
    text = distill("--help", cwd=tmp_path).stdout
    commands = re.findall(r"^ +python -m distill (\w.*|-m .*)$", text, re.MULTILINE)
    plans = [read_command([*shlex.split(command), "--dry-run"]).jobs for command in commands]
    assert [len(plan or ()) for plan in plans] == [1, 1, 12, 42]


def test_hydras_own_flags(tmp_path: Path) -> None:
    info, cfg, part, hydra, missing = drive(
        [
            "--info defaults-tree",
            "--cfg job method=crd",
            "--cfg job -p method --resolve method=fitnet",
            "--hydra-help",
            "--cfg job student=timm",
        ],
        tmp_path,
    )
    assert info["code"] == cfg["code"] == part["code"] == hydra["code"] == missing["code"] == 0
    assert "name: crd" in cfg["out"] and "hydra:" not in cfg["out"]
    assert "hint_epochs: 3" in part["out"]
    assert "--hydra-help" in hydra["out"] and "???" in missing["out"]
    assert not (tmp_path / "outputs").exists()


def test_tab_completion_of_the_console_script(tmp_path: Path) -> None:
    script = tmp_path / "distill"
    script.write_text(f"#!{sys.executable}\nfrom distill.__main__ import run_and_end\nrun_and_end()\n")
    script.chmod(0o755)
    env = os.environ | {"PYTHONPATH": SEARCH, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    shell = """eval "$(distill -sc install=bash)"
        COMP_LINE="distill method=cr" COMP_POINT=17 COMP_CWORD=1 COMP_WORDS=(distill method=cr)
        hydra_bash_completion; printf '%s\\n' "${COMPREPLY[@]}" """
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert "method=crd" in done.stdout.split() and "method=kd" not in done.stdout.split()


@pytest.mark.parametrize("verb", verbs.VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    if verb == "search":
        pytest.importorskip("optuna")
    with pytest.raises(SystemExit, match="0"):
        main([verb, "--help"])
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: distill {verb} [-h]") and "--" in shown and "%(" not in shown


def test_the_help_page_lists_the_verbs(tmp_path: Path) -> None:
    shown = distill("--help", cwd=tmp_path).stdout
    for verb, (_, what) in verbs.VERBS.items():
        assert re.search(rf"\b{verb} +{re.escape(what)}", shown), verb


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("reprot outputs", "there is no verb 'reprot' (did you mean report?), and a setting is written key=value"),
        ("Search", "there is no verb 'Search' (did you mean search?), and"),
        ("xyz", "there is no verb 'xyz' (choose from report, analyze,"),
        ("report", "the following arguments are required: FOLDER; distill report --help lists"),
        ("report outputs --fromat md", "unrecognized arguments: --fromat md; distill report --help lists"),
        ("analyze x --only curvs", "invalid choice: 'curvs'"),
    ],
)
def test_a_mistyped_verb_is_answered_in_a_sentence(
    typed: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(typed.split()) == 2
    err = capsys.readouterr().err
    assert err.startswith("distill: ") and said in err and err.count("\n") == 1


def test_options_of_a_verb_may_stand_between_its_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "b").mkdir()
    assert main(["report", str(tmp_path), "--format", "md", str(tmp_path / "b")]) == 0
    assert "0 runs read." in capsys.readouterr().out


def test_methods_in_whose_entry_every_word_occurs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "hinton", "soft-target"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^  kd +Distilling", shown, re.MULTILINE) and not re.search(r"^  crd ", shown, re.MULTILINE)
    assert main(["methods", "contrastive", "--markdown"]) == 0
    assert "| `crd` |" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["methods"], ["--help"]])
def test_a_reader_that_has_left_is_no_failure(argv: list[str], tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command, env = [sys.executable, "-m", "distill", *argv], os.environ | {"PYTHONPATH": SEARCH}
    done = subprocess.run(command, cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, text=True, env=env)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")
