"""The methods with their papers, read from conf/method/*.yaml: `python -m distill.catalogue [word ...]`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from omegaconf import OmegaConf

from distill.config import load, options


def methods(words: Iterable[str] = ()) -> list[dict[str, Any]]:
    """What conf/method says `about` each method, with its `name`; only those in which every word occurs."""
    found: list[dict[str, Any]] = []
    for name in options("method"):
        node = load("method", name)
        about = OmegaConf.to_container(node.about) if node is not None and "about" in node else {}
        assert isinstance(about, dict)
        entry = {"name": name, "kind": "", "paper": "", "aliases": [], **about}
        if all(word.lower() in str(entry).lower() for word in words):
            found.append(entry)
    return sorted(found, key=lambda entry: (entry["kind"], entry["name"]))


def lines(entries: list[dict[str, Any]]) -> list[str]:
    """The entries as lines of text under a heading for each kind."""
    width = max((len(entry["name"]) for entry in entries), default=0)
    shown: list[str] = []
    kind = None
    for entry in entries:
        if entry["kind"] != kind:
            kind = entry["kind"]
            shown.append(kind)
        also = f" (also: {', '.join(entry['aliases'])})" if entry["aliases"] else ""
        shown.append(f"  {entry['name']:<{width}}  {entry['paper']}{also}")
    return shown


if __name__ == "__main__":
    print("\n".join(lines(methods(sys.argv[1:]))))
