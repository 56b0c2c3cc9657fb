"""Ours beside the published value: method by pair, with the verdict; what is not comparable is marked."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from omegaconf import OmegaConf

from distill.config.groups import load_node, options, plain
from distill.config.net_names import is_known
from distill.config.our_nets import OUR_NETS
from distill.papers import PaperTable, Value
from distill.report.stats import MISSING, VARIANT, Sample, Verdict, compare_published
from distill.report.summary import ALONE, Row, teachers_of

_STUDENT, TEACHER_LINE = "student alone", "teacher"
SPELLINGS = {"mobilenetv1100": "mobilenetv1", "shufflev215": "shufflev2x1.5"}  # ours and timm's, as papers write them
_NAMES = {"vanilla": ALONE, "baseline": ALONE, "student": ALONE}


@dataclass(frozen=True)
class ComparedCell:
    """One published value and what we have for it. `marks`: why ours is not comparable (empty: it is)."""

    method: str
    pair: int
    published: Value | None
    selection: str
    row: Row | None = None
    ours: Sample | None = None
    verdict: Verdict = Verdict(MISSING)
    marks: tuple[str, ...] = ()
    others: int = 0


@dataclass(frozen=True)
class Comparison:
    """A published table with ours: one cell a (method, pair). `extra`: our further rows for the same cells,
    those of another kind with marks, those of the same kind (other hyper-parameters) without."""

    table: PaperTable
    methods: list[str]
    cells: dict[tuple[str, int], ComparedCell]
    extra: list[ComparedCell]


Places = dict[tuple[str | None, str, str], list[Row]]  # (teacher, student, base method) -> rows


def match_rows(table: PaperTable, rows: Iterable[Row]) -> Comparison:
    """Find our rows for each cell of `table` (a `comparable` one); only rows without a mark are compared."""
    assert table.comparable
    by_place: Places = {}
    for row in rows:
        teacher = model_name(row.one.teacher) if row.one.teacher else None
        by_place.setdefault((teacher, model_name(row.one.student), base_method(row.one.method)), []).append(
            row
        )
    methods = _methods(table)
    cells: dict[tuple[str, int], ComparedCell] = {}
    extra: list[ComparedCell] = []
    for method in methods:
        for pair in range(len(table.pairs)):
            if method == TEACHER_LINE:
                cells[method, pair] = _teacher_cell(table, pair, by_place)
                continue
            best, rest = _cell(table, method, pair, _candidates(table, method, pair, by_place))
            cells[method, pair] = best
            extra += rest
    return Comparison(table, methods, cells, extra)


def _methods(table: PaperTable) -> list[str]:
    """The rows: the baselines that the pairs carry, then the table's own."""
    head = []
    if any(pair.teacher_acc is not None for pair in table.pairs):
        head.append(TEACHER_LINE)
    if any(pair.student_acc is not None for pair in table.pairs):
        head.append(_STUDENT)
    return head + [method for method in table.methods if method not in head]


def _teacher_cell(table: PaperTable, pair: int, by_place: Places) -> ComparedCell:
    """The accuracies of the teachers that comparable runs of the pair had; often there is one teacher."""
    place = (model_name(table.pairs[pair].teacher or ""), model_name(table.pairs[pair].student))
    rows = [row for key, group in by_place.items() if key[:2] == place for row in group]
    rows = [row for row in rows if not setting_marks(table, TEACHER_LINE, pair, row)]
    ours = teachers_of(run for row in rows for run in row.runs)
    published = _published(table, TEACHER_LINE, pair)
    verdict = compare_published(ours, published.mean if published else None, rounding=table.rounding)
    return ComparedCell(TEACHER_LINE, pair, published, "last", ours=ours, verdict=verdict)


def _candidates(table: PaperTable, method: str, pair: int, by_place: Places) -> list[Row]:
    name = ALONE if method == _STUDENT else table.ours(method)
    teacher, student = table.pairs[pair].teacher, model_name(table.pairs[pair].student)
    place = None if base_method(name) == ALONE or teacher is None else model_name(teacher)
    rows = by_place.get((place, student, base_method(name)), [])
    if has_kd_suffix(name):
        return [row for row in rows if _with_kd(row)]
    sibling = any(base_method(other) == base_method(name) and has_kd_suffix(other) for other in table.methods)
    return [row for row in rows if not (sibling and _with_kd(row))]


def _cell(table: PaperTable, method: str, pair: int, rows: list[Row]) -> tuple[ComparedCell, list[ComparedCell]]:
    """The cell with the comparable row of most seeds (ties: first hash), and cells for all other rows."""
    published, selection = _published(table, method, pair), table.selection(method)
    plain, rest = [], []
    for row in rows:
        reasons = marks(table, method, pair, row)
        if reasons:
            rest.append(_filled(ComparedCell(method, pair, published, selection, row, marks=reasons), table))
        else:
            plain.append(row)
    plain.sort(key=lambda row: (row.one.departs is not None, -row.n, row.one.hash))
    best = ComparedCell(
        method, pair, published, selection, plain[0] if plain else None, others=max(len(plain) - 1, 0)
    )
    more = [_filled(ComparedCell(method, pair, published, selection, row), table) for row in plain[1:]]
    return _filled(best, table), rest + more


