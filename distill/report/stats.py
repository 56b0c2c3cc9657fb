"""Means, spreads and the verdict against a published number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtrit  # type: ignore[import-untyped]

LEVEL = 0.95
ROUNDING = 0.005  # most published values are printed to 0.01, so the true one lies within half of that
WITHIN, ABOVE, BELOW, FEW, MISSING = "within noise", "above", "below", "n too small", "missing"
VARIANT = "variant"  # of a method that departs from its paper: no verdict is given

COMPARISON_RULE = (
    'Verdict: "within noise" when the two-sided 95 % t-interval of our mean over seeds (sample standard '
    'deviation, n - 1 degrees of freedom) contains the published value, else "above" or "below". Where the '
    "publication gives a standard deviation and its number of runs, Welch's interval of the difference of "
    "the two means is used instead; elsewhere the noise of the published value is unknown and left out, so a "
    "value just outside says little. Intervals are widened by half of the last printed digit, mostly 0.005. "
    'With n < 2 there is no spread: "n too small".'
)


@dataclass(frozen=True)
class Sample:
    """Mean and sample standard deviation (None for fewer than two values) of n values."""

    mean: float
    std: float | None
    n: int


def sample(values: Sequence[float | None]) -> Sample | None:
    """The sample of the values that are there; None when none is."""
    there = [value for value in values if value is not None]
    if not there:
        return None
    n = len(there)
    mean = math.fsum(there) / n
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in there) / (n - 1)) if n > 1 else None
    return Sample(mean, std, n)


def half_interval(over_seeds: Sample) -> float | None:
    """Half of the two-sided 95 % t-interval of a mean; None where there is no spread."""
    if over_seeds.std is None:
        return None
    return float(stdtrit(over_seeds.n - 1.0, 0.5 + LEVEL / 2)) * over_seeds.std / math.sqrt(over_seeds.n)


@dataclass(frozen=True)
class Verdict:
    """Ours against a published value: `difference` = ours - published, `half` = half of the interval."""

    word: str
    difference: float | None = None
    half: float | None = None
    test: str = ""


def compare_published(
    ours: Sample | None, published: float | None, std: float | None = None, runs: int | None = None,
    rounding: float = ROUNDING,
) -> Verdict:  # fmt: skip
    """Apply COMPARISON_RULE to our sample and a published mean (with its standard deviation and runs, where known).

    rounding: half of the published mean's last digit.
    """
    if ours is None or published is None:
        return Verdict(MISSING)
    difference = ours.mean - published
    if ours.n < 2 or ours.std is None:
        return Verdict(FEW, difference)
    error, freedom, test = ours.std**2 / ours.n, float(ours.n - 1), "t"
    if std is not None and runs is not None and runs > 1:
        error, freedom, test = *welch(ours.std**2 / ours.n, ours.n, std**2 / runs, runs), "Welch"
    half = float(stdtrit(freedom, 0.5 + LEVEL / 2)) * math.sqrt(error) + rounding
    word = WITHIN if abs(difference) <= half else ABOVE if difference > 0 else BELOW
    return Verdict(word, difference, half, test)


def welch(a: float, n: int, b: float, m: int) -> tuple[float, float]:
    """Squared standard error of a difference of means and Welch-Satterthwaite degrees of freedom."""
    if a + b == 0:
        return 0.0, float(n + m - 2)
    return a + b, (a + b) ** 2 / (a**2 / (n - 1) + b**2 / (m - 1))
