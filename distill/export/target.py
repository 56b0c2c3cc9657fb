"""What `distill eval` and `distill predict` are given: a trained net, and where it is run."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import distill.config as config
import distill.runtime as runtime
from distill.export.shipped import Shipped, open_shipped


def add_target(parser: argparse.ArgumentParser) -> None:
    """Declare the net, as the first argument, and its options."""
    add = parser.add_argument
    add("target", metavar="RUN|FOLDER|FILE.onnx", help="a finished run, or what distill export made of one")
    add("--best", action="store_true", help="a run's student after its best epoch")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")


def add_out(parser: argparse.ArgumentParser, words: str) -> None:
    """Declare the file to write."""
    parser.add_argument("--out", type=Path, metavar="FILE", help=words)


def open_target(options: argparse.Namespace) -> tuple[Shipped, torch.device]:
    """The net, and its device. Raises ValueError for what is none."""
    config.register()
    device = runtime.pick_device(options.device)
    return open_shipped(options.target, device, options.best).require_classes(), device
