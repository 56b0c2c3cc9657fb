"""Tables and pictures of finished runs, from their result.json files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from distill import papers
from distill.report import writers
from distill.report.collect import collect
from distill.report.overview import overview
from distill.report.papers_view import paper_document
from distill.report.ranking import rankings
from distill.report.summary import summarize
from distill.report.terminal import console, show

FORMATS = {"md": writers.markdown, "tex": writers.latex, "csv": writers.comma_separated}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what may follow `distill report`."""
    parser.epilog = "Names of published tables: an id, an alias (crd_table1) or the start of ids (dkd)."
    add = parser.add_argument
    add("folders", nargs="+", metavar="FOLDER", help="folders with runs, such as outputs/cifar100")
    add(
        "--table",
        action="append",
        default=[],
        metavar="NAME",
        help="a published table to compare with; repeatable",
    )
    add("--format", choices=[*FORMATS, "html"], help="default: by the ending of --out, else for the terminal")
    add("--all", action="store_true", help="on the terminal, every row, and the details of every configuration")
    add("--out", type=Path, metavar="FILE", help="write there instead of the terminal")


def run(options: argparse.Namespace) -> None:
    """Print or write a report. Raises ValueError for a folder that is not there, a table or an ending not known."""
    tables = [papers.tables()[name] for asked in options.table for name in papers.resolve(asked)]
    kind = options.format or _kind(options.out)
    found = collect(options.folders)
    rows = summarize(found.runs)
    document = paper_document(tables, rows, found.line()) if tables else overview(found, rows)
    if kind is None:
        show(document, console(), options.all)
    elif kind == "html":
        from distill.report.page import page  # the only format that needs Jinja2

        _write(page(document, [] if tables else rankings(rows)), options.out)
    else:
        _write(FORMATS[kind](document), options.out)


def _kind(out: Path | None) -> str | None:
    if out is None:
        return None
    kind = out.suffix.lstrip(".")
    if kind not in (*FORMATS, "html"):
        endings = ", .".join([*FORMATS, "html"])
        raise ValueError(f"No format belongs to the ending of {out}: end it in .{endings} or give --format.")
    return kind


def _write(text: str, out: Path | None) -> None:
    if out is None:
        sys.stdout.write(text)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    print(f"Wrote {out}.")
