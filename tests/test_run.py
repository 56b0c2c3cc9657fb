"""Whole runs: from a configuration to result.json, with kills, damage, shared teachers and wrong input."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from distill import config
from distill.method import Method
from distill.run import run
from tests import program, tiny

SMALL = (
    "student=resnet8",
    "teacher=resnet14",
    "dataset.fraction=0.15",
    "schedule.epochs=3",
    "precision=fp32",
)


def small(output: Path, *overrides: str):
    words = (*SMALL, f"output={output}", "schedule.batch_size=32", "schedule.init_epochs=3")  # the default
    cfg = tiny.composed(*words, *overrides)
    return cfg, Path(config.identity(cfg)["folder"])


def command(output: Path, *overrides: str) -> list[str]:
    return [*SMALL, f"output={output}", "schedule.batch_size=32", *overrides]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder whose teacher is trained once for the module."""
    output = tmp_path_factory.mktemp("shared")
    cfg, folder = small(output, "method=kd")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Method, "distill", noting(Method.distill))
        run(cfg, folder, table=False)
    return output


HOPS: list[str] = []


def noting(distill: Any) -> Any:
    """`distill`, which notes once by which functions of the package it is reached."""

    def noted(self: Method, *args: Any) -> Any:
        if not HOPS:
            HOPS.extend(f"{Path(file).stem}.{name}" for file, _, name, _ in traceback.extract_stack())
        return distill(self, *args)

    return noted


def test_three_hops_lead_from_a_run_to_a_methods_loss(shared: Path) -> None:
    """As the README's architecture section has them; `__main__` and cli.main import the next by name."""
    hops = [HOPS.index(name) for name in ("run.run", "fit.steps", "method.loss")]
    assert hops == sorted(hops) and HOPS[hops[-1] + 1] == "test_run.noted"


def test_a_run_leaves_what_it_promises(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg, folder = small(shared, "method=kd")
    assert folder.parent.parent == shared / "digits" / "resnet14-resnet8"
    result = json.loads((folder / "result.json").read_text())
    assert (folder / "DONE").exists() and not list((folder / "checkpoints").glob("*.ckpt"))
    assert (result["dataset"], result["teacher"], result["student"], result["method"]) == (
        "digits",
        "resnet14",
        "resnet8",
        "kd",
    )
    assert result["convention"] == {"ce": 0.1, "kd": 0.9} and result["protocol"] == "digits"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    tested = [row["test_accuracy"] for row in rows if row["kind"] == "epoch"]
    assert len(tested) == 3 and result["accuracy"]["last"] == tested[-1] and result["accuracy"]["best"] == max(tested)
    assert result["params"] == sum(
        v.numel()
        for k, v in load_file(folder / "student.safetensors").items()
        if not k.endswith(("running_mean", "running_var", "num_batches_tracked"))
    )
    assert 0 <= result["agreement"] <= 1 and result["teacher_accuracy"] > 14
    before = (folder / "result.json").stat().st_mtime_ns
    assert run(cfg, folder) == result and (folder / "result.json").stat().st_mtime_ns == before
    shown = capsys.readouterr().out
    assert "teacher resnet14" in shown and "agreement" in shown and f"{tested[-1]:.2f} % last" in shown


def test_a_disk_that_is_full_for_a_while_ends_nothing_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Metrics are written; best weights, checkpoints, the student and the result are refused, each several times."""
    folders = [small(tmp_path / name, "method=none", "schedule.epochs=2") for name in ("whole", "full")]
    run(*folders[0], table=False)
    sync, calls = os.fsync, iter(range(1000))

    def refuse(handle: int) -> None:
        if (number := next(calls)) > 1 and number // 8 % 2 == 0:  # the first two are of the start
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", refuse)
    monkeypatch.setattr("distill.files.time.sleep", lambda _: None)
    result = run(*folders[1], table=False)
    assert "tried again" in caplog.text and result["accuracy"] == run(*folders[0], table=False)["accuracy"]
    for name in ("student.safetensors", "best.safetensors"):
        assert (folders[0][1] / name).read_bytes() == (folders[1][1] / name).read_bytes()
    assert not [*folders[1][1].rglob("*.tmp"), *folders[1][1].rglob("*.ckpt")]


def test_what_is_exported_is_what_was_measured(tmp_path: Path) -> None:
    """Down to the statistics of BatchNorm, which the timing of a step goes on changing."""
    cfg, folder = small(tmp_path, "method=none", "schedule.epochs=1")
    run(cfg, folder, table=False)
    last, best = (load_file(folder / f"{name}.safetensors") for name in ("student", "best"))
    assert all(torch.equal(value, best[key]) for key, value in last.items())


def test_what_a_kill_left_of_a_finished_run_is_swept(shared: Path) -> None:
    cfg, folder = small(shared, "method=kd")
    for name in ("checkpoints/step-000000009.ckpt", ".result.json.here-1.tmp"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    run(cfg, folder, table=False)
    assert not [*folder.rglob("*.tmp"), *folder.rglob("*.ckpt")]


def test_a_damaged_result_is_named_and_not_trained_again(shared: Path, tmp_path: Path) -> None:
    cfg, folder = small(shared, "method=kd")
    copy = tmp_path / folder.relative_to(shared)
    shutil.copytree(folder, copy)
    (copy / "result.json").write_text('{"dataset": "digi')
    before = {path.name: path.stat().st_mtime_ns for path in copy.iterdir() if path.name != ".lock"}
    with pytest.raises(ValueError, match=f"{copy} has DONE, but its result.json is damaged .*: put the file back"):
        run(cfg, copy)
    assert {path.name: path.stat().st_mtime_ns for path in copy.iterdir() if path.name != ".lock"} == before


def test_a_run_on_arrays_imports_what_it_needs_alone(tmp_path: Path) -> None:
    """A teacher and a student of the repository's own, without tracking: no second of start-up for other packages."""
    code = """
import sys
from distill.cli.main import main
code = main(sys.argv[1:])
others = {"torchvision", "timm", "wandb", "PIL", "sklearn", "scipy", "huggingface_hub"}
others |= {"torch._dynamo", "torch._inductor", "sympy"}  # a second of torch's compiler
print(code, sorted(others & set(sys.modules)))
"""
    arguments = command(tmp_path, "method=kd", "teacher=resnet8", "schedule.epochs=1", "tracking=off")
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)})  # fmt: skip
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr


