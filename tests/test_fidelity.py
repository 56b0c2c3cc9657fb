"""The table of CONTRIBUTING.md that lays every method beside its authors' code."""

from __future__ import annotations

import pytest

from distill import config
from distill.papers import settings
from tests import fidelity

ROWS = fidelity.read(fidelity.PAGE.read_text(encoding="utf-8"))


def test_every_method_has_a_row() -> None:
    assert sorted(ROWS) == sorted(config.options("method")), "run `make fidelity`"


@pytest.mark.parametrize("method", config.options("method"))
def test_a_row_says_what_the_files_say(method: str) -> None:
    row = {column: text for column, text in ROWS[method].items() if column not in fidelity.MEASURED}
    assert row == fidelity.known(method), "run `make fidelity`"


@pytest.mark.parametrize("method", config.options("method"))
def test_no_column_is_empty_without_its_reason(method: str) -> None:
    row = ROWS[method]
    assert all(row.values())
    compared = method in fidelity.references()
    assert (row["value"] != "–") == compared, "a difference for each method with reference values, and for no other"
    reasons = settings.raw()["unstated"] | settings.raw()["uncompared"]
    assert compared or fidelity.twins(method) or method in reasons


def test_what_a_new_method_lacks_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    names = [*config.options("method"), "a-new-one"]
    monkeypatch.setattr(config, "options", lambda group: names)
    assert fidelity.lacking("kd") == "" and fidelity.main() == 1
    told = capsys.readouterr().out
    assert "published settings, or `unstated`, `uncompared`, `unscheduled`" in told and told.count("`unstated`") == 1


def test_reasons_are_given_for_methods_without_values_alone() -> None:
    stated = {cell.method for cell in settings.cells()}
    assert not stated & set(settings.raw()["unstated"])
    assert not set(fidelity.references()) & set(settings.raw()["uncompared"])
