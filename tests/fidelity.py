"""`make fidelity`: each method beside its authors' code, as a table that code writes into CONTRIBUTING.md.

Differences come of running the cases of tests/reference_cases, settings of composing every cell of settings.yaml.
The test of this module checks all but the differences, which tests/test_reference.py holds to their tolerances.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from distill import config
from distill.config.departs import departs_by_name
from distill.config.protocol import offered, unscheduled
from distill.files import write_text
from distill.papers import settings
from tests.reference_cases import FOLDER, Differences, cases, run
from tests.settings_cells import ROWS, wrong

PAGE = Path(__file__).parent.parent / "CONTRIBUTING.md"
BEGIN, END = "<!-- fidelity: written by `make fidelity` -->", "<!-- /fidelity -->"
HEAD = ("method", "reference", "value", "gradient", "settings", "protocol", "departs")
MEASURED = ("value", "gradient")  # columns that only a run of the cases knows


@cache
def references() -> dict[str, list[tuple[str, str]]]:
    """Files of tests/reference of each method: (name, repository and commit)."""
    found: dict[str, list[tuple[str, str]]] = {}
    for path in sorted(FOLDER.glob("*.npz")):
        with np.load(path) as file:
            meta: dict[str, Any] = json.loads(str(file["meta"])) if "meta" in file.files else {}
        if "method" in meta and "repo" in meta:
            source = f"{meta['repo']}@{meta['commit'][:7]}" if "/" in meta["repo"] else "the paper's equations, by hand"
            found.setdefault(meta["method"], []).append((path.stem, source))
    return found


def twins(method: str) -> list[str]:
    """Other names of the method's class, those with references of their own."""
    target = _node(method)["_target_"]
    return [other for other in references() if other != method and _node(other)["_target_"] == target]


def reference(method: str) -> str:
    """Repository and commit of the values that ours are compared with, or why there are none."""
    if method in references():
        return ", ".join(sorted({source for _, source in references()[method]}))
    if others := twins(method):
        return f"as {', '.join(others)}"
    return str(settings.raw()["uncompared"].get(method) or settings.raw()["unstated"][method])


def stated(method: str) -> str:
    """The data sets whose published settings are ours, or why none is published."""
    cells = [cell for cell in settings.cells() if cell.method == method]
    if not cells:
        return "none published" if method in settings.raw()["unstated"] else "?"
    pairs = {name: {cell.pair for cell in cells if cell.dataset == name} for name in sorted({c.dataset for c in cells})}
    return "equal: " + ", ".join(f"{name} ({len(own)})" if None not in own else name for name, own in pairs.items())


def protocol(method: str) -> str:
    """The schedule of the method's own paper for each data set, or why there is none."""
    about = _node(method).get("about") or {}
    told = [f"{dataset}: {name}{f' ({kind})' if kind else ''}" for dataset, name, kind in offered(about)]
    told += [f"{dataset}: none ({why})" for dataset, why in unscheduled(about).items()]
    reasons = settings.raw()["unscheduled"] | settings.raw()["unstated"]
    return ", ".join(told) or f"none: {reasons[method]}"


def known(method: str) -> dict[str, str]:
    """The columns that follow from the repository's data alone."""
    texts = {"reference": reference, "settings": stated, "protocol": protocol}
    return {"method": f"`{method}`", "departs": departs_by_name(method) or "no"} | {
        column: text(method) for column, text in texts.items()
    }


def measured(method: str) -> dict[str, str]:
    """The largest differences of all cases of a method; those of cases that depart on purpose in brackets."""
    own = [cases()[name] for name, _ in references().get(method, ()) if name in cases()]
    faithful = [run(case.name) for case in own if not case.departs]
    apart = [run(case.name) for case in own if case.departs]
    return {column: _largest(faithful, apart, column) for column in MEASURED}


def _largest(faithful: Iterable[Differences], apart: Iterable[Differences], column: str) -> str:
    values, others = ([getattr(one, column) for one in group] for group in (faithful, apart))
    told = [_short(largest) for largest in [_greatest(values)] if largest is not None]
    told += [f"({_short(largest)})" for largest in [_greatest(others)] if largest is not None]
    return " ".join(told) or "–"


def _greatest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _short(value: float) -> str:
    """One digit: 3e-7."""
    return f"{value:.0e}".replace("e-0", "e-") if value else "0"


@cache
def _node(method: str) -> Any:
    return config.load_node("method", method) or {"_target_": method}


def table(methods: Iterable[str]) -> str:
    """The table as Markdown, all cases run."""
    rows = [known(method) | measured(method) for method in methods]
    lines = [f"| {' | '.join(row[column].replace('|', '/') for column in HEAD)} |" for row in rows]
    return "\n".join([f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD), *lines])


def read(text: str) -> dict[str, dict[str, str]]:
    """The rows of a page's table by method."""
    lines = text.split(BEGIN)[1].split(END)[0].strip().splitlines()
    rows = [dict(zip(HEAD, (part.strip() for part in line.strip("|").split(" | ")), strict=True)) for line in lines[2:]]
    return {row["method"].strip("`"): row for row in rows}


def lacking(method: str) -> str:
    """What nobody has said of a method in settings.yaml; nothing where all is said."""
    raw, about = settings.raw(), _node(method).get("about") or {}
    compared = method in references() or twins(method) or method in raw["uncompared"]
    scheduled = about.get("protocol") or unscheduled(about) or method in raw["unscheduled"]
    if method in raw["unstated"]:
        return ""
    stated = any(cell.method == method for cell in settings.cells())
    told = {"published settings, or `unstated`": stated, "`uncompared`": compared, "`unscheduled`": scheduled}
    return ", ".join(what for what, known in told.items() if not known)


def main() -> int:
    if silent := {method: what for method in config.options("method") if (what := lacking(method))}:
        print(f"nothing is written: distill/papers/settings.yaml is to say of these methods: {silent}")
        return 1
    if unequal := {name: each for row in ROWS for name, each in wrong(row).items()}:
        print(f"nothing is written: these settings are not the published ones (ours, theirs): {unequal}")
        return 1
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    written = f"{before}{BEGIN}\n{table(config.options('method'))}\n{END}{rest.split(END)[1]}"
    write_text(PAGE, written)
    return 0


if __name__ == "__main__":
    sys.exit(main())
