"""A net as an ONNX file: written, compared with the net itself, and timed by onnxruntime on the CPU."""

from __future__ import annotations

import contextlib
import io
import logging
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distill.files import first_line

INPUT, OUTPUT = "images", "logits"
RUNS, SECONDS = 50, 3.0  # of a timing: no more of either
PROBES = 16  # images that file and net are compared by


def needs() -> None:
    """Raise ValueError where the packages are missing that write and run ONNX files."""
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(f"{error.name} is not installed: pip install 'distill[export]'") from error


class Session(nn.Module):
    """An ONNX file asked as a net: images [B,C,S,S] -> logits [B,K], on the CPU.

    threads: null leaves onnxruntime's choice. Raises ValueError for a file that is none.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        super().__init__()
        needs()
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        try:
            self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's have no class of their own
            raise ValueError(f"{path} is no ONNX file that onnxruntime runs: export it again") from error

    def forward(self, images: Tensor) -> Tensor:
        array = np.ascontiguousarray(images.detach().cpu().float().numpy())
        return torch.from_numpy(self.session.run([OUTPUT], {INPUT: array})[0])

    def milliseconds(self, shape: tuple[int, int, int]) -> float:
        """The median time of one image [C,S,S] by itself."""
        image: dict[str, Any] = {INPUT: probe_images(shape, 1).numpy()}
        taken: list[float] = []
        for _ in range(5):  # the first are slower
            self.session.run([OUTPUT], image)
        until = time.monotonic() + SECONDS
        while len(taken) < RUNS and (time.monotonic() < until or not taken):
            started = time.perf_counter()
            self.session.run([OUTPUT], image)
            taken.append(time.perf_counter() - started)
        return 1000 * median(taken)


def write_onnx(model: nn.Module, shape: tuple[int, int, int], path: Path, name: str) -> None:
    """Write the net images [B,C,S,S] -> logits [B,K] for any B. Raises ValueError where torch cannot export it."""
    needs()
    try:
        with _quiet():
            made: Any = torch.onnx.export(
                model.eval(),
                (probe_images(shape, 2),),
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    except Exception as error:  # torch's exporter wraps whatever went wrong inside
        why = first_line(error)
        raise ValueError(f"torch cannot write {name} as ONNX ({why}): export it without --onnx") from error
    made.save(str(path), external_data=False)


def difference(one: nn.Module, other: nn.Module, shape: tuple[int, int, int]) -> tuple[float, float]:
    """The largest difference between the logits that two nets give to the same images, and their largest size."""
    images = probe_images(shape, PROBES)
    with torch.no_grad():
        first, second = one(images).double(), other(images).double()
    return (first - second).abs().max().item(), first.abs().max().item()


def probe_images(shape: tuple[int, int, int], count: int) -> Tensor:
    """Images [count,C,S,S] of noise with mean 0 and variance 1, always the same."""
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what torch's exporter prints and warns of; its errors come through."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
