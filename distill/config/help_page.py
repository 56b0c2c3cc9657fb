"""What `--help` shows of the groups, for conf/config.yaml's template."""

from __future__ import annotations

from distill.config.groups import groups, options


def group_options(width: int = 112) -> str:
    """The groups and what can be chosen in each, a line or two a group, for the help page."""
    order = ["dataset", "schedule", "teacher", "student", "method", "pair", "experiment", "tracking"]
    hidden = {*order, "hydra", "tuned"}
    shown = order + [name for name in groups() if name not in hidden]
    return "\n".join(_fit(f"  {name:<11}", found, width) for name in shown if (found := options(name)))


def _fit(head: str, words: list[str], width: int, lines: int = 3) -> str:
    """`words` after `head`, wrapped to `width`; what does not fit into `lines` is counted."""
    rows: list[str] = []
    row = head
    for number, word in enumerate(words):
        if len(row) + len(word) + 2 > width - (12 if len(rows) == lines - 1 else 0):
            if len(rows) == lines - 1:
                return "\n".join([*rows, f"{row}({len(words) - number} more)"])
            rows, row = [*rows, row.rstrip()], " " * len(head)
        row += word + ("" if number == len(words) - 1 else ", ")
    return "\n".join([*rows, row.rstrip()])
