"""Linear probes (representation transfer): <run>/probe/*.json over seeds, beside CRD's published table 4."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import distill.papers as papers
from distill.files import read_mapping
from distill.report.collect import Run
from distill.report.compare import base_method, has_kd_suffix, model_name
from distill.report.stats import Sample, sample
from distill.report.summary import ALONE, Row
from distill.report.table import Table, number, numeric_columns, spread, word
from distill.result import as_percent
from distill.run_folder import BIGGEST

PUBLISHED = "crd_linear_probe"
_COLUMNS = ["method", "teacher", "student", "trained on", "probed on", "recipe", "n", "last", "best"]
_COLUMNS += ["published"]
_TEACHER = "teacher"


@dataclass(frozen=True)
class Probe:
    """Probes of one kind of net by one recipe; accuracies in percent, over the seeds of the net.

    Probes of a run with several seeds of their own count as their mean. `method` is "teacher" for a teacher.
    """

    one: Run
    method: str
    dataset: str
    recipe: str
    last: Sample
    best: Sample | None
    published: float | None
    content: str | None = None  # what the files of the data set held, where its name does not say it

    @property
    def probed_on(self) -> str:
        """The data set; of one that is known by its files, with the first digits of what they held."""
        return f"{self.dataset} ({self.content[:6]})" if self.content else self.dataset


def probe_table(rows: Iterable[Row]) -> Table | None:
    """The table `Linear probe` of all probes beside the runs of `rows`; None where there are none."""
    found = probes(rows)
    if not found:
        return None
    cells = [
        [
            word(probe.method),
            word(probe.one.teacher_net),
            word(None if probe.method == _TEACHER else probe.one.student_net),
            word(probe.one.dataset),
            word(probe.probed_on),
            word(probe.recipe),
            number(probe.last.n, 0),
            spread(probe.last),
            spread(probe.best),
            number(probe.published),
        ]
        for probe in found
    ]
    note = (
        "A linear layer on the frozen net's embeddings, which are extracted once and not augmented; top-1 "
        "accuracy in %, mean ± sample standard deviation over n nets."
    )
    notes = [note]
    if any(probe.published is not None for probe in found):
        source = papers.tables()[PUBLISHED].source()
        notes.append(f"Published: CRD's table 4. Its recipe is not known, so no verdict is given ({source}).")
    return Table("probe", "Linear probe", _COLUMNS, cells, notes, numeric_columns(cells, len(_COLUMNS)))


def probes(rows: Iterable[Row]) -> list[Probe]:
    """All probes beside the runs of `rows`, grouped over seeds."""
    groups: dict[tuple[Any, ...], list[tuple[Run, dict[str, Any]]]] = defaultdict(list)
    for row in rows:
        for run in row.runs:
            for content in _read(run.folder / "probe"):
                groups[_key(run, content)].append((run, content))
    return sorted((_probe(group) for group in groups.values()), key=_order)


def records(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """The probes as flat raw values, for CSV."""
    return [
        {
            "table": PUBLISHED,
            "method": probe.method,
            "teacher": probe.one.teacher_net,
            "student": probe.one.student_net,
            "dataset": f"{probe.one.dataset}->{probe.probed_on}",
            "recipe": probe.recipe,
            "n": probe.last.n,
            "ours_mean": probe.last.mean,
            "ours_std": probe.last.std,
            "best_mean": probe.best.mean if probe.best else None,
            "published": probe.published,
            "hash": probe.one.hash,
        }
        for probe in probes(rows)
    ]


def _read(folder: Path) -> Iterator[dict[str, Any]]:
    """The usable files of a run's probe folder; nothing in it can make a report fail."""
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".json") and name[0] != ".")
    except OSError:
        return
    for name in names:
        try:
            content = read_mapping(folder / name) if (folder / name).stat().st_size < BIGGEST else {}
        except OSError:
            continue
        if _usable(content):
            yield content


def _usable(content: dict[str, Any]) -> bool:
    accuracy, recipe = content.get("accuracy"), content.get("recipe")
    return (
        content.get("net") in ("student", _TEACHER)
        and isinstance(content.get("dataset"), str)
        and isinstance(recipe, dict)
        and isinstance(recipe.get("name"), str)
        and isinstance(accuracy, dict)
        and as_percent(accuracy.get("last")) is not None
    )


def _key(run: Run, content: dict[str, Any]) -> tuple[Any, ...]:
    """Of a teacher, the runs that it taught do not matter."""
    what = (content["dataset"], str(content.get("content")), content.get("evaluated_on"), content["recipe"]["name"])
    if content["net"] == _TEACHER:
        return (_TEACHER, run.dataset, run.teacher_net, content.get("model"), *what)
    return ("student", *run.key, *what)


def _probe(group: Sequence[tuple[Run, dict[str, Any]]]) -> Probe:
    run, content = group[0]
    teacher = content["net"] == _TEACHER
    method = _TEACHER if teacher else run.method
    by_net: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one, read in group:
        by_net[str(read.get("weights")) if teacher else one.seed].append(read["accuracy"])
    last, best = (sample([_mean(each, key) for each in by_net.values()]) for key in ("last", "best"))
    assert last is not None
    dataset, recipe = content["dataset"], str(content["recipe"]["name"])
    held = content.get("content")
    published = published_probe(run, method, dataset)
    return Probe(run, method, dataset, recipe, last, best, published, str(held) if held else None)


def _mean(accuracies: Sequence[dict[str, Any]], key: str) -> float | None:
    over_seeds = sample([as_percent(accuracy.get(key)) for accuracy in accuracies])
    return over_seeds.mean if over_seeds else None


def published_probe(run: Run, method: str, dataset: str) -> float | None:
    """What CRD's table 4 prints for a run's pair and method on `dataset`; None where it has no such cell."""
    table = papers.tables()[PUBLISHED]
    pair = table.pairs[0]
    trained_here = model_name(run.student) == model_name(pair.student) or method == _TEACHER
    taught_here = run.teacher is None or model_name(run.teacher) == model_name(pair.teacher or "")
    column = f"{run.dataset}->{dataset}"
    if not (trained_here and taught_here) or column not in table.raw["columns"]:
        return None
    with_kd = has_kd_suffix(method) or (bool(run.kd) and base_method(method) not in ("kd", ALONE, _TEACHER))
    for name, values in table.methods.items():
        if base_method(name) == base_method(method) and has_kd_suffix(name) == with_kd:
            return float(values[table.raw["columns"].index(column)])
    return None


def _order(probe: Probe) -> tuple[Any, ...]:
    run = probe.one
    first = {_TEACHER: 0, ALONE: 1}.get(probe.method, 2)
    where = (run.dataset, probe.probed_on, probe.recipe, run.student)
    return *where, first, run.teacher or "", probe.method, run.hash
