"""Bad values for every key of composed configurations: many through the command's own check, and whole commands."""

from __future__ import annotations

import json
import random
import shlex
import signal
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from distill.config.hydra_keys import LAUNCHERS
from scripts.faults.forked import forked
from scripts.faults.judging import answer_is_wrong, sentence_is_wrong
from scripts.faults.ledger import Try
from scripts.faults.shapes import SMALL

BASES: dict[str, tuple[str, ...]] = {
    "kd": (),
    "crd": ("method=crd",),
    "cmi": ("method=cmi",),
    "several": ("method=ca-mkd", "teacher.models=[resnet8,resnet8]"),
    "quantised": ("method=qkd",),
    "sskd": ("method=sskd",),
    "cifar100": ("dataset=cifar100",),
    "folder": ("dataset=folder", "schedule=imagenet"),
}
VALUES = (
    "abc", "", "null", "true", "-1", "0", "1.5", "1e400", "nan", "-inf", "1" + 30 * "0", "[1,2]", "[]", "{a:1}",
    "[[[]]]", "'\x1b]0;title\x07'", "'line\nbreak'", "'\u202emirror'", 3000 * "x", "${nope}", "${seed}", "???",
    "'../../x'", "/dev/null", "'=1+1'", "'a b'", "0x10", "1_000", "'\U0001f600'",
)  # fmt: skip
FORMS = ("{key}={value}", "+{key}={value}", "++{key}={value}", "~{key}", "{key}.below={value}", "+{key}er={value}")
AT_ONCE = 60  # pairs of a try
STOP_AFTER = 25.0  # seconds of training that show that a value is taken


@cache
def keys(base: str) -> tuple[str, ...]:
    """Every key of a composition that can be set, dictionaries too."""
    from hydra import compose, initialize_config_dir

    from distill import config

    config.register()
    with initialize_config_dir(str(config.conf_dir()), version_base="1.3"):
        cfg = compose("config", list(BASES[base]))
    return tuple(_keys(cfg, ""))


def _keys(node: Any, above: str) -> Iterator[str]:
    for key in node:
        name = f"{above}{key}"
        if name.startswith("method.about") or name.endswith("_target_"):
            continue
        yield name
        below = None if OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key) else node[key]
        if isinstance(below, DictConfig):
            yield from _keys(below, f"{name}.")


def cases() -> list[tuple[str, str]]:
    """All (base, override), in an order that mixes them."""
    seen: set[str] = set()
    found = []
    for base in BASES:
        fresh = [key for key in keys(base) if key not in seen]
        seen.update(fresh)
        found += [(base, f"{key}={value}") for key in fresh for value in VALUES]
    random.Random(0).shuffle(found)
    return found + [  # after the others, which keep their places in records
        (f"-m hydra/launcher={name}", f"hydra.launcher.{key}={value}")
        for name in ("local", "packed") for key in LAUNCHERS[name] for value in VALUES
    ]  # fmt: skip


def words(base: str) -> tuple[str, ...]:
    """The overrides and flags of a base."""
    return BASES[base] if base in BASES else tuple(base.split())


class Keys:
    """Every key with every bad value, through what reads a command: refused in a sentence, or taken."""

    name = "keys"

    def __init__(self, folder: Path) -> None:
        self.cases = cases()
        self.last = -(-len(self.cases) // AT_ONCE)

    def attempt(self, number: int, place: Path) -> list[Try]:
        """Check AT_ONCE pairs in one forked process."""
        part = self.cases[number * AT_ONCE : (number + 1) * AT_ONCE]
        answers = place / "answers.json"
        ended = forked(lambda: answers.write_text(json.dumps(_all_checked(part))) and 0, place)
        if not answers.exists():
            why = f"exit code {ended.code}: {ended.said[-400:]}"
            return [Try(self.name, number, f"{len(part)} pairs", False, why, str(part))]
        pairs = zip(part, json.loads(answers.read_text()), strict=True)
        return [_judged(number, base, override, kind, said) for (base, override), (kind, said) in pairs]


def _judged(number: int, base: str, override: str, kind: str, said: str) -> Try:
    if kind == "taken":
        return Try("keys", number, override[:80], True, kind, _command(base, override), {"taken": 1})
    wrong = sentence_is_wrong(said) if kind == "refused" else f"{kind}: {said[:200]}"
    command = _command(base, override) if wrong else ""
    return Try("keys", number, override[:80], not wrong, wrong or kind, command, {"refused": 1})


def _command(base: str, *overrides: str) -> str:
    return shlex.join(["python", "-m", "distill", *words(base), *overrides])[:500]


def _all_checked(part: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Check pairs one after the other; what the groups compose to is the same for many of them."""
    from distill.cli.command import _Reader

    known: dict[Any, Any] = {}
    compose = _Reader.compose

    def composed(reader: _Reader, overrides: list[str]) -> DictConfig:
        key = (reader.name, *overrides)
        if key not in known:
            known[key] = compose(reader, overrides)
        return known[key].copy()

    _Reader.compose = composed  # type: ignore[method-assign]
    return [_checked(*one) for one in part]


def _checked(base: str, override: str) -> tuple[str, str]:
    """(taken, ""), (refused, sentence), or (name of an exception that is nobody's sentence, text)."""
    from omegaconf.errors import OmegaConfBaseException

    from distill.cli.command import read_command
    from distill.cli.sentences import format_error

    try:
        read_command([*words(base), override, "--dry-run"])  # which writes nothing
    except (ValueError, OSError, OmegaConfBaseException) as error:  # what the boundary turns into a sentence
        return "refused", format_error(error)
    except Exception as error:
        named = type(error).__module__.startswith("hydra")
        return "refused" if named else type(error).__name__, format_error(error)
    return "taken", ""


class Commands:
    """Whole commands with a bad value, in several ways to write it; what is taken is trained for a moment."""

    name = "commands"

    def __init__(self, folder: Path) -> None:
        self.cases = [(base, text) for base, text in cases() if base in BASES and base not in ("cifar100", "folder")]

    def attempt(self, number: int, place: Path) -> Try:
        """Run one command with one bad override, or two."""
        chance = random.Random(f"commands {number}")
        base, text = chance.choice(self.cases)
        key, _, value = text.partition("=")
        form = FORMS[0] if chance.random() < 0.6 else chance.choice(FORMS)
        overrides = [form.format(key=key, value=value)]
        argv = [*SMALL, "schedule.epochs=1", *BASES[base], "teacher.weights=none", *overrides, f"output={place}/out"]
        if key == "output":
            argv.pop()
        ended = forked(lambda: command(argv, place), place, signals=((STOP_AFTER, signal.SIGTERM),), longest=120)
        wrong = answer_is_wrong(ended)
        counts = {"refused": int(ended.code == 2), "done": int(ended.code == 0)}
        said = wrong or (ended.sentence if ended.code else "done")
        return Try(self.name, number, overrides[0][:80], not wrong, said[:300],
                   shlex.join(["python", "-m", "distill", *argv])[:700] if wrong else "", counts)  # fmt: skip


def command(argv: list[str], place: Path) -> int:
    """Run a command line in this process as the program would, in a folder of its own."""
    import os
    import resource

    from distill.__main__ import main

    resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34))
    os.chdir(place)
    sys.argv = ["distill", *argv]
    return main()
