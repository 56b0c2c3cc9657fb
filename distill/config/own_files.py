"""What can be wrong with a YAML file of the user's own, said with its name before Hydra reads it."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from distill.config.groups import conf_dir

_OF_THE_WHOLE, _HEADER = {"experiment", "pair", "tuned"}, re.compile(r"^#\s*@package\s+_global_\s*$", re.MULTILINE)
_MOST = 20_000  # values of a file once its aliases are written out


def check_folder(folder: Path) -> None:
    """Look at the YAML files of a --config-dir. Raises ValueError for one that cannot be a configuration, and for one
    that is not read, since the program has another of its name, or since it or its folder has nearly a right one.
    """
    for group in (each.name for each in conf_dir().iterdir() if each.is_dir()):
        if any((folder / f"{group}s").glob("*.yaml")):
            raise ValueError(f"{folder / group}s is not read: call the folder {group}")
        for path in (folder / group).rglob("*.yml"):
            raise ValueError(f"{path} is not read: call it {path.stem}.yaml")
    found = [path for group in conf_dir().iterdir() if group.is_dir() for path in (folder / group.name).rglob("*.yaml")]
    for path in sorted([*found, *folder.glob("config.yaml")]):
        check_file(path)
        if path.relative_to(folder).parts[0] in _OF_THE_WHOLE and not _HEADER.search(path.read_text(encoding="utf-8")):
            raise ValueError(f"{path} sets keys of the whole configuration: write '# @package _global_' above them")
        ours = conf_dir() / path.relative_to(folder)
        if ours.is_file() and ours.read_bytes() != path.read_bytes():
            raise ValueError(f"{path} is not read, for the program has a file of that name: give yours another")


def check_file(path: Path) -> None:
    """Raise ValueError where a file is no YAML of keys and values, refers to itself, or is made to fill the memory."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no file: take it out of the folder")
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except UnicodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: write it anew") from error
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or "it is nested too deeply"
        raise ValueError(f"{path} is no YAML{where} ({what}): mend it") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): mend it, or take it out of the folder") from error
    if root is not None and not isinstance(root, yaml.MappingNode):
        raise ValueError(f"{path} holds no keys and values: write key: value in each line")
    try:
        count = _count(root, {}) if root is not None else 0
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply: mend it") from error
    if count > _MOST:
        raise ValueError(f"{path} stands for more than {_MOST} values: it has aliases of aliases, write them out")


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for, aliases written out; more than MOST where it holds itself."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = _MOST + 1  # while it is counted, only an alias of itself asks
    below: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        below = [one for pair in node.value for one in pair]
    elif isinstance(node, yaml.SequenceNode):
        below = list(node.value)
    known[id(node)] = 1 + sum(_count(one, known) for one in below)
    return known[id(node)]
