"""The images that a shipped net is asked about: a data set's, or files."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor

import distill.config as config
from distill.config import DataSpec
from distill.config.data_spec import AUGMENTING
from distill.config.idle import check_root
from distill.content.decode import decode_options
from distill.content.fingerprint import data_fingerprint
from distill.content.index import examine_index, undecodable
from distill.content.listing import images_below, leaving_out
from distill.data import Data, DataInfo, load_data
from distill.data.crops import bordered
from distill.data.modality import View, make_view
from distill.data.timm_transforms import timm_transforms_of
from distill.data.views import Images
from distill.export.facts import CENTER, Facts, check_data_node

log = logging.getLogger(__name__)
_SHOWN = ("size", "in_chans", "mean", "std", "views", "interpolation")  # how any data set's images reach the net
_DECODED = ("exif", "background", "value_range")  # and those of files of which no YAML says how they are read
_OF_TRAINING = ("omit", "fraction", "shots", "labels")  # which images are trained on, by keys of dataset


def data_of(facts: Facts, settings: Sequence[str], device: torch.device) -> Data:
    """The data set to measure on: the net's own, or that of `settings`, such as dataset=NAME and dataset.root=FOLDER.

    Raises ValueError for a setting or data set that is not known, and for data of other classes than the net's.
    """
    data = load_data(node_of(facts, settings), device)
    if data.info.class_names != list(facts.classes):
        pairs = zip(data.info.class_names, facts.classes, strict=False)
        odd = next((f"'{one}' in place of '{other}'" for one, other in pairs if one != other), "others")
        count = f"{len(data.info.class_names)} classes, {len(facts.classes)} expected"
        raise ValueError(f"{data.info.name} has other classes than {facts.student} knows ({count}, {odd})")
    return data


def node_of(facts: Facts, settings: Sequence[str]) -> DataSpec:
    """The node of that data set: another one is brought to size, channels, constants and views of the net's own."""
    asked = {key: value for key, _, value in (text.partition("=") for text in settings)}
    name = asked.pop("dataset", None) or str(facts.dataset["name"])
    known: Any = config.load_node("dataset", name)
    if name != facts.dataset["name"]:
        if known is None:
            raise ValueError(config.no_such("dataset", name, config.options("dataset")))
        keys = (*_SHOWN, *_DECODED) if name == "folder" else _SHOWN
        shown = {key: facts.dataset[key] for key in keys if facts.dataset.get(key) is not None}
        whole: dict[str, Any] = {} if facts.border else {"resize": True}  # else with a border, as its own
        if known.get("kind") == "folder":  # squashed to its size where the net is shown images so
            _refuse_border(facts)
            whole = {"resize": facts.size if facts.crop != CENTER else None}
        node = {str(key): config.plain(known, str(key)) for key in known} | shown | whole
    else:
        kind: Any = known or config.load_node("dataset", str(facts.dataset.get("kind"))) or {}
        where = {key: config.plain(kind, key) for key in ("root", "workers") if key in kind}
        node = {**where, **facts.dataset}
    for key, value in asked.items():
        _check_reads(key, value, facts if name == facts.dataset["name"] else None)
        if key == "dataset.root":
            check_root(node, f"{key}={value}")
        _set(node, key, value)
    check_data_node(node)
    return DataSpec.of(node)


def _refuse_border(facts: Facts) -> None:
    """Raise ValueError for a net that is shown images with a border, which a data set of files has not."""
    if facts.border:
        raise ValueError(
            f"{facts.student} sees images of {facts.side} pixels with {facts.border} zeros on each side, as those of "
            f"{facts.dataset['name']} were given, and a folder's have none: distill predict puts them there"
        )


