"""The report against numbers worked out by hand, and on folders that are damaged, foreign or huge."""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
from filelock import FileLock
from omegaconf import OmegaConf
from rich.console import Console

from distill import papers
from distill.cli import verbs
from distill.config.departs import departs
from distill.config.groups import load_node
from distill.report.collect import collect
from distill.report.compare import base_method, match_rows, model_name
from distill.report.overview import overview
from distill.report.published import published
from distill.report.stats import ABOVE, BELOW, FEW, MISSING, VARIANT, WITHIN, Sample, compare_published, sample
from distill.report.summary import summarize
from distill.report.terminal import show_tables
from distill.sweep.speeds import read_speeds


def main(arguments: Sequence[str]) -> int:
    return verbs.run("report", *arguments)


def write_run(root: Path, seed: int = 1, last: float = 70.0, **changes: Any) -> Path:
    """A result.json as a run writes it."""
    result: dict[str, Any] = {
        "dataset": "cifar100", "evaluated_on": "test", "protocol": "crd",
        "teacher": "resnet56", "student": "resnet20",
        "method": "kd", "hash": "aaaa1111", "seed": seed, "convention": {"ce": 0.1, "kd": 0.9},
        "accuracy": {"last": last, "best": last + 0.5, "best_epoch": 200}, "top5": 91.0, "epochs": 240,
        "teacher_accuracy": 72.34, "agreement": 0.8, "params": 278324, "macs": 41_000_000, "method_params": 0,
        "images_per_second": 9000.0, "seconds": 1800.0, "command": "python -m distill dataset=cifar100",
    }  # fmt: skip
    result.update(changes)
    pair = f"{result['teacher'] or 'none'}-{result['student']}"
    folder = root / result["dataset"] / pair / f"{result['method']}-{result['hash']}" / f"s{seed}"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "DONE").touch()
    return folder


def records(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, str]]:
    assert main([*arguments, "--format", "csv"]) == 0
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_mean_and_sample_standard_deviation_over_seeds(tmp_path: Path) -> None:
    for seed, last in enumerate((70.0, 71.0, 72.0)):
        write_run(tmp_path, seed, last)
    (row,) = summarize(collect([tmp_path]).runs)
    assert (row.n, row.last.mean, row.last.std) == (3, 71.0, 1.0)  # n - 1 in the denominator
    assert row.best is not None and row.best.mean == 71.5
    assert row.gap == pytest.approx(72.34 - 71.0)
    assert row.closed is None  # nothing is known of the student alone


def test_share_of_the_gap_that_is_closed(tmp_path: Path) -> None:
    write_run(tmp_path, last=71.0)
    alone: dict[str, Any] = {"method": "none", "teacher": None, "teacher_accuracy": None}
    for seed, last in ((1, 68.9), (2, 69.1)):
        write_run(tmp_path, seed, last, convention={"ce": 1.0}, **alone)
    for other in (
        {"dataset": "digits"},
        {"epochs": 3, "hash": "b"},
        {"evaluated_on": "holdout", "hash": "c"},
    ):
        write_run(tmp_path, last=10.0, method="none", teacher=None, teacher_accuracy=None, **other)
    rows = {(row.one.method, row.last.mean): row for row in summarize(collect([tmp_path]).runs)}
    alone, distilled = rows["none", 69.0], rows["kd", 71.0]
    assert alone.one.method == "none" and alone.closed is None
    assert distilled.closed == pytest.approx((71 - 69) / (72.34 - 69))
    assert distilled.alone and distilled.alone.mean == 69.0


def test_how_fast_packed_runs_were_is_compared_with_nothing(tmp_path: Path) -> None:
    write_run(tmp_path, 1)
    write_run(tmp_path, 2, packed=4)
    (row,) = summarize(collect([tmp_path]).runs)
    assert (row.mean("seconds"), row.mean("images_per_second")) == (1800.0, 9000.0)
    assert [(run.seconds, run.images_per_second) for run in row.runs] == [(1800.0, 9000.0), (None, None)]
    assert len(read_speeds(tmp_path)) == 1


