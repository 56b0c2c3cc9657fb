"""A Document as Markdown, LaTeX (booktabs), CSV or on the terminal."""

from __future__ import annotations

import csv
import io

from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text

from distill.report.table import Document, Table

TONES = {"good": "green", "bad": "red", "over": "yellow", "mild": "dim"}
LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "→": r"$\rightarrow$",
    "–": "--",
    "·": r"$\cdot$",
    "×": r"$\times$",
    "≈": r"$\approx$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "−": r"$-$",
    '"': r"\textquotedbl{}",
}


def markdown(document: Document) -> str:
    """GitHub's table syntax."""
    parts = [f"# {_md(document.title)}", *map(_md, document.notes)]
    for table in document.tables:
        parts += [f"## {_md(table.title)}", _markdown_table(table), *map(_md, table.notes)]
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    rule = ["---:" if column in table.numeric else "---" for column in range(len(table.columns))]
    rows = [[cell.text for cell in row] for row in table.rows]
    lines = [[_md(text) for text in line] for line in [table.columns, *rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])


def _md(text: str) -> str:
    for mark in "\\|*_<>`[]":
        text = text.replace(mark, "\\" + mark)
    return text.replace("\n", " ")


def latex(document: Document) -> str:
    """One table environment a table; needs the booktabs package (and T1 fonts for quotation marks)."""
    parts = [f"% {line}" for line in " ".join([document.title, *document.notes]).splitlines()]
    parts.append(r"% \usepackage{booktabs} \usepackage[T1]{fontenc}")
    for table in document.tables:
        parts.append(_latex_table(table))
    return "\n".join(parts) + "\n"


def _latex_table(table: Table) -> str:
    columns = "".join("r" if column in table.numeric else "l" for column in range(len(table.columns)))
    lines = [
        _latex_line(table.columns),
        r"\midrule",
        *(_latex_line([cell.text for cell in row]) for row in table.rows),
    ]
    notes = "".join(f"\n\\par\\footnotesize {_tex(note)}" for note in table.notes)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(table.title)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}" + notes,
            r"\end{table}",
        ]
    )


def _latex_line(texts: list[str]) -> str:
    return " & ".join(map(_tex, texts)) + r" \\"


def _tex(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in text.replace("\n", " "))


def comma_separated(document: Document) -> str:
    """One line a record, raw values, the fields of all records."""
    fields = list(dict.fromkeys(name for record in document.records for name in record))
    out = io.StringIO()
    writer = csv.DictWriter(out, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(document.records)
    return out.getvalue()


def show(document: Document, console: Console) -> None:
    """Rich tables, as wide as `console`: columns that do not fit are left out from the right, and named."""
    for table in document.tables:
        columns = _fitting(table, console.width)
        console.print(_rich(table, columns))
        left_out = ", ".join(name for index, name in enumerate(table.columns) if index not in columns)
        notes = [*table.notes, f"Not shown, for width: {left_out}."] if left_out else table.notes
        for note in notes:
            console.print(escape(note), style="dim", highlight=False)
    for note in document.notes:
        console.print(escape(note), highlight=False)


def _fitting(table: Table, width: int) -> list[int]:
    """The columns that fit from the left, at least four; optional ones give way first."""
    needed = [max(map(len, [name, *(row[index].text for row in table.rows)])) + 3
              for index, name in enumerate(table.columns)]  # fmt: skip
    kept = list(range(len(needed)))
    for index in [*sorted(table.optional, reverse=True), *range(len(needed) - 1, 3, -1)]:
        if sum(needed[one] for one in kept) + 1 <= width:
            break
        if index in kept and len(kept) > 4:
            kept.remove(index)
    return kept


def _rich(table: Table, columns: list[int]) -> RichTable:
    shown = RichTable(title=escape(table.title), title_justify="left")
    for index in columns:
        justify: JustifyMethod = "right" if index in table.numeric else "left"
        shown.add_column(escape(table.columns[index]), justify=justify, overflow="fold")
    for row in table.rows:
        shown.add_row(*(Text(row[index].text, style=TONES.get(row[index].tone, "")) for index in columns))
    return shown
