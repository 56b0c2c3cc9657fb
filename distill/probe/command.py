"""Train a linear layer on a frozen net's features of another data set (CRD, table 4)."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import distill.config as config
import distill.runtime as runtime
from distill.config.rules import RULES, check_rule
from distill.files import read_json
from distill.probe.experiment import probe
from distill.probe.linear import RECIPES
from distill.probe.subject import find


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what may follow `distill probe`."""
    parser.epilog = "The result lies in RUN/probe/<dataset>-<recipe>.json; distill report shows it."
    add = parser.add_argument
    add("targets", nargs="+", metavar="RUN_FOLDER|WEIGHTS", help="finished runs, or files of weights")
    add("--dataset", required=True, metavar="NAME", help="such as stl10, tinyimagenet, folder, digits")
    add("--root", metavar="FOLDER", help="where the data is (default: DISTILL_DATA or data)")
    add("--teacher", action="store_true", help="probe the run's teacher in place of its student")
    add("--model", metavar="NAME", help="the net that a file of weights is of, where it does not tell")
    add("--recipe", default="distillers", choices=[*RECIPES], help="default: %(default)s")
    add("--epochs", type=int, help="in place of the recipe's; so the next two")
    add("--lr", type=float)
    add("--batch-size", type=int)
    add("--fraction", type=float, help="use this share of every class's training images")
    add("--seed", type=int, default=0, help="of the layer and the order of the images (default: 0)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")


def run(options: argparse.Namespace) -> None:
    """Probe nets on one data set. Raises ValueError for a mistake in the options, the nets' files or the data."""
    config.register()
    given = {"epochs": options.epochs, "lr": options.lr, "batch_size": options.batch_size}
    rules = {key: f"schedule.{key}" for key in given} | {"fraction": "dataset.fraction", "seed": "seed"}
    for key, rule in rules.items():
        if (value := getattr(options, key)) is not None:
            check_rule(f"--{key.replace('_', '-')}", value, RULES[rule])
    device = runtime.pick_device(options.device)
    recipe = RECIPES[options.recipe].changed(**given)
    if options.fraction is not None:
        recipe = replace(recipe, name=f"{recipe.name},fraction={options.fraction:g}")
    for target in options.targets:
        subject = find(target, device, teacher=options.teacher, model=options.model)
        changes = {"root": options.root, "fraction": options.fraction}
        path = probe(subject, options.dataset, recipe, device, seed=options.seed, **changes)
        _print_result(subject.net.name, recipe.name, path)


def _print_result(net: str, recipe: str, path: Path) -> None:
    result = read_json(path)
    accuracy = result["accuracy"]
    print(
        f"{net} on {result['dataset']}, {recipe}: {accuracy['last']:.2f} % last, "
        f"{accuracy['best']:.2f} % best (epoch {accuracy['best_epoch']}); wrote {path}"
    )