def test_a_student_below_the_one_alone_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, last=68.0)
    write_run(tmp_path, last=69.0, method="none", teacher=None, teacher_accuracy=None)
    assert main([str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "not beyond the noise of the seeds, or on a single one: kd (resnet56 → resnet20, cifar100)." in said


@pytest.mark.parametrize(
    "other",
    [
        {"protocol": "sskd"},
        {"convention": {"ce": 1.0, "kd": 1.0}},
        {"hash": "bbbb2222"},
        {"dataset": "digits"},
        {"evaluated_on": "holdout"},
        {"teacher": "resnet110"},
    ],
)
def test_what_differs_is_never_averaged(tmp_path: Path, other: dict[str, Any]) -> None:
    write_run(tmp_path / "a", 1, 70.0)
    write_run(tmp_path / "b", 2, 50.0, **other)
    assert sorted(row.last.mean for row in summarize(collect([tmp_path]).runs)) == [50.0, 70.0]


def test_other_protocols_and_held_out_parts_get_tables_of_their_own(tmp_path: Path, capsys: Any) -> None:
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", protocol="sskd")
    write_run(tmp_path / "c", evaluated_on="holdout")
    write_run(tmp_path / "d", epochs=20, hash="d")
    write_run(tmp_path / "e", command="python -m distill schedule.lr=1", hash="e")
    assert main([str(tmp_path), "--format", "paper"]) == 0
    captions = [line for line in capsys.readouterr().out.splitlines() if line.startswith("\\caption")]
    assert [caption.startswith("\\caption{Accuracy") for caption in captions] == [False] * 4 + [True]
    assert main([str(tmp_path), "--format", "md"]) == 0
    titles = [
        line.replace("\\_", "_") for line in capsys.readouterr().out.splitlines() if line.startswith("## ")
    ]
    assert titles == [
        "## cifar100, protocol crd, 20 epochs",
        "## cifar100, protocol crd, 240 epochs",
        "## cifar100, protocol crd, 240 epochs, schedule.lr=1",
        "## cifar100, protocol sskd, 240 epochs",
        "## cifar100, protocol crd, 240 epochs, measured on holdout",
    ]


def test_how_many_processes_decode_sets_no_runs_apart(tmp_path: Path) -> None:
    """dataset.workers is in no hash: a run of other workers stands beside the student alone, and published values."""
    write_run(tmp_path, command="python -m distill dataset.workers=4")
    alone = {"method": "none", "teacher": None, "teacher_accuracy": None}
    write_run(tmp_path, last=69.0, command="python -m distill dataset.workers=8", **alone)
    rows = {row.one.method: row for row in summarize(collect([tmp_path]).runs)}
    assert rows["kd"].baseline and rows["kd"].baseline.last.mean == 69.0 and rows["kd"].one.by_hand == ()


def test_what_an_experiment_file_of_ones_own_sets_is_set_by_hand(tmp_path: Path) -> None:
    """The command has its name alone. Ours are papers' protocols, and say what they set themselves."""
    schedule = load_node("schedule", "crd")
    assert schedule is not None
    own = {"schedule": {**OmegaConf.to_container(schedule, resolve=False), "lr": 0.2, "clip_grad": None}}  # type: ignore[dict-item]
    found = []
    for place, name in enumerate(("mine", "crd_table1")):
        folder = write_run(tmp_path / name, place, command=f"python -m distill experiment={name}")
        (folder / "tracking.json").write_text(json.dumps({"config": own}))
        found += [run.by_hand for run in collect([tmp_path / name]).runs]
    assert found == [("schedule.lr=0.2",), ()]


def test_the_student_alone_of_the_same_args_is_what_a_row_is_measured_by(tmp_path: Path) -> None:
    for place, (rate, method) in enumerate((rate, method) for rate in (0.1, 0.2) for method in ("none", "kd")):
        taught = {} if method == "kd" else {"teacher": None, "teacher_accuracy": None}
        words = f"python -m distill method={method} student.args.drop_rate={rate}"
        for seed in range(2):
            write_run(tmp_path, seed, 70.0 + place + seed, method=method, hash=f"{place}", command=words, **taught)
    rows = [row for row in summarize(collect([tmp_path]).runs) if row.one.method == "kd"]
    assert {row.one.hash: row.baseline.one.hash for row in rows if row.baseline} == {"1": "0", "3": "2"}


def write_sweep(root: Path, command: str, key: str, values: Sequence[Any]) -> None:
    """The student alone and kd by each value of a swept key, as the runs of one command, two seeds."""
    for place, value in enumerate(values):
        for method in ("none", "kd"):
            taught = {} if method == "kd" else {"teacher": None, "teacher_accuracy": None}
            group, _, name = key.partition(".")
            nets = {"student": {"name": "resnet20", "args": {}}, "teacher": {"name": "resnet56", "args": {}}}
            config: dict[str, Any] = {**nets, "schedule": {"name": "crd", "milestones": [1, 2]}, "method": {}}
            config[group] |= {"args": {name.partition(".")[2]: value}} if name.startswith("args.") else {name: value}
            for seed in range(2):
                last = 60.0 + 10 * place + seed * (1 + place) + 5 * (method == "kd")
                digest = f"{9 - place}{method}"
                folder = write_run(root, seed, last, method=method, hash=digest, command=command, **taught)
                (folder / "tracking.json").write_text(json.dumps({"config": config}))


def test_a_sweep_over_a_nets_arguments_makes_nets_of_their_own(tmp_path: Path) -> None:
    """All runs of a sweep have one command: what this one's net was is in its record."""
    command = "python -m distill -m method=none,kd ++student.args.depth=8,14"
    write_sweep(tmp_path, command, "student.args.depth", [8, 14])
    rows = summarize(collect([tmp_path]).runs)
    gains = {row.pair: row.gain.difference for row in rows if row.gain}
    assert gains == {f"resnet56 → resnet20 (depth={depth})": 5.0 for depth in (8, 14)}
    (marked, *_) = match_rows(papers.table("crd_table1"), rows).extra
    assert marked.marks[0].startswith("another student: depth=")


def test_the_args_of_a_pair_are_the_papers_net(tmp_path: Path) -> None:
    nets = {"student": "resnet18", "teacher": "resnet34", "dataset": "imagenet"}
    for seed, start in enumerate((False, True)):
        folder = write_run(tmp_path, seed, 70.0, method="kd", hash=str(seed), command="python -m distill", **nets)
        own = {"name": "resnet18", "args": {"zero_init_last": start}}
        (folder / "tracking.json").write_text(json.dumps({"config": {"student": own}}))
    comparison = match_rows(papers.table("imagenet_resnet34_resnet18"), summarize(collect([tmp_path]).runs))
    rows = {cell.row.one.hash: cell.marks for cell in comparison.extra if cell.row}
    marked = {digest: [mark for mark in marks if "student" in mark] for digest, marks in rows.items()}
    assert marked == {"0": [], "1": ["another student: zero_init_last=True"]}


def test_a_sweep_over_the_schedule_sets_runs_apart(tmp_path: Path) -> None:
    command = "python -m distill -m method=none,kd schedule.lr=0.05,0.1 'schedule.milestones=[1,2]'"
    write_sweep(tmp_path, command, "schedule.lr", [0.05, 0.1])
    rows = [row for row in summarize(collect([tmp_path]).runs) if row.gain]
    found = {row.one.by_hand: row.gain.difference for row in rows if row.gain}
    assert found == {(f"schedule.lr={lr}", "schedule.milestones=[1,2]"): 5.0 for lr in (0.05, 0.1)}


def test_what_a_command_set_for_the_student_is_not_its_teachers(tmp_path: Path) -> None:
    """A teacher by a schedule of its own is trained by the student's command."""
    command = "python -m distill teacher.schedule=crd schedule=finetune schedule.lr=0.5 'schedule.milestones=[1,2]'"
    nodes = {"crd": {"lr": 0.05, "milestones": [150, 180, 210]}, "finetune": {"lr": 0.5, "milestones": [1, 2]}}
    for seed, (name, schedule) in enumerate(nodes.items()):
        folder = write_run(tmp_path, seed, command=command, method="none", teacher=None, protocol=name)
        (folder / "tracking.json").write_text(json.dumps({"config": {"schedule": schedule}}))
    found = {run.protocol: run.by_hand for run in collect([tmp_path]).runs}
    assert found == {"crd": (), "finetune": ("schedule.lr=0.5", "schedule.milestones=[1,2]")}


def test_a_sweep_over_a_methods_key_names_its_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = "python -m distill -m method=none,kd method.temperature=1,4"
    write_sweep(tmp_path, command, "method.temperature", [1, 4])
    names = {row["name"] for row in records(capsys, str(tmp_path))}
    assert {"kd (temperature=1)", "kd (temperature=4)"} <= names


def test_damaged_foreign_and_half_written_files_are_counted(tmp_path: Path) -> None:
    write_run(tmp_path)
    contents = {
        "cut": '{"dataset": "cifar100", "stu',
        "binary": "\x00\x01", "empty": "", "list": "[1, 2]", "other": '{"a": 1}',
        "nan": json.dumps({"dataset": "d", "student": "s", "method": "m", "accuracy": {"last": math.nan}}),
        "huge": json.dumps({"dataset": "d", "student": "s", "method": "m", "accuracy": {"last": 1e9}}),
        "nothing": json.dumps({"dataset": "d", "student": "s", "method": "m", "accuracy": None}),
        "types": json.dumps({"dataset": 1, "student": [], "method": "m", "accuracy": {"last": 3}}),
        "deep": "[" * 100_000,
    }  # fmt: skip
    for name, content in contents.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(content)
        (tmp_path / name / "DONE").touch()
    (tmp_path / "latin").mkdir()
    (tmp_path / "latin" / "result.json").write_bytes(b'{"dataset": "\xff"}')
    (tmp_path / "folder" / "result.json").mkdir(parents=True)
    for name in ("latin", "folder"):
        (tmp_path / name / "DONE").touch()
    (tmp_path / "running").mkdir()
    (tmp_path / "running" / "metrics.jsonl").write_text("{}\n")
    (tmp_path / "kept").mkdir()  # a teacher for others, and no run
    (tmp_path / "kept" / "result.json").write_text("{}")
    found = collect([tmp_path])
    assert len(found.runs) == 1
    assert found.skipped == {"damaged": 9, "foreign": 2, "unfinished": 1, "unmeasured": 1}
    reasons = "9 damaged result.json, 2 result.json of something else, 1 not finished, 1 without an accuracy"
    assert found.line().startswith(f"1 run read; 13 skipped ({reasons}). Left out: {tmp_path}")
    assert len(found.damaged) == 11 and all("delete the folder" in why for why in found.damaged)


def test_runs_without_a_result_are_listed_with_their_state_and_last_epoch(tmp_path: Path, capsys: Any) -> None:
    running, cut = write_run(tmp_path, 1), write_run(tmp_path, 2)
    failed = write_run(tmp_path, 3)
    rows = [{"kind": "epoch", "phase": "p", "epoch": e, "epochs": 240, "test_accuracy": 40.0 + e} for e in (1, 2)]
    for folder in (running, cut, failed):
        (folder / "DONE").unlink()
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (cut / "checkpoints").mkdir()
    (cut / "checkpoints" / "1.ckpt").touch()
    gone = failed.with_name("s9")
    attempt = {"code": 3, "outcome": "loss not finite", "why": "the loss is NaN", "command": "python -m distill"}
    lines = [{"folder": str(folder), **attempt} for folder in (failed, gone)]
    (tmp_path / "sweep.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with FileLock(running / ".lock"):
        assert main([str(tmp_path), "--format", "md"]) == 0
    said = capsys.readouterr().out.replace("\\", "")
    assert "1 running, 1 cut off, 2 failed: see the table Not finished." in said
    table = [line.split(" | ") for line in said.splitlines() if "cifar100/resnet56-resnet20" in line]
    assert [row[0] for row in table] == ["| running", "| cut off", "| failed", "| failed"]
    assert table[0][2:4] == ["epoch 2 of 240", "42.00"] and table[3][2:] == ["epoch 0", "–", "the loss is NaN |"]


def test_what_a_methods_own_choice_of_a_net_costs_is_its_mean_over_seeds(tmp_path: Path, capsys: Any) -> None:
    """A search exports another net by each seed: the first one's parameters stood for all."""
    for seed, params in enumerate((20_000, 40_000)):
        write_run(tmp_path, seed, params=params, macs=10 * params)
    (row,) = records(capsys, str(tmp_path))
    assert (float(row["params"]), float(row["macs"])) == (30_000, 300_000)


def test_runs_of_several_versions_in_one_row_are_told(tmp_path: Path) -> None:
    alone: dict[str, Any] = {"method": "none", "teacher": None, "teacher_accuracy": None}
    for seed, version in enumerate(("0.1.0", "0.2.0")):
        write_run(tmp_path, seed, 70.0 + seed, versions={"distill": version})
        write_run(tmp_path, seed, 69.0 + seed, versions={"distill": "0.2.0"}, **alone)
    found = collect([tmp_path])
    (told,) = (note for note in overview(found, summarize(found.runs)).notes if "CHANGELOG" in note)
    assert told.startswith("Runs of distill 0.1.0, 0.2.0 ") and told.endswith(": kd (resnet56 → resnet20, cifar100).")


def test_a_copy_of_a_seed_does_not_narrow_the_spread(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 1)
    write_run(tmp_path / "b", 1)
    found = collect([tmp_path, tmp_path / "a", tmp_path])
    assert len(found.runs) == 1 and found.skipped == {"double": 1}


def test_mistakes_are_one_sentence_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "missing")]) == 2
    assert "There is no folder" in capsys.readouterr().err
    assert main([str(tmp_path), "--table", "crd_tabel1"]) == 2
    assert "did you mean crd_table1" in capsys.readouterr().err
    assert main([str(tmp_path), "--out", str(tmp_path / "report.doc")]) == 2
    assert "end it in .md, .tex, .csv, .html" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 0  # an empty folder is not a mistake
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "0 runs read." and f"seed=1,2,3 output={tmp_path}" in said[2]  # what to run


