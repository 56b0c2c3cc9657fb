"""Published results as data (tables.yaml): `table("crd_table1")` gives numbers and their sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from distill.config.groups import did_you_mean

ALIASES = {
    "crd_table1": ["crd_table1_same_arch"],
    "crd_table2": ["crd_table2_diff_arch"],
    "crd_table4": ["crd_linear_probe"],
    "norm_table1": ["norm_table1_same_arch"],
    "norm_table2": ["norm_table2_diff_arch"],
    "norm_table3": ["norm_table3_imagenet"],
    "semckd": ["simkd_cifar100"],
    "takd": ["takd_table1"],
    "dml": ["dml_table2"],
    "reviewkd": ["norm_table1_same_arch", "norm_table2_diff_arch", "reviewkd_imagenet"],
    "linear_probe": ["crd_linear_probe"],
    "logit_standardization": ["ls_cifar100_same", "ls_cifar100_diff"],
    "logit_standardization_mlkd": ["ls_cifar100_same", "ls_cifar100_diff"],
    "imagenet_resnet34_resnet18": [
        "norm_table3_imagenet", "crd_imagenet", "reviewkd_imagenet", "dkd_imagenet", "dist_imagenet_baseline",
    ],
    "imagenet_resnet50_mobilenetv1": [
        "norm_table3_imagenet", "reviewkd_imagenet", "dkd_imagenet", "dist_imagenet_baseline",
    ],
}  # fmt: skip


@dataclass(frozen=True)
class Value:
    """A published accuracy in percent, with its standard deviation where one was printed."""

    mean: float
    std: float | None = None


@dataclass(frozen=True)
class _Pair:
    """A column of a table, names as in the source; accuracies (percent) of teacher and student alone."""

    teacher: str | None
    student: str
    teacher_acc: float | None = None
    student_acc: float | None = None


class PaperTable:
    """One published table. `raw` is its entry in tables.yaml."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.raw = raw
        self.id: str = raw["id"]
        self.title: str = raw["title"]
        self.paper: str = raw["paper"]
        self.dataset: str | None = raw.get("dataset")
        self.protocol: str | None = raw.get("protocol")
        self.epochs: int | None = raw.get("epochs")
        self.runs: int | None = raw.get("runs")
        self.kd_term: str | None = raw.get("kd_term")
        self.kd_term_free: list[str] = raw.get("kd_term_free", [])
        self.methods: Mapping[str, list[Any]] = raw.get("methods", {})
        self.notes: list[str] = raw.get("notes", [])
        self.pairs = [
            _Pair(pair.get("teacher"), pair["student"], pair.get("teacher_acc"), pair.get("student_acc"))
            for pair in raw.get("pairs", [])
        ]

    @property
    def errors(self) -> bool:
        """Are the printed values errors rather than accuracies?"""
        return self.raw.get("kind") == "error"

    @property
    def rounding(self) -> float:
        """Half of the last digit that the table prints: 0.005, of tables with one decimal 0.05."""
        cells = [cell for values in self.methods.values() for cell in values if cell is not None]
        printed = [str(cell["mean"] if isinstance(cell, Mapping) else cell) for cell in cells]
        return 0.5 * 10.0 ** -max((len(text.partition(".")[2]) for text in printed), default=2)

    @property
    def comparable(self) -> bool:
        """Methods by pairs of teacher and student: the form that runs can be laid beside."""
        return bool(self.pairs) and bool(self.methods) and "columns" not in self.raw

    def value(self, method: str, pair: int) -> Value | None:
        """The accuracy printed for a method and the pair of that number; None where there is no value."""
        cell = self.methods[method][pair]
        if cell is None:
            return None
        mean, std = (cell["mean"], cell["std"]) if isinstance(cell, Mapping) else (cell, None)
        return Value(100 - mean if self.errors else mean, std)

    def selection(self, method: str | None = None) -> str:
        """Which epoch is printed: last, best or unknown."""
        chosen = self.raw.get("row_selection", {}).get(method, self.raw.get("selection", "unknown"))
        return str(chosen)

    def protocol_of(self, method: str) -> str | None:
        """The protocol of a row, where it is known."""
        return self.raw.get("row_protocol", {}).get(method, self.protocol)

    def epochs_of(self, method: str, pair: int) -> int | None:
        """The epochs behind a value: the table's, its row's, or its cell's (row_epochs: a list, one a pair)."""
        own = self.raw.get("row_epochs", {}).get(method, self.epochs)
        return own[pair] if isinstance(own, list) else own

    def ours(self, method: str) -> str:
        """The name of a row's method here."""
        return str(self.raw.get("ours", {}).get(method, method))

    def source(self) -> str:
        """Where the numbers were read, in a line."""
        source = self.raw.get("source", {})
        return ", ".join(str(source[key]) for key in ("repo", "path", "commit", "note") if key in source)


@cache
def tables() -> Mapping[str, PaperTable]:
    """All published tables by id."""
    text = files(__name__).joinpath("tables.yaml").read_text(encoding="utf-8")
    return {
        raw["id"]: PaperTable(raw) for raw in yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    }


def table_ids(name: str) -> list[str]:
    """The ids that a name stands for: an id, an alias such as crd_table1, or the start of ids (dkd: three).

    Raises:
        ValueError: no table has such a name.
    """
    known = tables()
    if name in known:
        return [name]
    found = ALIASES.get(name) or [one for one in known if one.startswith(name + "_") and one not in _empty()]
    if not found:
        raise ValueError(f"There is no published table {name}: {did_you_mean(name, [*known, *ALIASES])}")
    return list(found)


def table(name: str) -> PaperTable:
    """The published table of an id or alias; of several, the first. Raises as `resolve`."""
    return tables()[table_ids(name)[0]]


@cache
def _empty() -> frozenset[str]:
    """Ids that only say that no numbers were found."""
    return frozenset(one for one, table in tables().items() if not {"methods", "rows"} & table.raw.keys())
