"""Runs from Python: the same runs as the command line's, in the same folders."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import distill
from distill import api

SHORT = "method=none student=resnet8 dataset.fraction=0.05 device=cpu precision=fp32 threads=1 compile=false"


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> distill.Outcome:
    output = str(tmp_path_factory.mktemp("outputs"))
    return distill.run(SHORT, epochs=1, batch_size=32, schedule={"milestones": [0.5]}, output=output)


def test_a_run_gives_its_result_and_its_student(outcome: distill.Outcome) -> None:
    assert outcome.result.method == "none" and outcome.accuracy == outcome.result.accuracy.last is not None
    images, labels = next(outcome.data.evaluation(512))
    right = (outcome.student(images).logits.argmax(1) == labels).double().mean().item()
    assert 100 * right == pytest.approx(outcome.accuracy)
    words = "schedule.epochs=1 schedule.batch_size=32 'schedule.milestones=[0.5]'"  # by which a report knows protocols
    assert str(outcome.result.command).startswith(f"python -m distill {SHORT} {words} output=")
    assert outcome.config.schedule.epochs == 1 and outcome.rows[-1]["kind"] == "epoch"


def test_the_same_words_find_it_done_already(outcome: distill.Outcome) -> None:
    stamp = (outcome.folder / "result.json").stat().st_mtime_ns
    words = [*SHORT.split(), "schedule.epochs=1", "schedule.batch_size=32", "schedule.milestones=[0.5]"]
    again = distill.run(words, output=outcome.folder.parents[3])
    assert again.folder == outcome.folder and (again.folder / "result.json").stat().st_mtime_ns == stamp


def test_a_finished_run_is_loaded(outcome: distill.Outcome) -> None:
    loaded = distill.load(str(outcome.folder))
    assert loaded.result == outcome.result
    for name, value in loaded.student.model.state_dict().items():
        assert torch.equal(value, outcome.student.model.state_dict()[name])


def test_a_run_is_found_again_after_a_change_of_the_working_folder(
    outcome: distill.Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had no rows from then on."""
    monkeypatch.chdir(outcome.folder.parent)
    loaded = distill.load(outcome.folder.name)
    monkeypatch.chdir(tmp_path)
    assert loaded.rows == outcome.rows != [] and loaded.config.hash == outcome.config.hash


@pytest.mark.parametrize(
    ("words", "keys", "said"),
    [
        ("method=crdd", {}, "there is no method 'crdd': did you mean crd"),
        ("", {"epochs": "many"}, "schedule.epochs must be a whole number, not 'many'"),
        ("", {"epoch": 3}, "the configuration has no key 'epoch'"),
        ("seed=1,2", {}, "stands for several runs"),
        ("-m seed=1,2", {}, "these are several runs: call distill.run for each"),
        ("--dry-run", {}, "--dry-run is a flag of the command line"),
        ("", {"seed": "3"}, "seed must be a whole number, not '3'"),
    ],
)
def test_mistakes_are_the_command_lines(words: str, keys: dict[str, object], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        distill.run(words, output=str(tmp_path), **keys)


def test_calls_of_several_threads_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs side by side would draw from one generator, and read each other's command lines."""
    inside, most = 0, 0

    def composed(*_: object) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.05)
        inside -= 1
        raise ValueError("enough")

    monkeypatch.setattr(api, "composed", composed)
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(distill.run, "method=none") for _ in range(3)]
    assert [str(call.exception()) for call in calls] == ["enough"] * 3 and most == 1


def test_a_run_leaves_the_callers_threads_as_they_were(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def experiment(*_: object) -> None:
        torch.set_num_threads(torch.get_num_threads() + 1)
        raise ValueError("enough")

    monkeypatch.setattr("distill.run.Experiment", experiment)
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match="enough"):
        distill.run("method=none", output=str(tmp_path))
    assert torch.get_num_threads() == before


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no run's folder"):
        distill.load(tmp_path)


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys, distill\nprint(distill.__version__, {'torch', 'hydra', 'timm'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split(maxsplit=1) == [distill.__version__, "set()\n"], done.stderr


def test_values_keep_their_kinds() -> None:
    given = {"lr": np.float64(0.5), "seed": np.int64(3), "dataset": {"classes": ["1", "2"], "mean": np.array([0.25])},
             "student": {"quantize": {"weights": 4}}, "schedule": {"optimizer": {"weight_decay": 0.1}},
             "teacher": {"models": [{"model": "cifar_resnet8", "weights": "none"}]}}  # fmt: skip
    cfg = api.composed([word for key, value in given.items() for word in api._override(key, value)])
    assert (cfg.schedule.lr, cfg.seed) == (0.5, 3)
    assert (list(cfg.dataset.classes), list(cfg.dataset.mean)) == (["1", "2"], [0.25])
    assert (cfg.student.quantize, cfg.schedule.optimizer.weight_decay) == ({"weights": 4}, 0.1)
    assert cfg.schedule.optimizer.momentum == 0.9 and cfg.teacher.models == given["teacher"]["models"]