def test_six_hundred_runs_take_seconds(tmp_path: Path) -> None:
    for index in range(120):
        method, pair = f"m{index % 60}", f"student{index // 60}"
        for seed in range(5):
            write_run(tmp_path, seed, 60 + index % 7 + seed / 10, method=method, student=pair)
    for target in ("report.html", "report.csv"):
        start = time.process_time()
        assert main([str(tmp_path), "--out", str(tmp_path / target)]) == 0
        assert time.process_time() - start < 5
    assert len((tmp_path / "report.csv").read_text().splitlines()) == 121


# ---------------------------------------------------------------- statistics


def test_t_interval_against_a_table_of_quantiles() -> None:
    ours = sample([70.0, 71.0, 72.0])  # mean 71, s 1, n 3: t(0.975, 2) = 4.302653
    half = 4.302653 / math.sqrt(3) + 0.005
    verdict = compare_published(ours, 70.0)
    assert verdict.half == pytest.approx(half, abs=1e-6) and verdict.difference == pytest.approx(1.0)
    assert compare_published(ours, 71 - half + 1e-3).word == WITHIN
    assert compare_published(ours, 71 - half - 1e-3).word == ABOVE
    assert compare_published(ours, 71 + half + 1e-3).word == BELOW


def test_welch_interval_where_the_paper_gives_std_and_runs() -> None:
    verdict = compare_published(Sample(71.0, 1.0, 3), 70.0, std=0.5, runs=5)
    assert verdict.test == "Welch"
    freedom = (1 / 3 + 0.05) ** 2 / ((1 / 3) ** 2 / 2 + 0.05**2 / 4)
    assert verdict.half == pytest.approx(scipy.stats.t.ppf(0.975, freedom) * math.sqrt(1 / 3 + 0.05) + 0.005)
    assert compare_published(Sample(71.0, 1.0, 3), 70.0, std=0.5).test == "t"  # a spread of unknown n cannot be used


