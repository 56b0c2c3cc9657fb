"""W&B servers that refuse, that never answer, that die: a run ends with all its rows."""

from __future__ import annotations

import os
import shlex
import socket
import threading
from pathlib import Path
from typing import Any

from distill import errors
from scripts.faults.forked import forked
from scripts.faults.keys import command
from scripts.faults.ledger import Try
from scripts.faults.shapes import SMALL

ROWS = 2  # epochs


class Servers:
    """Each kind of server in turn."""

    name = "servers"

    def __init__(self, folder: Path) -> None:
        self.last = None if _has_wandb() else 0

    def attempt(self, number: int, place: Path) -> Try:
        """Track a run with a server that is none."""
        kind = list(KINDS)[number % len(KINDS)]
        argv = [*SMALL, "method=none", "tracking=wandb", f"output={place}/out"]
        server, env = KINDS[kind](place)

        def work() -> int:
            os.environ.pop("WANDB_MODE", None)
            os.environ.update(env)
            return command(argv, place)

        try:
            ended = forked(work, place, longest=240)
        finally:
            if server:
                server.close()
        found = next((place / "out").rglob("metrics.jsonl"), None)
        rows = found.read_text().count('"kind": "epoch"') if found else 0
        good = ended.code == errors.DONE and rows == ROWS and "Traceback" not in ended.said
        why = f"{ended.seconds:.0f} s" if good else f"exit code {ended.code}, {rows} rows, {ended.said[-300:]}"
        return Try(self.name, number, kind, good, why, shlex.join(["python", "-m", "distill", *argv]))


def _has_wandb() -> bool:
    from importlib.util import find_spec

    return find_spec("wandb") is not None


KEY = {"WANDB_API_KEY": 40 * "a", "WANDB_INIT_TIMEOUT": "20"}


def _refuses(place: Path) -> tuple[Any, dict[str, str]]:
    free = socket.create_server(("127.0.0.1", 0))
    port = free.getsockname()[1]
    free.close()
    return None, KEY | {"WANDB_BASE_URL": f"http://127.0.0.1:{port}"}


def _never_answers(place: Path) -> tuple[Any, dict[str, str]]:
    server = socket.create_server(("127.0.0.1", 0))
    return server, KEY | {"WANDB_BASE_URL": f"http://127.0.0.1:{server.getsockname()[1]}"}


def _hangs_up(place: Path) -> tuple[Any, dict[str, str]]:
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                server.accept()[0].close()
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    return server, KEY | {"WANDB_BASE_URL": f"http://127.0.0.1:{server.getsockname()[1]}"}


def _no_key(place: Path) -> tuple[Any, dict[str, str]]:
    return None, {"WANDB_BASE_URL": "http://127.0.0.1:9", "HOME": str(place), "NETRC": str(place / "none")}


def _bad_address(place: Path) -> tuple[Any, dict[str, str]]:
    return None, KEY | {"WANDB_BASE_URL": "http://no-such-host.invalid"}


def _no_folder(place: Path) -> tuple[Any, dict[str, str]]:
    return None, KEY | {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_DIR": "/dev/null/x", "WANDB_MODE": "offline"}


KINDS = {
    "it refuses": _refuses,
    "it never answers": _never_answers,
    "it hangs up": _hangs_up,
    "no key": _no_key,
    "no such host": _bad_address,
    "its folder cannot be written": _no_folder,
}
