"""The methods and their papers, from conf/method/*.yaml."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from distill.config.groups import load_node, options
from distill.files import write_text


def methods(words: Iterable[str] = ()) -> list[dict[str, Any]]:
    """What conf/method says `about` each method, with its `name`; only those in which every word occurs."""
    found: list[dict[str, Any]] = []
    for name in options("method"):
        node = load_node("method", name)
        about = OmegaConf.to_container(node.about) if node is not None and "about" in node else {}
        assert isinstance(about, dict)
        defaults = {
            str(k): v
            for k, v in (node.items_ex(resolve=False) if node is not None else ())
            if k not in ("name", "_target_", "about")
        }
        entry = {"name": name, "kind": "", "paper": "", "aliases": [], **about, "defaults": defaults}
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
        reads = f"reads {', '.join(entry.get('taps', ()))}; phases {', '.join(entry.get('phases', ()))}"
        shown.append(f"  {'':<{width}}    {reads}; {_defaults(entry)}")
    return shown


def _markdown(entries: list[dict[str, Any]]) -> str:
    """The entries as one Markdown table: name, kind, paper, what it reads of the nets, phases, defaults."""
    rows = ["| method | kind | paper | taps | phases | defaults |", "|---|---|---|---|---|---|"]
    for entry in entries:
        cells = (f"`{entry['name']}`", entry["kind"], entry["paper"], ", ".join(entry.get("taps", ())),
                 ", ".join(entry.get("phases", ())), _defaults(entry))  # fmt: skip
        rows.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _defaults(entry: dict[str, Any]) -> str:
    return ", ".join(f"{key} {_short(value)}" for key, value in entry["defaults"].items())


def _short(value: Any) -> str:
    if isinstance(value, str) and value.startswith(("${by_value:", "${peer_rates:")):
        return f"by {value.partition(':${')[2].partition('}')[0]}"
    if isinstance(value, str) and value.startswith("${"):
        return value.strip("${}")
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def in_readme(text: str) -> str:
    """Return a README with the table of methods between its two marks brought up to date."""
    start, end = "<!-- methods -->", "<!-- /methods -->"
    before, _, rest = text.partition(start)
    return f"{before}{start}\n{_markdown(methods())}\n{end}{rest.partition(end)[2]}"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what may follow `distill methods`."""
    parser.add_argument("words", nargs="*", metavar="WORD", help="only methods in whose entry every word occurs")
    parser.add_argument("--markdown", action="store_true", help="as one table")
    parser.add_argument("--readme", type=Path, metavar="FILE", help="bring the table in this file up to date instead")


def run(options: argparse.Namespace) -> None:
    """Print the catalogue, or write it into a README."""
    if options.readme:
        write_text(options.readme, in_readme(options.readme.read_text(encoding="utf-8")))
        return
    entries = methods(options.words)
    if not entries:
        raise ValueError(f"no method has {' and '.join(options.words)} in its entry: distill methods lists all")
    print(_markdown(entries) if options.markdown else "\n".join(lines(entries)))
