"""Is a method better than the student alone, beyond the noise of the seeds? Differences, intervals, corrected p-values.

Runs of one seed see the same batches from the same start, so where two configurations have the same seeds their
difference is taken seed by seed; that leaves out what the seeds share and is the stronger test.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from scipy.special import stdtr, stdtrit  # type: ignore[import-untyped]

from distill.report.stats import LEVEL, Sample, sample, welch

PAIRED, WELCH = "paired", "Welch"
BETTER, WORSE, NOISE_ABOVE, NOISE_BELOW = "above", "below", "within noise (above)", "within noise (below)"
UNCORRECTED = "before correction"
_EQUAL, ONE_SEED, NO_SPREAD = "within noise (equal)", "n = 1, no verdict", "no spread, no verdict"
GAIN_RULE = (
    "Δ alone: ours minus the student alone, both at the last epoch, ± its standard error; beside it the two-sided 95 % "
    "t-interval. Where both have the same seeds, the differences seed by seed are tested (seeds share their batches); "
    "elsewhere Welch's test is used, and the verdict says so. Verdicts are corrected for the number of methods of the "
    "pair (Holm, family-wise 5 %), the intervals are not: 'before correction' is what only holds for a method that "
    "had been tested alone. One seed has no spread and gets no verdict; nor do "
    "differences that are all equal."
)


@dataclass(frozen=True)
class Gain:
    """A difference in percent points. `error`: its standard error, `half`: half of its 95 % interval, None where there
    is no spread to judge by; `p`: two-sided, for one comparison; `corrected`: for all those of the pair."""

    difference: float
    error: float | None = None
    half: float | None = None
    p: float | None = None
    test: str = ""
    corrected: float | None = None

    @property
    def verdict(self) -> str:
        """In words: above or below where that is more than noise, else on which side it is."""
        if self.error is None:
            return ONE_SEED
        if self.p is None:
            return NO_SPREAD if self.difference else _EQUAL
        word = (BETTER if self.difference > 0 else WORSE) if self.difference else _EQUAL
        if self.p > 1 - LEVEL and self.difference:
            word = NOISE_ABOVE if self.difference > 0 else NOISE_BELOW
        elif self.difference and self.corrected is not None and self.corrected > 1 - LEVEL:
            word = f"{word} {UNCORRECTED}"
        return word if self.test == PAIRED else f"{word}, {self.test}"


def gain(ours: Mapping[str, float], alone: Mapping[str, float]) -> Gain:
    """Compare two configurations by their accuracies, seed by seed where both have the same seeds."""
    if ours.keys() == alone.keys():
        differences = sample([value - alone[seed] for seed, value in ours.items()])
        assert differences is not None
        if differences.std is None:
            return Gain(differences.mean)
        return _tested(differences.mean, differences.std**2 / differences.n, differences.n - 1, PAIRED)
    one, other = sample(list(ours.values())), sample(list(alone.values()))
    assert one is not None and other is not None
    if one.std is None or other.std is None:
        return Gain(one.mean - other.mean)
    square, freedom = welch(one.std**2 / one.n, one.n, other.std**2 / other.n, other.n)
    return _tested(one.mean - other.mean, square, freedom, WELCH)


def _tested(difference: float, square: float, freedom: float, test: str) -> Gain:
    """square: of the standard error."""
    error = math.sqrt(square)
    difference = difference if abs(difference) > 1e-9 else 0.0
    if error <= 1e-9 * max(1.0, abs(difference)):  # all differences are equal but for rounding
        return Gain(difference, 0.0, 0.0, None, test)
    half = float(stdtrit(freedom, 0.5 + LEVEL / 2)) * error
    return Gain(difference, error, half, 2 * float(stdtr(freedom, -abs(difference) / error)), test)


def corrected(gains: Sequence[Gain | None]) -> list[Gain | None]:
    """The gains of one family of comparisons with Holm's p-values (Holm 1979); those without a test do not count."""
    tested = sorted((one.p, place) for place, one in enumerate(gains) if one is not None and one.p is not None)
    found, least = list(gains), 0.0
    for rank, (p, place) in enumerate(tested):
        least = max(least, min(1.0, p * (len(tested) - rank)))
        one = found[place]
        assert one is not None
        found[place] = replace(one, corrected=least)
    return found


def share(ours: float, alone: Sample | None, teacher: Sample | None) -> float | None:
    """Which share of the way from the student alone to the teacher is made (1: all of it).

    None where that way is inside its own error: a ratio to a number that may be zero says nothing. With one run of the
    student alone the error is not known.
    """
    if alone is None or teacher is None or alone.std is None:
        return None
    square, freedom = alone.std**2 / alone.n, float(alone.n - 1)
    if teacher.std is not None:  # several teachers
        square, freedom = welch(square, alone.n, teacher.std**2 / teacher.n, teacher.n)
    way = teacher.mean - alone.mean
    return (ours - alone.mean) / way if way > float(stdtrit(freedom, 0.5 + LEVEL / 2)) * math.sqrt(square) else None


def standard_error(over_seeds: Sample | None) -> float | None:
    """Of a mean; None where there is no spread."""
    return None if over_seeds is None or over_seeds.std is None else over_seeds.std / math.sqrt(over_seeds.n)


def tests_used(gains: Iterable[Gain | None]) -> set[str]:
    """The names of the tests behind some gains."""
    return {one.test for one in gains if one is not None and one.test}
