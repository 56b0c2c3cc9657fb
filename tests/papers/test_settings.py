"""Published settings (distill/papers/settings.yaml): every cell is composed as the command line would and compared."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files

import pytest

from distill import config, papers
from distill.config.protocol import offered
from distill.papers import settings
from distill.report.compare import base_method
from tests.settings_cells import ROWS, composed, differences, pair_words, swapped, words, wrong


@pytest.mark.parametrize("row", ROWS)
def test_ours_are_the_published_settings(row: str) -> None:
    assert wrong(row) == {}


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


def test_no_name_is_given_twice() -> None:
    """YAML would keep the last in silence."""
    names = re.findall(r"^  (\w+):$", (files("distill.papers") / "settings.yaml").read_text(encoding="utf-8"), re.M)
    assert len(names) == len(set(names)) > 50


def protocols() -> list[tuple[str, str, str]]:
    nodes = {method: config.load_node("method", method) for method in config.options("method")}
    known = {method: offered(node.about) for method, node in nodes.items() if node is not None}
    return [(method, dataset, name) for method, own in known.items() for dataset, name, _ in own]


@pytest.mark.parametrize(("method", "dataset", "name"), protocols())
def test_the_protocol_that_schedule_paper_picks_is_that_of_the_settings(method: str, dataset: str, name: str) -> None:
    """Other cells may have another: those of a table whose authors train the method otherwise."""
    theirs = {cell.protocol for cell in settings.cells() if (cell.method, cell.dataset) == (method, dataset)}
    assert not theirs or name in theirs


def stated(method: str, dataset: str) -> Iterator[str]:
    for cell in settings.cells():
        if (cell.method, cell.dataset) == (method, dataset):
            yield from cell.values


TUNED = [name for name in config.options("tuned") if not name.startswith("digits-")]


@pytest.mark.parametrize("name", TUNED)
def test_every_tuned_value_is_a_published_one(name: str) -> None:
    """A value that depends on the data set or the pair, and that no source states, has no place in conf/tuned."""
    dataset, method = re.fullmatch(r"([a-z0-9_]+)-(.+)", name).groups()  # type: ignore[union-attr]
    file = config.load_node("tuned", name)
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