def test_half_of_the_last_printed_digit_is_the_tables(tmp_path: Path) -> None:
    known = papers.tables()
    digits = [known[name].rounding for name in ("crd_table1_same_arch", "maskedkd_imagenet", "crd_reproduction_2026")]
    assert digits == pytest.approx([0.005, 0.05, 0.0005])
    ours = Sample(81.44, 0.001, 3)
    assert compare_published(ours, 81.4, rounding=0.05).word == WITHIN and compare_published(ours, 81.4).word == ABOVE


def test_further_configurations_of_a_cell_meet_the_same_test(tmp_path: Path) -> None:
    nets = {"teacher": "resnet32x4", "student": "resnet8x4"}
    for seed, name in ((seed, name) for seed in range(3) for name in ("aaaa", "bbbb")):
        write_run(tmp_path, seed, 73.0 + seed / 10, hash=name, **nets)
    comparison = match_rows(papers.table("crd_reproduction_2026"), summarize(collect([tmp_path]).runs))
    assert [one.verdict.test for one in (comparison.cells["kd", 0], *comparison.extra)] == ["Welch", "Welch"]


def test_no_verdict_without_spread_or_value() -> None:
    assert compare_published(Sample(71.0, None, 1), 70.0).word == FEW
    assert compare_published(None, 70.0).word == MISSING
    assert compare_published(Sample(71.0, 1.0, 3), None).word == MISSING
    assert compare_published(Sample(70.0, 0.0, 2), 70.0).word == WITHIN


