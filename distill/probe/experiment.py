"""One probe: the data at the net's size, features extracted once, a linear layer, and a result file."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

import distill.config as config
import distill.runtime as runtime
from distill.config import DataSpec
from distill.config.idle import check_root
from distill.content.data_sets import KNOWN_SETS
from distill.content.fingerprint import data_fingerprint
from distill.data import Data, load_data
from distill.engine.neighbours import embed
from distill.files import write_json
from distill.models import FeatureNet
from distill.probe.linear import Recipe, fit_linear
from distill.probe.subject import Subject

log = logging.getLogger(__name__)
FEATURES = "the classifier's input, extracted once in eval mode and fp32, without augmentation"


def probe(
    subject: Subject, dataset: str, recipe: Recipe, device: torch.device, *, seed: int = 0, **changes: Any
) -> Path:
    """Train and measure a linear layer on `dataset` (a file of conf/dataset); return the path of its result.

    changes: keys of the data set that differ from its file, such as root; None leaves the file's value.
    Raises ValueError for a data set that is unknown, is not there or does not suit the net.
    """
    started = time.time()
    net = subject.net
    net.register_buffer("input_scale", None)  # it sees images as the result says
    net.register_buffer("input_shift", None)
    node = data_node(dataset, net, recipe, changes)
    data = load_data(DataSpec.of(node), device)
    train = embed(net, replace(data, test=data.train).evaluation(256))
    test = embed(net, data.evaluation(256))
    log.info("%d and %d images, each as %d numbers", len(train.labels), len(test.labels), net.embedding_dim)
    fitted = fit_linear(train, test, data.info.num_classes, recipe, lr_scale=subject.lr_scale, seed=seed)
    best = max(fitted.tested)
    result = {
        **subject.about,
        "model": net.name,
        "dataset": data.info.name,
        "content": None if known_by_name(node) else data_fingerprint(node),  # a report tells two folders apart
        "evaluated_on": data.info.evaluated_on,
        "accuracy": {"last": fitted.tested[-1], "best": best, "best_epoch": fitted.tested.index(best) + 1},
        "train_accuracy": fitted.train_accuracy,
        "probe_seed": seed,
        "recipe": _recipe_row(recipe, subject.lr_scale),
        "features": FEATURES,
        "embedding_dim": net.embedding_dim,
        **_images(data, node),
        "seconds": time.time() - started,
        **runtime.describe_machine(device),
    }
    path = subject.folder / "probe" / file_name(data.info.name, recipe, subject.suffix, seed)
    write_json(path, result)
    return path


def data_node(name: str, net: FeatureNet, recipe: Recipe, changes: dict[str, Any]) -> dict[str, Any]:
    """conf/dataset/<name>.yaml with the net's image size and channels and the recipe's constants.

    Raises ValueError for an unknown name, and for a net that sees grey and data in colour.
    """
    found, known = config.load_node("dataset", name), config.options("dataset")
    if found is None:
        raise ValueError(config.no_such("data set", name, known))
    if changes.get("root") is not None:
        check_root(found, f"--root={changes['root']}")
    for key, value in changes.items():
        found[key] = found[key] if value is None else value
    node: dict[str, Any] = {str(key): config.plain(found, str(key)) for key in found}
    mean, std = recipe.statistics.get(name, (node["mean"], node["std"]))
    if len(mean) > net.in_chans and node.get("kind") == "folder":  # whose images can be read as grey ones
        mean, std = [sum(mean) / len(mean)], [sum(std) / len(std)]
    if len(mean) > net.in_chans:
        raise ValueError(f"{net.name} takes grey images and {name} is in colour: probe it on mnist or digits")
    repeat = net.in_chans // len(mean)
    own = {"size": net.size, "in_chans": net.in_chans, "mean": [*mean] * repeat, "std": [*std] * repeat}
    return {**node, **own, "resize": None if node.get("kind") == "folder" else True}


def known_by_name(node: dict[str, Any]) -> bool:
    """Whether the name of a data set says what its files hold."""
    return str(node.get("kind") or node["name"]) in KNOWN_SETS


def file_name(dataset: str, recipe: Recipe, suffix: str, seed: int) -> str:
    """`stl10-distillers.json`; `stl10-distillers-epochs3-teacher-seed1.json`."""
    parts = f"{dataset}-{recipe.name.replace('=', '')}{suffix}" + (f"-seed{seed}" if seed else "")
    return f"{config.slug(parts)}.json"


def _recipe_row(recipe: Recipe, lr_scale: float) -> dict[str, Any]:
    recorded = {key: value for key, value in asdict(recipe).items() if key not in ("statistics", "scaled")}
    return {**recorded, "lr": recipe.lr * (lr_scale if recipe.scaled else 1.0), "optimizer": "sgd"}


def _images(data: Data, node: dict[str, Any]) -> dict[str, Any]:
    info = data.info
    return {
        "size": info.size, "mean": list(info.mean), "std": list(info.std), "num_train": info.num_train,
        "num_test": len(data.evaluated), "num_classes": info.num_classes, "fraction": node.get("fraction"),
    }  # fmt: skip
