"""Classify image files by a run's student, an exported folder or an ONNX file: a line of CSV for each image."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from distill.export.data import batches, constants_of_data, files_of
from distill.export.facts import CENTER, Facts
from distill.export.shipped import Shipped
from distill.export.target import add_out, add_target, open_target
from distill.files import write_text
from distill.terminal import cell, printable


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what may follow `distill predict`."""
    add_target(parser)
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="image files, or folders of them")
    add("--top", type=int, default=1, metavar="K", help="the K most probable classes, a line each (default: 1)")
    add_out(parser, "write there instead of the terminal")


def run(options: argparse.Namespace) -> None:
    """Print `file,class,probability`. Raises ValueError for a net or an image that cannot be read."""
    shipped, device = open_target(options)
    if not 1 <= options.top <= len(shipped.facts.classes):
        known = len(shipped.facts.classes)
        raise ValueError(f"--top is {options.top}, and {shipped.facts.student} knows {known} classes")
    print(f"distill: {as_seen(shipped.facts)}", file=sys.stderr)
    text = as_csv(predictions(shipped, files_of(options.images), device, options.top))
    if options.out:
        write_text(options.out, text)
    else:
        sys.stdout.write(text)


def as_seen(facts: Facts) -> str:
    """What becomes of image files of another shape or colour than the net takes."""
    colour = " of grey" if int(facts.dataset["in_chans"]) == 1 else ""
    how = "the middle of each" if facts.crop == CENTER else "each as a whole, squeezed where it is no square"
    around = f", with {facts.border} black ones on each side" if facts.border else ""
    return f"images are seen as {facts.side} x {facts.side} pixels{colour}{around}: {how}"


@torch.no_grad()
def predictions(
    shipped: Shipped, files: Sequence[Path], device: torch.device, top: int = 1
) -> Iterator[tuple[Path, str, float]]:
    """(file, class, probability) of the `top` most probable classes of each image, most probable first."""
    facts, rest = shipped.facts, iter(files)
    net = shipped.for_data(*constants_of_data(facts)).to(device)
    for images in batches(facts, files, device):
        output = net(images)
        logits = output if isinstance(output, torch.Tensor) else output.logits
        for row in logits.float().cpu():
            file = next(rest)
            for index, probability in most_probable(row, top):
                yield file, facts.classes[index], probability


def most_probable(logits: torch.Tensor, top: int) -> list[tuple[int, float]]:
    """The `top` classes of one image's logits [K], with their probabilities; of equal logits the first class comes
    first, as where accuracy is measured, and where probabilities are too small to tell the logits do.
    """
    order = logits.argsort(descending=True, stable=True)[:top]
    return list(zip(order.tolist(), logits.softmax(0)[order].tolist(), strict=True))


def as_csv(rows: Iterator[tuple[Path, str, float]]) -> str:
    """A heading and a line a row; names that are not ours can neither move a terminal's cursor nor be formulas."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("file", "class", "probability"))
    writer.writerows((harmless(str(file)), harmless(name), f"{value:.6f}") for file, name, value in rows)
    return out.getvalue()


def harmless(name: str) -> str:
    """A name without control characters, and with an apostrophe in front where a spreadsheet would compute it."""
    return str(cell(" ".join(printable(name).splitlines())))
