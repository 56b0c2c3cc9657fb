"""Tables and pictures of finished runs, from their result.json files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import distill.papers as papers
import distill.report.writers as writers
from distill.report.against import document, figures, matches
from distill.report.collect import CollectedRuns, collect
from distill.report.figures import ChartSet, Figure, by_pair, pictures
from distill.report.overview import overview
from distill.report.page import render
from distill.report.paper_latex import paper_latex
from distill.report.papers_view import paper_document
from distill.report.ranking import rankings
from distill.report.summary import Row, summarize
from distill.report.table import Document
from distill.report.terminal import console, show_tables
from distill.report.unfinished import unfinished

FORMATS = {"md": writers.markdown, "tex": writers.latex, "csv": writers.comma_separated}
_PAPER = "paper"
# the document, the charts of its tables by their key, and those that stand alone, by the titles of their sections
Content = tuple[Document, Mapping[str, ChartSet], Mapping[str, list[Figure]]]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what may follow `distill report`."""
    parser.epilog = "Names of published tables: an id, an alias (crd_table1) or the start of ids (dkd)."
    add = parser.add_argument
    add("folders", nargs="+", metavar="FOLDER", help="folders with runs, such as outputs/cifar100")
    add("--table", action="append", default=[], metavar="NAME", help="a published table to compare with; repeatable")
    add("--against", action="append", default=[], metavar="FOLDER", help="other results, side by side; repeatable")
    formats = [*FORMATS, "html", _PAPER]
    add("--format", choices=formats, help="paper: LaTeX, methods by pairs as papers print them; default: by the ending "
        "of --out, else for the terminal")  # fmt: skip
    add("--all", action="store_true", help="on the terminal, every row, and the details of every configuration")
    add("--out", type=Path, metavar="FILE", help="write there instead of the terminal")


def run(options: argparse.Namespace) -> None:
    """Print or write a report. Raises ValueError for a folder that is not there, a table or an ending not known."""
    kind = options.format or _kind(options.out)
    if bool(options.table) + bool(options.against) + (kind == _PAPER) > 1:
        raise ValueError("--table, --against and --format paper are three different reports: give one of them.")
    found = collect(options.folders, unfinished=True)
    rows = summarize(found.runs)
    if kind == _PAPER:
        return _write(paper_latex(rankings(rows)), options.out)
    content = _against(options, rows) if options.against else _published(options.table, found, rows)
    if kind is None:
        show_tables(content[0], console(), options.all)
    else:
        _write(render(*content) if kind == "html" else FORMATS[kind](content[0]), options.out)
    return None


def _against(options: argparse.Namespace, rows: list[Row]) -> Content:
    """Two sets of results side by side."""
    others = summarize(collect(options.against).runs)
    sets = (options.folders, options.against)
    names = [" + ".join(Path(folder).name for folder in one) for one in sets]
    titles = names if names[0] != names[1] else [" + ".join(one) for one in sets]
    return document(rows, others, (titles[0], titles[1])), figures(matches(rows, others)), {}


def _published(asked: list[str], found: CollectedRuns, rows: list[Row]) -> Content:
    """Our results, beside published tables where some were asked for."""
    tables = [papers.tables()[name] for one in asked for name in papers.table_ids(one)]
    if not tables:
        return overview(found, rows), pictures(rankings(rows)), {}
    content = paper_document(tables, rows, found.line())
    content.tables += [unfinished(found.unfinished)] if found.unfinished else []
    return content, {}, by_pair(rankings(rows))


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
