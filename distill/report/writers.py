"""A Document as Markdown, LaTeX (booktabs) or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from distill.report.table import Document, Table
from distill.terminal import cell

MARKDOWN_RANKS = ("{}", "**{}**", "*{}*")
LATEX_RANKS = ("{}", r"\textbf{{{}}}", r"\underline{{{}}}")
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
    "Δ": r"$\Delta$",
    "…": r"\dots{}",
    "◇": r"$\diamond$",
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
    """GitHub's table syntax; what is folded on a page lies in <details>."""
    parts = [f"# {_md(document.title)}", *map(_md, document.notes)]
    parts += [f"```sh\n{document.command}\n```"] if document.command else []
    heading = ""
    for table in document.tables:
        if table.heading and table.heading != heading:
            parts.append(f"## {_md(table.heading)}")
        heading = table.heading
        content = [_markdown_table(table), *map(_md, table.notes)]
        if table.folded:
            parts += [f"<details><summary>{_md(table.title)}</summary>", *content, "</details>"]
        else:
            parts += [f"{'###' if heading else '##'} {_md(table.title)}", *content]
    return "\n\n".join([*parts, *map(_md, document.legend)]) + "\n"


def _markdown_table(table: Table) -> str:
    rule = ["---:" if column in table.numeric else "---" for column in range(len(table.columns))]
    lines = [[_md(text) for text in table.columns]]
    lines += [[MARKDOWN_RANKS[cell.rank].format(_md(cell.text)) for cell in row] for row in table.rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])


def _md(text: str) -> str:
    for mark in "\\|*_<>`[]":
        text = text.replace(mark, "\\" + mark)
    return text.replace("\n", " ")


def latex(document: Document) -> str:
    """One table environment a table; needs the booktabs package (and T1 fonts for quotation marks)."""
    parts = [f"% {line}" for line in " ".join([document.title, *document.notes, *document.legend]).splitlines()]
    parts.append(r"% \usepackage{booktabs} \usepackage[T1]{fontenc}")
    for table in document.tables:
        parts.append(_latex_table(table))
    return "\n".join(parts) + "\n"


def _latex_table(table: Table) -> str:
    columns = "".join("r" if column in table.numeric else "l" for column in range(len(table.columns)))
    lines = [_latex_line(map(tex, table.columns)), r"\midrule"]
    lines += [_latex_line(LATEX_RANKS[cell.rank].format(tex(cell.text)) for cell in row) for row in table.rows]
    notes = "".join(f"\n\\par\\footnotesize {tex(note)}" for note in table.notes)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{tex(', '.join(filter(None, [table.title, table.heading])))}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}" + notes,
            r"\end{table}",
        ]
    )


def _latex_line(texts: Iterable[str]) -> str:
    return " & ".join(texts) + r" \\"


def tex(text: str) -> str:
    """Plain text as LaTeX."""
    return "".join(LATEX.get(letter, letter) for letter in text.replace("\n", " "))


def comma_separated(document: Document) -> str:
    """One line a record, raw values, the fields of all records; text that a spreadsheet would compute is text."""
    fields = list(dict.fromkeys(name for record in document.records for name in record))
    out = io.StringIO()
    writer = csv.DictWriter(out, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: cell(value) for name, value in record.items()} for record in document.records)
    return out.getvalue()
