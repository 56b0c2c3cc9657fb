"""What a search draws from, in Hydra's words: range(1,20), interval(0.01,0.1), tag(log,interval(...)), a,b,c."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

Space = dict[str, BaseDistribution]
EXAMPLE = "'method.temperature=range(1,20)' or 'schedule.lr=interval(0.01,0.1)'"


def split(overrides: Sequence[str]) -> tuple[list[str], Space]:
    """The overrides that all trials share, and the distributions of those that the search draws, by key.

    As in Hydra a range ends before its stop, and an interval holds real numbers, whole ones as int(interval(1,8)).
    Raises ValueError where nothing is to be drawn, or a range or an interval is empty.
    """
    fixed: list[str] = []
    space: Space = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        if override.is_sweep_override():
            space[override.get_key_element()] = _distribution(override)
        else:
            fixed.append(str(override.input_line))
    if not space:
        raise ValueError(f"there is nothing to search: give a key several values, such as {EXAMPLE}")
    return fixed, space


def words(drawn: Mapping[str, Any]) -> list[str]:
    """The overrides of a trial's values."""
    return [f"{key}={'null' if value is None else value}" for key, value in drawn.items()]


def _distribution(override: Override) -> BaseDistribution:
    sweep: Any = override.value()
    known = {"log"} if isinstance(sweep, IntervalSweep) else set()
    if odd := sorted(set(getattr(sweep, "tags", ())) - known):
        where = "an interval has the tag log alone" if known else "of tags there is log alone, and that of intervals"
        raise ValueError(f"{override.input_line}: nothing reads the tag {odd[0]}, {where}, tag(log,interval(0.01,0.1))")
    try:
        if isinstance(sweep, IntervalSweep):
            return _interval(sweep)
        if isinstance(sweep, RangeSweep):
            return _range(sweep)
    except ValueError as error:
        raise ValueError(f"{override.input_line} cannot be drawn from ({error}): give {EXAMPLE}") from error
    return CategoricalDistribution(list(override.sweep_string_iterator()))


def _interval(sweep: Any) -> BaseDistribution:
    kind: Any = IntDistribution if isinstance(sweep.start, int) else FloatDistribution
    return kind(sweep.start, sweep.end, log="log" in sweep.tags)


def _range(sweep: Any) -> BaseDistribution:
    values = list(sweep.range())
    if not values or values[0] > values[-1]:
        raise ValueError("it is empty or goes down")
    if isinstance(values[0], int):
        return IntDistribution(values[0], values[-1], step=sweep.step)
    return FloatDistribution(values[0], values[-1], step=float(sweep.step))
