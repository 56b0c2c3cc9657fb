"""Runs many command lines in one process, with `distill.run` replaced: seeds from 90 on fail, each in its way."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import types
from typing import Any

from omegaconf import DictConfig

from distill import config, errors
from distill.cli import main as cli

FAILURES = {
    90: ValueError("no such data: put it there"),
    91: errors.NonFinite("ce is NaN at step 3"),
    92: errors.NoValidCheckpoint("all bad"),
    93: errors.Stopped(),
    94: errors.Stopped("stop", 130),
    95: KeyboardInterrupt(),
    96: MemoryError("out of memory"),
    97: FileNotFoundError("x.pth is not there"),
}


def run(cfg: DictConfig) -> dict[str, Any]:
    folder = config.identity(cfg)["folder"]
    print("RAN", cfg.method.name, cfg.seed, folder, os.environ.get("HYDRA_FULL_ERROR"))
    if cfg.seed in FAILURES:
        raise FAILURES[cfg.seed]
    return {"dataset": "digits", "student": "resnet8", "method": cfg.method.name, "accuracy": {"last": 50.0}}


def main() -> None:
    """Answer each command line of the JSON list on standard input with a line of JSON."""
    stub: Any = types.ModuleType("distill.run")
    stub.run = run
    sys.modules["distill.run"] = stub
    for argv in json.load(sys.stdin):
        out, err = io.StringIO(), io.StringIO()
        code: Any
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = cli.main(argv)
            except SystemExit as leaving:
                code = leaving.code
        result = {"code": code, "out": out.getvalue(), "err": err.getvalue(), "torch": "torch" in sys.modules}
        print(json.dumps(result))


if __name__ == "__main__":
    main()
