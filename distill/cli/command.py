"""Reads a command line the way Hydra will, and finds what is wrong with it before any job starts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from distill.cli.swept import check_sweep, narrowed, one_at_a_time
from distill.config.check import check, check_group, check_override, find_aliases
from distill.config.given import check_own, given_keys, keys_of_files
from distill.config.groups import conf_dir, conf_dirs, load_node, options, use_folder
from distill.config.hydra_keys import check_hydra
from distill.config.idle import check_idle, idle_keys
from distill.config.optimizer_options import check_typed_options
from distill.config.output_folder import check_output
from distill.config.own_files import check_folder
from distill.sweep import check_launcher
from distill.sweep.compose import A_JOB, Plan, expand_jobs
from distill.sweep.lean import LeanLoader
from distill.terminal import printable

DRY_RUN = "--dry-run"
# dictionaries that take any key: a `+` is put in front for the user
_OPEN = ("student.args", "teacher.args", "method.optimizer", "method.generator_optimizer", "method.image_optimizer")
UNSET = tuple(f"schedule.optimizer.{option}" for option in ("betas", "eps", "amsgrad", "dampening"))  # in no YAML
OTHERWISE = "crd"  # the schedule of an own data set that neither its name nor what reads it has one for
ADDED = ("pair", "experiment")  # groups that are in the defaults list already, though many write +experiment=
_MOST_VALUES = 10_000  # values of one key in a sweep: each is looked at before the first run
_NEEDED = ("dataset", "schedule", "student", "teacher", "method", "tracking")  # groups of which a run has one
BASE: dict[str, Any] = {} if hydra.__version__ >= "1.4" else {"version_base": "1.3"}  # 1.4 warns of it


@dataclass
class Command:
    """A command line that passed: `argv` as Hydra is to see it, or with --dry-run the jobs to list instead.

    of_file: the overrides for which an experiment file asks, and the command line does not.
    """

    argv: list[str]
    multirun: bool = False
    jobs: Plan | None = None
    of_file: tuple[str, ...] = ()


def read_command(argv: Sequence[str], *, drawn: bool = False) -> Command:
    """Rewrite aliases in `argv` and check all that shows without torch. Raises ValueError, one sentence.

    drawn: whether values are drawn from what stands for several, as in a search.
    """
    for text in argv:
        if printable(text) != text:  # it would end in folders' names, on the terminal and in tables
            raise ValueError(f"{text[:100]} holds control characters: write it without them")
    args = _parser().parse_intermixed_args(argv)
    use_folder(args.config_dir)
    rewritten = {text: _rewrite(text) for text in args.overrides}
    if args.config_dir:
        check_folder(Path(args.config_dir))
    overrides = [rewritten[text] for text in args.overrides]
    overrides += schedule_of_own_data(overrides)
    flags = [text for text in argv if text not in rewritten and text != DRY_RUN]
    command = Command([*flags, *overrides], args.multirun)  # Hydra's parser takes overrides in one piece
    if args.help or args.hydra_help or args.shell_completion or args.info or args.experimental_rerun:
        return command
    with initialize_config_dir(_config_path(args), job_name="distill", **BASE):
        reader = _Reader(args, overrides, drawn)
        own = list(reader.given)
        command.multirun = reader.check(complete=args.cfg is None, writes=not args.dry_run)
        command.of_file = tuple(str(item.input_line) for item in reader.given if item not in own)
        if args.dry_run and args.cfg is None:
            command.jobs = expand_jobs(reader.given, reader.compose)
            return command
    if command.multirun and not args.multirun and args.cfg is None:
        command.argv.insert(0, "--multirun")  # an experiment file asks; Hydra 1.4 does not follow it
    return command


def _parser() -> argparse.ArgumentParser:
    """Hydra's and --dry-run; what it refuses is a ValueError as all else."""

    def refuse(message: str) -> NoReturn:
        raise ValueError(f"{message}; --hydra-help lists the flags")

    if sys.version_info >= (3, 14):  # Hydra before 1.4 gives argparse a help object that its check refuses
        argparse.ArgumentParser._check_help = lambda self, action: None  # type: ignore[attr-defined]
    parser = get_args_parser()
    parser.add_argument(DRY_RUN, action="store_true")
    parser.error = refuse  # type: ignore[method-assign]
    return parser


