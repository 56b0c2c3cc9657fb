"""A data set as a run sees it: the keys of conf/dataset/<name>.yaml, typed and read-only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from distill.config.read_only import frozen
from distill.cores import workers_of

NEVER_NULL = ("in_chans", "pad", "flip", "workers", "damaged", "exif", "background")  # beside what must be given
AUGMENTING = ("pad", "pad_mode", "flip", "rotate", "randaugment", "cutout", "erasing", "auto_augment", "color_jitter",
              "draft")  # fmt: skip
"""Keys that say how training images are varied: what is evaluated does not depend on them."""


@dataclass(frozen=True)
class DataSpec:
    """What the keys stand for is said in conf/dataset. `kind` is a reader of data.readers, or folder."""

    name: str
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    kind: str = ""  # empty: the name
    root: Path = Path("data")
    num_classes: int | None = None
    in_chans: int = 3
    resize: bool | int = False
    pad: int = 4
    pad_mode: str = "zeros"
    flip: bool = True
    rotate: float = 0.0
    randaugment: int = 0
    cutout: int = 0
    erasing: float = 0.0
    auto_augment: str | None = None
    color_jitter: float = 0.0
    draft: bool = False  # JPEGs are decoded smaller for training where crops allow it
    interpolation: str | None = None
    holdout: float = 0.0
    shots: int | None = None
    labels: bool = True
    classes: tuple[int | str, ...] | None = None
    omit: tuple[int | str, ...] = ()
    fraction: float = 1.0
    views: Mapping[str, str | None] = field(default_factory=dict)
    workers: int = 4
    damaged: str = "refuse"
    exif: bool = True
    background: tuple[int, ...] = (255, 255, 255)
    value_range: tuple[float, ...] | None = None
    content: str = ""  # what its files hold, where that is not what its name says

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", self.kind or self.name)

    @classmethod
    def of(cls, node: Mapping[str, Any]) -> DataSpec:
        """The data set of a plain node; keys that are null stand for nothing. Raises ValueError where none may be."""
        known = {each.name: each for each in fields(cls)}
        given = {key: frozen(value) for key, value in node.items() if key in known and value is not None}
        needed = [key for key, each in known.items() if each.default is each.default_factory is MISSING]
        empty = [key for key in NEVER_NULL if node.get(key, "") is None]
        if missing := [key for key in needed if key not in given] + empty:
            raise ValueError(f"dataset.{missing[0]} has no value: give one, dataset.{missing[0]}=...")
        if "workers" in given:
            given["workers"] = workers_of(given["workers"])
        return cls(**given | ({"root": Path(str(given["root"]))} if "root" in given else {}))
