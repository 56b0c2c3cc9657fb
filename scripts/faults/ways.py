"""Ways in which a file is damaged: its bytes, values of another kind, and what runs code where it is trusted."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

from scripts.faults import payloads

Chance = random.Random
MARKER = "RAN"
WAYS = ("empty", "cut", "bit", "zeros", "noise", "longer", "folder", "dangling", "loop", "null", "fifo", "foreign")


def damage(path: Path, place: Path, chance: Chance) -> str:
    """Damage a file in a random way; returns what was done."""
    whole = path.read_bytes() if path.is_file() else b"x"
    special = {".json": _json, ".jsonl": _json, ".yaml": _yaml}.get(path.suffix, _pickle)
    if chance.random() < (0.5 if special is not _pickle else 0.25):
        how, content = special(whole, place / MARKER, chance)
        path.write_bytes(content)
        return how
    how = chance.choice(WAYS)
    path.unlink(missing_ok=True)
    if how in ("folder", "dangling", "loop", "null", "fifo"):
        _put(how, path)
    else:
        path.write_bytes(_bytes(how, whole, chance))
    return how


def _put(how: str, path: Path) -> None:
    targets = {"dangling": "/nonexistent/x", "loop": path.name, "null": os.devnull}
    if how == "folder":
        path.mkdir()
    elif how == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(targets[how])


def _bytes(how: str, whole: bytes, chance: Chance) -> bytes:
    at = chance.randrange(max(len(whole), 1))
    changed = bytearray(whole)
    if how == "bit" and whole:
        changed[at] ^= 1 << chance.randrange(8)
    made = {
        "empty": b"",
        "cut": whole[:at],
        "bit": bytes(changed),
        "zeros": whole[:at] + bytes(len(whole[at : at + 512])) + whole[at + 512 :],
        "noise": chance.randbytes(max(len(whole), 1)),
        "longer": whole + chance.randbytes(1 + at),
        "foreign": b"<!doctype html><title>404</title>\n",
    }
    return made[how]


def _json(whole: bytes, marker: Path, chance: Chance) -> tuple[str, bytes]:
    try:
        content = json.loads(whole.splitlines()[0] if whole.count(b"\n{") else whole)
    except ValueError:
        content = None
    if isinstance(content, dict) and content and chance.random() < 0.6:
        return "one value of another kind", payloads.misshapen(content, chance)
    name = chance.choice(list(payloads.JSONS))
    return name, payloads.JSONS[name]


def _yaml(whole: bytes, marker: Path, chance: Chance) -> tuple[str, bytes]:
    made = payloads.yamls(marker)
    name = chance.choice(list(made))
    return name, made[name]


def _pickle(whole: bytes, marker: Path, chance: Chance) -> tuple[str, bytes]:
    made = payloads.pickles(marker) | payloads.torches(marker)
    name = chance.choice(list(made))
    return name, made[name]