class _Reader:
    """One command line inside an initialised Hydra: its overrides, and the configurations they lead to."""

    def __init__(self, args: argparse.Namespace, overrides: list[str], drawn: bool) -> None:
        self.name = args.config_name or "config"
        self.parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        self.given = self.parser.parse_overrides(overrides)
        self.multirun, self.drawn = args.multirun, drawn
        self._known: dict[tuple[str, ...], DictConfig] = {}
        self._lean = LeanLoader(GlobalHydra.instance().config_loader())
        self._idle: dict[str, str] | None = None  # what no run tried so far reads, with why

    def check(self, complete: bool, writes: bool = True) -> bool:
        """Check every choice of every override; returns whether this is a sweep. Raises ValueError.

        writes: whether something is to be written now. Afterwards `given` has an experiment file's own sweep too.
        """
        for override in self.given:
            self._check_name(override)
        reference = self.compose([self._choices(item)[0] for item in self.given if self._is_group(item)])
        if swept := self._swept(reference):  # an experiment file may ask for a sweep of its own
            self.given = narrowed(self.parser.parse_overrides(swept), self.given)
            self.multirun = True
        a_job = any(item.input_line == A_JOB for item in self.given)
        for override in self.given:
            check_sweep(override, self.multirun, self.drawn)
        check_hydra(self.given, self.multirun, a_job)
        for variant in one_at_a_time([self._choices(item) for item in self.given]):
            cfg = self._apply(variant, complete)
        if not a_job:  # other jobs of its sweep may read them
            check_idle(self._idle or {})
        if complete:
            check_output(str(cfg.output), writes)
        return self.multirun

    def _swept(self, reference: DictConfig) -> list[str]:
        if any(item.input_line == A_JOB for item in self.given):
            return []  # though the experiment file asks for a sweep
        mode = str(OmegaConf.select(reference, "hydra.mode") or "")
        if not self.multirun and "MULTIRUN" not in mode:
            return []
        params = OmegaConf.select(reference, "hydra.sweeper.params") or {}
        return [f"{key}={value}" for key, value in params.items()]

    def _check_name(self, override: Override) -> None:
        """A group's option must exist."""
        group = override.key_or_group
        if override.is_delete() and self._is_group(override) and group in _NEEDED:
            raise ValueError(f"~{group}: a run needs a {group}: choose one, {group}=<name>")
        if group == "hydra/launcher":
            check_launcher(str(override.value()))
        if self._is_group(override) and not group.startswith("hydra/") and not override.is_delete():
            for choice in self._choices(override):
                name = choice.partition("=")[2]
                if name == "null" and group in _NEEDED:
                    raise ValueError(f"{group}=null: a run needs a {group}: choose one, {group}=<name>")
                if name == "null":
                    raise ValueError(f"{group}=null is how it stands: leave it away")
                check_group(group, name, options(group))

    def _is_group(self, override: Override) -> bool:
        group = override.key_or_group
        return group.startswith("hydra/") or any((folder / group).is_dir() for folder in conf_dirs())

    def _choices(self, override: Override) -> list[str]:
        """All the single overrides that one override stands for, as texts `key=value`."""
        key = override.get_key_element()
        if override.is_delete() or not override.is_sweep_override():
            return [override.input_line or key]
        if not override.is_discrete_sweep():  # an interval, which only a search draws from, both ends included
            ends: Any = override.value()
            return [f"{key}={ends.start}", f"{key}={ends.end}"]
        values = list(islice(override.sweep_string_iterator(), _MOST_VALUES + 1))
        if not 0 < len(values) <= _MOST_VALUES:
            many = f"more than {_MOST_VALUES} runs" if values else "no run at all"
            raise ValueError(f"{override.input_line} stands for {many}: give it other values")
        return [f"{key}={value}" for value in values]

    def compose(self, overrides: list[str]) -> DictConfig:
        """The configuration of some overrides, a copy; values of a sweep ask for the same one many times."""
        if (key := tuple(overrides)) not in self._known:
            self._known[key] = compose(self.name, [*overrides, *searched()], return_hydra_config=True)
        return self._known[key].copy()

    def _variant(self, overrides: list[str]) -> DictConfig:
        """As `compose`; without a node of Hydra's where that has not been composed already, which takes long."""
        hydras = any(item.key_or_group.startswith("hydra.") for item in self.given)
        if tuple(overrides) not in self._known and not hydras:
            return self._lean.compose(self.name, [*overrides, *searched()])
        return self.compose(overrides)

    def _apply(self, texts: list[str], complete: bool) -> DictConfig:
        """Compose one job's configuration, checking each value against the composed defaults."""
        overrides = self.parser.parse_overrides(texts)
        reference = self._variant([item.input_line or "" for item in overrides if self._is_group(item)])
        cfg = reference.copy()
        for override in overrides:
            if self._is_group(override):
                continue
            key = override.key_or_group
            check_own(key, None if override.is_delete() else override.value(), reference)
            if override.is_delete():
                _check_deletion(key, cfg)
                continue
            value = override.value()
            whole = isinstance(value, (dict, list))  # which Hydra takes as more of what is there
            if override.is_add() and not whole and OmegaConf.select(reference, key, default=None) is not None:
                raise ValueError(f"{override.input_line}: there is a key '{key}' already: write it without +")
            if not override.is_add() and not override.is_force_add() and not key.startswith("hydra."):
                check_override(reference, key, value)
            with open_dict(cfg):
                OmegaConf.update(cfg, key, value, merge=True, force_add=True)
        check_typed_options(cfg, _typed(overrides))
        if complete:
            check(cfg)
            found = idle_keys(cfg, [*given_keys(overrides, self._is_group), *keys_of_files(overrides)])
            self._idle = found if self._idle is None else {key: why for key, why in self._idle.items() if key in found}
        return cfg


