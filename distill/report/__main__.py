"""Command line: `python -m distill.report FOLDER ... [--table NAME] [--format FORMAT] [--out FILE]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from distill.report import writers
from distill.report.collect import collect
from distill.report.overview import overview

FORMATS = {"md": writers.markdown, "tex": writers.latex, "csv": writers.comma_separated}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print or write a report. Exit codes: 0 done, 2 a mistake on the command line."""
    options = _parser().parse_args(arguments)
    try:
        _report(options)
    except ValueError as error:
        print(f"distill.report: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m distill.report", description="Tables from finished runs (result.json files)."
    )
    parser.add_argument(
        "folders", nargs="+", metavar="FOLDER", help="folders with runs, such as outputs/cifar100"
    )
    parser.add_argument(
        "--format", choices=[*FORMATS], help="default: by --out, else a table on the terminal"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write there instead of the terminal")
    return parser


def _report(options: argparse.Namespace) -> None:
    document = overview(collect(options.folders))
    kind = options.format or _kind(options.out)
    if kind is None:
        writers.show(document, _console())
        return
    _write(FORMATS[kind](document), options.out)


def _kind(out: Path | None) -> str | None:
    if out is None:
        return None
    kind = out.suffix.lstrip(".")
    if kind not in FORMATS:
        raise ValueError(
            f"No format belongs to the ending of {out}: end it in .{', .'.join(FORMATS)} or give --format."
        )
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
