"""Sweep files that `wandb sweep` takes, run as its agent would; the final table, and the student as an artifact."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill import config
from distill.cli.command import read_command
from distill.record.tracker import Tracker
from distill.record.wandb_logger import outside_sweep
from distill.run import run
from distill.run_folder import RunFolder
from tests.tiny import composed

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "scripts" / "sweeps").glob("*.yaml"))
IDENTITY = {"group": "g", "id": "abc-s1", "name": "n", "job_type": "distill", "tags": []}
TRACKING = {"mode": "offline", "project": "distill", "entity": None}


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package, away from the user's home, key and server, and without its system statistics."""
    package = pytest.importorskip("wandb")
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    names = ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "HOME")
    folders = {name: tmp_path / name.lower() for name in names}
    switches = {"WANDB__DISABLE_STATS": "true", "WANDB__DISABLE_META": "true", "WANDB_ERROR_REPORTING": "false"}
    for name, value in {**folders, **switches, "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, str(value))
    package.teardown()
    yield package
    package.teardown()


def first_values(sweep: dict[str, Any], number: int = 0) -> dict[str, dict[str, Any]]:
    """What the server would hand to an agent: a grid's values of that number, else the least of each."""
    nodes = sweep["parameters"].items()
    return {key: {"value": node["values"][number] if "values" in node else node["min"]} for key, node in nodes}


def agents_command(sweep: dict[str, Any], values: dict[str, dict[str, Any]]) -> list[str]:
    """The command line that W&B's agent starts, filled in by W&B's own code."""
    utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    filled = utils.create_sweep_command_args({"args": values}) | {"env": ["/usr/bin/env"]}
    words: list[str] = []
    for part in map(str, utils.create_sweep_command(list(sweep["command"]))):
        words += filled[part[2:-1]] if part.startswith("${") else [part]
    return words


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_sweep_files_have_what_wandb_asks_for(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = yaml.safe_load(file.read_text())
    assert {"program", "method", "metric", "parameters", "command"} <= sweep.keys()
    assert sweep["method"] in ("grid", "random", "bayes") and sweep["metric"]["goal"] in ("minimize", "maximize")
    assert sweep["metric"]["name"] in ("test_accuracy", "test_accuracy/last", "test_accuracy/best")
    assert sweep["command"][-1] == "${args_no_hyphens}"
    monkeypatch.chdir(tmp_path)
    config.register()
    words = agents_command(sweep, first_values(sweep))
    assert words[:4] == ["/usr/bin/env", "python", "-m", "distill"] and "tracking=wandb" in words
    command = read_command(words[4:])
    assert command.argv == words[4:] and not command.multirun
    for key, node in sweep["parameters"].items():  # all of a grid's values
        for value in node.get("values", [node.get("min"), node.get("max")]):
            read_command([f"{key}={value}"])


def test_a_search_never_reads_the_test_set() -> None:
    for sweep in (yaml.safe_load(file.read_text()) for file in FILES):
        if sweep["method"] != "grid":
            assert "dataset.holdout=0.1" in sweep["command"]


@pytest.mark.launchers
def test_the_very_command_of_an_agent(tmp_path: Path, wandb: Any) -> None:
    """The run takes the id that the agent gave it; its teacher, trained on the way, is a run of its own."""
    sweep = yaml.safe_load((ROOT / "scripts" / "sweeps" / "methods.yaml").read_text())
    values = first_values(sweep, 1)
    assert values == {"method": {"value": "kd"}, "seed": {"value": 2}}
    tiny = ["pair=resnet14_resnet8", "dataset.fraction=0.1", "schedule.epochs=1", "device=cpu", "precision=fp32"]
    (tmp_path / "sweep.yaml").write_text("wandb_version: 1\n" + yaml.safe_dump(values))
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
        "WANDB_MODE": "offline", "WANDB_SWEEP_ID": "swp1", "WANDB_RUN_ID": "agent1", "OMP_NUM_THREADS": "1",
        "WANDB_SWEEP_PARAM_PATH": str(tmp_path / "sweep.yaml"),
    }  # fmt: skip
    command = [*agents_command(sweep, values), *tiny]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (student,) = tmp_path.glob("outputs/digits/resnet14-resnet8/kd-*/s2/wandb/offline-run-*/run-*.wandb")
    (teacher,) = tmp_path.glob("outputs/digits/none-resnet14/none-*/s0/wandb/offline-run-*/run-*.wandb")
    assert student.name == "run-agent1.wandb" and "-s0-" in teacher.name
    assert b"swp1" in student.read_bytes() and b"swp1" not in teacher.read_bytes()
    for name in (b"test_accuracy/last", b"test_accuracy/best", b"result.table.json"):
        assert name in student.read_bytes(), name


def test_a_run_that_was_done_before_the_agent_asked_is_told(
    tmp_path: Path, wandb: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(tmp_path, mode="off")
    cfg = composed("student=resnet8", "method=none", "tracking=offline")
    done = replace(config.resolve(cfg), folder=tmp_path)
    assert run(done, table=False)["accuracy"]["last"] == 50.0 and not list(tmp_path.glob("wandb"))
    monkeypatch.setenv("WANDB_SWEEP_ID", "swp1")
    monkeypatch.setenv("WANDB_RUN_ID", "agent1")
    run(done, table=False)
    wandb.teardown()
    (written,) = tmp_path.glob("wandb/offline-run-*/run-agent1.wandb")
    assert all(name in written.read_bytes() for name in (b"swp1", b"test_accuracy/last", b"result.table.json"))


def test_outside_a_sweep_the_environment_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)
    with outside_sweep():
        assert os.environ["WANDB_RUN_ID"] == "mine"
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    with pytest.raises(KeyError), outside_sweep():
        assert "WANDB_RUN_ID" not in os.environ and "WANDB_SWEEP_ID" not in os.environ
        raise KeyError
    assert (os.environ["WANDB_RUN_ID"], os.environ["WANDB_SWEEP_ID"]) == ("mine", "s")


def finished(folder: Path, **tracking: Any) -> bytes:
    """Track a run that ends well and leaves its files; what W&B will be sent."""
    tracker = Tracker(folder, TRACKING | tracking, {"seed": 1}, IDENTITY)
    tracker.log({"kind": "epoch", "phase": "distill", "epoch": 1, "step": 5, "test_accuracy": 50.0})
    names = {"dataset": "digits", "student": "resnet8", "method": "kd"}
    result = {**names, "accuracy": {"last": 50.0, "best": 51.5}, "files": {"last": "x"}, "also": {}}
    RunFolder(folder).finish(result)
    (folder / "student.safetensors").write_bytes(b"weights")
    tracker.finish(0, {"test_accuracy/last": 50.0})
    if tracking.get("mode") == "off":
        return b""
    sys.modules["wandb"].teardown()
    (written,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    return written.read_bytes()


def table_of(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("wandb/offline-run-*/files/media/table/result_*.table.json")
    table = json.loads(path.read_text())
    return dict(zip(table["columns"], table["data"][0], strict=True))


def test_the_final_table_holds_the_result(tmp_path: Path, wandb: Any) -> None:
    sent = finished(tmp_path)
    names = {"dataset": "digits", "student": "resnet8", "method": "kd"}
    assert table_of(tmp_path) == {**names, "accuracy/last": 50.0, "accuracy/best": 51.5}
    assert b"student-abc-s1" not in sent


def test_the_student_is_an_artifact_when_asked(tmp_path: Path, wandb: Any) -> None:
    assert b"student-abc-s1" in finished(tmp_path, artifact=True)
    staged = [path.read_bytes() for path in (tmp_path / "wandb_data_dir").rglob("*") if path.is_file()]
    assert b"weights" in staged
    nodes = [config.load_node("tracking", name) for name in ("off", "offline", "wandb")]
    assert all(node is not None and node.artifact is False for node in nodes)


def test_a_run_that_failed_hands_in_neither(tmp_path: Path, wandb: Any) -> None:
    tracker = Tracker(tmp_path, TRACKING | {"artifact": True}, {}, IDENTITY)
    RunFolder(tmp_path).finish({"dataset": "d", "student": "s", "method": "m", "accuracy": {}})
    tracker.finish(3, {})
    wandb.teardown()
    (written,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert b"student-" not in written.read_bytes() and not list(tmp_path.rglob("*.table.json"))


def test_what_cannot_be_handed_in_costs_a_warning(
    tmp_path: Path, wandb: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(wandb.Artifact, "add_file", refuse)
    caplog.set_level("INFO")
    finished(tmp_path, artifact=True)
    assert "W&B did not take the result (the disk is full)" in caplog.text and "wandb sync" in caplog.text
