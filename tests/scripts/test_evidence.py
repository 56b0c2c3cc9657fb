"""scripts/evidence.py: the queue behind published numbers, what is run next, what is kept, and the verdicts."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from distill import config, papers
from distill.report.stats import sample
from distill.run_folder import RunFolder

path = Path(__file__).resolve().parents[2] / "scripts" / "evidence.py"
spec = importlib.util.spec_from_file_location("evidence", path)
assert spec and spec.loader
evidence = importlib.util.module_from_spec(spec)
sys.modules["evidence"] = evidence  # dataclasses look their module up
spec.loader.exec_module(evidence)
page = evidence.page

QUEUE = evidence.queue()
CELLS = [name for name, block in QUEUE["blocks"].items() if "paper" not in block and not block.get("blocked")]


def run(cell: str, seed: int = 0, pack: str = "", *words: str) -> Any:
    return evidence.Run(cell, words or (f"method={cell}", "student=resnet8"), seed, {"errors": 67}, (1.0, 0.1), pack)


@pytest.mark.parametrize("name", CELLS)
def test_every_run_of_a_block_composes(name: str) -> None:
    for one in {run.overrides: run for run in evidence.runs(QUEUE["blocks"][name])}.values():
        digest, folder = evidence.place(one, Path("/o"))
        assert len(digest) == 8 and folder.name == f"s{one.seed}"


def test_a_published_table_becomes_runs_that_compose() -> None:
    runs = evidence.runs(QUEUE["blocks"]["crd_table1"])
    row = {one.cell: one for one in runs if one.cell.startswith("resnet56 → resnet20")}
    assert row["resnet56 → resnet20, crd"].measures == {"accuracy.last": 71.16}
    teacher = evidence.place(row["resnet56 → resnet20, teacher"], Path("/o"))[1]
    assert "none-resnet56" in str(teacher)
    assert "crd+kd" in str(evidence.place(row["resnet56 → resnet20, crd+kd"], Path("/o"))[1])


def test_a_gpu_begins_with_crds_row_then_packs_the_other_methods_then_seeds_then_pairs() -> None:
    assert QUEUE["order"]["cuda"][0] == "crd_table1"
    runs = evidence.runs(QUEUE["blocks"]["crd_table1"])
    steps = evidence.steps(runs, runs)
    cells = [[one.cell.split(", ")[1] for one in step] for step in steps]
    assert cells[:2] == [["teacher"], ["none", "kd", "crd"]] and len(cells[2]) == 12
    assert [step[0].seed for step in steps[1:11:2]] == [1, 2, 3, 4, 5]
    assert steps[11][0].cell == "wrn_40_2 → wrn_16_2, teacher"


def test_no_cell_without_a_published_value_is_run() -> None:
    cells = {one.cell for one in evidence.runs(QUEUE["blocks"]["crd_table1"])}
    assert "wrn_40_2 → wrn_40_1, fsp" not in cells and "wrn_40_2 → wrn_40_1, nst" in cells


def test_first_seeds_come_before_second_ones() -> None:
    runs = evidence.runs(QUEUE["blocks"]["hinton_mnist"])
    cells = len({one.cell for one in runs})
    assert len({one.cell for one in runs[:cells]}) == cells and len(runs) == 5 * cells


def test_counts_are_those_of_the_published_table() -> None:
    cells = {one.cell: dict(one.measures) for one in evidence.runs(QUEUE["blocks"]["hinton_mnist"])}
    table = papers.table("hinton_mnist")
    student = cells["student 784-800-800-10, soft targets, T = 20"]["errors"]
    assert table.value("kd", 0).mean == pytest.approx(100 - student / 100)
    assert table.pairs[0].teacher_acc == pytest.approx(100 - cells["teacher 784-1200-1200-10"]["errors"] / 100)
    omitted = papers.tables()["hinton_mnist_omitted"].raw["rows"][0]
    found = cells["no 3 in the transfer set"]
    assert omitted[1] == f"{found['errors']} ({found['errors_of_omitted']})"


def test_orders_name_cells_that_are_there() -> None:
    for block in QUEUE["blocks"].values():
        for one in block.get("orders", []):
            assert set(one["cells"]) <= set(block["cells"])


def test_runs_of_one_pack_are_one_packed_command() -> None:
    left = [run("none", 1, "a"), run("kd", 1, "a"), run("kd", 2, "b"), run("crd", 3)]
    steps = evidence.steps(left, left)
    assert [len(step) for step in steps] == [2, 1, 1]
    packed = evidence.command(steps[0], Path("/o"))
    assert packed[4:] == ["-m", "hydra/launcher=packed", "method=none,kd", "student=resnet8", "seed=1"]
    assert evidence.command(steps[2], Path("/o"))[3:] == ["output=/o", "method=crd", "student=resnet8", "seed=3"]


def test_what_is_left_of_a_pack_is_a_sweep_or_the_whole_pack_is_started() -> None:
    whole = [run("a", 1, "p", f"method={m}", f"pair={p}") for m in ("none", "kd") for p in ("x", "y")]
    one, row, corner = whole[:1], whole[2:], whole[1:]
    assert [evidence.steps(left, whole) for left in (one, row, corner)] == [[one], [row], [whole]]
    assert evidence.command(row, Path("/o"))[6:] == ["method=kd", "pair=x,y", "seed=1"]


@pytest.mark.parametrize("name", CELLS)
def test_every_pack_of_the_queue_is_a_sweep(name: str) -> None:
    runs = evidence.runs(QUEUE["blocks"][name])
    assert all(evidence.is_sweep(step) for step in evidence.steps(runs, runs))


def test_one_run_of_an_experiment_is_no_sweep() -> None:
    argv = evidence.command([run("a", 1, "", "experiment=dafl_mnist", "method=none")], Path("/o"))
    assert argv[-2:] == ["seed=1", "hydra.mode=RUN"]


def finished(folder: Path, errors: int, epochs: int = 3, done: bool = True) -> Path:
    folder.mkdir(parents=True)
    told = {"kind": "epoch", "epochs": epochs, "loss": 0.5, "train_accuracy": 90.0, "test_accuracy": 98.0}
    rows = [{**told, "epoch": epoch} for epoch in range(1, epochs + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if done:
        names = {"dataset": "mnist", "student": "resnet8", "method": "none", "device": "cpu", "command": "/secret"}
        RunFolder(folder).finish({**names, "accuracy": {"last": 100 - errors / 100}, "errors": errors})
    return folder


def test_what_is_recorded_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "TABLES", tmp_path / "tables")
    block = {"table": "t", "common": ["student=resnet8"],
             "cells": {"a": {"overrides": ["method=none"], "seeds": [0, 1], "hours": [1, 1]}}}  # fmt: skip
    first, second = evidence.runs(block)
    assert evidence.missing(block, tmp_path) == [first, second]
    digest, folder = evidence.place(first, tmp_path)
    page.record(tmp_path / "tables" / "t", [(first, digest, finished(folder, 60))], None)
    assert evidence.missing(block, tmp_path / "elsewhere") == [second]


def test_what_others_recorded_stays_and_paths_are_not_kept(tmp_path: Path) -> None:
    one, other = run("none", 1), run("none", 2)
    page.record(tmp_path / "t", [(one, "aa", finished(tmp_path / "one", 60))], 10000)
    page.record(tmp_path / "t", [(one, "aa", tmp_path / "gone"), (other, "aa", finished(tmp_path / "two", 62))], 10000)
    rows = page.rows_of(tmp_path / "t")
    assert [(row["seed"], row["errors"], row["state"]) for row in rows] == [(1, 60, "done"), (2, 62, "done")]
    assert rows[0]["command"] == "python -m distill method=none student=resnet8 seed=1"
    assert [row["curve"]["epoch"] for row in rows] == [[1, 2, 3]] * 2


def test_a_run_that_was_cut_off_is_marked_and_counts_for_nothing(tmp_path: Path) -> None:
    page.record(tmp_path / "t", [(run("a"), "aa", finished(tmp_path / "a", 60, done=False))], 10000)
    (row,) = page.rows_of(tmp_path / "t")
    assert row["state"] == "epoch 3 of 3" and "errors" not in row
    block = {"table": "t", "title": "T", "protocol": "p", "of": 10000}
    text = page.page([(block, [run("a")])], tmp_path, lambda one: "aa")
    assert "| a | errors | 67 |  | 0 | missing | 0 of 1 done; one at epoch 3 of 3 (98.00 %) |" in text


def test_curves_are_short_and_end_with_the_last_epoch(tmp_path: Path) -> None:
    page.record(tmp_path / "t", [(run("a"), "aa", finished(tmp_path / "a", 60, epochs=117))], None)
    (row,) = page.rows_of(tmp_path / "t")
    assert {len(values) for values in row["curve"].values()} == {39} and row["curve"]["epoch"][-1] == 117


def test_the_noise_of_counting_is_in_the_interval() -> None:
    ours = sample([75.0, 76.0, 77.0, 75.0, 77.0])
    assert page.verdict(ours, 67, 10000, counted=True) == "within noise"  # 9 beside a binomial deviation of 8.2
    assert page.verdict(ours, 67, 10000, counted=False) == "above"
    assert page.verdict(sample([96.0, 95.0, 97.0]), 74, 10000, counted=True) == "above"
    assert page.verdict(sample([60.0, 74.0]), 67, 10000, counted=True) == "n too small"


def test_a_published_standard_error_stands_beside_ours(tmp_path: Path) -> None:
    errors = enumerate((60, 64, 68))
    placed = [(run("a", seed), "aa", finished(tmp_path / str(seed), found)) for seed, found in errors]
    page.record(tmp_path / "t", placed, 10000)
    runs = [evidence.Run("a", one.overrides, one.seed, {"errors": [67, 1.5]}, (1, 1)) for one, _, _ in placed]
    block = {"table": "t", "title": "T", "protocol": "p", "of": 10000, "standard_error": True}
    text = page.page([(block, runs)], tmp_path, lambda one: "aa")
    assert "| a | errors | 67 ± 1.5 SE | 64 ± 2.3 SE | 3 | within noise |" in text  # 4 / sqrt(3)
    assert text.endswith("\nRan on cpu, None, torch None (3 runs).\n")


def test_an_order_is_clear_not_clear_or_wrong() -> None:
    few, more, wide = sample([300.0, 301.0, 302.0]), sample([320.0, 321.0, 322.0]), sample([290.0, 320.0, 350.0])
    assert page.order(few, more, "fewer") == "holds"
    assert page.order(more, few, "fewer") == "does not hold"
    assert page.order(few, wide, "fewer") == "not clear" and page.order(few, wide, "alike") == "holds"


def test_a_command_is_stopped_when_the_time_is_over(tmp_path: Path) -> None:
    forever = "trap 'exit 75' TERM; while :; do sleep 0.1; done"
    assert evidence.execute(["sh", "-c", forever], tmp_path / "log", 3) == evidence.STOPPED


def test_a_signal_stops_the_command_with_the_queue(tmp_path: Path) -> None:
    child = "echo $$ > pid; trap 'sleep 0.2; echo saved > saved; exit 75' TERM; while :; do sleep 0.1; done"
    text = f"""
