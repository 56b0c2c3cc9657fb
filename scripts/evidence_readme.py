"""The README's first table: of the page of verdicts (outputs/reference/tables/README.md), what has been run."""

from __future__ import annotations

from pathlib import Path

BEGIN, END = "<!-- published -->", "<!-- /published -->"
HEAD = ["| from | cell | measure | published | ours | n | verdict |", "|---|---|---|---|---|---|---|"]


def table(page: str) -> str:
    """The rows of the page that have a published number and at least one finished run, under one head."""
    found, title = [], ""
    for line in page.splitlines():
        if line.startswith("##"):
            title = line[3:] if line[2] == " " else ""  # of what was tried beside a table: none
        elif title and (row := _row(line)) is not None:
            found.append(f"| {_short(title)} | " + " | ".join(row) + " |")
    return "\n".join([*HEAD, *found])


def _row(line: str) -> list[str] | None:
    """Cell, measure, published, ours, n and verdict of a line of the page; None where nothing has come out."""
    parts = [part.strip() for part in line.strip().strip("|").split(" | ")]
    if len(parts) != 7 or not parts[4].isdigit() or int(parts[4]) == 0 or not parts[2]:
        return None
    return parts[:6]


def _short(title: str) -> str:
    """A block's title without what follows its paper's number."""
    return title.split("), ")[0] + ")" if "), " in title else title


def put(readme: Path, page: str) -> None:
    """Write the table between its two marks."""
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n{table(page)}\n{END}{rest.split(END)[1]}", encoding="utf-8")
