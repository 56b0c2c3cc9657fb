"""Recorded results: each is what its own command still gives, and its table tells all of them apart."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PATH = Path(__file__).resolve().parents[2] / "scripts" / "records.py"


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("records", PATH)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


records = script()
SETS = records.sets()


def test_a_set_is_one_table_and_one_page() -> None:
    """Of tables that share their page too; teachers and states are what the program reads."""
    files = [path.relative_to(records.REFERENCE) for path in records.REFERENCE.rglob("*") if path.is_file()]
    held = Counter((path.parent, path.suffix) for path in files if path.parts[0] not in ("teachers", "states"))
    assert set(held.values()) == {1} and {suffix for _, suffix in held} == {".json", ".md"}


@pytest.mark.parametrize("folder", SETS, ids=lambda folder: folder.name)
def test_every_row_is_what_its_command_gives(folder: Path) -> None:
    assert [f"{row['hash']}: {why}" for row, why in records.stale(records.read(folder))] == []


@pytest.mark.parametrize("folder", SETS, ids=lambda folder: folder.name)
def test_the_page_has_the_table_of_the_rows_and_no_two_of_them_look_alike(folder: Path) -> None:
    table = records.table(records.read(folder))
    assert table in (folder / "README.md").read_text(encoding="utf-8")
    told = Counter(tuple(line.split(" | ")[:5]) for line in table.splitlines()[2:])
    assert [row for row, count in told.items() if count > 1] == []


def test_no_method_is_listed_at_chance() -> None:
    for folder in SETS:
        for row in records.read(folder):
            classes = {"digits": 10, "cifar10": 10, "cifar100": 100}[row["dataset"]]
            meant = row["method"] == "lwf"  # fine-tuned on one task after the other, it forgets
            assert meant or row["accuracy"]["last"] > 300 / classes, row["overrides"]


def row(digest: str, *overrides: str) -> dict[str, Any]:
    return {"hash": digest, "overrides": list(overrides), "seed": 1, "method": "kd", "student": "resnet8"}


def test_rows_from_before_a_mend_of_the_code_say_so() -> None:
    rows = [row("a", "method=kd") | {"accuracy": {"last": 70.0}, "what": "", "since": "a mend"}]
    lines = records.table(rows).splitlines()
    assert lines[2].split(" | ")[1] == "kd †" and lines[-1] == "† run before a mend of the code: kd: a mend."


def test_a_row_whose_command_gives_another_hash_is_stale() -> None:
    good = next(iter(records.hashes(("method=kd", "student=resnet8"))))
    rows = [
        row(good, "method=kd", "student=resnet8", "seed=3"),
        row(good, "method=kd", "student=resnet8", "method.temperature=3"),
        row(good, "method=kd", "student=resnet8", "method.temprature=3"),
    ]
    (second, why), (third, other) = records.stale(rows)
    assert second is rows[1] and why.endswith("now") and third is rows[2] and "cannot be composed" in other
    teacher = [digest for digest in records.hashes(("method=kd", "student=resnet8")) if digest != good]
    assert len(teacher) == 1 and not records.stale([row(teacher[0], "method=kd", "student=resnet8")])


def test_a_sweeps_command_is_each_of_its_runs() -> None:
    command = "python -m distill -m method=none,kd seed=1,2 'schedule.milestones=[4,6]' hydra/launcher=packed threads=1"
    assert list(records.jobs(command)) == [
        [f"method={method}", f"seed={seed}", "schedule.milestones=[4,6]"]
        for method in ("none", "kd")
        for seed in (1, 2)
    ]
    narrowed = list(records.jobs("python -m distill experiment=student_sweep student.args.depth=8"))
    assert len(narrowed) == 3 and all("student.args.depth=8" in words for words in narrowed)


def test_runs_without_a_row_are_missing() -> None:
    whole = list(records.missing([], ["graph"]))
    assert len(whole) == 8 and whole[0] == ["method=none", "seed=1", "experiment=graph"]
    one = row(next(iter(records.hashes(("experiment=graph", "method=kd")))))
    assert [words for words in whole if words not in list(records.missing([one], ["graph"]))] == [
        ["method=kd", "seed=1", "experiment=graph"]
    ]  # fmt: skip


def test_finished_runs_become_rows_that_are_told_apart(tmp_path: Path) -> None:
    for depth in (8, 14):
        words = f"experiment=student_sweep student.args.depth={depth} student.args.widths=[4,4,8,16]"
        digest = next(iter(records.hashes(tuple(words.split()))))
        result = {
            "dataset": "digits", "teacher": "resnet20", "student": "resnet20", "method": "kd", "hash": digest,
            "seed": 1, "accuracy": {"last": 90.0 + depth}, "versions": {"torch": "1"}, "device": "cpu",
            "command": f"python -m distill {words} hydra.mode=RUN threads=1",
        }  # fmt: skip
        (tmp_path / str(depth)).mkdir()
        (tmp_path / str(depth) / "result.json").write_text(json.dumps(result))
    records.write(tmp_path / "set", records.rows_of([tmp_path]))
    text = (tmp_path / "set" / "README.md").read_text()
    assert "| student.args.depth=8 | 1 | 98.00 |" in text and "| student.args.depth=14 | 1 | 104.00 |" in text
    assert not records.stale(records.read(tmp_path / "set")) and len(records.read(tmp_path / "set")) == 2


def test_a_run_without_a_node_that_others_have_is_told_apart_by_the_nodes_name() -> None:
    rows = records.read(records.REFERENCE / "schemes")
    rows = [{**row, "what": ""} for row in rows if records.experiment_of(row) == "bit"]
    records.told_apart(rows)
    shots = "dataset.shots=1, student.upstream"
    assert {row["what"] for row in rows} >= {shots, f"{shots}=null"}