# ---------------------------------------------------------------- beside the published tables


def crd_cell(
    rows: list[dict[str, str]], method: str, student: str = "resnet20", teacher: str = "resnet56"
) -> Any:
    wanted = {"method": method, "teacher": teacher, "student": student}
    return [row for row in rows if wanted.items() <= row.items()]


def test_crd_table_compares_the_last_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, last in enumerate((70.5, 70.7, 70.9)):
        write_run(tmp_path, seed, last)
    (cell,) = crd_cell(records(capsys, str(tmp_path), "--table", "crd_table1"), "kd")
    assert cell["published"] == "70.66" and cell["published_epoch"] == "last" and cell["n"] == "3"
    assert float(cell["ours_mean"]) == pytest.approx(70.7) and cell["verdict"] == WITHIN
    assert float(cell["best_mean"]) == pytest.approx(71.2)


def test_mdistiller_tables_compare_the_best_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(2):
        write_run(
            tmp_path, seed, 71.4 + seed / 5, method="dkd", convention={"ce": 1.0, "kd": 0.0, "weight": 1.0}
        )
        write_run(tmp_path, seed, 70.0 + seed / 5)
    rows = records(capsys, str(tmp_path), "--table", "dkd_cifar100_same")
    (dkd,), (kd,) = crd_cell(rows, "dkd"), crd_cell(rows, "kd")
    assert dkd["published_epoch"] == "best" and float(dkd["ours_mean"]) == pytest.approx(72.0)
    assert kd["published_epoch"] == "last" and float(kd["ours_mean"]) == pytest.approx(
        70.1
    )  # copied from CRD


