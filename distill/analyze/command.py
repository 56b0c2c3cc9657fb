"""Pictures of a finished run, and one page with all of them."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import distill.runtime as runtime
from distill.analyze.analysis_data import load_analysis_data
from distill.analyze.gallery import PICTURES, draw
from distill.analyze.page import page
from distill.analyze.style import file_of
from distill.files import read_json, write_json, write_text
from distill.finished_run import open_run

NUMBERS = "numbers.json"
log = logging.getLogger("distill.analyze")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what may follow `distill analyze`."""
    add = parser.add_argument
    add("run", metavar="RUN_FOLDER", help="outputs/<dataset>/<teacher>-<student>/<method>-<hash>/s<seed>")
    add("--out", type=Path, metavar="FOLDER", help="default: RUN_FOLDER/analysis")
    add("--only", nargs="+", choices=[*PICTURES], metavar="NAME", help=f"of {', '.join(PICTURES)}")
    add("--images", type=int, default=10_000, help="test images looked at, at most (default: 10000)")
    add("--root", metavar="FOLDER", help="where the data is (default: as in the run)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")


def run(options: argparse.Namespace) -> None:
    """Draw one run. Raises ValueError for a folder that is no finished run's or that lacks its files."""
    if options.images < 10:
        raise ValueError(f"--images is {options.images}: give at least 10")
    trained = open_run(options.run, options.root)
    out: Path = options.out or trained.folder / "analysis"
    _check_free(out)
    analysis = load_analysis_data(trained, runtime.pick_device(options.device), options.images)
    pictures = {picture.name: picture for picture in draw(analysis, options.only)}
    for picture in pictures.values():
        write_text(out / f"{picture.name}.svg", file_of(picture))
        log.info("%s: %s", picture.title, out / f"{picture.name}.svg")
    write_json(out / NUMBERS, {name: picture.numbers for name, picture in pictures.items()})
    write_text(out / "index.html", page(analysis, pictures))
    log.info("all on one page: %s", out / "index.html")


def _check_free(out: Path) -> None:
    """Raise ValueError for a folder that holds anything else than an earlier analysis: a page of others would be lost,
    and whoever takes the folder on would take all of it for the run's.
    """
    names = sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) if out.is_dir() else []
    others = [name for name in names if name not in {f"{picture}.svg" for picture in PICTURES}]  # of one cut off
    held = read_json(out / NUMBERS)
    if others and not (isinstance(held, dict) and held.keys() <= {*PICTURES}):
        raise ValueError(f"{out} holds {others[0]}, and is no analysis: give a new or an empty folder, --out FOLDER")
