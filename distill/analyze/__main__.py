"""Command line: `python -m distill.analyze RUN_FOLDER [--out FOLDER] [--format png|svg] [--only NAME]`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from distill import runtime
from distill.analyze.gallery import PICTURES, draw
from distill.analyze.material import gather
from distill.analyze.page import page
from distill.analyze.style import rendered, save
from distill.errors import DONE, USAGE
from distill.files import write_json, write_text
from distill.trained import open_run

log = logging.getLogger("distill.analyze")


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw one run. Exit codes: 0 done, 2 a mistake on the command line or files that are not there."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        _analyze(options)
    except (ValueError, OSError) as error:
        print(f"distill.analyze: {error}", file=sys.stderr)
        return USAGE
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m distill.analyze", description="Pictures of a finished run.")
    add = parser.add_argument
    add("run", metavar="RUN_FOLDER", help="outputs/<dataset>/<teacher>-<student>/<method>-<hash>/s<seed>")
    add("--out", type=Path, metavar="FOLDER", help="default: RUN_FOLDER/analysis")
    add("--format", choices=("png", "svg"), default="png", help="of the pictures (default: png)")
    add("--only", nargs="+", choices=[*PICTURES], metavar="NAME", help=f"of {', '.join(PICTURES)}")
    add("--images", type=int, default=10_000, help="test images looked at, at most (default: 10000)")
    add("--root", metavar="FOLDER", help="where the data is (default: as in the run)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    return parser


def _analyze(options: argparse.Namespace) -> None:
    if options.images < 10:
        raise ValueError(f"--images is {options.images}: give at least 10")
    run = open_run(options.run, options.root)
    out: Path = options.out or run.folder / "analysis"
    material = gather(run, runtime.pick_device(options.device), options.images)
    pictures, data = {}, {}
    for picture in draw(material, options.only):
        pictures[picture.name] = picture
        data[picture.name] = rendered(picture, options.format)
        save(data[picture.name], out / f"{picture.name}.{options.format}")
        log.info("%s: %s", picture.title, out / f"{picture.name}.{options.format}")
    write_json(out / "numbers.json", {name: picture.numbers for name, picture in pictures.items()})
    write_text(out / "index.html", page(material, pictures, data, options.format))
    log.info("all on one page: %s", out / "index.html")


if __name__ == "__main__":
    sys.exit(main())
