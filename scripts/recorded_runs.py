"""What a recorded command stands for: the overrides of its runs, and the hashes that those have now.

A row is as good as its hash: it is that of all that changes a run's numbers (config.identity), composed anew from the
row's overrides. A teacher, or another run that was needed before, has the overrides of the run that needed it.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from distill import config
from distill.sweep.checked import before
from distill.sweep.compose import left_out

Row = dict[str, Any]
"""A run as records.json has it."""


@cache
def composed(overrides: tuple[str, ...], hydra: bool = False) -> DictConfig:
    """The configuration of a command's overrides; hydra: with Hydra's own node."""
    config.register()
    with initialize_config_dir(str(config.conf_dir()), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=hydra)


@cache
def hashes(overrides: tuple[str, ...]) -> dict[str, config.RunSpec]:
    """The run that overrides stand for and the runs that it needs before, by their hashes."""
    spec = config.resolve(composed(overrides))
    return {each.hash: each for each in (spec, *(needed for _, needed in before(spec)))}


def known(row: Row) -> dict[str, config.RunSpec]:
    """`hashes` of a row; the seed is no part of them."""
    return hashes(seedless(row["overrides"]))


def stale(rows: Iterable[Row]) -> list[tuple[Row, str]]:
    """The rows that their overrides no longer give, each with the reason."""
    found = []
    for row in rows:
        try:
            now = known(row)
        except Exception as error:  # of Hydra and OmegaConf: an override that is not known any more
            found.append((row, f"cannot be composed ({' '.join(str(error).split())[:100]})"))
            continue
        if row["hash"] not in now:
            found.append((row, f"is {next(iter(now))} now"))
    return found


def jobs(command: str) -> Iterator[list[str]]:
    """The overrides of each run of a recorded command; a sweep stands for several."""
    words = [word for word in shlex.split(command)[3:] if not word.startswith("-")]
    own = [word for word in words if not word.startswith(("hydra", "threads=", "output=", "dataset.root="))]
    chosen = {word.partition("=")[0]: word.partition("=")[2] for word in own}
    sweep: dict[str, Any] = {}
    if "experiment" in chosen and "hydra.mode=RUN" not in words:
        cfg = composed((f"experiment={chosen['experiment']}",), hydra=True)
        sweep = dict(OmegaConf.select(cfg, "hydra.sweeper.params") or {})
    values = {key: split_words(str(value)) for key, value in (sweep | chosen).items()}
    for choice in product(*values.values()):
        overrides = [f"{key}={value}" for key, value in zip(values, choice, strict=True)]
        if not sweep or not left_out(composed((f"experiment={chosen['experiment']}",)), overrides):
            yield overrides


def split_words(text: str) -> list[str]:
    """The values of a sweep, at the commas outside brackets and braces."""
    depth, values = 0, [""]
    for letter in text.replace(" ", "").replace("'", ""):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(letter, 0)
        if letter == "," and not depth:
            values.append("")
        else:
            values[-1] += letter
    return values


def seedless(overrides: Iterable[str]) -> tuple[str, ...]:
    """The overrides without the seed and Hydra's own."""
    return tuple(text for text in overrides if not text.startswith(("seed=", "hydra.")))


def experiment_of(row: Row) -> str:
    """The experiment of a row, or nothing."""
    return next((text.partition("=")[2] for text in row["overrides"] if text.startswith("experiment=")), "")
