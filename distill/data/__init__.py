"""Data sets: arrays on the device or folders of images, and the batches that training and evaluation see."""

from distill.content.readers import READERS, Arrays, Part, register_reader
from distill.data.arrays import ArraySource, evaluation_batches
from distill.data.dataset import Adapt, Data
from distill.data.folder import FolderSource
from distill.data.info import DataInfo, Split
from distill.data.loading import load

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
    "load",
    "register_reader",
]