def test_the_teacher_is_an_ordinary_run_and_trained_once(shared: Path) -> None:
    cfg, _ = small(shared, "method=kd")
    folder = Path(config.identity(config.teacher_config(cfg))["folder"])
    stamp = (folder / "DONE").stat().st_mtime_ns
    other, other_folder = small(shared, "method=crd", "seed=5")
    assert (
        run(other, other_folder, table=False)["teacher_accuracy"]
        == run(cfg, small(shared, "method=kd")[1])["teacher_accuracy"]
    )
    assert (folder / "DONE").stat().st_mtime_ns == stamp
    alone, alone_folder = small(shared, "method=none", "student=resnet14", "seed=0", "dataset.fraction=1.0")
    assert alone_folder == folder, "method=none with the same net, data and seed is the teacher's run"


def test_the_student_alone_is_shown_beside_the_distilled(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone, folder = small(shared, "method=none")
    accuracy = run(alone, folder, table=False)["accuracy"]["last"]
    cfg, kd = small(shared, "method=kd")
    run(cfg, kd)
    assert "student resnet8 alone" in (out := capsys.readouterr().out) and f"{accuracy:.2f} % last" in out


def wait_for_rows(process: program.Program, folder: Path, count: int) -> None:
    """Until so many rows are written, or the process has ended."""
    metrics = folder / "metrics.jsonl"
    while process.poll() is None and (not metrics.exists() or len(metrics.read_bytes().splitlines()) < count):
        time.sleep(0.002)


def test_kill_nine_in_the_middle_of_a_run_changes_no_bit(shared: Path, tmp_path: Path) -> None:
    """A real process, killed between two epochs and again later, then left to finish: same student, same rows."""
    options = (
        "method=crd",
        "teacher.weights=" + str(next(shared.glob("digits/none-resnet14/*/s0/student.safetensors"))),
        "schedule.epochs=5",
        "log_every=1",
        "save_minutes=0",
    )
    uncut, whole = small(tmp_path / "whole", *options)
    run(uncut, whole, table=False)
    cfg, cut = small(tmp_path / "cut", *options)
    for lines in (9, 17):
        process = program.start(*command(tmp_path / "cut", *options))
        wait_for_rows(process, cut, lines)
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it was still running"
    run(cfg, cut, table=False)
    assert (whole / "student.safetensors").read_bytes() == (cut / "student.safetensors").read_bytes()

    def rows(folder: Path) -> list[dict]:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(line).items() if k != "images_per_second"} for line in lines]

    assert [r for r in rows(whole) if r["kind"] == "epoch"] == [r for r in rows(cut) if r["kind"] == "epoch"]


