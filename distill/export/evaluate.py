"""Measure a run's student, an exported folder or an ONNX file on a data set (default: what it was trained on)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch

import distill.export.onnx_file as onnx_file
import distill.finished_run as finished_run
import distill.runtime as runtime
from distill.data import Data
from distill.engine.evaluate import predict, scores
from distill.export.data import data_of, holds_other, node_of
from distill.export.facts import Facts
from distill.export.shipped import Shipped
from distill.export.target import add_out, add_target, open_target
from distill.files import write_json
from distill.models import FeatureNet
from distill.record.progress import final_table

_EQUAL = 0.005  # in percent: half of the last digit that is shown


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what may follow `distill eval`."""
    add_target(parser)
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="dataset=NAME dataset.KEY=VALUE",
        help="other data; dataset.root, say where it is",
    )
    add_out(parser, "write the numbers as JSON, too")


def run(options: argparse.Namespace) -> None:
    """Measure and say how the result compares with the recorded one. Raises ValueError."""
    shipped, device = open_target(options)
    data = _data(shipped, options.settings, device)
    found = {_called(shipped): measure(shipped, data, device)}
    if shipped.also:
        beside = Shipped(shipped.also, onnx_file.Session(shipped.also), shipped.facts)
        found[_called(beside)] = measure(beside, data, device)
    own = not options.settings or data.info.name == shipped.facts.dataset["name"]
    runs = shipped.run.spec.dataset if shipped.run is not None and not options.settings else None
    seen = runs or node_of(shipped.facts, options.settings)
    print(shipped.path)
    final_table(
        [(name, *_row(scored, shipped.facts.accuracy if own else None)) for name, scored in found.items()],
        ("net", "top-1", "top-5", "errors", "nll", "beside the record"),
        title=f"{shipped.facts.student}, {data.info.name}, {data.info.evaluated_on}, {len(data.evaluated):,} images",
    )
    if own and (line := note(shipped.facts, [scored["accuracy"] for scored in found.values()])):
        print(line)
    if own and holds_other(shipped.facts, seen):
        print("The data are not those of the record: other images, labels or classes lie there now.")
    if options.out:
        write_json(options.out, found)


def note(facts: Facts, measured: Sequence[float]) -> str | None:
    """Why a record in fewer bits may differ from what is measured; None where it does not."""
    recorded = facts.accuracy
    if facts.precision == "fp32" or recorded is None or all(abs(each - recorded) < _EQUAL for each in measured):
        return None
    return f"The record is of {facts.precision}, where rounding decides a few images: precision=fp32 is exact."


def _called(shipped: Shipped) -> str:
    """Who gives the answers."""
    if shipped.run is not None or isinstance(shipped.net, FeatureNet):
        return "distill"
    return "onnxruntime" if isinstance(shipped.net, onnx_file.Session) else "timm"


def measure(shipped: Shipped, data: Data, device: torch.device) -> dict[str, float]:
    """Top-1, top-5, errors, cross-entropy and calibration of a net on what is evaluated of a data set."""
    net, precision = shipped.for_data(data.info.mean, data.info.std).to(device), shipped.facts.precision
    how = partial(runtime.autocast, device, precision) if shipped.run is not None else nullcontext  # a run's own way
    logits, labels = predict(net, data.evaluation(512), how)
    return scores(logits.to(labels.device), labels)


def _data(shipped: Shipped, settings: list[str], device: torch.device) -> Data:
    if shipped.run is not None and not settings:
        return finished_run.get_data(shipped.run, device)
    return data_of(shipped.facts, settings, device)


def _row(scored: dict[str, float], recorded: float | None) -> tuple[Any, ...]:
    equal = recorded is not None and abs(scored["accuracy"] - recorded) < _EQUAL
    beside = "" if recorded is None else "equal" if equal else f"{recorded:.2f} %"
    return (
        f"{scored['accuracy']:.2f} %", f"{scored['top5']:.2f} %", scored["errors"], f"{scored['nll']:.4f}", beside,
    )  # fmt: skip