def _typed(overrides: list[Override]) -> Iterator[str]:
    """The keys that overrides give, those of a dictionary too."""
    for override in overrides:
        if not override.is_delete():
            key, value = override.key_or_group, override.value()
            yield key
            yield from (f"{key}.{name}" for name in (value if isinstance(value, dict) else ()))


def _check_deletion(key: str, cfg: DictConfig) -> None:
    """Take a key away from `cfg`, of a dictionary that takes any key. Raises ValueError for others: all are needed."""
    above, _, name = key.rpartition(".")
    if above not in _OPEN or name not in (OmegaConf.select(cfg, above) or {}):
        raise ValueError(f"~{key}: every key is needed: give it another value, or null where it may be null")
    with open_dict(cfg):
        del OmegaConf.select(cfg, above)[name]


def searched() -> list[str]:
    """The override by which Hydra's compose looks into folders of --config-dir, too."""
    folders = ",".join(f"file://{folder}" for folder in conf_dirs()[1:])
    return [f"hydra.searchpath=[{folders}]"] if folders else []


def schedule_of_own_data(overrides: Sequence[str]) -> list[str]:
    """The schedule of a data set that has none of its name: that of what reads it, or CRD's.

    Raises ValueError for several data sets at once, of which one has none.
    """
    given = {key.lstrip("+"): value for key, _, value in (text.partition("=") for text in overrides)}
    if given.keys() & {"schedule", "experiment"} or "dataset" not in given:
        return []
    known = options("schedule")
    without = [
        name for name in given["dataset"].split(",") if name not in known and load_node("dataset", name) is not None
    ]
    if not without:
        return []
    if "," in given["dataset"]:
        raise ValueError(f"there is no schedule '{without[0]}' for that data set: say which, schedule=NAME")
    node: Any = OmegaConf.to_container(load_node("dataset", without[0]) or OmegaConf.create({}))
    kind = str(node.get("kind"))
    return [f"schedule={kind if kind in known else OTHERWISE}"]


def _config_path(args: argparse.Namespace) -> str:
    return str(Path(args.config_path).resolve() if args.config_path else conf_dir())


def _rewrite(text: str) -> str:
    """Spare the user two stumbling blocks of Hydra's, and resolve other names of methods with a note."""
    key, equals, value = text.partition("=")
    if equals and key.lstrip("+") in ADDED:
        return f"{key.lstrip('+')}={value}"
    whole, below = (*UNSET, *_OPEN, "schedule.optimizer"), tuple(f"{name}." for name in _OPEN)
    if equals and (key in whole or key.startswith(below)):
        return f"++{text}"
    if key != "method" or not equals:
        return text
    unknown = {name.strip() for name in value.split(",")} - {"", *options("method")}
    aliases = find_aliases(unknown) if unknown else {}
    names = [aliases.get(name.strip(), name) for name in value.split(",")]
    for old, new in zip(value.split(","), names, strict=True):
        if old != new:
            print(f"distill: method={old} is {new} here", file=sys.stderr)
    return f"{key}={','.join(names)}"