def _filled(cell: ComparedCell, table: PaperTable) -> ComparedCell:
    """With our sample; and with the verdict, unless the row is marked."""
    if cell.row is None:
        return cell
    ours = cell.row.best if cell.selection == "best" else cell.row.last
    published = cell.published
    verdict = Verdict("not compared")
    if not cell.marks:
        mean, std = (published.mean, published.std) if published else (None, None)
        verdict = compare_published(ours, mean, std, table.runs, table.rounding)
        if cell.row.one.departs and published:
            verdict = replace(verdict, word=VARIANT)
    return replace(cell, ours=ours, verdict=verdict)


def _published(table: PaperTable, method: str, pair: int) -> Value | None:
    if method in table.methods:
        return table.value(method, pair)
    held = table.pairs[pair].teacher_acc if method == TEACHER_LINE else table.pairs[pair].student_acc
    return None if held is None else Value(held)


def marks(table: PaperTable, method: str, pair: int, row: Row) -> tuple[str, ...]:
    """Why a row is of another kind than the table: data set, protocol, length, or loss convention."""
    run, found = row.one, setting_marks(table, method, pair, row)
    if base_method(run.method) not in (ALONE, "kd") and method not in table.kd_term_free:
        if table.kd_term == "without" and _with_kd(row) and not has_kd_suffix(method):
            found.append("with the KD term")
        if table.kd_term == "with" and not _with_kd(row):
            found.append("without the KD term")
    return tuple(found)


def setting_marks(table: PaperTable, method: str, pair: int, row: Row) -> list[str]:
    """The marks that do not depend on the loss."""
    run, found = row.one, []
    if table.dataset and model_name(run.dataset) != model_name(table.dataset):
        found.append(f"data set {run.dataset}")
    if table.dataset != "imagenet":  # whose nets are timm's
        found += [f"timm's {name}" for name in (run.teacher, run.student) if name and _is_timms(name)]
    found += [f"another student: {word}" for word in run.student_args if word not in _args_of_pairs(run.student)]
    found += [f"another teacher: {word}" for word in run.teacher_args if f"teacher.args.{word}" in run.settings]
    if run.part != "test":
        found.append(f"measured on {run.part}")
    protocol = table.protocol_of(method)
    epochs = table.epochs_of(method, pair) or _length_of(protocol)
    if protocol and run.protocol != protocol:
        found.append(f"protocol {run.protocol}")
    elif epochs and run.epochs is not None and run.epochs != epochs:
        found.append(f"{run.epochs:g} epochs, not {epochs}")
    return found + [f"set by hand: {word}" for word in run.by_hand]


@cache
def _length_of(protocol: str | None) -> int | None:
    """The epochs of a protocol's file; None where there is no such file, or they are not the same for all."""
    node = load_node("schedule", protocol) if protocol else None
    file: Any = {} if node is None else OmegaConf.to_container(node, resolve=False)
    found = file.get("schedule", file).get("epochs")
    return found if isinstance(found, int) else None


@cache
def _args_of_pairs(student: str) -> set[str]:
    """The args with which conf/pair makes a student of that name, KEY=VALUE each: those of the papers' net."""
    pairs = [node for name in options("pair") if (node := load_node("pair", name)) and "student" in node]
    nets = [net for node in pairs if (net := plain(node, "student")).get("name") == student]
    return {f"{key}={value}" for net in nets for key, value in (net.get("args") or {}).items()}


@cache
def _is_timms(name: str) -> bool:
    """Whether a net is timm's, and not the one for small images that papers, and files of conf, call by its name."""
    ours = name in OUR_NETS or any(name in options(group) for group in ("student", "teacher"))
    return not ours and is_known(name)


def _with_kd(row: Row) -> bool:
    return bool(row.one.kd)


def has_kd_suffix(method: str) -> bool:
    return method.lower().endswith("+kd")


def base_method(method: str) -> str:
    """`CRD+KD` and `crd` are one method here; plain students have one name."""
    name = re.sub(r"\+kd$", "", method.strip().lower()).replace("_", "-").replace(" ", "-")
    return _NAMES.get(name, name)


def model_name(name: str) -> str:
    """The spellings of one net made equal: `cifar_resnet20`, `ResNet20`; `ShuffleNetV1`, `ShuffleV1`."""
    plain = re.sub(r"^(cifar_|tv_)|_cifar$", "", name.strip())
    plain = re.sub(r"[^a-z0-9.]", "", plain.lower()).replace("shufflenetv", "shufflev")
    return SPELLINGS.get(plain, plain)