@pytest.mark.parametrize(
    ("changes", "mark"),
    [
        ({"protocol": "sskd"}, "protocol sskd"),
        ({"dataset": "digits", "protocol": "digits"}, "data set digits; protocol digits"),
        ({"epochs": 3}, "3 epochs, not 240"),
        ({"evaluated_on": "holdout"}, "measured on holdout"),
        (
            {"command": "python -m distill schedule.batch_size=512 seed=1"},
            "set by hand: schedule.batch_size=512",
        ),
        ({"method": "fitnet", "convention": {"ce": 1, "kd": 1, "weight": 100}}, "with the KD term"),
    ],
)
def test_rows_of_another_kind_are_marked_and_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], mark: str
) -> None:
    for seed in range(3):
        write_run(tmp_path, seed, 70 + seed / 10, **changes)
    rows = crd_cell(records(capsys, str(tmp_path), "--table", "crd_table1"), changes.get("method", "kd"))
    plain, marked = rows
    assert plain["verdict"] == MISSING and plain["ours_mean"] == ""
    assert (marked["marks"], marked["verdict"], marked["difference"]) == (mark, "not compared", "")
    assert main([str(tmp_path), "--table", "crd_table1", "--format", "md"]) == 0
    text = capsys.readouterr().out
    assert "NOT COMPARABLE runs" in text and f"| {mark.replace('_', chr(92) + '_')} |" in text


def test_a_method_that_departs_from_its_paper_is_a_variant_beside_the_published_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(3):
        write_run(tmp_path, seed, 60.0 + seed, departs="The angles are left out.")
    (row,) = crd_cell(records(capsys, str(tmp_path), "--table", "crd_table1"), "kd")
    assert (row["verdict"], float(row["difference"])) == (VARIANT, pytest.approx(61 - 70.66))
    assert row["departs"] == "The angles are left out."
    assert main([str(tmp_path), "--table", "crd_table1", "--format", "md"]) == 0
    text = capsys.readouterr().out
    assert "61.00 ± 1.00 / 70.66 ◇" in text and "◇ kd: The angles are left out." in text and "1 variant" in text


def test_a_run_that_does_not_depart_comes_before_a_variant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(3):
        write_run(tmp_path, seed, 60.0 + seed, hash="variant", departs="The angles are left out.")
    write_run(tmp_path, last=70.0, hash="faithful", departs=None)
    first, second = crd_cell(records(capsys, str(tmp_path), "--table", "crd_table1"), "kd")
    assert (first["hash"], first["verdict"], second["verdict"]) == ("faithful", FEW, VARIANT)


def test_what_departs_may_depend_on_a_key() -> None:
    method = {"about": {"departs": {"solver=exact": "Solved\n exactly.", "clip=false": "Not clipped."}}, "clip": False}
    assert departs({**method, "solver": "exact"}) == "Solved exactly. Not clipped."
    assert departs({**method, "solver": "authors", "clip": True}) is None
    assert departs({"about": {"departs": "Always."}}) == "Always." and departs({"about": {}}) is None