import sys; sys.path.insert(0, {str(evidence.ROOT / "scripts")!r})
import evidence
evidence.ROOT = evidence.Path.cwd()
evidence.work = lambda names, hours, output: evidence.execute(["sh", "-c", {child!r}], output / "log", 60)
sys.exit(evidence.main(["--output", "."]))
"""
    process = subprocess.Popen([sys.executable, "-c", text], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "pid").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    assert "the same command goes on" in process.communicate(timeout=60)[1] and process.returncode == evidence.STOPPED
    assert (tmp_path / "saved").exists()  # the command had ended before the queue did


def test_an_unknown_table_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        evidence.main(["--table", "hinton", "--list"])
    assert stopped.value.code == 2 and "hinton_mnist" in capsys.readouterr().err


def test_pairs_of_the_tables_are_files() -> None:
    for name in ("crd_table1", "crd_table2"):
        words = {word for one in evidence.runs(QUEUE["blocks"][name]) for word in one.overrides}
        pairs = {word.removeprefix("pair=") for word in words if word.startswith("pair=")}
        assert pairs <= set(config.options("pair")) and QUEUE["blocks"][name]["first"] in pairs
        nets = {word.removeprefix("student=") for word in words if word.startswith("student=")}
        assert nets <= set(config.options("student"))


def test_a_teacher_is_kept_once_it_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence.bundled, "FOLDER", tmp_path / "kept")
    words = ("student=resnet8", "method=none")
    teacher, student = (evidence.Run("a", words, seed, {}, (1, 1), keep=not seed) for seed in (0, 1))
    assert evidence.keep(teacher, tmp_path) is None
    for one in (teacher, student):
        (finished(evidence.place(one, tmp_path)[1], 60) / "student.safetensors").write_bytes(b"weights")
    assert evidence.keep(student, tmp_path) is None
    found = evidence.keep(teacher, tmp_path)
    assert found and json.loads((found / "result.json").read_text())["sha256"] == sha256(b"weights").hexdigest()
    assert evidence.keep(teacher, tmp_path) is None


def small_queue(monkeypatch: pytest.MonkeyPatch, tables: Path) -> None:
    cells = {name: {"overrides": [f"method={name}"], "seeds": [1, 2], "measures": {"errors": 67}, "hours": [1, 1]}
             for name in ("none", "kd")}  # fmt: skip
    block = {"table": "t", "title": "T", "protocol": "p", "of": 360, "common": ["student=resnet8"], "cells": cells}
    monkeypatch.setattr(evidence, "TABLES", tables)
    monkeypatch.setattr(evidence, "README", tables.parent / "README.md")
    evidence.README.write_text("first\n<!-- published -->\nold\n<!-- /published -->\nlast\n")
    monkeypatch.setattr(evidence, "queue", lambda: {"order": {"cpu": ["b"], "cuda": ["b"]}, "blocks": {"b": block}})


def test_what_fails_is_told_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small_queue(monkeypatch, tmp_path / "tables")
    left = iter(evidence.missing(evidence.queue()["blocks"]["b"], tmp_path))

    def fake(argv: list[str], log: Path, seconds: float) -> int:
        one = next(left)
        if one.cell == "kd":
            return 1
        finished(evidence.place(one, tmp_path)[1], 60 + one.seed)
        return 0

    monkeypatch.setattr(evidence, "execute", fake)
    assert evidence.work(["b"], 1, tmp_path) == 2
    assert capsys.readouterr().out.count("exit code 1") == 2
    assert "| none | errors | 67 | 61.5 ± 0.71 | 2 |" in (tmp_path / "tables" / "README.md").read_text()


def test_nothing_is_begun_when_the_hours_are_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_queue(monkeypatch, tmp_path / "tables")
    monkeypatch.setattr(evidence, "execute", lambda *_: pytest.fail("a run was begun"))
    assert evidence.work(["b"], -1, tmp_path) == 0


def test_the_readme_shows_the_pages_finished_cells() -> None:
    """Written by `make evidence` with the page; whoever edits one of them by hand is told."""
    text = (path.parents[1] / "README.md").read_text(encoding="utf-8")
    shown = text.split(evidence.evidence_readme.BEGIN)[1].split(evidence.evidence_readme.END)[0].strip()
    verdicts = (path.parents[1] / "outputs/reference/tables/README.md").read_text(encoding="utf-8")
    assert shown == evidence.evidence_readme.table(verdicts)


def test_the_readmes_table_leaves_out_what_has_no_run_or_no_published_number() -> None:
    lines = ["## A and B (arXiv:1), table 4, MNIST", "", *page.HEAD,
             "| a | errors | 67 | 77 ± 3 | 3 | above | 3 of 5 done |",
             "| b | errors | 74 |  | 0 | missing | 0 of 5 done |",
             "| c | errors |  | 300 | 3 |  | 3 of 5 done |",
             "### A and B (arXiv:1): what else was tried", "", *page.HEAD,
             "| d | errors | 67 | 80 ± 3 | 3 | above | 3 of 3 done |"]  # fmt: skip
    assert evidence.evidence_readme.table("\n".join(lines)).splitlines()[2:] == [
        "| A and B (arXiv:1) | a | errors | 67 | 77 ± 3 | 3 | above |"
    ]
