"""Published settings (distill/papers/settings.yaml): every cell is composed as the command line would and compared."""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from itertools import groupby
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from distill import config, papers
from distill.papers import settings
from distill.papers.settings import Cell
from distill.report.compare import base_method

ROWS = {name: list(group) for name, group in groupby(settings.cells(), lambda cell: f"{cell.block}:{cell.method}")}


@cache
def composed(*words: str) -> DictConfig:
    """What the command line composes (tests.tiny.composed shortens the schedule, which is compared here)."""
    config.register()
    with initialize_config_dir(str(config.conf_dir()), version_base="1.3"):
        return compose("config", list(words))


def words(cell: Cell) -> list[str]:
    """The command line of a cell, without its pair."""
    experiment = any(word.startswith("experiment=") for word in cell.words)
    if experiment:
        return [f"method={cell.method}", *cell.words]
    own = [f"schedule={cell.protocol}"] if cell.protocol not in (None, cell.dataset) else []
    return [f"method={cell.method}", f"dataset={cell.dataset}", *own, *cell.words]


def pair_words(cell: Cell) -> list[str]:
    """pair=..., or teacher=... student=..., a net without a YAML being one of timm's."""
    if cell.pair is None:
        return []
    teacher, student = cell.pair.split("-", 1)
    if f"{teacher}_{student}" in config.options("pair"):
        return [f"pair={teacher}_{student}"]
    return [*_net("teacher", teacher), *_net("student", student)]


def _net(group: str, name: str) -> list[str]:
    if name in config.options(group):
        return [f"{group}={name}"]
    return [f"{group}=timm", f"{group}.model={name}"]


def swapped(cfg: DictConfig, cell: Cell) -> DictConfig:
    """`cfg` with the cell's nets in place of its own: what composing anew gives, forty times as fast."""
    assert cell.pair is not None
    cfg, shared = deepcopy(cfg), OmegaConf.load(config.conf_dir() / "config.yaml")
    OmegaConf.set_struct(cfg, False)
    for group, name in zip(("teacher", "student"), cell.pair.split("-", 1), strict=True):
        node = config.load(group, name) or OmegaConf.create({"name": name, "lr_scale": 1.0})
        cfg[group] = OmegaConf.merge(shared[group], node)
    return cfg


def ours(cfg: DictConfig, key: str) -> Any:
    """The value of a key; `lr` is the rate that the student trains at."""
    if key == "lr":
        return config.plain(cfg, "schedule.lr") * config.plain(cfg, "student.lr_scale")
    return config.plain(cfg, key)


def differences(cfg: DictConfig, cell: Cell) -> dict[str, tuple[Any, Any]]:
    """Key: (ours, theirs) of all that differ."""
    found = {}
    for key, theirs in cell.values.items():
        here = ours(cfg, key)
        number = isinstance(theirs, int | float) and not isinstance(theirs, bool) and here is not None
        if here != (pytest.approx(theirs, rel=1e-9) if number else theirs):
            found[key] = (here, theirs)
    return found


@pytest.mark.parametrize("row", ROWS)
def test_ours_are_the_published_settings(row: str) -> None:
    """Composes the row's first pair, and puts the nets of the others in its place."""
    first, *others = ROWS[row]
    cfg = composed(*words(first), *pair_words(first))
    wrong = {first.name: differences(cfg, first)}
    wrong |= {cell.name: differences(swapped(cfg, cell), cell) for cell in others}
    assert {name: found for name, found in wrong.items() if found} == {}


@pytest.mark.parametrize("pair", ["vgg13-MobileNetV2", "wrn_40_2-wrn_40_1"])
def test_swapped_nets_are_what_composing_gives(pair: str) -> None:
    one, other = (next(cell for cell in ROWS["cat-kd:cat-kd"] if cell.pair == name) for name in (pair, "vgg13-vgg8"))
    anew = composed(*words(one), *pair_words(one))
    put = swapped(composed(*words(other), *pair_words(other)), one)
    assert config.identity(put) == config.identity(anew)


def test_a_wrong_value_is_found() -> None:
    cell = next(cell for cell in ROWS["cat-kd:cat-kd"] if cell.pair == "vgg13-vgg8")
    cfg = composed("dataset=cifar100", "method=cat-kd", "pair=vgg13_vgg8", "method.normalize=true", "schedule.lr=0.1")
    assert differences(cfg, cell) == {"method.normalize": (True, False), "lr": (0.1, 0.05)}


@pytest.mark.parametrize("name", settings.raw()["blocks"])
def test_a_block_has_a_source_and_every_row_a_reduction(name: str) -> None:
    rows = [cell for cell in settings.cells() if cell.block == name]
    for cell in rows:
        assert cell.source.split(":")[0] in settings.raw()["sources"], cell.name
        assert cell.reduction or cell.same_as, cell.name
        assert cell.method in config.options("method") and cell.dataset in config.options("dataset")
        assert cell.protocol is None or cell.protocol in config.options("schedule")


def stated(method: str, dataset: str) -> Iterator[str]:
    for cell in settings.cells():
        if (cell.method, cell.dataset) == (method, dataset):
            yield from cell.values


TUNED = [name for name in config.options("tuned") if not name.startswith("digits-")]


@pytest.mark.parametrize("name", TUNED)
def test_every_tuned_value_is_a_published_one(name: str) -> None:
    """A value that depends on the data set or the pair, and that no source states, has no place in conf/tuned."""
    dataset, method = re.fullmatch(r"([a-z0-9_]+)-(.+)", name).groups()  # type: ignore[union-attr]
    file = config.load("tuned", name)
    assert file is not None
    keys = {f"{group}.{key}" for group in file for key in file[group]}
    assert keys <= set(stated(method, dataset)), f"add them to settings.yaml: {keys - set(stated(method, dataset))}"


COMPARED = [table for table in papers.tables().values() if {"methods", "rows"} & table.raw.keys()]


def numbers_of(table: papers.PaperTable) -> set[tuple[str, str]]:
    """(method, data set) of the numbers that a table holds of our methods."""
    named = settings.raw()["tables"].get(table.id)
    if isinstance(named, dict):
        return {(method, dataset) for dataset, methods in named.items() for method in methods}
    known = config.options("method")
    names = [(table.ours(row), base_method(table.ours(row))) for row in table.methods]
    return {(one if one in known else base, str(table.dataset)) for one, base in names if {one, base} & set(known)}


def test_tables_that_are_named_exist() -> None:
    assert set(settings.raw()["tables"]) <= {table.id for table in COMPARED}


@pytest.mark.parametrize("table", COMPARED, ids=lambda table: table.id)
def test_every_published_number_has_its_settings(table: papers.PaperTable) -> None:
    """Or the line that they are another's (same_as); a table of other methods or nets says so under `tables`."""
    found = numbers_of(table)
    known = {(cell.method, cell.dataset) for cell in settings.cells()}
    assert found <= known, f"add to settings.yaml: {found - known}"
    others = all(base_method(table.ours(row)) not in config.options("method") for row in table.methods)
    assert found or isinstance(settings.raw()["tables"].get(table.id), str) or (table.methods and others)
