"""Overrides that stand for several runs: which may, and in what order their values are looked at."""

from __future__ import annotations

from collections.abc import Iterator

from hydra.core.override_parser.types import Override


def check_sweep(override: Override, multirun: bool, drawn: bool) -> None:
    """Raise ValueError for a list of values where there is one run, or one value for all runs.

    drawn: whether values are drawn, as in a search, by which an interval has some.
    """
    key, line = override.key_or_group, override.input_line
    if override.is_delete() or not override.is_sweep_override():
        return
    if key.startswith("hydra"):
        raise ValueError(f"{line}: Hydra's own keys are of the sweep, and not of its runs: give one value")
    if not multirun:
        raise ValueError(f"{line} stands for several runs: add -m to run them all")
    if key == "output":
        raise ValueError(f"{line}: a sweep has one output folder: start one for each")
    if not (drawn or override.is_discrete_sweep()):
        raise ValueError(f"{line}: an interval is drawn from, by distill search: for a sweep give values, {key}=A,B,C")


def narrowed(swept: list[Override], given: list[Override]) -> list[Override]:
    """An experiment file's sweep and the command line, which has the last word, in the order of the sweep's keys."""
    own = {item.key_or_group: item for item in swept}
    last = {item.key_or_group: item for item in given}
    return [*(last.get(key, item) for key, item in own.items()), *(i for i in given if i.key_or_group not in own)]


def one_at_a_time(choices: list[list[str]]) -> Iterator[list[str]]:
    """The first choice of all, then each further choice of one with the first of the others."""
    first = [row[0] for row in choices]
    yield first
    for place, row in enumerate(choices):
        for choice in row[1:]:
            yield [*first[:place], choice, *first[place + 1 :]]
