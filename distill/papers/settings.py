"""Published settings as data (settings.yaml): what the authors' own files say for a method, a data set and a pair.

`cells()` gives one Cell a (block, method, pair). The tests compose each as the command line would and compare all its
keys, so a value in conf/ that no longer is the authors' is found at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml


@dataclass(frozen=True)
class ExpectedConfig:
    """What one command must compose to. `values`: config keys (and `lr`, the rate that the student trains at).

    pair: `<teacher>-<student>` as in by_pair tables (none: without a teacher); None: the values hold for all pairs.
    words: what the command line has besides dataset=, method= and the pair. same_as: the block that it repeats.
    reduction: what the authors' weights are weights of.
    """

    block: str
    method: str
    dataset: str
    pair: str | None
    values: Mapping[str, Any]
    words: tuple[str, ...] = ()
    protocol: str | None = None
    reduction: str = ""
    source: str = ""
    same_as: str | None = None
    note: str = ""

    @property
    def name(self) -> str:
        """`dkd:dkd:vgg13-vgg8`: block, method and pair."""
        return ":".join(filter(None, (self.block, self.method, self.pair)))


@cache
def raw() -> Mapping[str, Any]:
    """settings.yaml as it stands."""
    text = files(__package__).joinpath("settings.yaml").read_text(encoding="utf-8")
    found: Mapping[str, Any] = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return found


@cache
def cells() -> tuple[ExpectedConfig, ...]:
    """Every cell that the file names, those of same_as included."""
    return tuple(cell for name in raw()["blocks"] for cell in _block(name))


def own_value(stated: Any) -> Any:
    """A value as ours must be: `{theirs: 0.15, times: 0.01}` is the authors' value by the factor of its reduction."""
    if isinstance(stated, Mapping) and "theirs" in stated:
        return stated["theirs"] * stated["times"]
    return stated


def _block(name: str) -> Iterator[ExpectedConfig]:
    block: Mapping[str, Any] = raw()["blocks"][name]
    for method in block["rows"]:
        row = {**block, **(block["rows"][method] or {})}
        shared, pairs = _values(block, method), row.get("pairs") or {None: {}}
        for pair in pairs:
            own = (pairs[pair] or {}) if isinstance(pairs, Mapping) else {}
            yield ExpectedConfig(
                block=name,
                method=method,
                dataset=block["dataset"],
                pair=pair,
                values={key: own_value(stated) for key, stated in (shared | own).items()},
                words=tuple(row.get("words", ())),
                protocol=row.get("protocol"),
                reduction=row.get("reduction", ""),
                source=row.get("source") or raw()["blocks"][block["same_as"]]["source"],
                same_as=block.get("same_as"),
                note=row.get("note", ""),
            )


def _values(block: Mapping[str, Any], method: str) -> dict[str, Any]:
    """What holds for all pairs of a row; of another block (same_as) the method's keys, not those of its schedule."""
    own = {**block.get("values", {}), **(block["rows"][method] or {}).get("values", {})}
    if block["rows"][method] is None and "same_as" in block:
        repeated = _values(raw()["blocks"][block["same_as"]], method)
        own = {key: stated for key, stated in repeated.items() if key.startswith("method.")} | own
    return own
