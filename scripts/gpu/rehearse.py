"""A dry run on the CPU of what a GPU is to run: `python scripts/gpu/rehearse.py -m distill method=kd device=cpu`.

The module or script runs as it would, but for the kernels: steps are recorded and replayed, on streams, by stand-ins
that keep the rules of CUDA's (tests/replay.py).
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from unittest.mock import patch

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from distill import run  # noqa: E402
from distill.engine import cuda_graphs  # noqa: E402
from tests.replay import Replay, streams  # noqa: E402


def main() -> None:
    """Run the rest of the command line."""
    module = sys.argv[1] == "-m"
    name, sys.argv = sys.argv[1 + module], sys.argv[1 + module :]
    asked = cuda_graphs.without_graphs

    def as_there(
        setting: object, device: torch.device, precision: str, world: int, size: int, cached: bool = False
    ) -> bool:
        return asked(setting, torch.device("cuda"), precision, world, size, cached)

    with (
        streams(),
        patch.object(run, "CudaGraph", Replay),
        patch.object(run, "without_graphs", as_there),
        patch.object(cuda_graphs, "CudaGraph", Replay),
        patch.object(cuda_graphs, "without_graphs", as_there),
    ):
        if module:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, str(Path(name).parent))
            runpy.run_path(name, run_name="__main__")


if __name__ == "__main__":
    main()
