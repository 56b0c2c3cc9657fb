"""Data sets: arrays on the device or folders of images, and the batches that training and evaluation see."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from distill.content.readers import READERS, Arrays, Part, register_reader
from distill.data.arrays import ArraySource, evaluation_batches
from distill.data.dataset import Adapt, Data
from distill.data.info import DataInfo, Split
from distill.data.loading import load_data

if TYPE_CHECKING:
    from distill.data.folder import FolderSource

__all__ = [
    "READERS",
    "Adapt",
    "ArraySource",
    "Arrays",
    "Data",
    "DataInfo",
    "FolderSource",
    "Part",
    "Split",
    "evaluation_batches",
    "load_data",
    "register_reader",
]


def __getattr__(name: str) -> Any:
    """FolderSource, which imports Pillow, when it is asked for."""
    if name == "FolderSource":
        return import_module("distill.data.folder").FolderSource
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