def test_the_kd_term_decides_between_crd_and_crd_kd(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path, last=71.0, method="crd", hash="plain", convention={"ce": 1, "kd": 0, "weight": 0.8})
    write_run(tmp_path, last=71.5, method="crd", hash="withkd", convention={"ce": 1, "kd": 1, "weight": 0.8})
    rows = records(capsys, str(tmp_path), "--table", "crd_table1")
    (plain,), (with_kd,) = crd_cell(rows, "crd"), crd_cell(rows, "crd+kd")
    assert (plain["hash"], with_kd["hash"]) == ("plain", "withkd")
    assert plain["verdict"] == FEW
    write_run(tmp_path / "named", last=71.5, method="crd+kd", convention={"ce": 1, "kd": 1, "weight": 0.8})
    (named,) = crd_cell(records(capsys, str(tmp_path / "named"), "--table", "crd_table1"), "crd+kd")
    assert float(named["ours_mean"]) == 71.5


def test_sskd_tables_want_the_kd_term(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common: dict[str, Any] = {"protocol": "sskd", "method": "at"}
    write_run(tmp_path, last=71.0, hash="with", convention={"ce": 1, "kd": 1, "weight": 1000}, **common)
    write_run(tmp_path, last=70.0, hash="without", convention={"ce": 1, "kd": 0, "weight": 1000}, **common)
    rows = crd_cell(records(capsys, str(tmp_path), "--table", "sskd_cifar100_similar"), "at")
    assert [(row["hash"], row["marks"]) for row in rows] == [("with", ""), ("without", "without the KD term")]


def test_baselines_of_the_table_are_compared_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(3):
        write_run(tmp_path, seed, 69 + seed / 10, method="none", teacher=None, teacher_accuracy=None)
        write_run(tmp_path, seed, 70.0, teacher_accuracy=72.0 + seed / 10)
    rows = records(capsys, str(tmp_path), "--table", "crd_table1")
    (alone,), (teacher,) = crd_cell(rows, "student alone"), crd_cell(rows, "teacher")
    assert alone["published"] == "69.06" and alone["verdict"] == WITHIN
    assert teacher["published"] == "72.34" and float(teacher["ours_mean"]) == pytest.approx(72.1)


def test_a_table_without_its_length_has_that_of_its_protocol(tmp_path: Path) -> None:
    nets = {"teacher": "wrn_28_4", "student": "wrn_16_4", "method": "ofd", "protocol": "ofd"}
    for epochs in (3, 200):
        write_run(tmp_path, epochs=epochs, hash=f"{epochs}", **nets)
    comparison = match_rows(papers.table("ofd_cifar100"), summarize(collect([tmp_path]).runs))
    cell = comparison.cells["ofd", 0]
    assert cell.row is not None and cell.row.one.epochs == 200
    assert [one.marks for one in comparison.extra] == [("3 epochs, not 200",)]


def test_a_table_of_no_known_protocol_is_laid_beside_what_asks_for_it_alone(tmp_path: Path) -> None:
    """CMI's says neither how nets were trained nor how long: three epochs of anything are not below it."""
    for seed, last in enumerate((60.0, 61.0)):
        write_run(tmp_path, seed, last, dataset="cifar10", method="none", teacher=None, student="wrn_16_1", epochs=3)
    rows = summarize(collect([tmp_path]).runs)
    assert published(rows) == {}
    assert match_rows(papers.table("cmi_cifar10"), rows).cells["student (real data)", 2].row is rows[0]


def test_a_net_of_timm_is_not_the_one_for_small_images_of_its_name(tmp_path: Path) -> None:
    for teacher in ("ResNet50", "resnet50"):
        write_run(tmp_path, teacher=teacher, student="MobileNetV2", hash=teacher)
    comparison = match_rows(papers.table("crd_table2"), summarize(collect([tmp_path]).runs))
    (cell,) = (one for (method, _), one in comparison.cells.items() if method == "kd" and one.row)
    assert cell.row is not None and cell.row.one.teacher == "ResNet50"
    assert [one.marks for one in comparison.extra] == [("timm's resnet50",)]


def test_of_several_configurations_the_one_with_most_seeds_is_shown(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path, seed, 60.0, hash="zzzz")
    for seed in range(2):
        write_run(tmp_path, seed, 75.0, hash="aaaa")
    comparison = match_rows(papers.table("crd_table1"), summarize(collect([tmp_path]).runs))
    cell = comparison.cells["kd", 2]
    assert cell.row is not None and cell.row.one.hash == "zzzz" and cell.others == 1
    assert [one.row.one.hash for one in comparison.extra if one.row] == ["aaaa"]


def test_missing_cells_show_as_missing_and_unpublished_ones_do_not(tmp_path: Path, capsys: Any) -> None:
    write_run(tmp_path)
    assert main([str(tmp_path), "--table", "crd_table1", "--format", "md"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (fsp,) = (line for line in lines if line.startswith("| fsp "))
    assert fsp.split(" | ")[1:3] == ["missing / 72.91", "–"]
    assert 'Verdict: "within noise" when' in "\n".join(lines)


def test_errors_are_compared_as_accuracies() -> None:
    value = papers.table("ofd_cifar100").value("ofd", 0)
    assert value is not None and value.mean == pytest.approx(100 - 20.89)


def test_spellings_of_one_net_and_method() -> None:
    assert (
        model_name("cifar_ResNet50") == model_name("ResNet50_cifar") == model_name("ResNet50") == "resnet50"
    )
    assert model_name("ShuffleNetV1") == model_name("cifar_ShuffleV1")
    assert model_name("resnet32x4") != model_name("resnet32")
    assert model_name("wrn_16_2") != model_name("wrn_16_1")
    assert base_method("CRD+KD") == "crd" and base_method("vanilla") == base_method("none")


# ---------------------------------------------------------------- formats


def test_markdown_and_latex_escape_what_would_break_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path, student="a|b_c", method="50%&$x")
    assert main([str(tmp_path), "--format", "md"]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = [line for line in lines[: lines.index("</details>")] if line.startswith("| ")]
    assert r"### resnet56 → a\|b\_c" in lines and r"50%&$x" in table[-1]
    assert len({line.replace(r"\|", "").count("|") for line in table[:4]}) == 1
    assert main([str(tmp_path), "--format", "tex"]) == 0
    text = capsys.readouterr().out
    assert r"50\%\&\$x" in text and r"a|b\_c" in text
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == text.count(r"\midrule") == 2


def shown(folder: Path, **terminal: Any) -> str:
    """What a terminal of some width shows of the runs in a folder."""
    found, out = collect([folder]), io.StringIO()
    show_tables(
        overview(found, summarize(found.runs)), Console(file=out, force_terminal=True, color_system=None, **terminal)
    )
    return out.getvalue()


def test_a_narrow_terminal_leaves_columns_out_and_says_so(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path, seed, 70 + seed)
        write_run(tmp_path, seed, 60 + seed / 2, method="none", teacher=None, teacher_accuracy=None)
    text = shown(tmp_path, width=60)
    assert "71.00 ± 0.58" in text and "+10.50 ± 0.29" in text  # accuracy and gain stay
    assert "Not shown, for width: 95 % interval, verdict, closed %" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 60


def test_csv_holds_full_precision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, 1, 70.123456)
    write_run(tmp_path, 2, 70.223456)
    (row,) = records(capsys, str(tmp_path))
    assert float(row["last_mean"]) == pytest.approx(70.173456, abs=1e-9)
    assert float(row["last_std"]) == pytest.approx(0.1 / math.sqrt(2))
    assert row["seeds"] == "1 2"


def test_text_of_others_is_text_in_a_table_of_values_and_on_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "a\x1b]0;title\x07", student="=1+1")
    (row,) = records(capsys, str(tmp_path))
    assert row["student"] == "'=1+1"
    (tmp_path / "a\x1b]0;title\x07" / "b").mkdir()
    for damaged in tmp_path.rglob("result.json"):
        damaged.write_text("{")
    assert main([str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "a\\x1b]0;title\\x07" in shown


def test_every_published_table_can_be_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path)
    arguments = [part for name in papers.tables() for part in ("--table", name)]
    for kind in ("md", "tex", "html"):
        assert main([str(tmp_path), *arguments, "--format", kind]) == 0
        assert "DML Table 2, CIFAR-100" in capsys.readouterr().out


def test_teachers_of_equal_accuracy_that_were_trained_apart_are_two(tmp_path: Path) -> None:
    places = ("a/none-resnet56/none-1/s1", "a/none-resnet56/none-1/s2", "elsewhere/none-resnet56/none-1/s2")
    for seed, place in enumerate(places):
        write_run(tmp_path, seed, teacher_accuracy=72.5, teacher_origin=f"trained in {place}")
    write_run(tmp_path, 4, teacher_accuracy=72.5)  # an older record, of one of them
    write_run(tmp_path, 5, teacher_accuracy=73.5)
    (row,) = summarize(collect([tmp_path]).runs)
    assert row.teacher == sample([72.5, 72.5, 73.5])