def test_term_leaves_with_75_and_the_same_command_goes_on(shared: Path, tmp_path: Path) -> None:
    options = ("method=kd", "teacher.weights=none", "schedule.epochs=12", "log_every=1")
    _, folder = small(tmp_path, *options)
    process = program.start(*command(tmp_path, *options))
    wait_for_rows(process, folder, 1)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75
    assert "SIGTERM" in process.said()[1]
    assert list((folder / "checkpoints").glob("*.ckpt")) and not (folder / "DONE").exists()
    cfg, _ = small(tmp_path, *options)
    result = run(cfg, folder, table=False)
    epochs = [
        json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines() if '"epoch"' in line
    ]
    assert result["epochs"] == 12 and sorted(set(epochs)) == list(range(1, 13))


def test_two_jobs_that_start_together_train_the_teacher_once(tmp_path: Path) -> None:
    jobs = [program.start(*command(tmp_path, f"method={m}")) for m in ("kd", "fitnet")]
    said = [job.communicate() for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], said
    (teacher,) = tmp_path.glob("digits/none-resnet14/*/s0")
    rows = [json.loads(line) for line in (teacher / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows if row["kind"] == "epoch"] == [1, 2, 3]


def test_a_teacher_at_chance_stops_the_run(tmp_path: Path) -> None:
    weights = tmp_path / "random.safetensors"
    save_file(tiny.build("cifar_resnet14", 10, in_chans=1, size=8, seed=3).model.state_dict(), weights)
    cfg, folder = small(tmp_path, f"teacher.weights={weights}")
    with pytest.raises(ValueError, match=r"resnet14 .*guessing among 10 classes"):
        run(cfg, folder)
    assert not (folder / "DONE").exists()


def test_a_teacher_of_other_classes_is_named(tmp_path: Path) -> None:
    weights = tmp_path / "hundred.safetensors"
    save_file(tiny.build("cifar_resnet14", 100, in_chans=1, size=8, seed=3).model.state_dict(), weights)
    cfg, folder = small(tmp_path, f"teacher.weights={weights}")
    with pytest.raises(ValueError, match="hundred.safetensors") as said:
        run(cfg, folder)
    assert "100" in str(said.value) and "10" in str(said.value) and "\n" not in str(said.value)


def test_a_method_that_needs_a_teacher_says_so(tmp_path: Path) -> None:
    cfg, folder = small(tmp_path, "method=kd", "teacher=none")
    with pytest.raises(ValueError, match="method=kd needs a teacher"):
        run(cfg, folder)


def test_evaluation_on_a_holdout_is_said(shared: Path, tmp_path: Path) -> None:
    cfg, folder = small(tmp_path, "method=none", "dataset.holdout=0.2", "schedule.epochs=1")
    assert run(cfg, folder, table=False)["evaluated_on"] == "holdout"


def test_an_unwritable_folder_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cfg, _ = small(tmp_path / "file")
    with pytest.raises(ValueError, match="choose another folder with output="):
        run(cfg, tmp_path / "file" / "below")


def test_a_damaged_checkpoint_of_a_run_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = ("method=none", "schedule.epochs=8", "log_every=1", "save_minutes=0")
    cfg, folder = small(tmp_path, *options)
    process = program.start(*command(tmp_path, *options))
    while process.poll() is None and len(list((folder / "checkpoints").glob("*.ckpt"))) < 2:
        time.sleep(0.002)
    process.kill()
    process.wait()
    newest = max((folder / "checkpoints").glob("*.ckpt"))
    os.truncate(newest, newest.stat().st_size // 2)
    assert run(cfg, folder, table=False)["epochs"] == 8 and "corrupt" in caplog.text
    for path in (folder / "checkpoints").glob("*"):
        path.unlink()


def test_the_published_teacher_measures_its_published_accuracy() -> None:
    """akamaster's resnet56: 93.39 % on CIFAR-10's test set."""
    if "DISTILL_DATA" not in os.environ or "DISTILL_TEACHERS" not in os.environ:
        pytest.skip("needs DISTILL_DATA (cifar-10-batches-py) and DISTILL_TEACHERS (resnet56-4bfd9763.th)")
    from distill.data import load_data
    from distill.teachers.store import get_teachers

    file = Path(os.environ["DISTILL_TEACHERS"]) / "resnet56-4bfd9763.th"
    cfg = tiny.composed("dataset=cifar10", "teacher=resnet56_a", f"teacher.weights={file}", "output=/nonexistent/never")
    cfg.output = str(Path(os.environ.get("TMPDIR", "/tmp")) / f"distill-teacher-{os.getpid()}")
    spec = config.resolve(cfg)
    (teacher,) = get_teachers(spec, load_data(spec.dataset, "cpu"), torch.device("cpu"), train=None)
    assert teacher.accuracy == pytest.approx(93.39, abs=0.02)
