"""`schedule=finetune`, an own folder's default: length, batch and rate by how many images there are, and by whether the
student starts from given weights. Imports neither torch nor timm.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from distill.config.groups import plain
from distill.content.data_sets import KNOWN_SETS
from distill.cores import workers_of

BY_SIZE = "${finetune:"  # how the file of a schedule asks for what is chosen here
COUNTED = "images"  # of the dataset node of a record: how many there were, whatever the folder holds by now
_ALL: dict[str, Any] = {"classes": None, "omit": [], "fraction": 1, "shots": None, "holdout": 0}  # leave none out
_SEEN = 256_000  # images that a given net is shown in all: BiT's 500 steps of 512 (arXiv:1912.11370, section 3.3)
_EPOCHS = (10, 100)  # of a given net, at least and at most; one that starts from nothing has the most
_BATCH = (16, 256)  # at least and at most; in between, so many that an epoch has ten steps
_RATES = (1e-3, 1e-4)  # from nothing, and of a given net, at a batch of 256; both of AdamW, ours


def chosen_by_size(key: str, *, _root_: DictConfig) -> Any:
    """`${finetune:KEY}`: epochs, batch_size, lr, warmup_epochs or init_epochs, for the data of a configuration."""
    if "dataset" not in _root_:
        raise ValueError("schedule=finetune is chosen by a run's own data: name another in teacher.schedule")
    return _chosen(count_of(_root_), _given(_root_))[key]


def _chosen(count: int | None, given: bool) -> dict[str, Any]:
    """The keys for so many training images; None: not known, as where a folder is not there yet."""
    low, high = _EPOCHS
    epochs = min(max(round(_SEEN / count), low), high) if given and count else high
    batch = min(max(1 << (max(count // 10, 1).bit_length() - 1), _BATCH[0]), _BATCH[1]) if count else _BATCH[1]
    rate = _RATES[given] * batch / _BATCH[1]
    return {"epochs": epochs, "batch_size": batch, "lr": float(f"{rate:.6g}"), "warmup_epochs": epochs / 20,
            "init_epochs": max(epochs // 10, 1)}  # fmt: skip


def note_of_size(cfg: DictConfig) -> str | None:
    """One line on what the data's size has chosen; None for another schedule."""
    schedule = plain(cfg, "schedule")
    count, given = count_of(cfg), _given(cfg)
    if schedule.get("name") != "finetune" or count is None:
        return None
    begins = "given weights" if given else "nothing"
    fewer = [f"dataset.{key}" for key, none in _ALL.items() if plain(cfg, f"dataset.{key}") not in (none, None)]
    before = f" (counted before {', '.join(fewer)})" if fewer else ""
    return (
        f"schedule=finetune, for {count:,} training images{before} and a student that starts from {begins}: "
        f"{schedule['epochs']} epochs of {schedule['batch_size']} images at a rate of {schedule['lr']:g}"
    )


def count_of(cfg: DictConfig) -> int | None:
    """How many training images there are, before a data set's own keys choose among them; None where nobody knows."""
    keys = ("kind", "name", "root", "labels", "damaged", "workers", COUNTED)
    node = {key: plain(cfg, f"dataset.{key}") for key in keys if key in cfg.dataset}
    kind = str(node.get("kind") or node.get("name"))
    if node.get(COUNTED):
        return int(node[COUNTED])
    if kind == "folder":
        return _files(node)
    return KNOWN_SETS[kind].images if kind in KNOWN_SETS else None


def _files(node: Mapping[str, Any]) -> int | None:
    """Those of a folder; images that cannot be decoded are none where they are to be skipped, for which all are looked
    at: the run's hash does so too, and what was found is kept.
    """
    from distill.content.index import scanned  # numpy, which runs on other data need not wait for
    from distill.content.listing import train_listed

    try:
        found = train_listed(Path(str(node["root"])), node.get("labels") is not False)
    except ValueError:  # which is said where the folder is read
        return None
    damaged = scanned(found, workers_of(node.get("workers"))).damage if node.get("damaged") == "skip" else ()
    return len(found.names) - len(damaged)


def _given(cfg: DictConfig) -> bool:
    """Whether the student starts from weights."""
    weights = OmegaConf.select(cfg, "student.weights", default=None)
    return weights not in (None, "none") or OmegaConf.select(cfg, "student.upstream", default=None) is not None
