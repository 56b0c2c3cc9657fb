"""Our results as the LaTeX table of a paper, in the form of CRD's (arXiv:1910.10699, table 1): methods by pairs.

The best value of a pair is bold and the second best underlined; arrows say which side of kd a value is on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from distill.report.ranking import Entry, Ranking, best_two
from distill.report.summary import table_title
from distill.report.table import NOTHING
from distill.report.writers import LATEX_RANKS, tex

_KD = "kd"  # what the arrows go by


def paper_latex(ranked: Iterable[Ranking]) -> str:
    """A table for each place that has methods; needs booktabs."""
    tables = [_table([one for one in group if one.taught]) for _, group in groupby(ranked, lambda one: one.where)]
    return "\n\n".join(["% \\usepackage{booktabs}", *filter(None, tables)]) + "\n"


def _table(members: Sequence[Ranking]) -> str:
    if not members:
        return ""
    by_pair = [{entry.name: entry for entry in one.entries if not entry.alone} for one in members]
    names = sorted({name for entries in by_pair for name in entries}, key=lambda name: _order(name, by_pair))
    kept = [best_two(round(entry.row.last.mean, 2) for entry in entries.values()) for entries in by_pair]
    rows = [
        _row("Teacher", [one.teacher or NOTHING for one in members]),
        _row("Student", [one.student for one in members]),
        "\\midrule",
        _row("Teacher", [_mean(one.teacher_accuracies.mean if one.teacher_accuracies else None) for one in members]),
        _row("Student", [_mean(one.alone.row.last.mean if one.alone else None) for one in members]),
        "\\midrule",
        *(" & ".join([tex(name), *_values(name, by_pair, kept)]) + r" \\" for name in names),
    ]
    head = [r"\begin{table}", r"\centering", rf"\caption{{{tex(_caption(members))}}}",
            rf"\begin{{tabular}}{{l{'c' * len(members)}}}", r"\toprule"]  # fmt: skip
    return "\n".join([*head, *rows, r"\bottomrule", r"\end{tabular}", r"\end{table}"])


def _row(name: str, values: Sequence[str]) -> str:
    return " & ".join(map(tex, [name, *values])) + r" \\"


def _mean(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"


def _values(
    name: str, by_pair: Sequence[dict[str, Entry]], kept: Sequence[tuple[float | None, float | None]]
) -> list[str]:
    """A method's cells: mean, standard deviation, and on which side of kd."""
    cells = []
    for entries, best in zip(by_pair, kept, strict=True):
        entry = entries.get(name)
        if entry is None:
            cells.append("--")
            continue
        mean, std = round(entry.row.last.mean, 2), entry.row.last.std
        text = LATEX_RANKS[1 + best.index(mean) if mean in best else 0].format(f"{mean:.2f}")
        text += rf" {{\scriptsize $\pm$ {std:.2f}}}" if std is not None else ""
        kd = entries.get(_KD)
        if kd is not None and name != _KD and mean != round(kd.row.last.mean, 2):
            text += r" ($\uparrow$)" if mean > round(kd.row.last.mean, 2) else r" ($\downarrow$)"
        cells.append(text)
    return cells


def _order(name: str, by_pair: Sequence[dict[str, Entry]]) -> tuple[bool, float, str]:
    """kd first, as in CRD's tables, then the worst to the best by their mean gain over the student alone."""
    gains = [entries[name].gain for entries in by_pair if name in entries]
    known = [gain.difference for gain in gains if gain]
    mean = sum(known) / len(known) if known else 0.0
    return name != _KD, mean, name


def _caption(members: Sequence[Ranking]) -> str:
    seeds = sorted({entry.row.n for one in members for entry in one.entries})
    n = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    arrows = "; arrows: above or below kd" if any(e.name == _KD for one in members for e in one.entries) else ""
    test = "Test accuracy" if members[0].where[1] == "test" else "Accuracy"  # else the place names the part
    return (
        f"{test} (%) of the student at the last epoch on {table_title(members[0].where)}: mean and standard "
        f"deviation over {n} seed{'s' * (seeds[-1] > 1)}. Best bold, second best underlined{arrows}."
    )