def _check_reads(key: str, value: str, own: Facts | None) -> None:
    """Raise ValueError for a key that changes nothing of what is measured; own: where the data are the net's own."""
    name = key.removeprefix("dataset.")
    if name in (*AUGMENTING, *_OF_TRAINING):
        raise ValueError(f"{key}={value} is of training, and all that is evaluated is measured as it is: leave it away")
    if name in ("mean", "std"):
        raise ValueError(f"{key}={value}: the net sees images by the mean and std of its training: leave it away")
    if name == "holdout" and own is not None and float(own.dataset.get("holdout") or 0) != _number(value):
        raise ValueError(f"{key}={value}: the net was trained on images that this would hold out: leave it away")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def holds_other(facts: Facts, data: DataSpec) -> bool:
    """Whether the files of the net's own data set hold other images or labels than the net was made with."""
    node = {each.name: getattr(data, each.name) for each in fields(data) if each.name != "content"}
    return (data_fingerprint(node) or "") != (facts.dataset.get("content") or "")


def _set(node: dict[str, Any], setting: str, text: str) -> None:
    group, _, key = setting.partition(".")
    if group != "dataset" or key not in node:
        known = [f"dataset.{name}" for name in node]
        raise ValueError(f"there is no key '{setting}' here: {config.did_you_mean(setting, known)}")
    node[key] = OmegaConf.to_object(OmegaConf.from_dotlist([f"value={text}"]))["value"]  # type: ignore[index,call-overload]


def files_of(given: Sequence[str]) -> list[Path]:
    """The given image files, and all below given folders. Raises ValueError where there are none, and where some cannot
    be decoded: not after most of them were classified.
    """
    found: list[Path] = []
    for path in map(Path, given):
        if path.is_dir():
            images, left_out = images_below(path)
            found += images
            if left_out:
                log.info("%s", leaving_out(path, left_out))
        elif path.is_file():
            found.append(path)
        else:
            raise ValueError(f"there is no {path}: give image files, or folders of them")
    if not found:
        raise ValueError(f"there are no images in {', '.join(given)}")
    if damage := {path: look.damage for path in found if (look := examine_index(str(path))).damage}:
        first = next(iter(damage))
        raise ValueError(f"{undecodable(first, damage[first], len(damage))}: replace or remove what is damaged")
    return found


def batches(facts: Facts, files: Sequence[Path], device: torch.device, size: int = 64) -> Iterator[Tensor]:
    """Images [B,C,S,S] of files as the data set of the net would give them.

    Raises ValueError for a file that cannot be decoded, and for a net that does not see images of files.
    """
    read, seen = _reader(facts, files), _view(facts)
    for start in range(0, len(files), size):
        items = [read[position, None] for position in range(start, min(start + size, len(files)))]
        if wrong := next((item for item in items if isinstance(item, str)), None):
            raise ValueError(wrong)
        pixels = torch.stack([item[0] for item in items if not isinstance(item, str)]).to(device)
        yield seen(bordered(pixels, facts.border, "zeros"))


def _reader(facts: Facts, files: Sequence[Path]) -> Images:
    spec, none = DataSpec.of(facts.dataset), np.zeros(len(files), dtype=np.int64)
    if facts.view == "depth" or spec.in_chans not in (1, 3):
        raise ValueError(f"{facts.student} takes {facts.channels} channels, which image files do not hold")
    reading = decode_options(
        background=spec.background, value_range=spec.value_range, exif=spec.exif, in_chans=spec.in_chans
    )
    resize = 0 if facts.crop == CENTER else facts.side
    shown = [str(file) for file in files]
    return Images(shown, none, facts.side, reading, False, resize=resize, timm_transforms=timm_transforms_of(spec))


def _view(facts: Facts) -> View:
    """What the net sees of pixels, and by which mean and std."""
    node = facts.dataset
    mean, std = tuple(node["mean"]), tuple(node["std"])
    pixels = DataInfo("files", 0, 0, int(node["in_chans"]), facts.size, mean, std, torch.empty(0), [])
    return make_view(facts.view, pixels, depth=False)


def constants_of_data(facts: Facts) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and std by which the net's data set gives it images."""
    view = _view(facts)
    return view.mean, view.std
