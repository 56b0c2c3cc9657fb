"""Teachers that come with a checkout: kept once, found by every run that needs them, verified."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from distill import config
from distill.files import read_json, write_json
from distill.run import run
from distill.run_folder import RunFolder
from distill.sweep.plan import items_of
from distill.sweep.speeds import Speeds
from distill.teachers import bundled
from tests.tiny import composed

COMMON = ("device=cpu", "dataset=digits", "student=resnet8", "schedule.batch_size=256", "schedule.milestones=[]")


def trained(*overrides: str, folder: Path = Path("never")) -> config.RunSpec:
    """The run that trains a teacher, in a folder."""
    return replace(config.resolve(composed("method=none", *overrides, *COMMON)), folder=folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained teacher's folder, in an output folder of its own."""
    cfg = composed("method=none", "seed=0", f"output={tmp_path_factory.mktemp('first')}", *COMMON)
    run(cfg, found := Path(config.identity(cfg)["folder"]), table=False)
    return found


@pytest.fixture
def store(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(bundled, "FOLDER", tmp_path / "kept")
    return bundled.bundle(trained("seed=0", folder=folder))


def test_a_run_takes_the_kept_teacher_and_trains_none(store: Path, folder: Path, output: Path) -> None:
    cfg = composed("method=kd", "teacher=resnet8", f"output={output}", *COMMON)
    result = run(cfg, config.identity(cfg)["folder"], table=False)
    assert result["teacher_accuracy"] == pytest.approx(RunFolder(folder).read_result().accuracy.last)
    (taken,) = output.glob("digits/none-resnet8/*/s0")
    assert (taken / "student.safetensors").read_bytes() == (folder / "student.safetensors").read_bytes()
    assert not (taken / "metrics.jsonl").exists()


def test_weights_that_are_not_those_of_their_checksum_are_refused(store: Path, output: Path) -> None:
    data = bytearray((store / "student.safetensors").read_bytes())
    data[-1] ^= 1
    (store / "student.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        bundled.restore(trained("seed=0", folder=output / "run"))
    assert not (output / "run").exists()


def test_the_best_epoch_is_kept_where_it_teaches(store: Path, folder: Path, output: Path) -> None:
    wanted = trained("seed=0", folder=output / "run")
    assert not bundled.is_bundled(wanted, best=True) and not bundled.restore(wanted, best=True)
    bundled.bundle(trained("seed=0", folder=folder), best=True)
    assert bundled.restore(wanted, best=True) and bundled.is_bundled(wanted)
    for name in ("student.safetensors", "best.safetensors"):
        assert (output / "run" / name).read_bytes() == (folder / name).read_bytes()
    (store / "best.safetensors").write_bytes(b"another's")
    with pytest.raises(ValueError, match="damaged"):
        bundled.restore(wanted, best=True)


def test_another_seed_or_schedule_is_not_taken(store: Path) -> None:
    assert bundled.is_bundled(trained("seed=0"))
    assert not bundled.is_bundled(trained("seed=1"))
    assert not bundled.is_bundled(trained("seed=0", "schedule.lr=0.3"))


def test_no_path_of_the_machine_is_kept(store: Path) -> None:
    assert not {"command", "files"} & read_json(store / "result.json").keys()


def test_a_plan_counts_no_time_for_it(store: Path, output: Path) -> None:
    plan = [(["method=kd"], partial(composed, "method=kd", "teacher=resnet8", f"output={output}", *COMMON))]
    assert [item.teacher for item in items_of(plan, Speeds([]))] == [False]
    write_json(store / "result.json", {})
    (store / "student.safetensors").unlink()
    assert [item.teacher for item in items_of(plan, Speeds([]))] == [True, False]


@pytest.mark.parametrize("place", sorted(bundled.FOLDER.glob("*")), ids=lambda place: place.name)
def test_what_comes_with_the_checkout_is_whole(place: Path) -> None:
    result = read_json(place / "result.json")
    assert hashlib.sha256((place / "student.safetensors").read_bytes()).hexdigest() == result["sha256"]
    assert place.name == f"{result['student']}-{result['hash']}-s{result['seed']}"
