"""Command line: `python -m distill.report FOLDER ... [--table NAME] [--format FORMAT] [--out FILE]`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from distill import papers
from distill.report import writers
from distill.report.collect import collect
from distill.report.overview import overview
from distill.report.papers_view import paper_document
from distill.report.summary import summarize

FORMATS = {"md": writers.markdown, "tex": writers.latex, "csv": writers.comma_separated}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print or write a report. Exit codes: 0 done, 2 a mistake on the command line."""
    options = _parser().parse_args(arguments)
    try:
        _report(options)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError) as error:
        print(f"distill.report: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m distill.report",
        description="Tables and pictures of finished runs, from their result.json files.",
        epilog="Names of published tables: an id, an alias (crd_table1) or the start of ids (dkd).",
    )
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
    add("--out", type=Path, metavar="FILE", help="write there instead of the terminal")
    return parser


def _report(options: argparse.Namespace) -> None:
    tables = [papers.tables()[name] for asked in options.table for name in papers.resolve(asked)]
    kind = options.format or _kind(options.out)
    found = collect(options.folders)
    rows = summarize(found.runs)
    document = paper_document(tables, rows, found.line()) if tables else overview(found, rows)
    if kind is None:
        writers.show(document, _console())
    elif kind == "html":
        from distill.report.page import page  # the only format that needs Jinja2

        _write(page(document, rows), options.out)
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


def _console() -> Console:
    """As wide as the terminal; wide enough for whole rows when the output goes to a file or a pipe."""
    return Console() if sys.stdout.isatty() else Console(width=220)


def _write(text: str, out: Path | None) -> None:
    if out is None:
        sys.stdout.write(text)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    print(f"Wrote {out}.")


if __name__ == "__main__":
    sys.exit(main())
